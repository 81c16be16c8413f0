"""COCO's 80 categories, which checkpoints assume without naming them."""

from __future__ import annotations

from functools import cache

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights


@cache
def _categories() -> dict[int, str]:
    """Name of each category id; ten of the ids up to 90 name nothing."""
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {i: name for i, name in enumerate(names) if name not in ("__background__", "N/A")}


def coco_ids() -> list[int]:
    return list(_categories())


def coco_names() -> list[str]:
    return list(_categories().values())
