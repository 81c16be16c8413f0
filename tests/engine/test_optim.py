"""The learning rate over time, and the parameters that the optimiser trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from htc.config.schema import Optimizer, ScheduleConfig
from htc.engine.optim import build_optimizer, gradient_norm, learning_rate, set_learning_rate, total_steps


def test_paper_schedule_in_epochs() -> None:
    schedule = ScheduleConfig(epochs=20, milestones=[16, 19])
    assert total_steps(schedule, 7330) == 146_600
    rates = {step: learning_rate(step, schedule, 7330) for step in (500, 117_279, 117_280, 139_269, 139_270, 146_599)}
    assert rates == pytest.approx(
        {500: 0.02, 117_279: 0.02, 117_280: 0.002, 139_269: 0.002, 139_270: 0.0002, 146_599: 0.0002}
    )


def test_milestones_are_fractions_of_iterations() -> None:
    schedule = ScheduleConfig(iterations=800, milestones=[0.75, 0.92], warmup_iterations=0)
    assert total_steps(schedule, 3) == 800
    rates = [learning_rate(step, schedule, 3) for step in (0, 599, 600, 735, 736, 799)]
    assert rates == pytest.approx([0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002])


def test_warm_up_rises_linearly_from_its_factor_to_the_full_rate() -> None:
    schedule = ScheduleConfig(epochs=12, warmup_iterations=500, warmup_factor=0.001)
    rates = torch.tensor([learning_rate(step, schedule, 7330) for step in range(502)], dtype=torch.float64)
    assert rates[0] == pytest.approx(0.02 * 0.001)
    assert rates[499:].tolist() == pytest.approx([0.02] * 3)
    torch.testing.assert_close(rates[:500].diff(), rates[:500].diff()[:1].expand(499))


def test_warm_up_and_drop_are_multiplied_where_they_overlap() -> None:
    schedule = ScheduleConfig(iterations=100, milestones=[0.1], warmup_iterations=21, warmup_factor=0.0)
    assert learning_rate(10, schedule, 1) == pytest.approx(0.02 * 0.1 * 0.5)


@pytest.mark.parametrize(("batch_size", "rate"), [(16, 0.02), (8, 0.01), (64, 0.08)])
def test_rate_is_proportional_to_the_batch_size(batch_size: int, rate: float) -> None:
    schedule = ScheduleConfig(epochs=1, batch_size=batch_size, warmup_iterations=0)
    assert learning_rate(0, schedule, 100) == pytest.approx(rate)


@pytest.mark.parametrize("warmup", [0, 1])
def test_warm_up_of_one_step_starts_at_its_factor_and_no_warm_up_at_the_full_rate(warmup: int) -> None:
    schedule = ScheduleConfig(iterations=10, warmup_iterations=warmup, warmup_factor=0.5)
    assert learning_rate(0, schedule, 1) == pytest.approx(0.02 if warmup == 0 else 0.01)
    assert learning_rate(1, schedule, 1) == pytest.approx(0.02)


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_frozen_parameters_are_not_optimised(optimizer: Optimizer) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    built = build_optimizer(model, ScheduleConfig(optimizer=optimizer, weight_decay=0.3))
    (group,) = built.param_groups
    assert group["weight_decay"] == 0.3
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in model[1].parameters()}


def test_step_applies_momentum_and_weight_decay_at_the_set_rate() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = build_optimizer(layer, ScheduleConfig(momentum=0.5, weight_decay=0.1))
    set_learning_rate(optimizer, 0.25)
    for _ in range(2):
        layer.weight.grad = torch.full((1, 1), 2.0)
        optimizer.step()
    first = 2 + 0.1 * 1.0
    weight = 1 - 0.25 * first
    assert layer.weight.item() == pytest.approx(weight - 0.25 * (0.5 * first + 2 + 0.1 * weight))


def test_gradient_is_clipped_only_if_a_norm_is_set_and_exceeded() -> None:
    layer = nn.Linear(2, 1, bias=False)
    for limit, expected in ((None, [3.0, 4.0]), (10.0, [3.0, 4.0]), (1.0, [0.6, 0.8])):
        layer.weight.grad = torch.tensor([[3.0, 4.0]])
        assert gradient_norm(layer, limit).item() == pytest.approx(5.0)
        assert layer.weight.grad[0].tolist() == pytest.approx(expected)
