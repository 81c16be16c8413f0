"""Inference over a data set, and COCO metrics of its results."""
