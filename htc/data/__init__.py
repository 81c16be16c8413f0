"""Data sets in COCO layout: reading, the built-in data's generator, sampling and loading."""
