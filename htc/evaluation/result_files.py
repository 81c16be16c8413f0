"""Evaluation of result files in COCO's format, whatever wrote them: MMDetection, Detectron2 or torchvision."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as masks

import htc
from htc.coco_truth import is_polygon
from htc.data.coco.annotations import Annotations
from htc.data.coco.problems import short_repr
from htc.data.coco.reader import load_annotations
from htc.data.coco.rle import valid_run_lengths
from htc.errors import UserError
from htc.evaluation.coco_metrics import METRIC_NAMES, Metrics, coco_metrics, write_results_file
from htc.evaluation.engines import Result
from htc.runs.evaluations import EvaluationFolder
from htc.runs.files import sha256_of
from htc.runs.folder import now

KINDS = {"bbox": "boxes", "segm": "masks"}
COMMON = ("image_id", "category_id", "score")


@dataclass
class ResultFiles:
    """Detections of another system."""

    results: dict[str, list[Result]] = field(default_factory=dict)
    """By `bbox` and `segm`, in COCO's result format; a kind that no file has is absent."""
    sources: dict[str, Path] = field(default_factory=dict)
    """The file of each kind."""


def evaluate_result_files(
    predictions: Sequence[Path], annotations: Path, out: EvaluationFolder, name: str = ""
) -> dict[str, Any]:
    """Evaluate result files on all images of an annotation file; write predictions and results, and return the results.

    Args:
        predictions: files in COCO's result format: one of boxes and one of masks, or one with both.
        annotations: ground truth in COCO's format. Its images need not be there.
        out: folder of predictions and results, which tables take as a row.
        name: name of the system, the label of its row; empty for the name of the first file's folder.

    Raises:
        UserError: for a file that cannot be read, results that are not of these images and categories, and a folder
            that cannot be written.
    """
    truth = load_annotations(annotations, annotations.parent)
    read = read_result_files(predictions, truth)
    try:
        out.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out.path} cannot be written ({error.strerror}): name another folder.") from error
    image_ids = truth.image_ids.tolist()
    metrics = coco_metrics(annotations, read.results.get("bbox", []), read.results.get("segm", []), image_ids)
    for kind in KINDS:
        write_results_file(out.path / f"{kind}.json", read.results.get(kind, []))
    results = {
        **asdict(without_missing(metrics, read)),
        "speed": {"fps": None, "images": 0, "conditions": {}},
        "images_evaluated": len(image_ids),
        "system": name or predictions[0].absolute().parent.name,
        "predictions": {kind: str(path.absolute()) for kind, path in read.sources.items()},
        "annotation_file": str(annotations.absolute()),
        "data": {"annotations": sha256_of(annotations), "images": len(image_ids)},
        "evaluated": now(),
        "host": socket.gethostname(),
        "by": f"htc {htc.__version__}",
    }
    out.write(results)
    return results


def without_missing(metrics: Metrics, read: ResultFiles) -> Metrics:
    """Return metrics in which a kind that no file has is unknown, and not zero."""
    nothing: dict[str, float | None] = dict.fromkeys(METRIC_NAMES)
    return Metrics(
        metrics.bbox if "bbox" in read.results else nothing,
        metrics.segm if "segm" in read.results else nothing,
        {kind: values if kind in read.results else {} for kind, values in metrics.per_category.items()},
        metrics.engine,
    )


def read_result_files(paths: Sequence[Path], truth: Annotations) -> ResultFiles:
    """Read result files, and decide which has boxes and which has masks.

    Boxes are taken from a file that has only boxes, if there is one, because the boxes beside masks may be those around
    the masks.

    Raises:
        UserError: for a file that cannot be read, two files of one kind, and results that do not fit the annotations.
    """
    found = ResultFiles()
    both: list[tuple[Path, list[Result]]] = []
    for path in paths:
        rows = _read(path)
        has_boxes = bool(rows) and "bbox" in rows[0]
        has_masks = bool(rows) and "segmentation" in rows[0]
        if not has_boxes and not has_masks:
            raise UserError(f"predictions={path}: its results have neither `bbox` nor `segmentation`.")
        if has_masks:
            _add(found, "segm", path, rows)
        if has_boxes and not has_masks:
            _add(found, "bbox", path, rows)
        elif has_boxes:
            both.append((path, rows))
    if "bbox" not in found.results and both:
        _add(found, "bbox", *both[0])
    for kind, rows in found.results.items():
        found.results[kind] = _checked(rows, kind, found.sources[kind], truth)
    return found


def _add(found: ResultFiles, kind: str, path: Path, rows: list[Result]) -> None:
    if kind in found.results:
        raise UserError(f"predictions: {found.sources[kind]} and {path} both have {KINDS[kind]}: give one of them.")
    found.results[kind], found.sources[kind] = rows, path


def _read(path: Path) -> list[Result]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"predictions={path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"predictions={path} is not complete JSON: is it a file in COCO's result format?") from error
    if isinstance(content, dict) and isinstance(content.get("annotations"), list) and "images" in content:
        raise UserError(
            f"predictions={path} is an annotation file; COCO's result format is a list of detections with image_id, "
            "category_id, score, and bbox or segmentation."
        )
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise UserError(f"predictions={path} is not a list of detections, as COCO's result format is.")
    if not content:
        raise UserError(f"predictions={path} is empty: it has no detections, so it is not known of what kind it is.")
    return content


