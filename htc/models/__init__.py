"""The network: backbone, feature pyramid, region proposals, semantic branch, and the cascade of box and mask heads."""
