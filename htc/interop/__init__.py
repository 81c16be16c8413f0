"""Checkpoints of other frameworks: recognised, loaded into our models, and written back."""
