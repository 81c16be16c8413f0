"""Detections made of ground truth with noise, on a few images of any annotation file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks

from analysis.statistics.truth import Truth

Content = dict[str, Any]
COCO_TINY = Path(os.environ.get("HTC_COCO_TINY") or Path(__file__).parents[3].parent / "shared/data/coco_tiny")
REAL = COCO_TINY / "annotations" / "instances_val2017.json"
"""Annotations of a few images of COCO."""
needs_real_annotations = pytest.mark.skipif(
    not REAL.is_file(), reason=f"no COCO images at {COCO_TINY}; HTC_COCO_TINY names the folder"
)


def random_truth(seed: int, images: int = 12, categories: int = 3, size: int = 160) -> Content:
    """Return annotations with crowds, objects of all sizes, equal boxes, and images and categories without objects."""
    random = np.random.default_rng(seed)
    annotations: list[Content] = []
    for image in range(1, images + 1):
        for _ in range(int(random.integers(0, 6))):
            width, height = random.integers(4, size - 10, 2)
            x, y = random.integers(0, size - width), random.integers(0, size - height)
            box = [float(each) for each in (x, y, width, height)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(random.integers(1, categories)),
                    "bbox": box,
                    "area": float(width * height * random.uniform(0.4, 1)),
                    "iscrowd": int(random.random() < 0.15),
                    "segmentation": rle(box, size),
                }
            )
            if random.random() < 0.2:
                twin = {**annotations[-1], "id": len(annotations) + 1, "iscrowd": 0}
                annotations.append(twin)
    return {
        "images": [{"id": image, "width": size, "height": size} for image in range(1, images + 1)],
        "categories": [{"id": category, "name": f"c{category}"} for category in range(1, categories + 1)],
        "annotations": annotations,
    }


def rle(box: list[float], size: int) -> dict[str, Any]:
    """Return the mask of a box with a notch, as compressed run lengths of text."""
    x, y, width, height = (int(each) for each in box)
    mask = np.zeros((size, size), dtype=np.uint8, order="F")
    mask[max(y, 0) : y + height, max(x, 0) : x + width] = 1
    mask[max(y, 0) : y + height // 3, max(x, 0) : x + width // 3] = 0
    encoded = masks.encode(mask)
    return {**encoded, "counts": encoded["counts"].decode()}


def random_results(content: Content, seed: int, *, equal_scores: bool = False) -> tuple[list[Content], list[Content]]:
    """Return detections of boxes and of masks: noisy objects, duplicates, and boxes on nothing."""
    random = np.random.default_rng(seed)
    size = content["images"][0]["width"]
    bbox, segm = [], []

    def add(image: int, category: int, box: list[float]) -> None:
        score = float(random.integers(1, 6) / 7) if equal_scores else float(random.random())
        common = {"image_id": image, "category_id": category, "score": score}
        bbox.append({**common, "bbox": box})
        whole = [float(int(each)) for each in box]
        whole[2:] = [max(each, 3.0) for each in whole[2:]]
        segm.append({**common, "segmentation": rle(whole, size)})

    for annotation in content["annotations"]:
        for _ in range(int(random.integers(0, 4))):
            noise = random.normal(0, 0.06, 4) * max(annotation["bbox"][2:])
            box = [float(each) for each in np.maximum(np.array(annotation["bbox"]) + noise, [0, 0, 3, 3])]
            add(annotation["image_id"], annotation["category_id"], box)
    for image in content["images"]:
        for category in content["categories"]:
            for _ in range(int(random.integers(0, 3))):
                x, y, width, height = random.uniform(0, size / 2, 4)
                add(image["id"], category["id"], [float(x), float(y), float(width + 3), float(height + 3)])
    order = random.permutation(len(bbox))
    return [bbox[index] for index in order], [segm[index] for index in order]


def noisy_truth(truth: Truth, seed: int = 0, spread: float = 0.15) -> dict[str, list[Content]]:
    """Return detections, by `bbox` and `segm`, that are the objects of a file: moved, repeated, missed, misnamed.

    spread: standard deviation of the moves in parts of width and height.
    """
    random = np.random.default_rng(seed)
    results: dict[str, list[Content]] = {"bbox": [], "segm": []}
    for (category, image), found in sorted(truth.annotations.items()):
        for annotation, outline in zip(found, truth.outlines(category, image, "segm"), strict=True):
            mask = masks.decode(outline)
            for score in random.random(int(random.integers(0, 4))).tolist():
                shift = random.normal(0, spread, 2) * annotation["bbox"][2:]
                moved = np.roll(mask, [round(shift[1]), round(shift[0])], (0, 1))
                encoded = masks.encode(np.asfortranarray(moved))
                x, y, width, height = annotation["bbox"]
                of = int(random.integers(0, len(truth.category_ids))) if random.random() < 0.15 else category
                place = {"image_id": truth.image_ids[image], "category_id": truth.category_ids[of], "score": score}
                box = [float(each) for each in (x + shift[0], y + shift[1], width, height)]
                results["bbox"].append({**place, "bbox": box})
                results["segm"].append({**place, "segmentation": {**encoded, "counts": encoded["counts"].decode()}})
    return results


def duplicate(content: Content, results: list[Content], weights: list[int]) -> tuple[Content, list[Content]]:
    """Return truth and results in which each image occurs as often as its weight says."""
    images: list[Content] = []
    annotations: list[Content] = []
    copies: list[Content] = []
    identifiers = sorted(image["id"] for image in content["images"])
    by_id = {image["id"]: image for image in content["images"]}
    number = 0
    for image, weight in zip(identifiers, weights, strict=True):
        for _ in range(weight):
            number += 1
            images.append({**by_id[image], "id": number})
            for annotation in content["annotations"]:
                if annotation["image_id"] == image:
                    annotations.append({**annotation, "id": len(annotations) + 1, "image_id": number})
            copies += [{**result, "image_id": number} for result in results if result["image_id"] == image]
    return {**content, "images": images, "annotations": annotations}, copies


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path
