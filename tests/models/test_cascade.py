"""The cascade, and the effect of each of HTC's three ideas when it is on and when it is off."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from htc.config.schema import EvalConfig, MaskStages, SemanticFusion
from htc.models.cascade import Cascade, to_rois
from htc.models.detector import Detector
from htc.models.roi_sampling import RoISampler, RoISamples
from htc.structures import Targets
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_detector, without_objects

FUSIONS = [None, *SemanticFusion]


def variants() -> list[dict[str, Any]]:
    """Return all valid combinations of the ideas for one to three stages."""
    combinations = product((1, 2, 3), (False, True), (False, True), FUSIONS)
    return [
        {
            "num_stages": stages, "interleaved": interleaved, "mask_flow": flow,
            "semantic": fusion is not None, "semantic_fusion": fusion,
        }
        for stages, interleaved, flow, fusion in combinations
        if not (flow and stages == 1)
    ]  # fmt: skip


def label(variant: dict[str, Any]) -> str:
    fusion = variant["semantic_fusion"]
    ideas = [key for key in ("interleaved", "mask_flow") if variant[key]] + (
        [f"semantic_{fusion.value}"] if fusion else []
    )
    return "-".join([f"{variant['num_stages']}_stages", *ideas])


HTC = {"interleaved": True, "mask_flow": True, "semantic": True}
CASCADE: dict[str, Any] = {"name": "cascade_mask_rcnn"}
MASK_RCNN = {"num_stages": 1, "class_agnostic": False, "low_quality_matches": True}


def losses_and_gradients(model: Detector, images: list[Tensor], targets: list[Targets]) -> dict[str, Tensor]:
    """Return the losses of a batch, after computing the gradients of their sum."""
    losses = model(images, targets)
    assert all(value.isfinite() and value.dim() == 0 for value in losses.values())
    model.zero_grad()
    sum(losses.values(), start=torch.zeros(())).backward()
    return {name: value.detach() for name, value in losses.items()}


def parameters_without_gradient(model: Detector) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]


@pytest.mark.parametrize(
    "variant", [*variants(), MASK_RCNN], ids=lambda v: label(v) if "semantic" in v else "mask_rcnn"
)
def test_every_variant_trains_and_predicts(variant: dict[str, Any]) -> None:
    model = tiny_detector(tiny_config(**variant)).train()
    images, targets = tiny_batch()
    losses = losses_and_gradients(model, images, targets)
    expected = {"loss_rpn_cls", "loss_rpn_bbox"} | ({"loss_semantic_seg"} if variant.get("semantic") else set())
    expected |= {f"s{t}.loss_{kind}" for t in range(variant["num_stages"]) for kind in ("cls", "bbox", "mask")}
    assert set(losses) == expected
    assert all(value > 0 for value in losses.values())
    assert parameters_without_gradient(model) == []
    sizes = [(128, 192), (40, 36)]
    for settings in (
        EvalConfig(score_threshold=0.0, max_detections=5),
        EvalConfig(score_threshold=0.0, mask_stages=MaskStages.last),
    ):
        for found, (height, width) in zip(model.eval().predict(images, sizes, settings), sizes, strict=True):
            assert 0 < len(found) <= settings.max_detections
            assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([width, height] * 2) * 1.00001).all()
            assert (found.scores.diff() <= 0).all() and (found.labels < 3).all()
            assert found.mask_probs.shape == (len(found), 28, 28)
            assert ((found.mask_probs >= 0) & (found.mask_probs <= 1)).all()


def test_every_parameter_of_the_heads_has_a_nonzero_gradient() -> None:
    """The gradients are not zero, so the output of each head depends on all its parts."""
    model = tiny_detector(tiny_config(interleaved=True, mask_flow=True, semantic=True)).train()
    losses_and_gradients(model, *tiny_batch())
    heads = {name: p.grad for name, p in model.named_parameters() if name.startswith(("cascade", "rpn", "semantic"))}
    assert [name for name, gradient in heads.items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize("variant", [HTC, CASCADE, MASK_RCNN])
def test_image_without_objects_can_be_trained_on(variant: dict[str, Any]) -> None:
    model = tiny_detector(tiny_config(**variant)).train()
    images, targets = tiny_batch()
    targets[0] = without_objects(targets[0])
    assert losses_and_gradients(model, images, targets)["s0.loss_cls"] > 0


@pytest.mark.parametrize("variant", [HTC, CASCADE, MASK_RCNN])
def test_batch_without_objects_has_only_classification_losses(variant: dict[str, Any]) -> None:
    model = tiny_detector(tiny_config(**variant)).train()
    images, targets = tiny_batch()
    losses = losses_and_gradients(model, images, [without_objects(target) for target in targets])
    assert losses["loss_rpn_cls"] > 0 and losses["s0.loss_cls"] > 0
    assert {value.item() for name, value in losses.items() if name.endswith(("bbox", "mask"))} == {0.0}
    assert parameters_without_gradient(model) == [], "other processes would wait for these gradients"


@pytest.mark.parametrize("variant", [HTC, CASCADE, MASK_RCNN])
def test_image_without_detections_gives_empty_tensors(variant: dict[str, Any]) -> None:
    model = tiny_detector(tiny_config(**variant)).eval()
    images, _ = tiny_batch()
    for found in model.predict(images, [(64, 96), (80, 72)], EvalConfig(score_threshold=1.0)):
        assert len(found) == 0
        assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))
        assert found.mask_probs.shape == (0, 28, 28)


def without_proposals(variant: dict[str, Any]) -> Detector:
    config = tiny_config(**variant)
    config.model.rpn = dataclasses.replace(config.model.rpn, train_proposals=0, test_proposals=0)
    return tiny_detector(config)


@pytest.mark.parametrize("variant", [HTC, CASCADE, MASK_RCNN])
def test_no_proposals_give_no_detections_and_do_not_stop_training(variant: dict[str, Any]) -> None:
    model = without_proposals(variant).train()
    images, targets = tiny_batch()
    losses_and_gradients(model, images, targets)
    assert parameters_without_gradient(model) == []
    found = model.eval().predict(images, [(64, 96), (80, 72)], EvalConfig(score_threshold=0.0))
    assert [len(detections) for detections in found] == [0, 0]


@pytest.mark.parametrize("variant", [HTC, CASCADE, MASK_RCNN])
def test_training_goes_on_without_proposals_and_objects(variant: dict[str, Any]) -> None:
    model = without_proposals(variant).train()
    images, targets = tiny_batch()
    losses_and_gradients(model, images, [without_objects(target) for target in targets])
    assert parameters_without_gradient(model) == []


def test_htc_without_its_ideas_is_cascade_mask_rcnn() -> None:
    off = {"interleaved": False, "mask_flow": False, "semantic": False}
    models = [tiny_detector(tiny_config(name="htc", **off)), tiny_detector(tiny_config(name="cascade_mask_rcnn"))]
    states = [model.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    htc, cascade = (losses_and_gradients(model.train(), *tiny_batch()) for model in models)
    assert htc == cascade


def test_model_without_semantic_branch_has_no_semantic_parameters() -> None:
    names = dict(tiny_detector(tiny_config(interleaved=True, mask_flow=True)).named_parameters())
    assert not [name for name in names if "semantic" in name]
    on = dict(tiny_detector(tiny_config(interleaved=True, mask_flow=True, semantic=True)).named_parameters())
    assert set(on) - set(names) == {name for name in on if name.startswith("semantic.")}


def test_mask_flow_adds_only_its_embeddings_to_the_parameters() -> None:
    off = dict(tiny_detector(tiny_config(interleaved=True, semantic=True)).named_parameters())
    on = dict(tiny_detector(tiny_config(interleaved=True, semantic=True, mask_flow=True)).named_parameters())
    added = {name: tuple(on[name].shape) for name in set(on) - set(off)}
    assert added == {
        f"cascade.mask_branch.flow.embeddings.{i}.0.{part}": shape
        for i in (1, 2)
        for part, shape in (("weight", (8, 8, 1, 1)), ("bias", (8,)))
    }


def test_interleaving_adds_no_parameters() -> None:
    plain, interleaved = (tiny_detector(tiny_config(interleaved=on)).state_dict() for on in (False, True))
    assert plain.keys() == interleaved.keys()


def record_samples(monkeypatch: pytest.MonkeyPatch, interleaved: bool) -> tuple[list[RoISamples], list[RoISamples]]:
    """Return all samples drawn in one training step, and the samples that the mask branch was trained on."""
    drawn: list[RoISamples] = []
    mask_samples: list[RoISamples] = []
    sample, mask_loss = RoISampler.__call__, Cascade._mask_loss

    def spy_on_sampler(self: RoISampler, *arguments: Any, **keywords: Any) -> RoISamples:
        drawn.append(sample(self, *arguments, **keywords))
        return drawn[-1]

    def spy_on_masks(self: Cascade, t: int, image_features: Any, samples: RoISamples, targets: Any) -> Tensor:
        mask_samples.append(samples)
        return mask_loss(self, t, image_features, samples, targets)

    monkeypatch.setattr(RoISampler, "__call__", spy_on_sampler)
    monkeypatch.setattr(Cascade, "_mask_loss", spy_on_masks)
    tiny_detector(tiny_config(interleaved=interleaved)).train()(*tiny_batch())
    return drawn, mask_samples


def test_without_interleaving_masks_are_trained_on_the_samples_of_the_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, mask_samples = record_samples(monkeypatch, interleaved=False)
    assert len(drawn) == 3
    assert all(of_masks is of_boxes for of_masks, of_boxes in zip(mask_samples, drawn, strict=True))


def test_interleaved_masks_are_trained_on_boxes_that_their_stage_has_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, mask_samples = record_samples(monkeypatch, interleaved=True)
    assert len(drawn) == 6
    assert all(of_masks is second for of_masks, second in zip(mask_samples, drawn[1::2], strict=True))
    proposals = {tuple(row) for row in drawn[0].rois.tolist()}
    refined = drawn[1].rois[~drawn[1].appended]
    assert len(refined) > 0 and not proposals & {tuple(row) for row in refined.tolist()}


def test_semantic_fusion_affects_only_the_configured_heads() -> None:
    """Fused into the box heads, semantic features change the class loss; fused into the mask heads, the mask loss."""
    depends = {}
    for fusion in SemanticFusion:
        model = tiny_detector(tiny_config(semantic=True, semantic_fusion=fusion, num_stages=1)).train()
        before = model(*tiny_batch())
        with torch.no_grad():
            model.get_parameter("semantic.embedding.0.bias").add_(1.0)
        after = model(*tiny_batch())
        depends[fusion] = [before[name].item() != after[name].item() for name in ("s0.loss_cls", "s0.loss_mask")]
    assert depends == {
        SemanticFusion.box: [True, False], SemanticFusion.mask: [False, True], SemanticFusion.both: [True, True],
    }  # fmt: skip


def test_masks_depend_on_earlier_stages_only_with_mask_flow() -> None:
    for flow in (True, False):
        branch = tiny_detector(tiny_config(mask_flow=flow)).cascade.mask_branch
        features = torch.rand(2, 8, 14, 14, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before = branch(2, features)
            branch.get_parameter("heads.0.convs.0.0.bias").add_(1.0)
            assert torch.equal(before, branch(2, features)) != flow
            for stage, logits in enumerate(branch.all_stages(features)):
                torch.testing.assert_close(logits, branch(stage, features))


def test_predicted_masks_are_the_mean_of_all_stages_or_those_of_the_last_stage() -> None:
    model = tiny_detector(tiny_config(mask_flow=True)).eval()
    images, _ = tiny_batch()
    sizes = [(64, 96), (80, 72)]
    average, last = (
        model.predict(images, sizes, EvalConfig(score_threshold=0.0, mask_stages=stages, max_detections=10))
        for stages in (MaskStages.average, MaskStages.last)
    )
    boxes, labels = [d.boxes for d in average], torch.cat([d.labels for d in average])
    with torch.no_grad():
        image_features, _ = model.extract_features(images)
        features = model.cascade.mask_features(image_features.pyramid, to_rois(boxes), image_features.semantic_features)
        stages = [model.cascade.mask_branch(t, features)[torch.arange(len(labels)), labels].sigmoid() for t in range(3)]
    torch.testing.assert_close(torch.cat([d.mask_probs for d in average]), torch.stack(stages).mean(0))
    torch.testing.assert_close(torch.cat([d.mask_probs for d in last]), stages[2])


def test_stage_loss_weights_scale_the_losses_of_their_stage() -> None:
    plain, weighted = (
        tiny_detector(tiny_config(interleaved=True, mask_flow=True, stage_loss_weights=weights)).train()(*tiny_batch())
        for weights in ([1.0, 1.0, 1.0], [2.0, 0.5, 0.25])
    )
    for t, weight in enumerate((2.0, 0.5, 0.25)):
        for kind in ("cls", "bbox", "mask"):
            torch.testing.assert_close(weighted[f"s{t}.loss_{kind}"], weight * plain[f"s{t}.loss_{kind}"])


def test_boxes_refined_from_appended_ground_truth_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without proposals the first stage samples only ground truth, so the second stage gets no proposals either."""
    config = tiny_config(num_stages=2)
    config.model.rpn = dataclasses.replace(config.model.rpn, train_proposals=0)
    proposal_counts: list[list[int]] = []
    sample = RoISampler.__call__

    def spy(self: RoISampler, proposals: list[Tensor], targets: list[Targets], round: int) -> RoISamples:
        proposal_counts.append([len(boxes) for boxes in proposals])
        samples = sample(self, proposals, targets, round)
        assert samples.appended.all()
        return samples

    monkeypatch.setattr(RoISampler, "__call__", spy)
    tiny_detector(config).train()(*tiny_batch())
    assert proposal_counts == [[0, 0], [0, 0]]
