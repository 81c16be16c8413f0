"""The processes of one run, their devices, and what they exchange."""
