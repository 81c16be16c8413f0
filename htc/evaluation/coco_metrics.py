"""COCO's metrics of boxes and masks, by pycocotools, on some or all images of a data set."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc.data.coco.truth import repair_ground_truth
from htc.errors import UserError
from htc.runs.files import atomic_write
from htc.runs.logs import Console

logger = logging.getLogger(__name__)

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers of COCOeval.summarize, in its order."""

Result = dict[str, Any]
"""One detection in COCO's result format: image_id, category_id, score, and bbox or segmentation."""


@dataclass
class Metrics:
    """Values in 0..1; None where the images hold no object to be found."""

    bbox: dict[str, float | None]
    """The twelve metrics of boxes, by METRIC_NAMES."""
    segm: dict[str, float | None]
    """The twelve metrics of masks."""
    per_category: dict[str, dict[str, float | None]]
    """AP by category name, under `bbox` and `segm`."""


def coco_metrics(
    annotation_file: str | Path,
    bbox_results: Sequence[Result],
    segm_results: Sequence[Result],
    image_ids: Sequence[int],
) -> Metrics:
    """Compare results with annotations, on `image_ids` alone. What pycocotools prints goes to the log.

    Raises UserError where the annotation file is missing or cannot be read.
    """
    content = _read_truth(Path(annotation_file))
    repair_ground_truth(content, str(annotation_file))
    with _printed_to_log():
        truth = _indexed(content)
        names = _category_names(truth)
        # One after the other: what an evaluation holds takes a gigabyte on COCO.
        bbox, bbox_by_category = _figures(_evaluate(truth, bbox_results, image_ids, "bbox"), names)
        segm, segm_by_category = _figures(_evaluate(truth, segm_results, image_ids, "segm"), names)
    return Metrics(bbox, segm, {"bbox": bbox_by_category, "segm": segm_by_category})


def _figures(evaluation: COCOeval, names: dict[int, str]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    return _summary(evaluation), _per_category(evaluation, names)


def _read_truth(path: Path) -> dict[str, Any]:
    """What the annotation file holds, in any encoding of JSON: COCO's own reader takes the locale's."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: set data.root and data.val.annotations to where it is.")
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): was it changed during the run? Write it again.") from error
    return content


def _indexed(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def write_results_file(path: Path, results: Sequence[Result]) -> None:
    """Write results in COCO's format, one a line, atomically and without holding the file's text in memory."""
    with atomic_write(path) as file:
        file.write("[")
        for index, result in enumerate(results):
            file.write(",\n" if index else "\n")
            file.write(json.dumps(result, allow_nan=False))
        file.write("\n]\n")


def _evaluate(truth: COCO, results: Sequence[Result], image_ids: Sequence[int], kind: str) -> COCOeval:
    evaluation = COCOeval(truth, _load_results(truth, results), kind)
    evaluation.params.imgIds = sorted(set(image_ids))
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _load_results(truth: COCO, results: Sequence[Result]) -> COCO:
    if results:
        # loadRes adds keys to the very dicts it is given, and those are still to be written to predictions/.
        return truth.loadRes([dict(result) for result in results])
    # loadRes looks at the first result to learn their kind, and fails where there is none.
    return _indexed({**truth.dataset, "annotations": []})


def _summary(evaluation: COCOeval) -> dict[str, float | None]:
    return {name: _known(value) for name, value in zip(METRIC_NAMES, evaluation.stats, strict=True)}


def _per_category(evaluation: COCOeval, names: dict[int, str]) -> dict[str, float | None]:
    # [IoU thresholds, recalls, categories, areas, detections an image]; the first area is `all`, the last limit 100.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_category = {}
    for index, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, index]
        values = values[values > -1]
        by_category[names[category]] = _known(np.mean(values)) if values.size else None
    return by_category


def _category_names(truth: COCO) -> dict[int, str]:
    """Category names by id; a name that several categories share is followed by the id."""
    categories = truth.loadCats(truth.getCatIds())
    count = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if count[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in categories}


def _known(value: float) -> float | None:
    """pycocotools writes -1 where there is nothing to be found."""
    return float(value) if value > -1 else None


@contextmanager
def _printed_to_log() -> Iterator[None]:
    printed = io.StringIO()
    with redirect_stdout(printed):
        yield
    for line in printed.getvalue().splitlines():
        # The table of results is worth keeping, the progress of reading and indexing is not.
        level = logging.INFO if line.startswith(" Average") else logging.DEBUG
        logger.log(level, line.strip(), extra={"console": Console.never})
