"""The configuration: its schema, its checks, its composition and the messages about it."""
