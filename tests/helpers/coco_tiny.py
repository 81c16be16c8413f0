"""A small part of COCO for the tests of evaluation, and imperfect detections made from its ground truth."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from htc.structures import Detections, Sample

ROOT = Path(os.environ.get("HTC_COCO_TINY") or Path(__file__).parents[2].parent / "shared/data/coco_tiny")
ANNOTATIONS = ROOT / "annotations" / "instances_val2017.json"

needs_coco_tiny = pytest.mark.skipif(
    not ANNOTATIONS.is_file(), reason=f"no COCO images at {ROOT}; HTC_COCO_TINY names the folder"
)


def category_ids() -> list[int]:
    """Return COCO's category ids, in ascending order."""
    return sorted(category["id"] for category in json.loads(ANNOTATIONS.read_text())["categories"])


class PerturbedTruth:
    """A predictor that returns the ground truth with errors: shifted boxes, missed objects and wrong classes.

    Masks are the true ones, cropped to the shifted boxes at 28 x 28.
    """

    def __init__(self, images: int | None = None, seed: int = 0) -> None:
        self.truth = COCO(str(ANNOTATIONS))
        self.ids: list[int] = sorted(self.truth.getImgIds())[:images]
        self.labels = {category: label for label, category in enumerate(category_ids())}
        self.random = np.random.default_rng(seed)

    def samples(self) -> list[Sample]:
        """Return one sample per image; its first pixel is the index of the image, by which `predict` recognises it."""
        samples = []
        for index, image_id in enumerate(self.ids):
            info: dict[str, Any] = self.truth.loadImgs(image_id)[0]
            image = torch.zeros(3, info["height"] // 2, info["width"] // 2, dtype=torch.uint8)
            image[0, 0, 0] = index
            samples.append(Sample(image, image_id, (info["height"], info["width"])))
        return samples

    def predict(
        self, images: list[torch.Tensor], original_sizes: list[tuple[int, int]], settings: Any
    ) -> list[Detections]:
        return [
            self.detect(self.ids[int(image[0, 0, 0])], size) for image, size in zip(images, original_sizes, strict=True)
        ]

    def detect(self, image_id: int, size: tuple[int, int]) -> Detections:
        """Return the erroneous detections of an image of `size` (height, width)."""
        boxes, labels, masks = [], [], []
        for annotation in self.truth.loadAnns(self.truth.getAnnIds(image_id)):
            if annotation["iscrowd"] or self.random.random() < 0.2:
                continue
            x, y, w, h = annotation["bbox"]
            shifted = np.array([x, y, x + w, y + h]) + self.random.normal(0, 0.06, 4) * [w, h, w, h]
            left, top, right, bottom = np.clip(shifted, 0, [size[1], size[0]] * 2)
            if right - left < 1 or bottom - top < 1:
                continue
            rows = np.clip((top + (np.arange(28) + 0.5) * (bottom - top) / 28).astype(int), 0, size[0] - 1)
            columns = np.clip((left + (np.arange(28) + 0.5) * (right - left) / 28).astype(int), 0, size[1] - 1)
            masks.append(self.truth.annToMask(annotation)[np.ix_(rows, columns)])
            boxes.append([left, top, right, bottom])
            wrong = self.random.random() < 0.1
            labels.append(self.random.integers(len(self.labels)) if wrong else self.labels[annotation["category_id"]])
        scores = np.sort(self.random.random(len(boxes)))[::-1].copy()
        return Detections(
            torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
            torch.tensor(scores, dtype=torch.float32),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(np.array(masks).reshape(-1, 28, 28), dtype=torch.float32),
        )
