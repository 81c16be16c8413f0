"""The network computes what MMDetection 3.3.0 computes, layer by layer, from the same weights and images.

The reference's outputs are files made by running it (see their README); a folder of them is named by HTC_GOLDEN_DIR.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from htc.composition import check, derive
from htc.config import BackboneConfig, BoxLoss, Config, DataConfig, EvalConfig, ModelConfig, RPNConfig, ScheduleConfig
from htc.models.cascade import Scene
from htc.models.detector import Detector, build_detector
from htc.models.rpn import Proposals
from htc.ops.paste import encode_masks
from htc.structures import Detections, Targets

FOLDER = Path(os.environ.get("HTC_GOLDEN_DIR") or Path(__file__).parents[2].parent / "shared" / "golden")
SIZES = [(320, 416), (288, 384)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "inputs.npz").is_file(),
        reason=f"no outputs of the reference at {FOLDER}; HTC_GOLDEN_DIR names the folder",
    ),
]

# MMDetection's names as patterns -> ours; applied one after the other.
NAMES = {
    r"^backbone\.": r"backbone.body.",
    r"^neck\.lateral_convs\.(\d)\.conv": r"backbone.fpn.inner_blocks.\1.0",
    r"^neck\.fpn_convs\.(\d)\.conv": r"backbone.fpn.layer_blocks.\1.0",
    r"^rpn_head\.rpn_conv": r"rpn.conv",
    r"^rpn_head\.rpn_cls": r"rpn.objectness",
    r"^rpn_head\.rpn_reg": r"rpn.deltas",
    r"^roi_head\.(bbox|mask)_head\.(?!\d)": r"roi_head.\1_head.0.",
    r"^roi_head\.bbox_head\.": r"cascade.box_heads.",
    r"shared_fcs\.0": r"fc1",
    r"shared_fcs\.1": r"fc2",
    r"fc_cls": r"logits",
    r"fc_reg": r"deltas",
    r"^roi_head\.mask_head\.1\.conv_res\.conv": r"cascade.mask_branch.flow.embeddings.0.0",
    r"^roi_head\.mask_head\.2\.conv_res\.conv": r"cascade.mask_branch.flow.embeddings.1.0",
    r"^roi_head\.mask_head\.(\d)\.convs\.(\d)\.conv": r"cascade.mask_branch.heads.\1.convs.\2.0",
    r"^roi_head\.mask_head\.(\d)\.conv_logits": r"cascade.mask_branch.heads.\1.logits",
    r"^roi_head\.mask_head\.(\d)\.upsample": r"cascade.mask_branch.heads.\1.upsample",
    r"^roi_head\.semantic_head\.lateral_convs\.(\d)\.conv": r"semantic.laterals.\1.0",
    r"^roi_head\.semantic_head\.convs\.(\d)\.conv": r"semantic.convs.\1.0",
    r"^roi_head\.semantic_head\.conv_embedding\.conv": r"semantic.embedding.0",
    r"^roi_head\.semantic_head\.conv_logits": r"semantic.logits",
}

RPN = RPNConfig(
    anchors_per_image=1_000_000, positive_fraction=1.0,
    train_pre_nms=300, train_proposals=200, test_pre_nms=500, test_proposals=300,
)  # fmt: skip
MODELS = {
    "htc_r50": ModelConfig(name="htc", interleaved=True, mask_flow=True, semantic=True, rpn=RPN),
    "mask_rcnn_r50": ModelConfig(
        name="mask_rcnn", num_stages=1, class_agnostic=False, box_loss=BoxLoss.l1, low_quality_matches=True,
        rpn=replace(RPN, allowed_border=-1),
    ),
}  # fmt: skip
SCORE_THRESHOLDS = {"htc_r50": 0.001, "mask_rcnn_r50": 0.05}


def our_name(name: str) -> str:
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def build(variant: str) -> Detector:
    """The variant's network, with every candidate sampled, so that nothing is left to chance."""
    model = replace(MODELS[variant], rois_per_image=1_000_000, positive_fraction=1.0)
    config = Config(
        model=model,
        backbone=BackboneConfig(name="resnet50", weights=None),
        data=DataConfig(name="coco", root="nowhere"),
        schedule=ScheduleConfig(iterations=1),
    )
    check(config)
    derive(config)
    return build_detector(config, 80)


