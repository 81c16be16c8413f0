"""The comparison with the reference detects errors: each wrong constant in the network makes a check fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from htc.config.schema import MaskStages
from htc.models import cascade, roi_features
from htc.models.roi_sampling import RoISamples
from tests.parity.checks import (
    Deviation,
    check_detections,
    check_heads,
    check_input,
    check_losses,
    check_rpn,
    check_semantic,
)
from tests.parity.reference import FOLDER, Comparison, is_big, variant_files

Perturb = Callable[[Comparison, pytest.MonkeyPatch], None]
Check = Callable[[Comparison], Iterator[Deviation]]


@pytest.fixture(scope="module")
def complete_htc() -> Comparison:
    """A variant with all three ideas, whose network has all the parts that the perturbations change."""
    for path in variant_files():
        if not is_big(path):
            comparison = Comparison.load(path)
            model = comparison.config.model
            if model.interleaved and model.mask_flow and model.semantic:
                return comparison
    pytest.skip(f"no outputs of the complete HTC in {FOLDER}")


def change_stages(comparison: Comparison, patch: pytest.MonkeyPatch, **values: object) -> None:
    """Set fields of every stage of the cascade."""
    stages = [replace(stage, **values) for stage in comparison.model.cascade.stages]  # type: ignore[arg-type]
    patch.setattr(comparison.model.cascade, "stages", stages)


def equal_stds(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    change_stages(comparison, patch, stds=(0.1, 0.1, 0.2, 0.2))


def equal_weights(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    change_stages(comparison, patch, loss_weight=1.0)


def level_one_off(_: Comparison, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roi_features, "CANONICAL_SIZE", 112)


def not_aligned(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison.model.cascade.box_features, "aligned", False)
    patch.setattr(comparison.model.cascade.mask_features, "aligned", False)


def fixed_sampling(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison.model.cascade.box_features, "sampling", 2)


def flow_in_another_order(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    flow = comparison.model.cascade.mask_branch.flow
    assert flow is not None
    patch.setitem(flow.embeddings._modules, "1", flow.embeddings["2"])
    patch.setitem(flow.embeddings._modules, "2", flow.embeddings["1"])


def flow_without_earlier_heads(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    """Each stage receives the RoI features instead of the mask features of the preceding stage."""
    flow = comparison.model.cascade.mask_branch.flow
    assert flow is not None
    patch.setattr(flow, "forward", lambda stage, x, previous: x + flow.embeddings[str(stage)](x))


def semantic_into_masks_only(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison.model.cascade.box_features, "fuse_semantic", False)


def corners_not_aligned(_: Comparison, patch: pytest.MonkeyPatch) -> None:
    interpolate = nn.functional.interpolate

    def shifted(x: torch.Tensor, **options: object) -> torch.Tensor:
        if options["mode"] == "bilinear":
            options["align_corners"] = False
        return interpolate(x, **options)  # type: ignore[arg-type]

    patch.setattr("htc.models.semantic.F.interpolate", shifted)


def last_masks_only(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison.config.eval, "mask_stages", MaskStages.last)


def masks_before_refinement(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison.model.cascade, "interleaved", False)


def losses_by_positives(_: Comparison, patch: pytest.MonkeyPatch) -> None:
    original = cascade.box_losses

    def divided_by_positives(
        stage: cascade.Stage, samples: RoISamples, *outputs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        losses = original(stage, samples, *outputs)
        losses["loss_bbox"] = losses["loss_bbox"] * len(samples.labels) / max(len(samples.positives), 1)
        return losses

    patch.setattr(cascade, "box_losses", divided_by_positives)


def blue_first(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison.model, "channels", [2, 1, 0])


def anchors_a_quarter_larger(comparison: Comparison, patch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        buffer = comparison.model.rpn.get_buffer(f"base_anchors{i}")
        patch.setitem(comparison.model.rpn._buffers, f"base_anchors{i}", buffer * 1.25)


PERTURBATIONS: list[tuple[Perturb, Check]] = [
    (equal_stds, check_detections),
    (equal_weights, check_losses),
    (level_one_off, check_heads),
    (not_aligned, check_heads),
    (fixed_sampling, check_heads),
    (flow_in_another_order, check_heads),
    (flow_without_earlier_heads, check_heads),
    (semantic_into_masks_only, check_heads),
    (corners_not_aligned, check_semantic),
    (last_masks_only, check_detections),
    (masks_before_refinement, check_losses),
    (losses_by_positives, check_losses),
    (blue_first, check_input),
    (anchors_a_quarter_larger, check_rpn),
]


@pytest.mark.parametrize(("perturb", "check"), PERTURBATIONS, ids=lambda value: value.__name__)
def test_wrong_constant_is_detected(
    complete_htc: Comparison, monkeypatch: pytest.MonkeyPatch, perturb: Perturb, check: Check
) -> None:
    # A new comparison computes its features again, because a perturbation may change them.
    comparison = Comparison(
        complete_htc.stored, complete_htc.meta, complete_htc.model, complete_htc.config, complete_htc.inputs
    )
    perturb(comparison, monkeypatch)
    with pytest.raises(AssertionError):
        list(check(comparison))
