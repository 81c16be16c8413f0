"""The local launcher, with real runs that take seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from htc.launch.local import LocalManager
from htc.launch.submission import Submission, read_submissions
from htc.runs.file_lock import is_held
from tests.cluster.observe import assert_twins, checkpoint_steps, record, wait_until
from tests.helpers.command import command, start
from tests.helpers.tiny_run import tiny_launched

small = partial(tiny_launched, iterations=4)


def states(folder: Path, sweep: str) -> dict[str, str]:
    answer = command("htc.status", sweep, f"runs={folder / 'runs'}", "--json")
    assert answer.returncode == 0, answer.stderr
    return {row["run"]: row["state"] for row in json.loads(answer.stdout)}


def run_folders(sweep: Path) -> list[Path]:
    return [path for path in sweep.iterdir() if not path.name.startswith(".")]


@contextmanager
def killing(run: Path) -> Iterator[list[int]]:
    """Kill every process that trains in a folder while the context is open, and yield the list of their ids."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.is_set():
            time.sleep(0.02)
            try:
                words = (run / ".lock").read_text().split()
                process = int(words[1])
                if process not in killed:
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
            except (OSError, IndexError, ValueError):
                continue

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_a_failure_is_shown_the_other_runs_continue_and_the_same_command_starts_missing_runs(tmp_path: Path) -> None:
    arguments = ["-m", *small(tmp_path / "runs"), "launcher.jobs=2", "seed=0,1", "+hydra.sweeper.rows.good=''"]
    first = command("htc.run", *arguments, "+hydra.sweeper.rows.broken='checkpoint.file=nowhere.pt seed=7'")
    assert first.returncode == 1
    broken = [line for line in first.stderr.splitlines() if "nowhere.pt is not a file" in line]
    assert broken
    assert "Traceback" not in first.stderr
    found = states(tmp_path, "unnamed")
    assert sorted(found.values()) == ["done", "done", "failed", "failed"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/metrics.jsonl")}
    second = command("htc.run", *arguments, "seed=0,1,2")
    assert second.returncode == 0, second.stderr
    assert "1 started, 2 done" in second.stdout
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


@pytest.mark.slow
def test_a_run_that_is_killed_twice_is_given_up_and_resumes_when_it_is_launched_again(tmp_path: Path) -> None:
    arguments = ["-m", *small(tmp_path / "runs", iterations=12), "name=mortal"]
    dry = command("htc.run", *arguments, "--dry-run")
    name = next(line.split()[0] for line in dry.stdout.splitlines() if line.startswith("mortal"))
    run = tmp_path / "runs" / name
    assert not run.exists()
    with killing(run) as killed:
        result = command("htc.run", *arguments)
    assert result.returncode == 1
    assert len(killed) == 2
    assert "killed by SIGKILL (2 times before the first checkpoint)" in result.stderr
    assert states(tmp_path, "unnamed") == {name: "failed"}
    again = command("htc.run", *arguments)
    assert again.returncode == 0, again.stderr
    assert states(tmp_path, "unnamed") == {name: "done"}


@pytest.mark.slow
def test_a_stopped_launcher_saves_its_runs_and_the_same_command_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    arguments = ["-m", *small(tmp_path / "runs", iterations=24), "seed=0,1", "launcher.jobs=2"]
    process = start("htc.run", *arguments)
    sweep = tmp_path / "runs"
    wait_until(lambda: len(list(sweep.glob("*/checkpoints/step_*.pt"))) >= 2, "checkpoints")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in errors
    assert set(states(tmp_path, "unnamed").values()) <= {"preempted", "done"}
    again = command("htc.run", *arguments)
    assert again.returncode == 0, again.stderr
    undisturbed = command("htc.run", *arguments, "seed=0", f"runs={tmp_path / 'twin'}")
    assert undisturbed.returncode == 0, undisturbed.stderr
    names = [path.name for path in (tmp_path / "twin").iterdir() if not path.name.startswith(".")]
    for name in names:
        assert checkpoint_steps(sweep / name)[-1] == 24
        assert_twins(sweep / name, tmp_path / "twin" / name)


def test_with_fail_fast_the_first_failure_stops_the_others_which_can_go_on_later(tmp_path: Path) -> None:
    arguments = ["-m", *small(tmp_path / "runs", iterations=200_000), "launcher.jobs=2", "seed=0,1"]
    good = "+hydra.sweeper.rows.good=''"
    broken = "+hydra.sweeper.rows.broken='checkpoint.file=nowhere.pt'"
    result = command("htc.run", *arguments, good, broken, "launcher.fail_fast=true", "launcher.jobs=3")
    assert result.returncode == 1
    found = sorted(states(tmp_path, "unnamed").values())
    assert found in (["cancelled"] * 2 + ["failed"] * 2, ["cancelled"] * 3 + ["failed"])
    planned = command("htc.run", *arguments, good, "--dry-run")
    # One of the two may have had a checkpoint.
    assert "2 runs: " in planned.stdout and "to leave" not in planned.stdout


def test_a_run_whose_process_ends_before_it_begins_is_failed_with_the_last_lines(tmp_path: Path) -> None:
    arguments = ["-m", *small(tmp_path / "runs"), "+hydra.sweeper.rows.good=''", "launcher.wait=false"]
    # Python ends where it starts the supervisor, as it does where a package is missing.
    code = "import sys\nif 'htc.launch.job.supervisor' in sys.orig_argv:\n    raise SystemExit('no module mine')\n"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(code)
    launched = command("htc.run", *arguments, PYTHONPATH=str(tmp_path / "broken"))
    assert launched.returncode == 0, launched.stderr
    wait_until(lambda: set(states(tmp_path, "unnamed").values()) == {"failed"}, "the run failed")
    assert "no module mine" in command("htc.status", "unnamed", f"runs={tmp_path / 'runs'}").stdout


@pytest.mark.slow
def test_runs_in_the_background_get_different_gpus_and_can_be_cancelled_and_retried(tmp_path: Path) -> None:
    arguments = ["-m", *small(tmp_path / "runs", iterations=200_000), "seed=0,1,2", "launcher.wait=false"]
    launched = command("htc.run", *arguments, CUDA_VISIBLE_DEVICES="4,7")
    assert launched.returncode == 0, launched.stderr
    sweep = tmp_path / "runs"
    wait_until(lambda: len(list(sweep.glob("*/metrics.jsonl"))) == 2, "two runs on two GPUs")
    assert sorted(states(tmp_path, "unnamed").values()) == ["queued", "running", "running"]
    used = set()
    for lock in sweep.glob("*/.lock"):
        variables = Path(f"/proc/{lock.read_text().split()[1]}/environ").read_bytes().split(b"\0")
        used |= {value for value in variables if value.startswith(b"CUDA_VISIBLE_DEVICES=")}
    assert used == {b"CUDA_VISIBLE_DEVICES=4", b"CUDA_VISIBLE_DEVICES=7"}
    assert "nothing to start" in command("htc.run", *arguments).stdout
    cancelled = command("htc.status", "cancel", "unnamed", f"runs={tmp_path / 'runs'}")
    assert "3 cancelled" in cancelled.stdout
    wait_until(lambda: set(states(tmp_path, "unnamed").values()) == {"cancelled"}, "all cancelled")
    one = next(path for path in sweep.iterdir() if list(path.glob("checkpoints/*.pt")))
    retried = command("htc.status", "retry", f"unnamed/{one.name}", f"runs={tmp_path / 'runs'}")
    assert "1 started again" in retried.stdout
    wait_until(lambda: record(one).get("resumes"), "the run going on")
    command("htc.status", "cancel", "unnamed", f"runs={tmp_path / 'runs'}")
    wait_until(lambda: set(states(tmp_path, "unnamed").values()) == {"cancelled"}, "all cancelled")


@pytest.mark.slow
def test_a_cancelled_run_leaves_the_queue_and_only_its_retry_starts_it(tmp_path: Path) -> None:
    folder = f"runs={tmp_path / 'runs'}"
    arguments = ["-m", *small(tmp_path / "runs", iterations=200_000), "seed=0,1"]
    arguments += ["launcher.wait=false", "launcher.jobs=1"]
    launched = command("htc.run", *arguments, CUDA_VISIBLE_DEVICES="")
    assert launched.returncode == 0, launched.stderr
    sweep = tmp_path / "runs"
    (first,) = wait_until(lambda: [path.parent for path in sweep.glob("*/metrics.jsonl")], "a run in training")
    (second,) = [path for path in run_folders(sweep) if path != first]
    manager = next((sweep / ".sweeps" / "unnamed" / "submissions").glob("*/manager.lock"))
    command("htc.status", "cancel", f"unnamed/{second.name}", folder)
    assert states(tmp_path, "unnamed") == {first.name: "running", second.name: "cancelled"}
    command("htc.status", "retry", f"unnamed/{second.name}", folder, CUDA_VISIBLE_DEVICES="")
    process = wait_until(lambda: (second / ".lock").is_file() and (second / ".lock").read_text(), "the retried run")
    wait_until(lambda: checkpoint_steps(second), "a checkpoint")
    # Now the first submission has a free slot, in which it must not start the run.
    command("htc.status", "cancel", f"unnamed/{first.name}", folder)
    wait_until(lambda: not is_held(manager), "the end of the first submission")
    assert states(tmp_path, "unnamed") == {first.name: "cancelled", second.name: "running"}
    assert (second / ".lock").read_text() == process
    command("htc.status", "cancel", "unnamed", folder)
    wait_until(lambda: states(tmp_path, "unnamed")[second.name] == "cancelled", "both cancelled")
    # The supervisor of a run that was cancelled while it started.
    submission = sweep / ".sweeps" / "unnamed" / "submissions" / record(second)["launch"]["submission"]
    late = command("htc.launch.job.supervisor", str(submission), "0")
    assert late.returncode == 143
    assert not record(second)["resumes"]


@pytest.mark.slow
def test_a_half_deleted_folder_is_completed_with_the_same_results(tmp_path: Path) -> None:
    arguments = ["-m", *small(tmp_path / "runs")]
    assert command("htc.run", *arguments).returncode == 0
    (run,) = run_folders(tmp_path / "runs")
    results = json.loads((run / "evaluations" / "default" / "results.json").read_text())
    for name in ("evaluations/default/results.json", "run.json", "config.yaml"):
        (run / name).unlink()
        again = command("htc.run", *arguments)
        assert again.returncode == 0, again.stderr
        assert json.loads((run / "evaluations" / "default" / "results.json").read_text())["segm"] == results["segm"]
        assert set(states(tmp_path, "unnamed").values()) == {"done"}


@pytest.fixture
def failed_run(tmp_path: Path) -> Path:
    """A launched run that failed."""
    result = command("htc.run", "-m", *small(tmp_path / "runs"), "checkpoint.file=nowhere.pt")
    assert result.returncode == 1
    (run,) = run_folders(tmp_path / "runs")
    return run


def retry(run: Path) -> subprocess.CompletedProcess[str]:
    return command("htc.status", "retry", f"unnamed/{run.name}", f"runs={run.parent}")


def refused(run: Path, words: str) -> bool:
    """Return whether a retry ends with a sentence that contains these words, and changes nothing."""
    before = record(run)
    result = retry(run)
    return (
        result.returncode == 2
        and result.stderr.startswith("error: ")
        and result.stderr.count("\n") == 1
        and words in result.stderr
        and record(run) == before
    )


def test_settings_that_one_of_several_processes_refuses_make_the_run_fail_at_once(tmp_path: Path) -> None:
    arguments = [*small(tmp_path / "runs"), "checkpoint.file=nowhere.pt", "launcher.gpus_per_run=2"]
    result = command("htc.run", "-m", *arguments, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    (run,) = run_folders(tmp_path / "runs")
    assert record(run)["error"].startswith("checkpoint=nowhere.pt is not a file")
    assert not record(run)["launch"].get("failures")


def test_concurrent_runs_on_the_cpu_share_its_cores_unless_the_user_sets_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def threads(runs: int, jobs: int) -> str | None:
        names = [f"run{number}" for number in range(runs)]
        submission = Submission("a", "local", {"jobs": jobs}, "", "", names, [None] * runs, path=tmp_path)
        return LocalManager(submission).environment.get("OMP_NUM_THREADS")

    cores = len(os.sched_getaffinity(0))
    assert threads(runs=4, jobs=2) == threads(runs=1, jobs=2) == str(max(1, cores // 2))
    assert threads(runs=4, jobs=2 * cores) == "1"
    assert threads(runs=4, jobs=1) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads(runs=2, jobs=2) == "3"


def test_retry_starts_nothing_outside_the_sweep_even_if_its_files_say_so(failed_run: Path, tmp_path: Path) -> None:
    (rows,) = failed_run.parent.glob(".sweeps/unnamed/submissions/*/rows.jsonl")
    good = json.loads(rows.read_text())
    outside = tmp_path / "outside"
    for bad in (
        {**good, "folder": "../../outside"},
        {**good, "config": {**good["config"], "runs": str(outside)}},
    ):
        rows.write_text(json.dumps(bad) + "\n")
        assert refused(failed_run, "was launched as")
    rows.write_text("[]\n")
    assert refused(failed_run, "cannot be read")
    assert not outside.exists()
    rows.write_text(json.dumps(good) + "\n")
    assert "nowhere.pt is not a file" in retry(failed_run).stderr


@pytest.mark.parametrize(
    "change", [{"runs": ["../../outside"]}, {"runs": [".hidden"]}, {"jobs": ["--user=root"]}, {"runs": [7]}]
)
def test_a_submission_with_invalid_folder_names_or_job_ids_is_ignored(
    tmp_path: Path, change: dict[str, object]
) -> None:
    record = {"id": "a", "launcher": "slurm", "options": {}, "code": "", "cwd": "", "runs": ["run"], "jobs": ["7_0"]}
    for name, content in (("good", record), ("bad", {**record, **change})):
        folder = tmp_path / ".sweeps" / "unnamed" / "submissions" / name
        folder.mkdir(parents=True)
        (folder / "submission.json").write_text(json.dumps(content))
    assert [submission.path.name for submission in read_submissions(tmp_path)] == ["good"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_retry_refuses_options_that_another_user_wrote(failed_run: Path) -> None:
    for name in ("submission.json", "rows.jsonl"):
        (file,) = failed_run.parent.glob(f".sweeps/unnamed/submissions/*/{name}")
        os.chown(file, 12345, -1)
        assert refused(failed_run, "belongs to another user")
        os.chown(file, os.geteuid(), -1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_reported_in_one_sentence(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        result = command("htc.run", "-m", *small(disk / "runs", tmp_path / "data"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "No space left on device" in result.stderr


def test_a_runs_folder_that_is_a_file_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    result = command("htc.run", "-m", *small(tmp_path / "runs"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path / "runs") in result.stderr


def test_a_run_whose_processes_all_get_sigterm_saves_its_state_and_leaves_no_process(tmp_path: Path) -> None:
    """At `scancel`, Slurm sends SIGTERM to all processes, including data loading workers."""
    arguments = [*small(tmp_path / "runs", iterations=100_000), "data.workers=2"]
    process = start("htc.run", *arguments, stdout=subprocess.DEVNULL, start_new_session=True)
    sweep = tmp_path / "runs"
    wait_until(lambda: list(sweep.glob("*/checkpoints/step_*.pt")), "a checkpoint")
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    (run,) = run_folders(sweep)
    assert record(run)["status"] == "preempted"

    def is_gone() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(is_gone, "no process left")


DIES_AT_EXIT = """
import atexit, os, signal, sys
atexit.register(lambda: sys.argv[0].endswith("child.py") and os.kill(os.getpid(), signal.SIGSEGV))
"""


def test_a_forced_run_whose_process_crashes_after_it_is_done_is_not_started_again(tmp_path: Path) -> None:
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "sitecustomize.py").write_text(DIES_AT_EXIT)
    result = command("htc.run", "-m", *small(tmp_path / "runs"), "force=true", PYTHONPATH=str(tmp_path / "faulty"))
    assert result.returncode == 0, result.stderr
    (run,) = run_folders(tmp_path / "runs")
    assert record(run)["status"] == "done"
    assert not record(run)["launch"].get("failures")
    # Slurm may start the job once more.
    (submission,) = (tmp_path / "runs" / ".sweeps" / "unnamed" / "submissions").glob("*/submission.json")
    again = command("htc.launch.job.supervisor", str(submission.parent), "0")
    assert again.returncode == 0, again.stderr
    assert run_folders(tmp_path / "runs") == [run]