def read_inputs() -> tuple[list[Tensor], list[Targets], list[tuple[int, int]]]:
    """RGB images, their targets, and the (height, width) that detections refer to."""
    stored = np.load(FOLDER / "inputs.npz")
    images, targets, sizes = [], [], []
    for i in range(2):
        images.append(torch.from_numpy(stored[f"image{i}_bgr"][..., ::-1].transpose(2, 0, 1).copy()))
        shape = stored[f"gt{i}_masks_shape"]
        masks = np.unpackbits(stored[f"gt{i}_masks"], count=int(np.prod(shape))).reshape(shape)
        boxes = torch.from_numpy(stored[f"gt{i}_boxes"]).float()
        labels = torch.from_numpy(stored[f"gt{i}_labels"]).long()
        semantic = torch.from_numpy(stored[f"gt{i}_semantic"].astype(np.uint8))
        targets.append(Targets(boxes, labels, torch.from_numpy(masks), semantic))
        height, width = stored[f"original{i}_hw"].tolist()
        sizes.append((height, width))
    return images, targets, sizes


@dataclass(repr=False)
class Comparison:
    """The reference's outputs of one variant, and our network with the same weights."""

    variant: str
    stored: Any
    model: Detector

    @cached_property
    def inputs(self) -> tuple[list[Tensor], list[Targets], list[tuple[int, int]]]:
        return read_inputs()

    @cached_property
    def pyramid(self) -> list[Tensor]:
        self.model.eval()
        with torch.no_grad():
            levels: list[Tensor] = self.model.backbone(self.model.batch(self.inputs[0]))
        return levels

    @cached_property
    def semantic(self) -> tuple[Tensor, Tensor] | None:
        with torch.no_grad():
            return None if self.model.semantic is None else self.model.semantic(self.pyramid)

    @cached_property
    def scene(self) -> Scene:
        return Scene(self.pyramid, self.semantic[1] if self.semantic else None, SIZES)

    def reference(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.stored[name]))

    def assert_same(self, name: str, mine: Tensor, tolerance: float = 1e-5) -> None:
        """Equal but for `tolerance` times the largest value."""
        reference = self.reference(name)
        assert mine.shape == reference.shape, name
        difference = (mine.detach().double() - reference.double()).abs().max() / reference.double().abs().max()
        assert difference <= tolerance, f"{name} differs by {difference:.2g}"


@pytest.fixture(scope="module", params=list(MODELS))
def comparison(request: pytest.FixtureRequest) -> Comparison:
    variant = request.param
    stored = np.load(FOLDER / f"{variant}.npz")
    meta = json.loads(str(stored["meta"]))
    specification = importlib.util.spec_from_file_location("golden_weights", FOLDER / "weights.py")
    assert specification is not None and specification.loader is not None
    weights = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(weights)
    model = build(variant)
    state = {our_name(name): torch.from_numpy(w) for name, w in weights.fill(meta["shapes"], meta["seed"]).items()}
    found = model.load_state_dict(state, strict=False)
    assert found.unexpected_keys == []
    assert [key for key in found.missing_keys if not key.endswith("num_batches_tracked")] == []
    return Comparison(variant, stored, model)


def test_input_batch_and_pyramid_are_the_references(comparison: Comparison) -> None:
    comparison.assert_same("input", comparison.model.batch(comparison.inputs[0])[:, :, ::8, ::8])
    for level, features in enumerate(comparison.pyramid, start=2):
        step = max(1, 8 >> (level - 2))
        comparison.assert_same(f"fpn{level}", features[:, :8, ::step, ::step])


