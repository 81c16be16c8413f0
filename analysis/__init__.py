"""Tables of the paper, made from run folders and published figures; PyTorch and the network are never imported."""
