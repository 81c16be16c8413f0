"""Settings from the text of the MMDetection configuration that a checkpoint contains; tensors do not show these.

The text is Python code and is never run. Assignments of plain values are evaluated from their syntax tree; everything
else is skipped.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
FUSION = {frozenset({"bbox"}): "box", frozenset({"mask"}): "mask", frozenset({"bbox", "mask"}): "both"}

# Limits that no real configuration reaches: they bound the time and memory that a hostile text can take.
MAX_NUMBER = 1e15
MAX_MERGED_DICTS = 100_000

Values = dict[str, Any]


def read_settings(text: str) -> Values:
    """Return the overrides of our configuration that correspond to the text of an MMDetection 2.x or 3.x configuration.

    The result is empty if the text is not a configuration.
    """
    return our_settings(parse_config(text))


def parse_config(text: str) -> Values:
    """Return the plain values that the text assigns, by name; later assignments of dicts update earlier ones."""
    # Checkpoints of early 2.x contain several configuration files, each below a line with its path.
    lines = ["" if re.fullmatch(r"\S+\.py\s*", line) else line for line in text.splitlines()]
    try:
        with warnings.catch_warnings(action="ignore"):
            statements = ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values: Values = {}
    merges_left = iter(range(MAX_MERGED_DICTS))
    for statement in statements:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            continue
        name = statement.targets[0].id
        try:
            values[name] = _updated(values.get(name), _evaluate(statement.value, values), merges_left)
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
            continue
    return values


def _evaluate(node: ast.expr, names: Values) -> Any:
    """Return the value of a literal, a call of `dict`, or arithmetic on numbers.

    Raises ValueError for any other expression.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_evaluate(item, names) for item in items]
        case ast.Dict(keys=keys, values=items):
            return {_evaluate(k, names): _evaluate(v, names) for k, v in zip(keys, items, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            result: Values = {}
            for keyword in keywords:
                value = _evaluate(keyword.value, names)
                result |= value if keyword.arg is None else {keyword.arg: value}
            return result
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_evaluate(operand, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_number(_evaluate(left, names)), _number(_evaluate(right, names)))
    raise ValueError("not a plain value")


def _number(value: Any) -> float:
    """Return a number unchanged. Raises TypeError for any other value."""
    if not _is_number(value):
        raise TypeError("not a number of a usual size")
    return value


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number, small enough that repeated products of such numbers are computed quickly."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _updated(old: Any, new: Any, merges_left: Iterator[int]) -> Any:
    """Return `new`, or if both are dicts, `old` recursively updated with `new`.

    Raises ValueError when `merges_left` is exhausted.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)) or new.get("_delete_"):
        return new
    if next(merges_left, None) is None:
        raise ValueError("too many dicts to merge")
    return old | {key: _updated(old.get(key), value, merges_left) for key, value in new.items()}


def our_settings(config: Mapping[str, Any]) -> Values:
    """Return our overrides for an MMDetection configuration of plain values."""
    model = _dict(config.get("model"))
    roi_head = _dict(model.get("roi_head"))
    found = roi_head_settings(roi_head)
    found |= _pixels(config, model) | _grids(model)
    backbone = _dict(model.get("backbone"))
    if backbone.get("style") == "caffe":
        found["backbone.style"] = "caffe"
    if _is_number(eps := _dict(backbone.get("norm_cfg")).get("eps")):
        found["backbone.norm_eps"] = float(eps)
    # Before 2.4, the test settings are not part of the model's settings.
    found |= _test_settings(_dict(model.get("test_cfg")) or _dict(config.get("test_cfg")))
    return found | _test_size(config)


def roi_head_settings(roi_head: Mapping[str, Any]) -> Values:
    """Return our overrides for an MMDetection RoI head: the paper's ideas, stage loss weights and stds of deltas."""
    found: Values = {}
    for theirs, ours in {"interleaved": "model.interleaved", "mask_info_flow": "model.mask_flow"}.items():
        if isinstance(roi_head.get(theirs), bool):
            found[ours] = roi_head[theirs]
    fusion = roi_head.get("semantic_fusion")
    if isinstance(fusion, list | tuple) and all(isinstance(head, str) for head in fusion):
        found |= {"model.semantic_fusion": FUSION[frozenset(fusion)]} if frozenset(fusion) in FUSION else {}
    if weights := _numbers(roi_head.get("stage_loss_weights")):
        found["model.stage_loss_weights"] = weights
    heads = _list(roi_head.get("bbox_head"))
    stds = [_numbers(_dict(_dict(head).get("bbox_coder")).get("target_stds"), 4) for head in heads]
    if stds and all(stds):
        found["model.stage_stds"] = stds
    return found


def _pixels(config: Mapping[str, Any], model: Mapping[str, Any]) -> Values:
    """Return the overrides of mean, standard deviation and order of the channels.

    The text lists mean and standard deviation in the channel order of the network; our configuration in RGB order.
    """
    steps = [step for step in _test_steps(config) if step.get("type") == "Normalize"]
    sources = map(_dict, (model.get("data_preprocessor"), config.get("img_norm_cfg"), *steps))
    pixels = next(filter(None, sources), {})
    mean, std = _numbers(pixels.get("mean"), 3), _numbers(pixels.get("std"), 3)
    if not (mean and std):
        return {}
    bgr = not pixels.get("bgr_to_rgb", pixels.get("to_rgb", True))
    order = [2, 1, 0] if bgr else [0, 1, 2]
    return {
        "backbone.pixel_mean": [mean[i] for i in order],
        "backbone.pixel_std": [std[i] for i in order],
        "backbone.bgr": bgr,
    }


def _grids(model: Mapping[str, Any]) -> Values:
    """Return the overrides of the anchors and of RoIAlign's sampling."""
    found: Values = {}
    anchors = _dict(_dict(model.get("rpn_head")).get("anchor_generator"))
    if scale := _numbers(anchors.get("scales"), 1):
        found["model.rpn.anchor_scale"] = scale[0]
    if ratios := _numbers(anchors.get("ratios")):
        found["model.rpn.anchor_ratios"] = ratios
    layers = [_dict(head).get("roi_layer") for head in _list(_dict(model.get("roi_head")).get("bbox_roi_extractor"))]
    layer = _dict(layers[0]) if layers else {}
    if _is_number(points := layer.get("sampling_ratio", layer.get("sample_num"))):
        found["model.roi_sampling"] = int(points)
    if isinstance(aligned := layer.get("aligned"), bool):
        found["model.roi_aligned"] = aligned
    return found


def _test_settings(test: Mapping[str, Any]) -> Values:
    """Return the overrides of proposals and detections at test time, from the names of early and of later versions."""
    rpn, rcnn = _dict(test.get("rpn")), _dict(test.get("rcnn"))
    rpn_nms, rcnn_nms = _dict(rpn.get("nms")), _dict(rcnn.get("nms"))
    candidates = {
        "model.rpn.test_pre_nms": rpn.get("nms_pre"),
        "model.rpn.test_proposals": rpn.get("max_per_img", rpn.get("max_num")),
        "model.rpn.nms_iou": rpn_nms.get("iou_threshold", rpn.get("nms_thr")),
        "eval.score_threshold": rcnn.get("score_thr"),
        "eval.nms_iou": rcnn_nms.get("iou_threshold", rcnn_nms.get("iou_thr")),
        "eval.max_detections": rcnn.get("max_per_img"),
        "eval.mask_threshold": rcnn.get("mask_thr_binary"),
    }
    return {key: value for key, value in candidates.items() if _is_number(value)}


def _test_size(config: Mapping[str, Any]) -> Values:
    """Return the overrides of the size of test images, if the test pipeline has a single size."""
    for step in _test_steps(config):
        scale = step.get("img_scale", step.get("scale"))
        if (
            isinstance(scale, list)
            and len(scale) == 2
            and all(isinstance(side, int) and _is_number(side) for side in scale)
        ):
            return {"data.short_side": min(scale), "data.long_side": max(scale)}
    return {}


def _test_steps(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the steps of the test pipeline, each followed by its inner steps (test-time augmentation of 2.x)."""
    steps = map(_dict, _list(config.get("test_pipeline")))
    return [each for step in steps for each in (step, *map(_dict, _list(step.get("transforms"))))]


def _numbers(value: Any, length: int | None = None) -> list[float]:
    """Return the numbers of a list (of `length` numbers, if given); empty for any other value."""
    if not (isinstance(value, list | tuple) and len(value) == (length or len(value)) and all(map(_is_number, value))):
        return []
    return [float(number) for number in value]


def _dict(value: Any) -> Mapping[str, Any]:
    """Return a mapping unchanged, and an empty one for any other value."""
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    """Return a list unchanged, an empty list for None, and a list of the value otherwise."""
    return value if isinstance(value, list) else [] if value is None else [value]
