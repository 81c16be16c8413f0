"""Modules that run inside a job: the supervisor, the worker and the ranks."""
