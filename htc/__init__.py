"""Hybrid Task Cascade: train, evaluate, record and tabulate instance segmentation experiments."""

__version__ = "0.2.0"
