"""COCO's 80 categories, which the published checkpoints use but do not contain."""

from __future__ import annotations

from functools import cache

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights


@cache
def _categories() -> dict[int, str]:
    """Return the name of each category id; ten of the ids from 1 to 90 are unused."""
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {i: name for i, name in enumerate(names) if name not in ("__background__", "N/A")}


def coco_ids() -> list[int]:
    """Return COCO's category ids, in ascending order."""
    return list(_categories())


def coco_names() -> list[str]:
    """Return the names of COCO's categories, in the order of `coco_ids`."""
    return list(_categories().values())
