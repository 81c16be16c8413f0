"""The text of MMDetection's configurations: plain values are read, code is never run, and hostile text is harmless."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htc.interop.mmdetection_config import parse_config, read_settings
from tests.helpers.fuzzing import fuzz

# As in a checkpoint of MMDetection 2.x: several files below their paths; later files update the values of earlier ones.
VERSION_2 = """\
/mmdetection/configs/_base_/models/htc_r50_fpn.py
model = dict(
    type='HybridTaskCascade',
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=True), style='pytorch'),
    rpn_head=dict(anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0])),
    roi_head=dict(
        interleaved=True, mask_info_flow=True, semantic_fusion=('bbox', 'mask'), stage_loss_weights=[1, 0.5, 0.25],
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', out_size=7, sample_num=0)),
        bbox_head=[
            dict(bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])),
            dict(bbox_coder=dict(target_stds=[0.05, 0.05, 0.1, 0.1])),
            dict(bbox_coder=dict(target_stds=[0.033, 0.033, 0.067, 0.067])),
        ]))
test_cfg = dict(
    rpn=dict(nms_across_levels=False, nms_pre=900, nms_post=800, max_num=700, nms_thr=0.65, min_bbox_size=0),
    rcnn=dict(score_thr=0.001, nms=dict(type='nms', iou_thr=0.55), max_per_img=90, mask_thr_binary=0.45))

/mmdetection/configs/_base_/datasets/coco.py
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1333, 800), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg)]),
]
data = dict(samples_per_gpu=2, test=dict(pipeline=test_pipeline))

/mmdetection/configs/htc/htc_r101.py
_base_ = './htc_r50_fpn.py'
model = dict(pretrained='torchvision://resnet101', backbone=dict(depth=101, style='caffe'))
test_cfg = dict(rcnn=dict(max_per_img=10 * 5))
"""

# As in a checkpoint of MMDetection 3.x, with code that must not run.
VERSION_3 = """\
import os.path as osp
from mmengine.config import read_base
lr = float(open('/etc/passwd').read())
def build():
    raise RuntimeError
image_size = (600, -(-1000))
model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[1, 2, 3.5], std=[4, 5, 6], bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(norm_cfg=dict(type='BN', eps=0.001)),
    rpn_head=dict(anchor_generator=dict(scales=[4], ratios=[0.5, 1.0, 2.0, 3.0])),
    roi_head=dict(
        interleaved=False, mask_info_flow=False, semantic_fusion=['mask'],
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=False)),
        bbox_head=dict(bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]))),
    train_cfg=None,
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=40, nms=dict(type='nms', iou_threshold=0.6)),
        rcnn=dict(score_thr=1 / 20, nms=dict(type='nms', iou_threshold=0.4), max_per_img=30)))
