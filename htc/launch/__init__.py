"""Launch many runs: sweeps, Slurm, requeueing and status. Nothing here imports PyTorch."""
