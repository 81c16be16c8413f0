"""The built-in data set: images of shapes, generated into COCO layout."""
