"""The states and progress of launched runs, as reported to the user."""
