"""Several processes train one model and share the evaluation."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from htc.checkpoint.files import read_checkpoint
from htc.config.schema import BnMode, Config, DataConfig, EvalConfig, Norm
from htc.data.dataset import build_dataset
from htc.data.loader import build_train_loader
from htc.distributed import processes as distributed
from htc.distributed.devices import choose_device
from htc.distributed.processes import Processes, start_processes
from htc.errors import UserError
from htc.evaluation.evaluator import Evaluator
from htc.experiment import run_experiment
from htc.runs.folder import RunFolder
from htc.runs.tracking import Tracker
from htc.structures import Detections
from htc.trained_model import load_trained_model
from tests.helpers.trainers import ALONE, make_trainer, training_config

IMAGES = 3


class Counting:
    """A predictor that counts the images it is given."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.images = 0

    def predict(
        self, images: list[Tensor], original_sizes: list[tuple[int, int]], settings: EvalConfig
    ) -> list[Detections]:
        self.images += len(images)
        detections: list[Detections] = self.model.predict(images, original_sizes, settings)
        return detections


def train_and_evaluate(rank: int, port: int, config: Config, folder: Path) -> None:
    """Train and evaluate as one of two processes, and write a report to `folder`."""
    with joined(rank, port) as processes:
        batch_sizes: list[int] = []
        trainer = make_trainer(config, folder, processes)
        trainer.raw_model.register_forward_pre_hook(lambda module, arguments: batch_sizes.append(len(arguments[0])))
        trainer.train(Tracker(None))
        weights = {name: value.double().sum().item() for name, value in trainer.raw_model.state_dict().items()}
        model = Counting(trainer.raw_model)
        data = build_dataset(config.data, train=False, semantic=False)
        found = Evaluator(config, data, processes).evaluate(model)
        report = {
            "main": processes.is_main, "batch_sizes": batch_sizes, "predicted": model.images, "weights": weights,
            "image_ids": found.predictions.image_ids, "metrics": found.metrics.bbox,
            "boxes": len(found.predictions.bbox), "gathered": processes.gather(rank),
        }  # fmt: skip
        (folder / f"rank{rank}.json").write_text(json.dumps(report))


