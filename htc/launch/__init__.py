"""What stands between one run and many: sweeps, Slurm, requeue, status. Nothing here imports PyTorch."""
