"""Whether the images that a run is evaluated on can be read: known before training, not days into it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from htc.data.check.decoding import DecodeJob, decode_all
from htc.data.coco.problems import Severity, refuse

if TYPE_CHECKING:
    from htc.data.dataset import CocoDataset

logger = logging.getLogger(__name__)


def refuse_unreadable(dataset: CocoDataset, limit: int | None, processes: int) -> None:
    """Decode the first `limit` images of a data set (None: all), in so many processes beside this one.

    COCO's 5000 validation images take a minute of one core. Raises UserError, with file and id, where one is broken.
    """
    annotations, images = dataset.annotations, dataset.images[:limit].tolist()
    sizes = zip(annotations.heights[images].tolist(), annotations.widths[images].tolist(), strict=True)
    jobs = [DecodeJob(annotations.image_path(image), size) for image, size in zip(images, sizes, strict=True)]
    logger.debug("reading %d images of %s", len(jobs), annotations.path)
    examined = decode_all(jobs, processes)
    ids = annotations.image_ids[images].tolist()
    refuse(
        [
            replace(problem, sentence=f"image {image_id} of {annotations.path}: {problem.sentence}")
            for image_id, found in zip(ids, examined, strict=True)
            for problem in found.problems
            if problem.severity is Severity.fault
        ]
    )