def _checked(rows: list[Result], kind: str, path: Path, truth: Annotations) -> list[Result]:
    """Return the results of one kind with numbers in Python's types, and masks as compressed run lengths."""
    sizes = dict(
        zip(truth.image_ids.tolist(), zip(truth.heights.tolist(), truth.widths.tolist(), strict=True), strict=True)
    )
    categories = set(truth.category_ids)
    checked = [_common(row, index, path, sizes, categories, truth) for index, row in enumerate(rows)]
    if kind == "bbox":
        for index, (row, result) in enumerate(zip(rows, checked, strict=True)):
            result["bbox"] = _box(row.get("bbox"), index, path)
        return checked
    for index, (row, result) in enumerate(zip(rows, checked, strict=True)):
        result["segmentation"] = _mask(row.get("segmentation"), sizes[result["image_id"]], index, path)
    _check_run_lengths(checked, sizes, path)
    return checked


def _common(
    row: Result, index: int, path: Path, sizes: dict[int, tuple[int, int]], categories: set[int], truth: Annotations
) -> Result:
    image, category, score = (row.get(key) for key in COMMON)
    # Some tools write ids as text, or as floats.
    image, category = _whole(image), _whole(category)
    if image is None or category is None:
        key = COMMON[0] if image is None else COMMON[1]
        raise UserError(
            f"predictions={path}: result {index} has the {key} {short_repr(row.get(key))}, no whole number."
        )
    if image not in sizes:
        raise UserError(
            f"predictions={path}: result {index} is of image {image}, which {truth.path} does not have: were they "
            "made for another split?"
        )
    if category not in categories:
        known = f"{min(categories)} to {max(categories)}" if categories else "none"
        raise UserError(
            f"predictions={path}: result {index} is of category {category}, which {truth.path} does not have (ids "
            f"{known}): results name the ids of the annotations, not the position in the list of classes."
        )
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise UserError(f"predictions={path}: result {index} has the score {short_repr(score)}, no finite number.")
    return {"image_id": image, "category_id": category, "score": float(score)}


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _box(value: Any, index: int, path: Path) -> list[float]:
    numbers = isinstance(value, list) and len(value) == 4 and all(
        isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in value
    )  # fmt: skip
    if not numbers:
        raise UserError(
            f"predictions={path}: result {index} has the bbox {short_repr(value)}; it is x, y, width, height in pixels."
        )
    if value[2] < 0 or value[3] < 0:
        raise UserError(
            f"predictions={path}: result {index} has the bbox {short_repr(value)} with a negative size: is it x1, y1, "
            "x2, y2 in place of x, y, width, height?"
        )
    return [float(each) for each in value]


def _mask(value: Any, size: tuple[int, int], index: int, path: Path) -> dict[str, Any]:
    """Return a mask as compressed run lengths. Strings are not checked here."""
    height, width = size
    if isinstance(value, dict) and list(value.get("size", ())) == [height, width]:
        counts = value.get("counts")
        if isinstance(counts, str) and counts.isascii():
            return {"size": [height, width], "counts": counts}
        if isinstance(counts, list) and all(isinstance(each, int) and each >= 0 for each in counts):
            if sum(counts) == height * width:
                return _text(masks.frPyObjects({"size": [height, width], "counts": counts}, height, width))
            raise UserError(f"predictions={path}: result {index} has run lengths that do not cover its image.")
    if isinstance(value, dict) and "size" in value and list(value["size"]) != [height, width]:
        raise UserError(
            f"predictions={path}: result {index} has a mask of size {short_repr(value['size'])}, and its image is "
            f"[{height}, {width}]."
        )
    if isinstance(value, list) and value and all(_is_outline(each) for each in value):
        return _text(masks.merge(masks.frPyObjects([[float(each) for each in part] for part in value], height, width)))
    raise UserError(
        f"predictions={path}: result {index} has a segmentation that is neither run lengths (size and counts) nor a "
        "list of polygons."
    )


def _is_outline(part: Any) -> bool:
    return (
        isinstance(part, list)
        and is_polygon(part)
        and all(isinstance(each, int | float) and math.isfinite(each) and abs(each) < 1e6 for each in part)
    )


def _text(encoded: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(each) for each in encoded["size"]], "counts": encoded["counts"].decode()}


def _check_run_lengths(results: list[Result], sizes: dict[int, tuple[int, int]], path: Path) -> None:
    """Raise UserError for a mask that pycocotools would read beyond its memory."""
    texts = [result["segmentation"]["counts"].encode() for result in results]
    ends = np.cumsum([len(each) for each in texts])
    ranges = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int64)
    pixels = np.array([math.prod(sizes[result["image_id"]]) for result in results], dtype=np.int64)
    valid = valid_run_lengths(np.frombuffer(b"".join(texts), np.uint8), ranges, pixels)
    if not valid.all():
        raise UserError(
            f"predictions={path}: result {int(np.flatnonzero(~valid)[0])} has run lengths that do not cover its image."
        )
