"""Several processes train one model and share out the evaluation."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from htc.config import Config, DataConfig, EvalConfig
from htc.data.coco import build_dataset
from htc.engine.distributed import Processes, choose_device, start_processes
from htc.engine.evaluation import Evaluator
from htc.engine.tracking import Tracker
from htc.errors import UserError
from htc.structures import Detections
from tests.engine.trainers import make_trainer, training_config

IMAGES = 4


class Counting:
    """A network that counts the images it predicts."""

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
    """One of two processes; writes what it saw to `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in variables.items():
            patch.setenv(name, str(value))
        torch.set_num_threads(1)
        processes = start_processes("cpu")
        try:
            seen: list[int] = []
            trainer = make_trainer(config, folder, processes)
            trainer.raw_model.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
            trainer.train(Tracker(None))
            weights = {name: value.double().sum().item() for name, value in trainer.raw_model.state_dict().items()}
            model = Counting(trainer.raw_model)
            data = build_dataset(config.data, train=False, semantic=False)
            found = Evaluator(config, data, processes).evaluate(model)
            report = {
                "main": processes.is_main, "images_of_pass": seen, "predicted": model.images, "weights": weights,
                "image_ids": found.predictions.image_ids, "metrics": found.metrics.bbox,
                "boxes": len(found.predictions.bbox), "gathered": processes.gather(rank),
            }  # fmt: skip
            (folder / f"rank{rank}.json").write_text(json.dumps(report))
        finally:
            processes.close()


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_have_one_model_and_evaluate_every_image_once(
    tiny_shapes: DataConfig, tmp_path: Path, accumulate: int
) -> None:
    config = training_config(tiny_shapes)
    config.schedule.iterations, config.schedule.batch_size, config.schedule.accumulate = 3, 4, accumulate
    config.eval.score_threshold = 0.0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_and_evaluate, (port, config, tmp_path), nprocs=2)  # type: ignore[attr-defined]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert (first["main"], second["main"]) == (True, False)
    assert first["images_of_pass"] == second["images_of_pass"] == [2 // accumulate] * 3 * accumulate
    assert first["weights"] == second["weights"]
    assert sorted(first["image_ids"]) == sorted(set(second["image_ids"])) and len(first["image_ids"]) == IMAGES
    assert first["predicted"] == second["predicted"] == IMAGES // 2
    assert first["metrics"] == second["metrics"] and first["boxes"] == second["boxes"] > 0
    assert first["gathered"] == second["gathered"] == [0, 1]
    untrained = make_trainer(config, tmp_path / "untrained").raw_model.state_dict()
    assert first["weights"] != {name: value.double().sum().item() for name, value in untrained.items()}
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step_00000003.pt"]


def test_process_on_its_own_needs_no_group() -> None:
    processes = Processes(0, 1, torch.device("cpu"))
    model = torch.nn.Linear(2, 2)
    assert processes.is_main and processes.wrap(model) is model and processes.gather("value") == ["value"]
    processes.close()
    assert not torch.distributed.is_initialized()


def test_run_outside_torchrun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert start_processes("cpu") == Processes(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_device_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device={name} is not a device"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="device=cuda, but PyTorch sees no GPU here"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


def test_batch_that_processes_cannot_share_is_refused(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    config = training_config(tiny_shapes)
    config.schedule.batch_size = 3
    with pytest.raises(UserError, match="3 images cannot be shared equally by 2 processes"):
        make_trainer(config, tmp_path, Processes(0, 2, torch.device("cpu")))
