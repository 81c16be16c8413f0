"""What tensors cannot tell: settings read from the text of the MMDetection configuration that a checkpoint carries.

The text is Python, and never run: assignments of plain values are evaluated from their syntax tree, all else is
passed over.
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

# Beyond what any configuration holds: a number, and how many dicts are to be merged.
LARGEST = 1e15
MOST_DICTS = 100_000

Values = dict[str, Any]


def read_settings(text: str) -> Values:
    """Overrides of our configuration that the text of an MMDetection 2.x or 3.x configuration asks for.

    Empty where the text is none.
    """
    return our_settings(parse_config(text))


def parse_config(text: str) -> Values:
    """The plain values that a configuration's text assigns, by name; later assignments of dicts update earlier ones."""
    # Early 2.x files join several configurations, each below a line with its path.
    lines = ["" if re.fullmatch(r"\S+\.py\s*", line) else line for line in text.splitlines()]
    try:
        with warnings.catch_warnings(action="ignore"):
            statements = ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values: Values = {}
    steps = iter(range(MOST_DICTS))
    for statement in statements:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            continue
        name = statement.targets[0].id
        try:
            values[name] = _updated(values.get(name), _evaluate(statement.value, values), steps)
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
            continue
    return values


def _evaluate(node: ast.expr, names: Values) -> Any:
    """The value of a literal, a call of `dict`, or arithmetic on numbers. Raises ValueError for anything else."""
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
    if not _is_number(value):
        raise TypeError("not a number of a usual size")
    return value


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Small enough that no repeated product of them takes long."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _updated(old: Any, new: Any, steps: Iterator[int]) -> Any:
    """`new`, or where both are dicts, `old` with the items of `new` in it. Raises ValueError when `steps` run out."""
    if not (isinstance(old, dict) and isinstance(new, dict)) or new.get("_delete_"):
        return new
    if next(steps, None) is None:
        raise ValueError("dicts within dicts without end")
    return old | {key: _updated(old.get(key), value, steps) for key, value in new.items()}


def our_settings(config: Mapping[str, Any]) -> Values:
    """Our overrides for an MMDetection configuration of plain values."""
    model = _dict(config.get("model"))
    roi_head = _dict(model.get("roi_head"))
    found = roi_head_settings(roi_head)
    found |= _pixels(config, model) | _grids(model)
    backbone = _dict(model.get("backbone"))
    if backbone.get("style") == "caffe":
        found["backbone.style"] = "caffe"
    if _is_number(eps := _dict(backbone.get("norm_cfg")).get("eps")):
        found["backbone.norm_eps"] = float(eps)
    # 2.x before 2.4 has the test settings beside the model.
    found |= _test_settings(_dict(model.get("test_cfg")) or _dict(config.get("test_cfg")))
    return found | _test_size(config)


def roi_head_settings(roi_head: Mapping[str, Any]) -> Values:
    """Our overrides for the keys of an MMDetection RoI head: the paper's ideas, and the scale of each stage."""
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
    """Mean, standard deviation and order of the channels; the text lists them in the network's own order."""
    steps = [step for step in _test_steps(config) if step.get("type") == "Normalize"]
    given = next(filter(None, map(_dict, (model.get("data_preprocessor"), config.get("img_norm_cfg"), *steps))), {})
    mean, std = _numbers(given.get("mean"), 3), _numbers(given.get("std"), 3)
    if not (mean and std):
        return {}
    bgr = not given.get("bgr_to_rgb", given.get("to_rgb", True))
    order = [2, 1, 0] if bgr else [0, 1, 2]
    return {
        "backbone.pixel_mean": [mean[i] for i in order],
        "backbone.pixel_std": [std[i] for i in order],
        "backbone.bgr": bgr,
    }


def _grids(model: Mapping[str, Any]) -> Values:
    """Anchors, and the points at which RoIAlign samples."""
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
    """Proposals and detections at test time, under the names of early and of late versions."""
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
    """The size of test images, where the test pipeline has a single one."""
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
    """What is done to a test image, the steps of a step (test time augmentation of 2.x) after it."""
    steps = map(_dict, _list(config.get("test_pipeline")))
    return [each for step in steps for each in (step, *map(_dict, _list(step.get("transforms"))))]


def _numbers(value: Any, length: int | None = None) -> list[float]:
    """The numbers of a list, of `length` where it is given; empty for anything else."""
    if not (isinstance(value, list | tuple) and len(value) == (length or len(value)) and all(map(_is_number, value))):
        return []
    return [float(number) for number in value]


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
