"""COCO metrics of boxes and masks, those of pycocotools, on some or all images of a data set."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from htc.coco_truth import repair_ground_truth
from htc.errors import UserError
from htc.evaluation.engines import Result, choose_engine, evaluate
from htc.runs.files import atomic_write
from htc.runs.logs import Console

logger = logging.getLogger(__name__)

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""Names of the twelve metrics of COCOeval.summarize, in its order."""


@dataclass
class Metrics:
    """COCO metrics in 0..1; a metric is None if the images contain no object that it counts."""

    bbox: dict[str, float | None]
    """The twelve metrics of boxes, by METRIC_NAMES."""
    segm: dict[str, float | None]
    """The twelve metrics of masks, by METRIC_NAMES."""
    per_category: dict[str, dict[str, float | None]]
    """AP by category name, for `bbox` and for `segm`."""
    engine: str = ""
    """What computed precision and recall, with its version; see `htc.evaluation.engines`."""


def coco_metrics(
    annotation_file: str | Path,
    bbox_results: Sequence[Result],
    segm_results: Sequence[Result],
    image_ids: Sequence[int],
    engine: str | None = None,
) -> Metrics:
    """Compare results with annotations on some images. The output of pycocotools goes to the log.

    Args:
        annotation_file: ground truth in COCO's format.
        bbox_results: detections with boxes, in COCO's result format.
        segm_results: detections with masks, in COCO's result format.
        image_ids: the images to evaluate; results of other images are ignored.
        engine: `pycocotools`, or None for the quickest engine that computes its numbers.

    Raises UserError if the annotation file is missing or cannot be read.
    """
    content = _read_truth(Path(annotation_file))
    repair_ground_truth(content, str(annotation_file))
    names = _category_names(content)
    results = {"bbox": bbox_results, "segm": segm_results}
    found, used = {}, []
    with _printed_to_log():
        engine = choose_engine(content, results, image_ids, engine)
        for kind in results:
            evaluation, by = evaluate(content, results[kind], image_ids, kind, engine)
            used.append(f"{by} {version(by)}")
            evaluation.summarize()
            # The first evaluation is released before the second one: each takes a gigabyte on COCO.
            found[kind] = _metrics(evaluation, names)
            del evaluation
    (bbox, bbox_by_category), (segm, segm_by_category) = found["bbox"], found["segm"]
    return Metrics(bbox, segm, {"bbox": bbox_by_category, "segm": segm_by_category}, ", ".join(dict.fromkeys(used)))


def _metrics(evaluation: COCOeval, names: dict[int, str]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return the twelve metrics and the AP by category name."""
    return _summary(evaluation), _per_category(evaluation, names)


def _read_truth(path: Path) -> dict[str, Any]:
    """Return the content of the annotation file. Raises UserError if it is missing or cannot be read.

    The file may have any encoding of JSON; pycocotools' own reader expects the locale's.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: set data.root and data.val.annotations to where it is.")
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): was it changed during the run? Write it again.") from error
    return content


def write_results_file(path: Path, results: Sequence[Result]) -> None:
    """Write results in COCO's format, one per line, atomically and without the complete text in memory."""
    with atomic_write(path) as file:
        file.write("[")
        for index, result in enumerate(results):
            file.write(",\n" if index else "\n")
            file.write(json.dumps(result, allow_nan=False))
        file.write("\n]\n")


def _summary(evaluation: COCOeval) -> dict[str, float | None]:
    """Return the twelve metrics by name."""
    return {name: _value_or_none(value) for name, value in zip(METRIC_NAMES, evaluation.stats, strict=True)}


def _per_category(evaluation: COCOeval, names: dict[int, str]) -> dict[str, float | None]:
    """Return the AP of each category by name, over all areas and with up to 100 detections per image."""
    # [IoU thresholds, recalls, categories, areas, limits]: the first area is `all`, the last limit 100 detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_category = {}
    for index, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, index]
        values = values[values > -1]
        by_category[names[category]] = _value_or_none(np.mean(values)) if values.size else None
    return by_category


def _category_names(content: dict[str, Any]) -> dict[int, str]:
    """Return the category names by id; a name that several categories share is followed by the id."""
    categories = content["categories"]
    count = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if count[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in categories}


def _value_or_none(value: float) -> float | None:
    """Return a metric, or None for the -1 that pycocotools gives where the images contain no object to count."""
    return float(value) if value > -1 else None


@contextmanager
def _printed_to_log() -> Iterator[None]:
    """Log what is printed inside the block, instead of showing it on the console."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        yield
    for line in printed.getvalue().splitlines():
        # The lines of the result table are logged as information, the progress of reading and indexing is not.
        level = logging.INFO if line.startswith(" Average") else logging.DEBUG
        logger.log(level, line.strip(), extra={"console": Console.never})
