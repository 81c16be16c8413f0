"""Data sets in COCO layout: reading, checking, sampling and loading, and the generator of the built-in data."""
