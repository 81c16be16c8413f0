"""The built-in data set: generated images of shapes in COCO layout."""
