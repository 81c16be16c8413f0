"""Images are read and resized as in the reference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from htc.data.image_reading import read_image
from htc.data.transforms import resize_image
from tests.helpers.coco_tiny import ANNOTATIONS, ROOT, needs_coco_tiny
from tests.parity.reference import FOLDER, read_inputs, read_meta, variant_files


@needs_coco_tiny
def test_pixels_of_resized_images_equal_the_references() -> None:
    variants = variant_files()
    if not variants:
        pytest.skip(f"no outputs of the reference in {FOLDER}")
    inputs, ids = read_inputs(FOLDER), read_meta(variants[0])["image_ids"]
    files = {image["id"]: image["file_name"] for image in json.loads(ANNOTATIONS.read_text())["images"]}
    if not set(ids) <= set(files):
        pytest.skip(f"images {ids} are not among those of {ANNOTATIONS}")
    for image_id, theirs, original in zip(ids, inputs.images, inputs.original_sizes, strict=True):
        image = read_image(ROOT / "val2017" / files[image_id], original)
        size = (theirs.shape[1], theirs.shape[2])
        ours = resize_image(image, size).transpose(2, 0, 1)
        assert np.abs(ours.astype(int) - theirs.numpy()).max() <= 1
