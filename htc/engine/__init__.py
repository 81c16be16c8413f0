"""What is done with a model: training, evaluation, and the records of both."""
