"""States and progress of runs, as reported to the user."""
