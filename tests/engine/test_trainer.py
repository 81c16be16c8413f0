"""The training loop: resuming, stopping, accumulation, and the end of a run whose losses are not finite."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from htc.checkpoint.files import read_checkpoint
from htc.config.schema import DataConfig, Optimizer, Precision, ScheduleConfig
from htc.engine.stopping import Stopped, StopRequest
from htc.engine.trainer import Trainer
from htc.errors import UserError
from htc.runs.folder import RunFolder
from htc.runs.tracking import Tracker
from tests.helpers.trainers import make_trainer, training_config


class Killed(Exception):  # noqa: N818 - not an error
    """Raised in place of the end of the process."""


def checkpoints(folder: Path) -> list[str]:
    """Return the names of the checkpoints of a run."""
    return sorted(path.name for path in (folder / "checkpoints").glob("*.pt"))


def assert_same(a: Any, b: Any) -> None:
    """Assert that two values are equal to the last bit, including tensors in nested dicts and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


SCHEDULES = {
    "SGD": {},
    "AdamW": {"optimizer": Optimizer.adamw, "learning_rate": 1e-3},
    "accumulated micro-batches": {"batch_size": 4, "accumulate": 2},
    "epochs": {"iterations": None, "epochs": 2, "milestones": [1]},
    "average of the weights": {"ema": 0.9},
}


