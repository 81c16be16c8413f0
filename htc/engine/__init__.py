"""Training: the trainer, its optimiser, its precision and its random states."""
