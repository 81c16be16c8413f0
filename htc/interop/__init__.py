"""Import and export of checkpoints of other frameworks."""
