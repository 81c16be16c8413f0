"""A run on disk: its folder, records, lock, logs, provenance and tracking."""
