"""Inference over a data set and COCO metrics."""
