"""The package from Python: compose, run, load and load_model, as a notebook calls them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from htc import compose, load, load_model, run
from htc.api import Run, RunStopped
from htc.config.schema import Config
from htc.data.image_reading import read_image
from htc.errors import UserError
from tests.helpers.command import run_code
from tests.helpers.tiny_run import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of seconds, started from Python."""
    folder = tmp_path_factory.mktemp("api")
    return run(compose(*tiny(folder / "runs"), "wandb.mode=disabled", "progress=false", "device=cpu"))


def test_composed_configuration_is_that_of_the_command() -> None:
    config = compose("model=mask_rcnn", "seed=3")
    assert isinstance(config, Config) and (config.model.num_stages, config.seed) == (1, 3)
    with pytest.raises(UserError, match="mask_flow"):
        compose("model.num_stages=1")
    assert compose("checkpoint=FILE").checkpoint.file == "FILE"


def test_run_has_status_configuration_metrics_and_results(trained: Run) -> None:
    assert trained.status == "done" and trained.evaluations == ["default"]
    assert trained.config.schedule.iterations == 6
    assert [line["step"] for line in trained.metrics()] == [2, 4, 6, 6]
    assert set(trained.results()) >= {"bbox", "segm", "settings"} and "AP" in trained.results()["segm"]
    with pytest.raises(UserError, match=r"has no evaluation 'paper', only default: python -m htc\.evaluate run="):
        trained.results("paper")


def test_same_call_again_returns_the_finished_run(trained: Run) -> None:
    before = (trained.folder / "run.json").stat().st_mtime_ns
    assert run(trained.config).folder == trained.folder
    assert (trained.folder / "run.json").stat().st_mtime_ns == before


def test_run_is_found_by_folder_name_beginning_and_signature(trained: Run) -> None:
    pool = trained.folder.parent
    for word in (trained.folder, trained.folder.name, trained.folder.name[:12], trained.record.signature):
        assert load(str(word), pool).folder == trained.folder
    with pytest.raises(UserError, match="is neither a sweep nor a run"):
        load("absent", pool)


def test_model_detects_objects_of_an_image(trained: Run) -> None:
    image = read_image(next((trained.folder.parents[1] / "data").glob("*/val2017/*.jpg")))
    model = trained.model()
    found = model.detect(image)
    height, width = image.shape[:2]
    assert found.boxes.shape == (len(found), 4) and not model.model.training
    assert ((found.boxes >= 0) & (found.boxes <= max(height, width))).all()
    checkpoint = next((trained.folder / "checkpoints").glob("*.pt"))
    again = load_model(checkpoint=checkpoint, overrides=["eval.max_detections=3"]).detect(image)
    assert len(again) == min(3, len(found)) and np.array_equal(again.boxes, found.boxes[: len(again)])


def test_stopped_run_continues_with_the_same_call(trained: Run, tmp_path: Path) -> None:
    data = trained.folder.parents[1] / "data"
    config = compose(*tiny(tmp_path, data, iterations=100_000), "wandb.mode=disabled", "progress=false", "device=cpu")
    stop = threading.Timer(4, os.kill, [os.getpid(), signal.SIGINT])
    stop.start()
    with pytest.raises(RunStopped, match="the same call continues it"):
        run(config)
    stop.join()
    (folder,) = tmp_path.glob("[!.]*")
    assert load(folder).status == "preempted" and list(folder.glob("checkpoints/*.pt"))


def test_names_are_functions_in_any_order_of_imports_and_import_nothing_heavy_by_themselves() -> None:
    code = (
        "import sys, htc\n"
        "assert not {'torch', 'hydra'} & set(sys.modules)\n"
        "from htc import compose\n"
        "assert 'torch' not in sys.modules\n"
        "import htc.run\n"
        "from htc import run\n"
        "assert callable(run)\n"
    )
    result = run_code(code)
    assert result.returncode == 0, result.stderr


def test_unknown_name_is_an_attribute_error() -> None:
    import htc

    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = htc.train