test_pipeline = [dict(type='LoadImageFromFile'), {'type': 'Resize', 'scale': image_size, 'keep_ratio': True}]
"""


def test_settings_of_2_x_are_read_from_several_files_and_old_names() -> None:
    assert read_settings(VERSION_2) == {
        "model.interleaved": True,
        "model.mask_flow": True,
        "model.semantic_fusion": "both",
        "model.stage_loss_weights": [1, 0.5, 0.25],
        "model.stage_stds": [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]],
        "model.roi_sampling": 0,
        "model.rpn.anchor_scale": 8,
        "model.rpn.anchor_ratios": [0.5, 1, 2],
        "model.rpn.test_pre_nms": 900,
        "model.rpn.test_proposals": 700,
        "model.rpn.nms_iou": 0.65,
        "eval.score_threshold": 0.001,
        "eval.nms_iou": 0.55,
        "eval.max_detections": 50,
        "eval.mask_threshold": 0.45,
        "backbone.style": "caffe",
        "backbone.bgr": True,
        "backbone.pixel_mean": [123.675, 116.28, 103.53],
        "backbone.pixel_std": [1, 1, 1],
        "data.short_side": 800,
        "data.long_side": 1333,
    }


def test_settings_of_3_x_are_read_and_code_is_skipped() -> None:
    assert read_settings(VERSION_3) == {
        "model.interleaved": False,
        "model.mask_flow": False,
        "model.semantic_fusion": "mask",
        "model.stage_stds": [[0.1, 0.1, 0.2, 0.2]],
        "model.roi_sampling": 2,
        "model.roi_aligned": False,
        "model.rpn.anchor_scale": 4,
        "model.rpn.anchor_ratios": [0.5, 1, 2, 3],
        "model.rpn.test_pre_nms": 50,
        "model.rpn.test_proposals": 40,
        "model.rpn.nms_iou": 0.6,
        "eval.score_threshold": 0.05,
        "eval.nms_iou": 0.4,
        "eval.max_detections": 30,
        "backbone.norm_eps": 0.001,
        "backbone.bgr": False,
        "backbone.pixel_mean": [1, 2, 3.5],
        "backbone.pixel_std": [4, 5, 6],
        "data.short_side": 600,
        "data.long_side": 1000,
    }


def test_normalisation_in_the_test_pipeline_is_read_if_it_is_the_only_one() -> None:
    text = (
        "test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(900, 500), transforms=["
        "dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)])]"
    )
    found = read_settings(text)
    assert found["backbone.bgr"]
    assert found["backbone.pixel_mean"] == [3, 2, 1]


def test_later_file_can_replace_a_dict_instead_of_updating_it() -> None:
    text = "a = dict(b=dict(x=1, y=2), c=3)\na = dict(b=dict(_delete_=True, x=5))"
    assert parse_config(text)["a"] == {"b": {"_delete_": True, "x": 5}, "c": 3}


@pytest.mark.parametrize(
    "expression",
    [
        "open({0!r}, 'w')", "__import__('os').system('touch ' + {0!r})", "[open(p, 'w') for p in [{0!r}]]",
        "(lambda p: open(p, 'w'))({0!r})", 'f"{{open({0!r}, chr(119))}}"', "eval('open({0}, 1)')",
        "dict(**dict(a=open({0!r}, 'w')))", "(x := open({0!r}, 'w'))", "[1][open({0!r}, 'w')]",
    ],
)  # fmt: skip
def test_code_in_the_text_is_skipped(tmp_path: Path, expression: str) -> None:
    trace = tmp_path / "executed"
    code = expression.format(str(trace))
    assert parse_config(f"a = 1\nb = {code}\nmodel = dict(x={code})\nassert {code}\nc = 2") == {"a": 1, "c": 2}
    assert not trace.exists()


DOUBLINGS = "a = 99999999\n" + "a = a * a\n" * 60
SHARED = "a = dict(x=1)\n" + "a = dict(x=a, y=a, z=a, w=a)\n" * 40
HOSTILE = {
    "parentheses": "a = " + "(" * 100_000,
    "brackets": "a = " + "[" * 5000 + "]" * 5000,
    "brackets that parse": "a = " + "[" * 150 + "]" * 150,
    "signs": "a = " + "-" * 100_000 + "1",
    "attributes": "a = b" + ".c" * 100_000,
    "sums": "a = " + " + ".join(["1"] * 100_000),
    "short sums": "a = " + " + ".join(["1"] * 900),
    "dicts": "a = " + "dict(a=" * 90 + "1" + ")" * 90,
    "chain of dicts": "a = dict(x=1)\n" + "a = dict(x=a)\n" * 5000,
    "power": "a = 9 ** 9 ** 9 ** 9",
    "doublings": DOUBLINGS,
    "shared dicts": SHARED,
    "long strings": "a = 'x' * 10 ** 10\nb = 'x' * 9999999999\nc = [0] * 9999999999",
    "shift": "a = 1 << 10 ** 10",
    "digits": "a = " + "9" * 5000,
    "many digits": "model = dict(test_cfg=dict(rcnn=dict(max_per_img=" + "9" * 4000 + ")))",
    "division": "a = 1 / 0\nb = 1e308 * 1e308\nc = 10 ** 400 / 1",
    "null byte": "a = 1\0",
    "surrogate": "a = '\ud800'",
    "escape": "a = '\\d'",
    "keys": "a = {[]: 1, {}: 2}\nb = {**a}",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_read_quickly_and_without_errors(name: str) -> None:
    with warnings.catch_warnings(action="error"):
        read_settings(HOSTILE[name] + "\nlast = 1")


@pytest.mark.parametrize(
    "text",
    [
        "model = 3", "model = dict(roi_head=[1])", "model = dict(roi_head=dict(semantic_fusion=[[1]]))",
        "model = dict(roi_head=dict(semantic_fusion=('box',)))", "model = dict(roi_head=dict(interleaved='yes'))",
        "model = dict(roi_head=dict(stage_loss_weights=['a', None]))",
        "model = dict(roi_head=dict(bbox_head=[dict(bbox_coder=dict(target_stds=[None, 1, 2, 'x']))]))",
        "model = dict(roi_head=dict(bbox_head=[dict(bbox_coder=dict(target_stds=[1, 1, 1, 1])), dict()]))",
        "model = dict(roi_head=dict(bbox_roi_extractor=[]))", "model = dict(roi_head=dict(bbox_roi_extractor=['x']))",
        "model = dict(rpn_head=dict(anchor_generator=dict(scales=[2, 4], ratios=['a'])))",
        "img_norm_cfg = dict(mean=['a', 2, 3], std=[1, 1, 1])", "img_norm_cfg = dict(mean=[1, 2], std=[1, 1])",
        "test_cfg = dict(rpn=[], rcnn=dict(score_thr='x', max_per_img=True, nms=3))",
        "test_pipeline = [3, dict(img_scale=[(1, 2), (3, 4)]), dict(scale=(1.5, 2)), dict(scale=(True, None))]",
        "test_pipeline = 3", "model = dict(backbone=dict(norm_cfg=3, style=['caffe']))",
    ],
)  # fmt: skip
def test_values_of_wrong_types_are_ignored(text: str) -> None:
    assert read_settings(text) == {}


KEYS = (
    "model", "roi_head", "rpn_head", "bbox_head", "bbox_coder", "target_stds", "semantic_fusion", "test_cfg", "rcnn",
    "rpn", "nms", "score_thr", "anchor_generator", "scales", "backbone", "norm_cfg", "eps", "mean", "std",
    "data_preprocessor", "img_norm_cfg", "test_pipeline", "scale", "bbox_roi_extractor", "roi_layer", "transforms",
)  # fmt: skip


def keyed(values: Any) -> Any:
    return st.dictionaries(st.sampled_from(KEYS), values, max_size=4)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | keyed(inner), max_leaves=12)


@fuzz(300)
@given(keyed(VALUES))
def test_any_values_under_the_known_names_are_read_or_ignored(values: dict[str, Any]) -> None:
    read_settings("\n".join(f"{name} = {value!r}" for name, value in values.items()))
    read_settings(f"model = {values!r}")
