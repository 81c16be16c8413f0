"""Statistics of detection results: matching, COCO's AP under image weights, and intervals of differences."""
