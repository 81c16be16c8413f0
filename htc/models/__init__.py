"""The network: backbone -> pyramid -> proposals -> cascade of box and mask heads with a semantic branch."""