def test_proposals_are_the_references(comparison: Comparison) -> None:
    with torch.no_grad():
        output = comparison.model.rpn(comparison.pyramid)
        size = output.feature_sizes[3]
        comparison.assert_same("rpn_cls_p5", output.logits[3].view(2, *size, 3).permute(0, 3, 1, 2))
        comparison.assert_same("rpn_reg_p5", output.deltas[3].view(2, *size, 12).permute(0, 3, 1, 2))
        proposals = comparison.model.rpn.propose(output, SIZES)
    for i, mine in enumerate(proposals):
        reference = Proposals(comparison.reference(f"proposals{i}"), comparison.reference(f"proposal_scores{i}"))
        torch.testing.assert_close(mine.scores, reference.scores, rtol=1e-5, atol=1e-6)
        # Equal scores have no order of their own: boxes are compared as sets.
        distances = torch.cdist(mine.boxes, reference.boxes, p=torch.inf)
        assert distances.min(dim=0).values.max() < 1e-2 and distances.min(dim=1).values.max() < 1e-2


def test_semantic_outputs_are_the_references(comparison: Comparison) -> None:
    if comparison.semantic is None:
        assert "semantic_logits" not in comparison.stored
        return
    logits, features = comparison.semantic
    comparison.assert_same("semantic_logits", logits[:, :16, ::4, ::4])
    comparison.assert_same("semantic_feat", features[:, :8, ::4, ::4])


def test_heads_of_every_stage_are_the_references(comparison: Comparison) -> None:
    cascade, rois, scene = comparison.model.cascade, comparison.reference("rois"), comparison.scene
    with torch.no_grad():
        box_features = cascade.box_features(scene.pyramid, rois, scene.semantic_features)
        mask_features = cascade.mask_features(scene.pyramid, rois, scene.semantic_features)
        for t, head in enumerate(cascade.box_heads):
            logits, deltas = head(box_features)
            comparison.assert_same(f"stage{t}_cls", logits)
            comparison.assert_same(f"stage{t}_reg", deltas)
            comparison.assert_same(f"stage{t}_mask_logits", cascade.mask_branch(t, mask_features)[:, :3])


def test_detections_are_the_references(comparison: Comparison) -> None:
    images, _, sizes = comparison.inputs
    settings = EvalConfig(score_threshold=SCORE_THRESHOLDS[comparison.variant])
    for i, detections in enumerate(comparison.model.eval().predict(images, sizes, settings)):
        assert torch.equal(detections.labels, comparison.reference(f"det{i}_labels").long())
        # Three stages carry on the rounding, which differs with the number of threads.
        comparison.assert_same(f"det{i}_scores", detections.scores, tolerance=1e-4)
        comparison.assert_same(f"det{i}_boxes", detections.boxes)
        assert mask_disagreement(detections, json.loads(str(comparison.stored[f"det{i}_rle"])), sizes[i]) < 1e-3


def mask_disagreement(detections: Detections, counts: list[Any], size: tuple[int, int]) -> float:
    """Pixels that differ, as a fraction of the reference's mask pixels."""
    mine = encode_masks(detections.mask_probs, detections.boxes, *size)
    reference = [{"size": list(size), "counts": one["counts"] if isinstance(one, dict) else one} for one in counts]
    pairs = [(coco_mask.decode(a), coco_mask.decode(b)) for a, b in zip(mine, reference, strict=True)]
    return float(sum((a != b).sum() for a, b in pairs) / sum(b.sum() for _, b in pairs))


def test_losses_and_gradients_are_the_references(comparison: Comparison) -> None:
    images, targets, _ = comparison.inputs
    model = comparison.model.train()
    losses = model(images, targets)
    stored = {name.removeprefix("loss."): name for name in comparison.stored.files if re.match(r"loss\..*loss_", name)}
    assert len(stored) == len(losses)
    for name, value in losses.items():
        comparison.assert_same(stored[name if name in stored else name.removeprefix("s0.")], value)
    model.zero_grad()
    sum(losses.values(), start=torch.zeros(())).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = [name for name in comparison.stored.files if name.startswith("gradnorm.")]
    assert len(names) > 10
    for name in names:
        gradient = gradients[our_name(name.removeprefix("gradnorm."))]
        assert gradient is not None, name
        comparison.assert_same(name, gradient.double().norm(), tolerance=1e-4)