@pytest.mark.parametrize("changes", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_resumed_run_equals_uninterrupted_run(tiny_shapes: DataConfig, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = training_config(tiny_shapes)
    config.schedule = dataclasses.replace(config.schedule, **changes)
    uninterrupted = make_trainer(config, tmp_path / "uninterrupted")
    uninterrupted.train(Tracker(None))

    def kill() -> None:
        raise Killed

    config.save.every = 3
    config.schedule.eval_every = 3 if config.schedule.epochs is None else 1
    first = make_trainer(config, tmp_path / "resumed", evaluate=kill)
    with pytest.raises(Killed):
        first.train(Tracker(None))
    config.schedule.eval_every = None
    torch.manual_seed(99)
    second = make_trainer(config, tmp_path / "resumed")
    assert second.resumed and not uninterrupted.resumed
    assert second.step == first.step and 0 < second.step < uninterrupted.total_steps
    second.train(Tracker(None))

    assert second.step == uninterrupted.step == uninterrupted.total_steps
    assert_same(second.raw_model.state_dict(), uninterrupted.raw_model.state_dict())
    assert_same(second.evaluated_model.state_dict(), uninterrupted.evaluated_model.state_dict())
    assert_same(second.optimizer.state_dict(), uninterrupted.optimizer.state_dict())
    last = [RunFolder(tmp_path / name).read_metrics()[-1] for name in ("uninterrupted", "resumed")]
    assert {key: last[0][key] for key in ("step", "lr", "losses")} == {
        key: last[1][key] for key in ("step", "lr", "losses")
    }


def test_resumed_run_writes_the_same_lines_wherever_it_was_stopped(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    """A line is a mean over several steps, of which some come before the stop, and an evaluation may be pending."""

    def train(folder: Path, *stops: int) -> list[dict[str, Any]]:
        """Train with a SIGTERM in each of these steps and a resume after it, and return the lines without times.

        An evaluation draws random numbers, as a network with dropout does.
        """
        for stop in [*stops, None]:
            config = training_config(tiny_shapes)
            config.log_every, config.save.every, config.schedule.eval_every = 4, 100, 2
            record = RunFolder(folder)
            trainer = make_trainer(config, folder)

            def evaluate(trainer: Trainer = trainer) -> None:
                line = {"kind": "eval", "step": trainer.step, "random": torch.rand(()).item()}
                trainer.folder.append_metrics(line)

            trainer.evaluate = evaluate
            if trainer.resumed:
                record.rewind(trainer.step, trainer.metrics_length)
            passes = [trainer.step]

            def draw(*_: Any, passes: list[int] = passes, stop: int | None = stop) -> None:
                passes.append(int(torch.randint(0, 2**31, ())))
                if stop is not None and passes[0] + len(passes) - 1 == stop:
                    os.kill(os.getpid(), signal.SIGTERM)

            trainer.raw_model.register_forward_pre_hook(draw)
            try:
                trainer.train(Tracker(None))
            except Stopped:
                assert trainer.step == stop
        return [
            {key: value for key, value in line.items() if key not in ("time", "images_per_second", "memory_mb")}
            for line in RunFolder(folder).read_metrics()
        ]

    uninterrupted = train(tmp_path / "uninterrupted")
    assert [(line["kind"], line["step"]) for line in uninterrupted] == [
        ("eval", 2), ("train", 4), ("eval", 4), ("train", 6),
    ]  # fmt: skip
    assert train(tmp_path / "stopped", 2, 3, 4) == uninterrupted


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_average_is_evaluated_in_place_of_the_weights(tiny_shapes: DataConfig, tmp_path: Path, decay: float) -> None:
    config = training_config(tiny_shapes)
    config.schedule.ema, config.schedule.iterations = decay, 3
    trainer = make_trainer(config, tmp_path)
    name = "cascade.box_heads.0.fc1.weight"
    weights: list[torch.Tensor] = []
    trainer.optimizer.register_step_post_hook(
        lambda *_: weights.append(trainer.raw_model.get_parameter(name).detach().clone())
    )
    trainer.train(Tracker(None))
    expected = weights[0]
    for after in weights[1:]:
        expected = decay * expected + (1 - decay) * after
    torch.testing.assert_close(trainer.evaluated_model.get_parameter(name).detach(), expected)
    assert torch.equal(expected, weights[-1]) == (decay == 0)
    saved = read_checkpoint(tmp_path / "checkpoints" / "step_00000003.pt")
    assert_same(saved.evaluated_weights, trainer.evaluated_model.state_dict())
    assert_same(saved.model, trainer.raw_model.state_dict())


def test_good_checkpoint_is_not_written_again(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    """A kill while it is written again would damage the only checkpoint."""
    config = training_config(tiny_shapes)
    config.schedule.iterations = 1
    make_trainer(config, tmp_path).train(Tracker(None))
    file = tmp_path / "checkpoints" / "step_00000001.pt"
    before = file.stat().st_mtime_ns
    make_trainer(config, tmp_path).train(Tracker(None))
    assert file.stat().st_mtime_ns == before


def test_another_seed_is_another_run(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    """The weights that the tests above compare differ between seeds."""
    ends = []
    for seed in (0, 1):
        config = training_config(tiny_shapes)
        config.seed, config.schedule.iterations = seed, 1
        trainer = make_trainer(config, tmp_path / str(seed))
        trainer.train(Tracker(None))
        ends.append(trainer.raw_model.state_dict()["cascade.box_heads.0.fc1.weight"])
    assert not torch.equal(*ends)


def test_finished_run_is_not_trained_again(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    config = training_config(tiny_shapes)
    config.schedule.iterations = 1
    make_trainer(config, tmp_path).train(Tracker(None))
    again = make_trainer(config, tmp_path)
    assert again.step == 1
    before = {name: value.clone() for name, value in again.raw_model.state_dict().items()}
    again.train(Tracker(None))
    assert_same(again.raw_model.state_dict(), before)


def test_training_lowers_the_loss(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    config = training_config(tiny_shapes)
    config.schedule = ScheduleConfig(
        optimizer=Optimizer.adamw,
        learning_rate=3e-3,
        iterations=25,
        batch_size=2,
        reference_batch=2,
        warmup_iterations=0,
    )
    config.log_every = 5
    make_trainer(config, tmp_path).train(Tracker(None))
    losses = [line["loss"] for line in RunFolder(tmp_path).read_metrics()]
    assert len(losses) == 5 and losses[-1] < 0.8 * losses[0]


def test_metrics_hold_the_losses_rate_speed_and_memory_of_each_report(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    make_trainer(training_config(tiny_shapes), tmp_path).train(Tracker(None))
    lines = RunFolder(tmp_path).read_metrics()
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["epoch"] for line in lines] == [0.5, 1.0, 1.5]
    assert [line["lr"] for line in lines] == pytest.approx([0.02 * (0.001 + 0.999 / 3), 0.002, 0.002])
    for line in lines:
        assert line["kind"] == "train" and line["images_per_second"] > 0 and line["memory_mb"] > 0
        assert {"loss_rpn_cls", "loss_semantic_seg", "s0.loss_cls", "s2.loss_mask"} <= set(line["losses"])
        assert line["loss"] == pytest.approx(sum(line["losses"].values()))


def test_evaluation_during_training_runs_at_the_steps_of_the_schedule(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    config = training_config(tiny_shapes)
    config.schedule.eval_every = 2
    seen: list[tuple[int, float]] = []
    trainer = make_trainer(config, tmp_path, evaluate=lambda: seen.append((trainer.step, trainer.epoch)))
    trainer.train(Tracker(None))
    assert seen == [(2, 0.5), (4, 1.0)], "the trainer does not call the final evaluation"


def test_checkpoints_are_written_after_epochs_and_every_n_steps(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    config = training_config(tiny_shapes)
    config.schedule = dataclasses.replace(config.schedule, iterations=None, epochs=2, milestones=[])
    config.save.every, config.save.keep = 3, 100
    make_trainer(config, tmp_path).train(Tracker(None))
    assert checkpoints(tmp_path) == [f"step_{step:08d}.pt" for step in (3, 4, 6, 8)]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_accumulation_makes_several_forward_passes_per_update(
    tiny_shapes: DataConfig, tmp_path: Path, accumulate: int
) -> None:
    config = training_config(tiny_shapes)
    config.schedule = dataclasses.replace(config.schedule, iterations=2, batch_size=4, accumulate=accumulate)
    trainer = make_trainer(config, tmp_path)
    images_of_pass: list[int] = []
    updates: list[int] = []
    trainer.raw_model.register_forward_pre_hook(lambda module, arguments: images_of_pass.append(len(arguments[0])))
    trainer.optimizer.register_step_post_hook(lambda *arguments: updates.append(len(images_of_pass)))
    trainer.train(Tracker(None))
    assert images_of_pass == [4 // accumulate] * 2 * accumulate
    assert updates == [accumulate, 2 * accumulate]


def test_update_uses_the_mean_gradient_of_its_micro_batches(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    config = training_config(tiny_shapes)
    config.schedule = dataclasses.replace(
        config.schedule, iterations=1, milestones=[], batch_size=4, reference_batch=4, accumulate=2, weight_decay=0.0,
        warmup_iterations=0,
    )  # fmt: skip
    trainer = make_trainer(config, tmp_path)
    before = {name: value.detach().clone() for name, value in trainer.raw_model.named_parameters()}
    batches = iter(trainer.loader)
    for _ in range(2):
        (sum(trainer._forward(next(batches)).values(), start=torch.zeros(())) / 2).backward()
    expected = {
        name: before[name] - 0.02 * parameter.grad
        for name, parameter in trainer.raw_model.named_parameters()
        if parameter.grad is not None
    }
    trainer.optimizer.zero_grad()
    trainer.train(Tracker(None))
    for name, parameter in trainer.raw_model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-6)


def test_loss_that_is_not_finite_stops_the_run_and_names_step_and_images(
    tiny_shapes: DataConfig, tmp_path: Path
) -> None:
    config = training_config(tiny_shapes)
    trainer = make_trainer(config, tmp_path)
    passes: list[int] = []

    def break_weights(module: torch.nn.Module, arguments: Any) -> None:
        passes.append(len(passes))
        if len(passes) == 3:
            torch.nn.init.constant_(trainer.raw_model.get_parameter("cascade.box_heads.1.logits.bias"), math.nan)

    trainer.raw_model.register_forward_pre_hook(break_weights)
    expected = [str(trainer.dataset.image_ids[draw.index]) for draw in nth_batch(trainer, 2)]
    with pytest.raises(UserError) as caught:
        trainer.train(Tracker(None))
    sentence = str(caught.value)
    images = re.search(r"not finite at step 3 \(images ([\d, ]+)\)", sentence)
    assert images is not None and images[1].split(", ") == expected
    assert "s1.loss_cls nan" in sentence and "schedule.learning_rate" in sentence and "\n" not in sentence
    assert checkpoints(tmp_path) == [], "weights that are not finite must not be saved"


def nth_batch(trainer: Trainer, number: int) -> list[Any]:
    """Return the indices of the batch with this number, counted from 0."""
    batches = iter(trainer.loader.batch_sampler)  # type: ignore[arg-type]
    for _ in range(number):
        next(batches)
    return list(next(batches))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_after_the_step_with_a_checkpoint(
    tiny_shapes: DataConfig, tmp_path: Path, number: signal.Signals
) -> None:
    config = training_config(tiny_shapes)
    trainer = make_trainer(config, tmp_path)
    passes: list[int] = []

    def signal_in_the_second_pass(module: torch.nn.Module, arguments: Any) -> None:
        passes.append(len(passes))
        if len(passes) == 2:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    trainer.raw_model.register_forward_pre_hook(signal_in_the_second_pass)
    with pytest.raises(Stopped):
        trainer.train(Tracker(None))
    assert signal.getsignal(number) is handler
    assert checkpoints(tmp_path) == ["step_00000002.pt"]
    saved = read_checkpoint(tmp_path / "checkpoints" / "step_00000002.pt")
    assert_same(saved.model, trainer.raw_model.state_dict())
    assert make_trainer(config, tmp_path).step == 2


def test_second_ctrl_c_ends_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_run_with_a_damaged_newest_checkpoint_continues_from_the_one_before(
    tiny_shapes: DataConfig, tmp_path: Path
) -> None:
    config = training_config(tiny_shapes)
    config.save.every = 2
    make_trainer(config, tmp_path).train(Tracker(None))
    newest = tmp_path / "checkpoints" / "step_00000006.pt"
    expected = read_checkpoint(newest).model
    newest.write_bytes(newest.read_bytes()[:1000])
    again = make_trainer(config, tmp_path)
    assert again.step == 4
    again.train(Tracker(None))
    assert_same(again.raw_model.state_dict(), expected)


def test_bf16_run_trains_and_keeps_its_weights_in_fp32(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    config = training_config(tiny_shapes)
    config.precision, config.schedule.iterations = Precision.bf16, 2
    trainer = make_trainer(config, tmp_path)
    trainer.train(Tracker(None))
    values = list(trainer.raw_model.state_dict().values())
    assert {value.dtype for value in values if value.is_floating_point()} == {torch.float32}
    assert all(value.isfinite().all() for value in values)


@pytest.mark.parametrize("change", [{"name": "jar"}, {"id": 90}])
def test_run_whose_data_set_has_changed_categories_is_not_continued(
    tiny_shapes: DataConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    root = shutil.copytree(tiny_shapes.root, tmp_path / "data")
    config = training_config(dataclasses.replace(tiny_shapes, name="coco", root=str(root)))
    make_trainer(config, tmp_path / "run").train(Tracker(None))
    assert make_trainer(config, tmp_path / "run").resumed
    file = root / config.data.train.annotations
    content = json.loads(file.read_text())
    content["categories"].append({**content["categories"].pop(), **change})
    known = {category["id"] for category in content["categories"]}
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] in known]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"instances_train2017\.json has other categories than .* start again"):
        make_trainer(config, tmp_path / "run")
