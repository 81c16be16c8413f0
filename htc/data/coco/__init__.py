"""Read, check and repair annotation files in COCO format."""
