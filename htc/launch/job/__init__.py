"""What runs inside a job: the supervisor, the worker and the ranks."""
