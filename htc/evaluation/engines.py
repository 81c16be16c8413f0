"""Engines that compute COCO's precision and recall: pycocotools, and hotcoco, which is quicker and has to be equal.

hotcoco (https://github.com/derekallman/hotcoco) is an optional package. Before it evaluates a data set, both engines
evaluate a few of its images; where one number of precision, recall or scores differs in one bit, pycocotools is used.
Whichever it is, pycocotools makes the twelve metrics of these arrays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

logger = logging.getLogger(__name__)

Result = dict[str, Any]
"""One detection in COCO's result format: image_id, category_id, score, and bbox or segmentation."""
Content = Mapping[str, Any]
"""Ground truth in COCO's format."""
PYCOCOTOOLS, HOTCOCO = "pycocotools", "hotcoco"
COMPARED_IMAGES = 50
"""Images on which the engines are compared; so few are evaluated by pycocotools alone."""
ARRAYS = ("precision", "recall", "scores")


def choose_engine(
    content: Content, results: Mapping[str, Sequence[Result]], image_ids: Sequence[int], only: str | None = None
) -> str:
    """Return the quickest engine that computes the numbers of pycocotools.

    Args:
        content: the ground truth.
        results: detections by kind, `bbox` and `segm`.
        image_ids: the images to evaluate.
        only: name of the engine that is used in any case; None to choose.
    """
    ids = sorted(set(image_ids))
    if only is not None or len(ids) <= COMPARED_IMAGES or find_spec(HOTCOCO) is None:
        return only or PYCOCOTOOLS
    some = ids[:: len(ids) // COMPARED_IMAGES][:COMPARED_IMAGES]
    chosen = set(some)
    for kind, found in results.items():
        of_part = [result for result in found if result["image_id"] in chosen]
        quick = _or_none(partial(by_hotcoco, _part(content, some), of_part, some, kind))
        expected, _ = evaluate(_part(content, some), of_part, some, kind)
        if quick is None or not all(np.array_equal(quick[name], expected.eval[name]) for name in ARRAYS):
            logger.warning(
                "hotcoco %s is not used: on %d images, its %s are not those of pycocotools.",
                version(HOTCOCO), len(some), "boxes" if kind == "bbox" else "masks",
            )  # fmt: skip
            return PYCOCOTOOLS
    return HOTCOCO


def evaluate(
    content: Content, results: Sequence[Result], image_ids: Sequence[int], kind: str, engine: str = PYCOCOTOOLS
) -> tuple[COCOeval, str]:
    """Return pycocotools' evaluation with its arrays, and the engine that computed these.

    Args:
        content: the ground truth, as pycocotools can evaluate it.
        results: detections in COCO's result format; results of other images are ignored.
        image_ids: the images to evaluate.
        kind: `bbox` or `segm`.
        engine: PYCOCOTOOLS or HOTCOCO, in place of which pycocotools is used where it fails.
    """
    if engine == HOTCOCO:
        arrays = _or_none(partial(by_hotcoco, content, results, image_ids, kind))
        if arrays is not None:
            evaluation = COCOeval(iouType=kind)
            evaluation.params.imgIds = sorted(set(image_ids))
            evaluation.params.catIds = sorted(category["id"] for category in content["categories"])
            evaluation.eval = arrays
            return evaluation, HOTCOCO
    truth = _indexed(content)
    evaluation = COCOeval(truth, _load_results(truth, results), kind)
    evaluation.params.imgIds = sorted(set(image_ids))
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation, PYCOCOTOOLS


def by_hotcoco(
    content: Content, results: Sequence[Result], image_ids: Sequence[int], kind: str
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of hotcoco by ARRAYS, with the arguments of `evaluate`."""
    import hotcoco

    truth = hotcoco.COCO(dict(content))
    evaluation = hotcoco.COCOeval(truth, truth.loadRes(list(results)), kind)
    evaluation.params.imgIds = sorted(set(image_ids))
    evaluation.evaluate()
    evaluation.accumulate()
    arrays: Any = evaluation.eval
    return {name: np.asarray(arrays[name]) for name in ARRAYS}


def _or_none(compute: Callable[[], dict[str, np.ndarray[Any, Any]]]) -> dict[str, np.ndarray[Any, Any]] | None:
    """Return what is computed; None where hotcoco fails, so that a training never ends for want of its metrics."""
    try:
        return compute()
    except BaseException as error:
        # A panic of its Rust code is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        logger.warning("hotcoco fails (%s: %s): pycocotools evaluates.", type(error).__name__, error)
        return None


def _part(content: Content, image_ids: Sequence[int]) -> Content:
    """Return the ground truth of some images, as a copy: pycocotools changes what it evaluates."""
    chosen = set(image_ids)
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in chosen],
        "annotations": [dict(each) for each in content["annotations"] if each["image_id"] in chosen],
    }


def _indexed(content: Content) -> COCO:
    """Return annotations as an indexed COCO object."""
    coco = COCO()
    coco.dataset = dict(content)
    coco.createIndex()
    return coco


def _load_results(truth: COCO, results: Sequence[Result]) -> COCO:
    """Return results as an indexed COCO object."""
    if results:
        # loadRes adds keys to the dicts that it is given, but these are written to predictions/ later.
        return truth.loadRes([dict(result) for result in results])
    # loadRes fails on an empty list: it takes the kind of the results from the first one.
    return _indexed({**truth.dataset, "annotations": []})
