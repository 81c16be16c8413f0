"""Translation of tensor names between MMDetection's state dicts and ours, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

MODULES = (
    ("neck.lateral_convs.{}.conv", "backbone.fpn.inner_blocks.{}.0"),
    ("neck.fpn_convs.{}.conv", "backbone.fpn.layer_blocks.{}.0"),
    ("rpn_head.rpn_conv", "rpn.conv"),
    ("rpn_head.rpn_cls", "rpn.objectness"),
    ("rpn_head.rpn_reg", "rpn.deltas"),
    ("roi_head.bbox_head.{}.shared_fcs.0", "cascade.box_heads.{}.fc1"),
    ("roi_head.bbox_head.{}.shared_fcs.1", "cascade.box_heads.{}.fc2"),
    ("roi_head.bbox_head.{}.fc_cls", "cascade.box_heads.{}.logits"),
    ("roi_head.bbox_head.{}.fc_reg", "cascade.box_heads.{}.deltas"),
    ("roi_head.mask_head.{}.conv_res.conv", "cascade.mask_branch.flow.embeddings.{}.0"),
    ("roi_head.mask_head.{}.convs.{}.conv", "cascade.mask_branch.heads.{}.convs.{}.0"),
    ("roi_head.mask_head.{}.upsample", "cascade.mask_branch.heads.{}.upsample"),
    ("roi_head.mask_head.{}.conv_logits", "cascade.mask_branch.heads.{}.logits"),
    ("roi_head.semantic_head.lateral_convs.{}.conv", "semantic.laterals.{}.0"),
    ("roi_head.semantic_head.convs.{}.conv", "semantic.convs.{}.0"),
    ("roi_head.semantic_head.conv_embedding.conv", "semantic.embedding.0"),
    ("roi_head.semantic_head.conv_logits", "semantic.logits"),
)
"""Pairs of a module of MMDetection (3.x, with numbered heads) and our module; {} is the same number in both."""
PARAMETERS = r"\.(?P<parameter>weight|bias)"
BODY = re.compile(r"(?P<part>(conv1|bn1|layer[1-4]\.\d+)\..+)")
"""Names of the body's tensors, which are the same in MMDetection and here."""

UNNUMBERED_HEAD = re.compile(r"^(roi_head\.(?:bbox|mask)_head)\.(?!\d)")
"""Heads of a model with a single stage, such as `roi_head.bbox_head.fc_cls`."""
OLD_OFFSET = re.compile(r"\.conv(\d)_offset\.")
"""Offsets of deformable convolutions before mmcv 1.0."""


def _patterns(sources: list[str], targets: list[str]) -> list[tuple[re.Pattern[str], str]]:
    """Return a pattern of parameter names and a replacement for each pair of modules."""
    compiled = []
    for source, target in zip(sources, targets, strict=True):
        pattern = re.escape(source).replace(r"\{\}", r"(\d+)") + PARAMETERS
        first, *others = target.split("{}")
        numbered = first + "".join(rf"\g<{i}>{part}" for i, part in enumerate(others, start=1))
        compiled.append((re.compile(pattern), numbered + r".\g<parameter>"))
    return compiled


_TO_OURS = _patterns([theirs for theirs, _ in MODULES], [ours for _, ours in MODULES])
_TO_THEIRS = _patterns([ours for _, ours in MODULES], [theirs for theirs, _ in MODULES])


def modern_name(name: str) -> str:
    """Return a name of MMDetection 2.x or 3.x in the form of 3.x, with all heads numbered."""
    name = OLD_OFFSET.sub(r".conv\1.conv_offset.", name.removeprefix("module."))
    return UNNUMBERED_HEAD.sub(r"\1.0.", name)


def our_name(name: str) -> str | None:
    """Return our name of an MMDetection tensor, or None if we have no such tensor."""
    name = modern_name(name)
    body = BODY.fullmatch(name.removeprefix("backbone."))
    if name.startswith("backbone.") and body:
        return f"backbone.body.{body['part']}"
    return _translated(name, _TO_OURS)


def their_name(name: str, numbered_heads: bool) -> str | None:
    """Return MMDetection 3.x's name of one of our tensors, or None if it has no such tensor.

    With `numbered_heads`, the names of the heads contain the number of their stage.
    """
    if name.startswith("backbone.body."):
        return "backbone." + name.removeprefix("backbone.body.")
    theirs = _translated(name, _TO_THEIRS)
    if theirs is None or numbered_heads:
        return theirs
    return re.sub(r"^(roi_head\.(?:bbox|mask)_head)\.0\.", r"\1.", theirs)


def _translated(name: str, patterns: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in patterns:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return None


def split_known(theirs: Mapping[str, T]) -> tuple[dict[str, T], dict[str, str], dict[str, T]]:
    """Split a mapping by MMDetection's names into the part that we have names for, and the rest.

    Returns:
        The values that we have a name for, by our names; the original name of each of these, by our names; and the
        remaining values, by their original names.

    Raises ValueError if two of the names are the same name of ours.
    """
    known: dict[str, T] = {}
    original: dict[str, str] = {}
    rest: dict[str, T] = {}
    for name, value in theirs.items():
        ours = our_name(name)
        if ours is None:
            rest[name] = value
        elif ours in known:
            raise ValueError(f"{original[ours]} and {name} name the same tensor")
        else:
            known[ours], original[ours] = value, name
    return known, original, rest
