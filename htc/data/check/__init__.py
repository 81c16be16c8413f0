"""The command `python -m htc.data.check`, which summarises a data set and lists its problems."""
