"""Events outside of a run that end it: kills, a second process, a full disk, a read-only folder, a signal."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from htc.runs.wandb_files import offline_files
from tests.helpers.command import ROOT, clean_environment, command, start
from tests.helpers.tiny_run import tiny
from tests.helpers.wandb_history import read_history
from tests.robustness.fault_list import SECTIONS


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones() -> None:
    """A short form of the series in tests/robustness/kills.md."""
    done = command("tests.robustness.kills", "kills=5", "seed=5", "steps=14", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills (SIGKILL)" in done.stdout and done.stdout.rstrip().endswith("None.")


@pytest.mark.slow
@pytest.mark.parametrize(("section", "some"), [("Splits", "an empty split"), ("Runs", ""), ("Checkpoints", "")])
def test_faults_end_as_they_are_expected_to(section: str, some: str) -> None:
    """Some sections of tests/robustness/faults.md."""
    done = command("tests.robustness.faults", f"only={section}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nNothing.\n" in done.stdout and f"\n## {section}\n" in done.stdout
    assert f"| {some}" in done.stdout


def test_list_of_faults_is_that_of_the_last_measurement() -> None:
    listed = (ROOT / "tests" / "robustness" / "faults.md").read_text()
    missing = [
        fault.name
        for section, faults in SECTIONS.items()
        for fault in faults()
        if f"| {fault.name} |" not in listed.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    ]
    assert not missing, "run python -m tests.robustness.faults out=tests/robustness/faults.md"


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A limit on the size of files acts like a full disk: small files still fit, a checkpoint does not."""
    arguments = " ".join([*tiny(tmp_path / "runs"), "wandb.mode=disabled"])
    first = command("htc.run", *tiny(tmp_path / "runs"), "wandb.mode=disabled", "schedule.iterations=1")
    assert first.returncode == 0, "the data are generated"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 400; exec {sys.executable} -m htc.run {arguments}"],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith("error: the checkpoint") and "could not be written" in last and "make room" in last


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    runs = "/dev/null/runs"
    done = command("htc.run", *tiny(Path(runs), tmp_path / "data"), "wandb.mode=disabled")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: {runs}" in done.stderr and "could not be written" in done.stderr


@pytest.mark.slow
def test_run_whose_record_is_lost_goes_on_with_its_complete_history(tmp_path: Path) -> None:
    arguments = [*tiny(tmp_path / "runs"), "wandb.mode=offline", "save.every=2"]
    assert command("htc.run", *arguments).returncode == 0
    (run,) = (tmp_path / "runs").glob("[!.]*")
    first = json.loads((run / "run.json").read_text())
    for name in ("run.json", "evaluations/default/results.json", "checkpoints/step_00000006.pt"):
        (run / name).unlink()
    again = command("htc.run", *arguments)
    assert again.returncode == 0 and "continuing after step 4" in again.stderr, again.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 2), ("train", 4), ("train", 6), ("eval", 6),
    ]  # fmt: skip
    (tracked,) = offline_files(run)
    assert [row["step"] for row in read_history(tracked)][:4] == [2, 4, 6, 6]
    record = json.loads((run / "run.json").read_text())
    assert record.keys() == first.keys() and record["status"] == "done"
    assert [resume["step"] for resume in record["resumes"]] == [4]


@pytest.mark.slow
def test_run_goes_on_without_the_files_that_it_began_with(tmp_path: Path) -> None:
    source = tmp_path / "source"
    first = tiny(source / "runs", tmp_path / "data", iterations=1, overrides=["wandb.mode=disabled"])
    assert command("htc.run", *first).returncode == 0
    (checkpoint,) = source.glob("runs/*/checkpoints/*.pt")
    arguments = [*tiny(tmp_path / "runs"), f"checkpoint={checkpoint}", "save.every=2", "wandb.mode=disabled"]
    assert command("htc.run", *arguments).returncode == 0
    (run,) = (tmp_path / "runs").glob("[!.]*")
    uninterrupted = torch.load(run / "checkpoints" / "step_00000006.pt", weights_only=True)["model"]
    for file in (
        checkpoint,
        run / "evaluations" / "default" / "results.json",
        run / "checkpoints" / "step_00000006.pt",
    ):
        file.unlink()
    again = command("htc.run", *arguments)
    assert again.returncode == 0 and "continuing after step 4" in again.stderr, again.stderr
    resumed = torch.load(run / "checkpoints" / "step_00000006.pt", weights_only=True)["model"]
    assert all(torch.equal(value, uninterrupted[name]) for name, value in resumed.items())


def interrupted_at_its_start(arguments: list[str], run: str, tmp_path: Path) -> tuple[int, str, str]:
    """Send Ctrl-C to a run as soon as its log exists, before it trains; return its exit status and both outputs."""
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    for log in tmp_path.glob(run):
        log.unlink()
    process = start("htc.run", *arguments)
    while not list(tmp_path.glob(run)):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_ctrl_c_before_training_says_how_to_go_on(tmp_path: Path) -> None:
    # Many images, so that the run is still generating them when the signal arrives.
    arguments = [*tiny(tmp_path / "runs"), "data.shapes.train_images=400", "wandb.mode=disabled"]
    log = "runs/*/log.txt"
    status, output, errors = interrupted_at_its_start(arguments, log, tmp_path)
    assert status == 130 and "the same command continues" in output and "Traceback" not in errors, errors
    (run,) = (tmp_path / "runs").glob("[!.]*")
    assert not (run / "run.json").exists()
    (run / "run.json").write_text('{"status": "queued"}')
    status, _, errors = interrupted_at_its_start(arguments, log, tmp_path)
    assert status == 130 and "Traceback" not in errors, errors
    assert json.loads((run / "run.json").read_text())["status"] == "preempted"


def test_second_process_is_refused_and_a_signal_ends_the_first_with_a_way_to_go_on(tmp_path: Path) -> None:
    arguments = [*tiny(tmp_path / "runs"), "wandb.mode=disabled", "schedule.iterations=100000"]
    first = start("htc.run", *arguments, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("runs/*/metrics.jsonl")):
            assert first.poll() is None
            time.sleep(0.1)
        second = command("htc.run", *arguments)
        assert second.returncode == 2
        assert f"in use by process {first.pid} on" in second.stderr and "Traceback" not in second.stderr
        (record,) = tmp_path.glob("runs/*/run.json")
        assert json.loads(record.read_text())["status"] == "running", "the refused command leaves the record as it is"
    finally:
        first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM
    assert "Stopped after saving a checkpoint" in output and "the same command continues" in output
    assert json.loads(record.read_text())["status"] == "preempted"
    assert list(tmp_path.glob("runs/*/checkpoints/*.pt"))
