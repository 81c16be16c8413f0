"""What ends a run from outside: kills, a second process, a full disk, a read-only folder, a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.fault_list import SECTIONS
from tests.test_run import ROOT, command, tiny


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones() -> None:
    """The short form of the benchmark, whose outcome is in benchmarks/results/kills.md."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "kills=5", "seed=5", "steps=14"],
        cwd=ROOT, capture_output=True, text=True, timeout=850,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills (SIGKILL)" in done.stdout and done.stdout.rstrip().endswith("None.")


@pytest.mark.slow
@pytest.mark.parametrize(("section", "some"), [("Splits", "an empty split"), ("Runs", ""), ("Checkpoints", "")])
def test_faults_end_as_they_are_expected_to(section: str, some: str) -> None:
    """A part of the benchmark, whose whole outcome is in benchmarks/results/faults.md."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", f"only={section}"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nNothing.\n" in done.stdout and f"\n## {section}\n" in done.stdout
    assert f"| {some}" in done.stdout


def test_list_of_faults_is_that_of_the_last_measurement() -> None:
    listed = (ROOT / "benchmarks" / "results" / "faults.md").read_text()
    missing = [
        fault.name
        for section, faults in SECTIONS.items()
        for fault in faults()
        if f"| {fault.name} |" not in listed.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    ]
    assert not missing, "run python -m benchmarks.faults out=benchmarks/results/faults.md"


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A limit on the size of files stands for it: small ones still fit, a checkpoint does not."""
    arguments = " ".join([*tiny(tmp_path), "wandb.mode=disabled"])
    first = command("htc.run", *tiny(tmp_path), "wandb.mode=disabled", "schedule.iterations=1")
    assert first.returncode == 0, "the data are generated"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 400; exec {sys.executable} -m htc.run {arguments}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith("error: the checkpoint") and "could not be written" in last and "make room" in last


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    runs = "/dev/null/runs"
    done = command("htc.run", *tiny(tmp_path), f"runs={runs}", "wandb.mode=disabled")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: {runs}" in done.stderr and "could not be written" in done.stderr


def test_second_process_is_refused_and_a_signal_ends_the_first_with_a_way_to_go_on(tmp_path: Path) -> None:
    arguments = [*tiny(tmp_path), "wandb.mode=disabled", "schedule.iterations=100000"]
    first = subprocess.Popen(
        [sys.executable, "-m", "htc.run", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        while not list(tmp_path.glob("runs/*/*/metrics.jsonl")):
            assert first.poll() is None
            time.sleep(0.1)
        second = command("htc.run", *arguments)
        assert second.returncode == 2
        assert f"in use by process {first.pid} on" in second.stderr and "Traceback" not in second.stderr
        (record,) = tmp_path.glob("runs/*/*/run.json")
        assert json.loads(record.read_text())["status"] == "running", "the refused one leaves the record alone"
    finally:
        first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM
    assert "Stopped after saving a checkpoint" in output and "the same command goes on from there" in output
    assert json.loads(record.read_text())["status"] == "preempted"
    assert list(tmp_path.glob("runs/*/*/checkpoints/*.pt"))
