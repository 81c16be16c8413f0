"""Checkpoint files: safe reading and writing, and matching of state dicts to models."""
