"""`python -m benchmarks.bootstrap [images=5000] [resamples=1000] [detections=100]`: CPU seconds of a bootstrap of AP.

Two models with boxes and masks on synthetic ground truth of the size of COCO val2017: 80 categories, 7.3 objects per
image. Prints the CPU seconds of matching and of the resamples, and the largest difference to pycocotools' AP.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.statistics.errors import error_ap, find_errors
from analysis.statistics.matching import match
from analysis.statistics.truth import KINDS, read_truth
from analysis.statistics.weighted_ap import METRICS, unit_ap, weighted_ap
from htc.arguments import parse_arguments

CATEGORIES = 80
OBJECTS_PER_IMAGE = 7.3
HEIGHT, WIDTH = 480, 640
USAGE = "python -m benchmarks.bootstrap [images=5000] [resamples=1000] [detections=100] [check=true] [errors=false]"


def outline(box: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the mask of an octagon in a box, as compressed run lengths."""
    x, y, w, h = box
    corners = [x + w / 3, y, x + 2 * w / 3, y, x + w, y + h / 3, x + w, y + 2 * h / 3]
    corners += [x + 2 * w / 3, y + h, x + w / 3, y + h, x, y + 2 * h / 3, x, y + h / 3]
    encoded = masks.merge(masks.frPyObjects([corners], HEIGHT, WIDTH))
    return {**encoded, "counts": encoded["counts"].decode()}


def random_boxes(random: np.random.Generator, number: int) -> np.ndarray[Any, Any]:
    """Return [number, 4] boxes, xywh, whose sizes are spread like COCO's."""
    sizes = np.exp(random.uniform(np.log(8), np.log(300), (number, 2)))
    corners = random.uniform(0, 1, (number, 2)) * (np.array([WIDTH, HEIGHT]) - sizes)
    return np.concatenate([np.maximum(corners, 0), sizes], axis=1)


def truth_content(random: np.random.Generator, images: int) -> dict[str, Any]:
    popularity = random.dirichlet(np.full(CATEGORIES, 0.5))
    annotations: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for box in random_boxes(random, int(random.poisson(OBJECTS_PER_IMAGE))):
            segmentation = outline(box)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "bbox": box.tolist(), "iscrowd": 0,
                    "category_id": int(random.choice(CATEGORIES, p=popularity)) + 1,
                    "area": float(masks.area(segmentation)), "segmentation": segmentation,
                }
            )  # fmt: skip
    return {
        "images": [{"id": image, "width": WIDTH, "height": HEIGHT} for image in range(1, images + 1)],
        "categories": [{"id": category, "name": f"category {category}"} for category in range(1, CATEGORIES + 1)],
        "annotations": annotations,
    }


def detections(random: np.random.Generator, content: dict[str, Any], per_image: int) -> Iterator[dict[str, Any]]:
    """Yield detections with boxes and masks: noisy objects with high scores, and others."""
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for image, found in by_image.items():
        boxes, categories, scores = [], [], []
        for annotation in found:
            for _ in range(int(random.integers(0, 4))):
                box = np.array(annotation["bbox"])
                boxes.append(box + random.normal(0, 0.06, 4) * np.tile(box[2:], 2))
                categories.append(annotation["category_id"])
                scores.append(random.beta(4, 2))
        others = max(per_image - len(boxes), 0)
        boxes += list(random_boxes(random, others))
        categories += (random.integers(0, CATEGORIES, others) + 1).tolist()
        scores += random.beta(1, 5, others).tolist()
        for box, category, score in list(zip(boxes, categories, scores, strict=True))[:per_image]:
            box = np.maximum(box, [0, 0, 2, 2])
            yield {"image_id": image, "category_id": category, "score": float(score), "bbox": box.tolist(),
                   "segmentation": outline(box)}  # fmt: skip


def reference(content: dict[str, Any], results: list[dict[str, Any]], kind: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes([dict(result) for result in results]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(each) for each in evaluation.stats[:6]]


def main() -> None:
    values = {"images": "5000", "resamples": "1000", "detections": "100", "check": "true", "errors": "false"}
    values |= parse_arguments(sys.argv[1:], USAGE, keys=list(values)).values
    images, resamples, per_image = (int(values[key]) for key in ("images", "resamples", "detections"))
    random = np.random.default_rng(0)
    content = truth_content(random, images)
    models = [list(detections(random, content, per_image)) for _ in range(2)]
    weights = random.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(content))
        truth = read_truth(path)
    seconds: dict[str, float] = defaultdict(float)
    difference = 0.0
    for results in models:
        for kind in KINDS:
            start = time.process_time()
            matched = match(results, truth, kind)
            seconds["matching"] += time.process_time() - start
            start = time.process_time()
            weighted_ap(matched, weights)
            seconds["resamples"] += time.process_time() - start
            if values["errors"] == "true":
                start = time.process_time()
                errors = find_errors(results, truth, kind)
                seconds["finding errors"] += time.process_time() - start
                start = time.process_time()
                error_ap(errors, weights)
                seconds["resamples of errors"] += time.process_time() - start
            if values["check"] == "true":
                start = time.process_time()
                other = "segmentation" if kind == "bbox" else "bbox"
                own = [{key: value for key, value in result.items() if key != other} for result in results]
                expected = reference(content, own, kind)
                seconds["pycocotools"] += time.process_time() - start
                found = unit_ap(matched)
                found_values = [
                    abs(found.metric(name)[0] - value) for name, value in zip(METRICS, expected, strict=True)
                ]
                difference = max(difference, *found_values)
    shown = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    print(f"{images} images, {len(models[0])} and {len(models[1])} detections, {resamples} resamples, boxes and masks")
    print(f"CPU seconds: {shown}; largest difference to pycocotools {difference:.1e}")


if __name__ == "__main__":
    main()