@contextmanager
def joined(rank: int, port: int) -> Iterator[Processes]:
    """Join two processes on this machine, with the environment that `torchrun` sets."""
    with pytest.MonkeyPatch.context() as patch:
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in variables.items():
            patch.setenv(name, str(value))
        torch.set_num_threads(1)
        processes = start_processes("cpu")
        try:
            yield processes
        finally:
            processes.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def spawn(function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(rank, port, *arguments)` in two processes, which join at this port."""
    torch.multiprocessing.spawn(function, (free_port(), *arguments), nprocs=2)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_one_model_and_evaluate_every_image_once(
    tiny_shapes: DataConfig, tmp_path: Path, accumulate: int
) -> None:
    config = training_config(tiny_shapes)
    config.schedule.iterations, config.schedule.batch_size, config.schedule.accumulate = 3, 4, accumulate
    config.eval.score_threshold = 0.0
    config.eval.limit = 3
    spawn(train_and_evaluate, config, tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert (first["main"], second["main"]) == (True, False)
    assert first["batch_sizes"] == second["batch_sizes"] == [2 // accumulate] * 3 * accumulate
    assert first["weights"] == second["weights"]
    assert sorted(first["image_ids"]) == sorted(set(second["image_ids"])) and len(first["image_ids"]) == IMAGES
    assert (first["predicted"], second["predicted"]) == (2, 1), "three images are shared by two processes"
    assert first["metrics"] == second["metrics"] and first["boxes"] == second["boxes"] > 0
    assert first["gathered"] == second["gathered"] == [0, 1]
    untrained = make_trainer(config, tmp_path / "untrained").raw_model.state_dict()
    assert first["weights"] != {name: value.double().sum().item() for name, value in untrained.items()}
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step_00000003.pt"]


def twenty_steps(rank: int, port: int, config: Config, folder: Path) -> None:
    """Train as one of two processes."""
    with joined(rank, port) as processes:
        make_trainer(config, folder, processes).train(Tracker(None))


@pytest.mark.slow
@pytest.mark.parametrize("norm", [Norm.gn, Norm.sync_bn])
def test_two_processes_have_the_same_losses_as_one_process_with_the_complete_batch(
    tiny_shapes: DataConfig, tmp_path: Path, norm: Norm
) -> None:
    """All images are padded to the same size, because features depend on the padding of the batch.

    Rounding can change the order of proposals, and with it all later steps; whether it does depends on the processor.
    So the losses must agree for twenty steps with one of three seeds, and for eight steps with each of them.
    """
    config = training_config(tiny_shapes)
    config.backbone.norm, config.backbone.bn_mode = norm, BnMode.batch
    config.schedule.iterations, config.schedule.batch_size, config.log_every = 20, 4, 1
    config.schedule.reference_batch, config.schedule.learning_rate = 4, 0.006
    # Images with sides of at most 64 are padded to 64 x 64.
    config.data.long_side = 64
    agreeing = 0
    for config.seed in range(3):
        folder = tmp_path / str(config.seed)
        make_trainer(config, folder / "one").train(Tracker(None))
        spawn(twenty_steps, config, folder / "two")
        one, two = (RunFolder(folder / name).read_metrics() for name in ("one", "two"))
        assert len(one) == len(two) == 20
        same = [b["losses"] == pytest.approx(a["losses"], abs=1e-5) for a, b in zip(one, two, strict=True)]
        # Number of steps before the first difference.
        agreeing = [*same, False].index(False)
        assert agreeing >= 8, f"seed {config.seed}: {one[agreeing]} and {two[agreeing]}"
        if agreeing == 20:
            break
    assert agreeing == 20
    assert one[-1]["loss"] < one[0]["loss"]
    states = [read_checkpoint(folder / name / "checkpoints" / "step_00000020.pt").model for name in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, atol=1e-4, rtol=1e-4)


def train_and_fail(rank: int, port: int, config: Config, folder: Path, how: str) -> None:
    """Train as one of two processes, the second of which fails in its third step; write the error that is raised."""
    with joined(rank, port) as processes:
        trainer = make_trainer(config, folder, processes)
        steps: list[int] = []

        def fail(module: torch.nn.Module, arguments: Any) -> None:
            steps.append(len(steps))
            if rank == 1 and len(steps) == 3:
                if how == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                bias = trainer.raw_model.get_parameter("cascade.box_heads.1.logits.bias")
                if how == "loss":
                    torch.nn.init.constant_(bias, math.nan)
                else:
                    bias.register_hook(lambda gradient: gradient * math.inf)

        trainer.raw_model.register_forward_pre_hook(fail)
        try:
            trainer.train(Tracker(None))
        except Exception as error:  # noqa: BLE001 - the test checks its type and message
            (folder / f"rank{rank}.txt").write_text(f"{type(error).__name__}: {error}")


@pytest.mark.slow
@pytest.mark.timeout(300)  # half of STEP_TIMEOUT, so the run must end for another reason
def test_death_of_a_process_ends_the_other_one(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    config = training_config(tiny_shapes)
    config.schedule.batch_size = 4
    # They are joined one by one: `join=True` would terminate the first process when the second one dies.
    started = torch.multiprocessing.spawn(  # type: ignore[attr-defined]
        train_and_fail, (free_port(), config, tmp_path, "dies"), nprocs=2, join=False
    )
    first, second = started.processes
    first.join(120)
    assert (first.exitcode, second.exitcode) == (0, -signal.SIGKILL)
    assert "Error" in (tmp_path / "rank0.txt").read_text()
    assert not list(tmp_path.glob("checkpoints/*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_failure_of_a_process_ends_the_other_one(tiny_shapes: DataConfig, tmp_path: Path, how: str) -> None:
    config = training_config(tiny_shapes)
    config.schedule.batch_size = 4
    spawn(train_and_fail, config, tmp_path, how)
    errors = {path.stem: path.read_text() for path in tmp_path.glob("rank*.txt")}
    if how == "loss":
        assert errors["rank0"] == errors["rank1"] and "is not finite at step 3" in errors["rank0"]
        assert [path.name for path in (tmp_path / "replay").glob("*.pt")] == ["step_00000003_process_1.pt"]
    if how == "gradient":
        assert errors["rank0"] == errors["rank1"] and "the gradient is not finite at step 3" in errors["rank0"]
        assert all(f"{tmp_path}/replay/step_00000003_process_{rank}.pt" in errors["rank0"] for rank in range(2))
        named = re.search(r"\(images ([\d, ]+)\)", errors["rank0"])
        assert named is not None and len(set(named[1].split(", "))) == 4
    assert not list(tmp_path.glob("checkpoints/*.pt"))


def fail_on_one_process(rank: int, port: int, config: Config, folder: Path, where: str) -> None:
    """Run as one of two processes, one of which cannot read its images or write its metrics; write the error."""
    if where != "metrics" and rank == 1:
        # The copy stands for the disk of another machine.
        config.data.root = str(shutil.copytree(config.data.root, folder / "disk" / Path(config.data.root).name))
    if where == "metrics" and rank == 0:
        (folder / "metrics.jsonl").symlink_to("/dev/full")
    with joined(rank, port) as processes:
        trainer = make_trainer(config, folder, processes)
        evaluator = Evaluator(config, build_dataset(config.data, train=False, semantic=False), processes)
        if where != "metrics" and rank == 1:
            for image in Path(config.data.root).glob("train*/*" if where == "training" else "val*/*"):
                image.write_bytes(b"<html>")
        try:
            if where == "evaluation":
                evaluator.evaluate(Counting(trainer.raw_model))
            trainer.train(Tracker(None))
        except Exception as error:  # noqa: BLE001 - the test checks its message
            message = error.sentence if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            (folder / f"rank{rank}.txt").write_text(message)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "workers"), [("training", 0), ("training", 1), ("evaluation", 1), ("metrics", 0)])
def test_read_or_write_error_of_one_process_is_raised_on_all(
    tiny_shapes: DataConfig, tmp_path: Path, where: str, workers: int
) -> None:
    config = training_config(tiny_shapes)
    config.schedule.batch_size, config.log_every = 4, 1
    config.data = dataclasses.replace(config.data, workers=workers)
    spawn(fail_on_one_process, config, tmp_path, where)
    first, second = ((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert "No space left" in first if where == "metrics" else re.match(rf"image \d+: {tmp_path / 'disk'}", first)


def run_with_own_statistics(rank: int, port: int, config: Config) -> None:
    """Execute a run as one of two processes."""
    with joined(rank, port):
        run_experiment(config, ["python", "-m", "htc.run"])


@pytest.mark.slow
@pytest.mark.parametrize("ema", [None, 0.5])
def test_evaluation_uses_the_batch_norm_statistics_that_are_saved(
    tiny_shapes: DataConfig, tmp_path: Path, ema: float | None
) -> None:
    config = training_config(tiny_shapes)
    config.backbone.norm, config.backbone.bn_mode = Norm.bn, BnMode.batch
    config.schedule.iterations, config.schedule.batch_size, config.schedule.ema = 3, 4, ema
    config.eval.score_threshold, config.runs = 0.0, str(tmp_path)
    spawn(run_with_own_statistics, config)
    (run,) = tmp_path.glob("[!.]*")
    trained = load_trained_model({"run": str(run)}, [])
    data = build_dataset(config.data, train=False, semantic=False)
    again = Evaluator(config, data, ALONE).evaluate(trained.model)
    (predictions,) = run.glob("evaluations/*/bbox.json")
    found = json.loads(predictions.read_text())
    assert len(found) == len(again.predictions.bbox) > 0

    def rows(results: list[dict[str, Any]]) -> list[tuple[float, ...]]:
        return sorted((row["image_id"], row["category_id"], row["score"], *row["bbox"]) for row in results)

    np.testing.assert_allclose(rows(found), rows(again.predictions.bbox), rtol=1e-4, atol=1e-4)


def wait_for_main(rank: int, port: int, folder: Path) -> None:
    """Run as one of two processes, with an action of the main one that exceeds STEP_TIMEOUT; write its result."""

    def take_long() -> str:
        time.sleep(3)
        return "the metrics"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "STEP_TIMEOUT", timedelta(seconds=1))
        with joined(rank, port) as processes:
            result = processes.on_main(take_long)
    (folder / f"rank{rank}.txt").write_text(result)


@pytest.mark.slow
def test_processes_wait_for_the_main_one_longer_than_for_a_step(tmp_path: Path) -> None:
    spawn(wait_for_main, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the metrics"] * 2


def test_single_process_needs_no_process_group() -> None:
    processes = Processes(0, 1, torch.device("cpu"))
    model = torch.nn.Linear(2, 2)
    assert processes.is_main and processes.wrap(model) is model and processes.gather("value") == ["value"]
    processes.close()
    assert not torch.distributed.is_initialized()


def test_run_without_torchrun_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert start_processes("cpu") == Processes(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device={name} is not a device"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="device=cuda, but PyTorch sees no GPU here"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


def test_batch_that_processes_cannot_share_equally_is_refused(tiny_shapes: DataConfig) -> None:
    dataset = build_dataset(tiny_shapes, train=True, semantic=False)
    with pytest.raises(UserError, match="3 images cannot be shared equally by 2 processes"):
        build_train_loader(dataset, tiny_shapes, batch_size=3, seed=0, world_size=2)
