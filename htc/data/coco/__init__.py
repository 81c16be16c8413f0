"""Reading of annotation files in COCO format."""
