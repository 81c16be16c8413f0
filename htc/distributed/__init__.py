"""The processes of one run and their devices."""
