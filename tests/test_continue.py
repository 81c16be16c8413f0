"""`continue=RUN`: a finished run goes on with another schedule, like one long run, or says what is unlike it."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import analysis.make_tables
from htc import compose, run
from htc.api import Run
from htc.config.schema import ScheduleConfig
from htc.engine.continuation import differences_to_one_run
from htc.errors import UserError
from htc.launch.plan import RequestedRun, plan
from htc.runs.folder import RunFolder
from htc.runs.parent import resolve_parent
from tests.helpers.tiny_run import tiny

CONSTANT = ["schedule.milestones=[]", "schedule.warmup_iterations=0", "schedule.learning_rate=0.002"]


def arguments(pool: Path, iterations: int, *overrides: str) -> list[str]:
    """Return the arguments of a run of seconds at a constant learning rate."""
    common = ["wandb.mode=disabled", "progress=false", "device=cpu", *CONSTANT]
    return [*tiny(pool, iterations=iterations, save_every=2), *common, *overrides]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoints" / f"step_{step:08d}.pt", weights_only=False)
    return {**content["model"], **{f"ema.{name}": value for name, value in (content["ema"] or {}).items()}}


def assert_equal_weights(first: Run, second: Run, step: int) -> None:
    a, b = weights(first.folder, step), weights(second.folder, step)
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of six steps, with a moving average of the weights."""
    pool = tmp_path_factory.mktemp("continue") / "runs"
    return run(compose(*arguments(pool, 6, "schedule.ema=0.9")))


@pytest.fixture(scope="module")
def pool(parent: Run) -> Path:
    return parent.folder.parent


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The package's log, which `propagate=False` keeps from pytest otherwise."""
    caplog.set_level(logging.INFO, logger="htc")
    monkeypatch.setattr("htc.runs.folder.send_logs", lambda file: None)
    return caplog


def test_six_and_six_steps_are_twelve_steps_to_the_last_bit(
    parent: Run, pool: Path, logged: pytest.LogCaptureFixture
) -> None:
    given = arguments(pool, 12, "schedule.ema=0.9")
    long = run(compose(*given))
    child = run(compose(*given, f"continue={parent.folder.name}"))
    assert child.folder != long.folder and child.folder.name.startswith("htc-resnet18-shapes-seed0-continued-")
    assert_equal_weights(child, long, 12)
    assert child.results()["bbox"] == long.results()["bbox"]
    lines = [line for line in child.metrics() if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [8, 10, 12]
    assert [line["loss"] for line in lines] == [line["loss"] for line in long.metrics() if line["kind"] == "train"][3:]
    record = child.record.parent
    assert record is not None and (record.run, record.step, record.unequal) == (parent.folder.name, 6, [])
    assert f"continuing {parent.folder.name} after step 6 of 12; equal to one run, to the last bit" in logged.text
    # The same command again leaves it as it is, also with a shorter name for the parent.
    signature = parent.folder.name[-8:]
    assert run(compose(*given, f"continue={signature}")).folder == child.folder


def test_another_schedule_goes_on_from_the_weights_and_says_what_is_unlike_one_run(
    parent: Run, pool: Path, tmp_path: Path
) -> None:
    given = arguments(pool, 10, "schedule.ema=0.9", "schedule.learning_rate=0.02", "schedule.weight_decay=0")
    child = run(compose(*given, f"continue={parent.folder.name}"))
    record = child.record.parent
    assert record is not None
    assert [each.split(" ")[0] for each in record.unequal] == ["steps", "schedule.weight_decay"]
    state = torch.load(child.folder / "checkpoints" / "step_00000010.pt", weights_only=False)
    (group,) = state["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0, "the optimiser's settings are those of the new schedule"
    # A further run continues this one, and tables name both parents.
    grandchild = run(compose(*given, "schedule.iterations=12", f"continue={child.folder.name}"))
    assert grandchild.record.parent is not None and grandchild.record.parent.run == child.folder.name
    text = analysis.make_tables.make_tables(pool, tmp_path)
    assert f"`{child.folder.name}` continues `{parent.folder.name}` after step 6; unlike one run, steps 1 to 6" in text
    assert f"`{grandchild.folder.name}` continues `{child.folder.name}` after step 10." in text


def test_interrupted_continuation_goes_on_from_its_own_checkpoint_without_its_parent(
    parent: Run, pool: Path, tmp_path: Path
) -> None:
    given = arguments(pool, 12, "schedule.ema=0.9", "schedule.clip_norm=1")
    undisturbed = run(compose(*given, f"continue={parent.folder.name}"))
    other = tmp_path / "runs"
    shutil.copytree(undisturbed.folder, other / undisturbed.folder.name)
    folder = RunFolder(other / undisturbed.folder.name)
    (folder.checkpoints / "step_00000012.pt").unlink()
    shutil.rmtree(folder.evaluations)
    folder.set_status("preempted")
    again = run(compose(*given, f"runs={other}", f"data.root={pool.parent / 'data'}", f"continue={parent.folder.name}"))
    assert again.folder == folder.path
    assert [resume.step for resume in again.record.resumes] == [10]
    assert again.record.parent == undisturbed.record.parent
    assert_equal_weights(again, undisturbed, 12)


def test_average_that_begins_with_the_continuation_begins_with_its_weights(pool: Path) -> None:
    first = run(compose(*arguments(pool, 2, "seed=5")))
    child = run(compose(*arguments(pool, 4, "seed=5", "schedule.ema=0.5"), f"continue={first.folder.name}"))
    assert child.record.parent is not None
    assert child.record.parent.unequal == ["schedule.ema was null, and is 0.5"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedule.batch_size=2"], ["schedule.batch_size must stay as it was"]),
        (["schedule.optimizer=sgd"], ["schedule.optimizer must stay as it was"]),
        (
            ["seed=1", "model.mask_flow=false"],
            ["model.mask_flow (false, there true)", "seed (1, there 0)", "add to that"],
        ),
        (["schedule.iterations=6"], ["schedule.iterations=6 counts the 6 steps"]),
        (["continue=nowhere"], ["continue=nowhere is not a run in"]),
        (["continue=htc-"], ["continue=htc- could be htc-", "give the complete name"]),
        (["continue=htc-resnet18-shapes-seed0-00000000"], ["there is no such run"]),
    ],
)
def test_what_cannot_be_continued_is_refused_before_it_is_queued(
    parent: Run, pool: Path, overrides: list[str], words: list[str]
) -> None:
    if overrides == ["continue=htc-"]:
        run(compose(*arguments(pool, 1, "seed=7")))
    if overrides == ["schedule.optimizer=sgd"] and compose(*arguments(pool, 6)).schedule.optimizer.value == "sgd":
        overrides = ["schedule.optimizer=adamw"]
    given = arguments(pool, 12, "schedule.ema=0.9", f"continue={parent.folder.name}", *overrides)
    config = compose(*given)
    with pytest.raises(UserError) as caught:
        plan(pool, [RequestedRun(config, given)])
    assert [each for each in words if each not in caught.value.sentence] == []
    before = set(pool.iterdir())
    with pytest.raises(UserError):
        run(config)
    assert {path for path in set(pool.iterdir()) - before if (path / "checkpoints").is_dir()} == set()


def test_run_that_is_not_done_or_whose_checkpoints_are_deleted_is_refused(parent: Run, tmp_path: Path) -> None:
    other = tmp_path / "runs"
    shutil.copytree(parent.folder, other / parent.folder.name)
    config = compose(*arguments(other, 12, "schedule.ema=0.9", f"continue={parent.folder.name}"))
    for path in (other / parent.folder.name / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="the checkpoint of its last step is deleted"):
        run(config)
    RunFolder(other / parent.folder.name).set_status("preempted")
    with pytest.raises(UserError, match="its status is preempted; only a run that is done"):
        run(config)


def test_identity_names_the_parent_by_its_signature_and_its_folder_may_be_renamed(pool: Path, parent: Run) -> None:
    from htc.config.signature import signature

    config = compose(*arguments(pool, 12, "schedule.ema=0.9"))
    alone = signature(config)
    names = (parent.folder.name, f"other-{parent.folder.name[-8:]}", str(parent.folder))
    continued = {signature(replace(config, continue_from=name)) for name in names}
    assert len(continued) == 1 and alone not in continued
    config.continue_from = str(parent.folder)
    resolve_parent(config)
    assert config.continue_from == parent.folder.name


def test_learning_rates_of_the_first_steps_are_compared_with_those_of_one_run() -> None:
    before = ScheduleConfig(epochs=2, milestones=[1], warmup_iterations=4)
    longer = replace(before, epochs=4, milestones=[1, 3])
    assert differences_to_one_run(before, longer, 20, 10, (1, 1)) == []
    # A milestone that comes before the end of the first run.
    (changed,) = differences_to_one_run(before, replace(before, epochs=4, milestones=[1.5]), 20, 10, (None, 1))
    assert changed.startswith("steps 11 to 15 had other learning rates")
    (processes,) = differences_to_one_run(before, longer, 20, 10, (2, 1))
    assert "2 processes" in processes


def test_record_of_a_parent_survives_reading_and_writing(parent: Run, pool: Path) -> None:
    for path in pool.glob("*-continued-*/run.json"):
        content = json.loads(path.read_text())
        assert RunFolder(path.parent).read().to_json() == content
