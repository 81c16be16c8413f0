"""Sweeps on a real Slurm cluster: launched, interrupted in every way, and finished."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.wandb_log import read_records
from htc.runs.wandb_files import offline_files
from tests.cluster.observe import assert_twins, checkpoint_steps, metrics, record, run_folder, wait_until
from tests.cluster.slurm_cluster import SlurmCluster
from tests.helpers.command import ROOT, Command, start
from tests.helpers.command import command as command_here
from tests.helpers.tiny_run import SLURM, tiny_launched
from tests.helpers.wandb_history import read_history

pytestmark = pytest.mark.slurm
ROWS = ("cascade", "+ interleaved", "+ mask flow", "+ semantic")


def status(command: Command, runs: Path, sweep: str = "components") -> dict[str, dict[str, object]]:
    """Return the output of `python -m htc.status SWEEP --json`, by run."""
    answer = command("htc.status", sweep, f"runs={runs}", "--json")
    assert answer.returncode == 0, answer.stderr
    return {row["run"]: row for row in json.loads(answer.stdout)}


def states(command: Command, runs: Path, sweep: str = "components") -> dict[str, object]:
    return {run: row["state"] for run, row in status(command, runs, sweep).items()}


def training_processes(folder: Path) -> list[int]:
    """Return the id of the process that holds a run's lock, if any, as a list."""
    try:
        words = (folder / ".lock").read_text().split()
    except OSError:
        return []
    return [int(words[1])] if words[:1] == ["process"] else []


def send(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


def elsewhere(cluster: SlurmCluster, job: str, node: str) -> bool:
    """Return whether a job runs on another node than this one."""
    state, *at = cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%T %N").split() or [""]
    return state == "RUNNING" and at != [node]


@dataclass
class Sweep:
    """A sweep over components and two seeds that was not interrupted."""

    runs: Path
    launches: list[subprocess.CompletedProcess[str]]
    """Four launches: of seed 0; of seeds 0 and 1 while those run; the same again; and again after all have ended."""
    at_return: dict[str, object]
    """States of the runs after the first launch returned."""


@pytest.fixture(scope="module")
def undisturbed(command: Command, cluster: SlurmCluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    runs = tmp_path_factory.mktemp("undisturbed")
    arguments = ["-m", "+sweep=components", *tiny_launched(runs, data), *SLURM, "launcher.cpus_per_task=2"]
    launches = [command("htc.run", *arguments, "seed=0")]
    at_return = states(command, runs)
    launches += [command("htc.run", *arguments, "seed=0,1") for _ in range(2)]
    wait_until(lambda: not {"queued", "running"} & set(states(command, runs).values()), "all runs ended")
    launches.append(command("htc.run", *arguments, "seed=0,1"))
    return Sweep(runs, launches, at_return)


@pytest.mark.slow
def test_a_launch_returns_at_once_starts_nothing_twice_and_its_runs_end_in_the_table(
    command: Command, undisturbed: Sweep
) -> None:
    assert [launch.returncode for launch in undisturbed.launches] == [0] * 4, undisturbed.launches
    first, second, third, last = (launch.stdout for launch in undisturbed.launches)
    jobs = [line.split() for line in first.splitlines() if f"{undisturbed.runs}/" in line]
    assert len(jobs) == 4
    assert all(job[1] == "start" and Path(job[2]).is_dir() for job in jobs)
    assert len(undisturbed.at_return) == 4
    assert set(undisturbed.at_return.values()) <= {"queued", "running"}
    assert "4 started" in second, "another seed adds its runs, whatever the state of the others"
    assert "nothing to start" in third
    found = status(command, undisturbed.runs)
    assert len(found) == 8
    assert all(row["state"] == "done" and row["restarts"] == 0 for row in found.values())
    assert all(row["step"] == row["total_steps"] == 32 for row in found.values())
    assert "nothing to start, 8 done" in last
    tables = undisturbed.runs / "tables"
    table = command_here("analysis/make_tables.py", f"runs={undisturbed.runs}", f"out={tables}")
    assert table.returncode == 0, table.stderr
    assert all(name in table.stdout for name in found)


@pytest.mark.slow
def test_runs_survive_requeue_preemption_a_dead_node_and_a_kill_and_a_failing_row_is_reported_once(
    command: Command, cluster: SlurmCluster, data: Path, undisturbed: Sweep, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    launched = command(
        "htc.run", "-m", "+sweep=components", *tiny_launched(tmp_path, data), *SLURM, "seed=0",
        "launcher.signal_before=25", "+hydra.sweeper.rows.broken='checkpoint.file=nowhere.pt'",
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    cascade, interleaved, mask_flow, semantic = (run_folder(tmp_path, "components", row) for row in ROWS)

    def is_training(folder: Path) -> bool:
        return record(folder).get("status") == "running" and bool(checkpoint_steps(folder))

    held: dict[Path, list[int]] = {}

    def hold(folder: Path) -> bool:
        """Stop a run that has a checkpoint, so that none ends before all three are interrupted."""
        if folder not in held and is_training(folder):
            held[folder] = training_processes(folder)
            send(held[folder], signal.SIGSTOP)
        return folder in held

    wait_until(lambda: all(list(map(hold, (cascade, interleaved, mask_flow)))), "three runs in training")
    before = status(command, tmp_path)
    # The node hangs: its run neither ends nor continues, and wakes up after another node took it over.
    dead = str(before[mask_flow.name]["node"])
    cluster.kill_node(dead)
    cluster.run("scontrol", "requeue", str(before[cascade.name]["job"]))
    node = str(before[interleaved.name]["node"])
    cluster.run("sbatch", "--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null",
                "--wrap=sleep 2")  # fmt: skip
    send(held[interleaved], signal.SIGCONT)
    try:
        wait_until(lambda: is_training(semantic), "the fourth run with a checkpoint")
        send(training_processes(semantic), signal.SIGKILL)
        job = str(before[mask_flow.name]["job"])
        wait_until(lambda: elsewhere(cluster, job, dead), "the hanging node's run on another node")
        send(held[mask_flow], signal.SIGCONT)
        good = (cascade, interleaved, mask_flow, semantic)
        wait_until(lambda: all(record(run).get("status") == "done" for run in good), "the good runs done")
    finally:
        cluster.start_node(dead)
    for row, folder in zip(ROWS, good, strict=True):
        assert_twins(folder, run_folder(undisturbed.runs, "components", row))
    found = status(command, tmp_path)
    for folder in good:
        assert found[folder.name]["state"] == "done"
        assert int(str(found[folder.name]["restarts"])) >= 1, folder
    assert record(semantic)["launch"]["failures"][0]["cause"] == "killed by SIGKILL"
    (broken,) = [row for row in found.values() if row["label"] == "broken"]
    assert broken["state"] == "failed"
    assert broken["restarts"] == 0
    assert "nowhere.pt" in str(broken["error"])
    text = command("htc.status", "components", f"runs={tmp_path}").stdout
    assert text.count("nowhere.pt is not a file") == 1


@pytest.mark.slow
def test_cancelled_runs_resume_when_they_are_retried(
    command: Command, cluster: SlurmCluster, data: Path, undisturbed: Sweep, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    arguments = ["-m", *tiny_launched(tmp_path, data), *SLURM, "sweep=alone", "model.interleaved=false"]
    arguments += ["model.mask_flow=false", "model.semantic=false", "wandb.mode=offline"]
    launched = command("htc.run", *arguments)
    assert launched.returncode == 0, launched.stderr
    (folder,) = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    wait_until(lambda: checkpoint_steps(folder), "a checkpoint")
    cancelled = command("htc.status", "cancel", "alone", f"runs={tmp_path}")
    assert cancelled.returncode == 0, cancelled.stderr
    wait_until(lambda: states(command, tmp_path, "alone")[folder.name] == "cancelled", "the run cancelled")
    retried = command("htc.status", "retry", f"alone/{folder.name}", f"runs={tmp_path}")
    assert retried.returncode == 0, retried.stderr
    wait_until(lambda: record(folder).get("status") == "done", "the run done")
    assert len(record(folder)["resumes"]) == 1
    assert len(set(record(folder)["slurm_job_ids"])) == 2
    assert_twins(folder, run_folder(undisturbed.runs, "components", "cascade"))
    # It is also one run for wandb: the file to upload has every line once, in the group of the sweep.
    (file,) = offline_files(folder)
    assert [row["step"] for row in read_history(file)][: len(metrics(folder))] == [
        line["step"] for line in metrics(folder)
    ]
    assert {each.run.run_group for each in read_records(file) if each.HasField("run")} == {"alone"}


@pytest.mark.slow
def test_a_run_longer_than_the_time_limit_resumes_in_the_same_job(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    launched = command(
        "htc.run", "-m", *tiny_launched(tmp_path, data, iterations=100_000), *SLURM, "launcher.time=2",
        "launcher.signal_before=25",
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    (folder,) = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    wait_until(lambda: record(folder).get("resumes"), "the run to resume")
    assert len(record(folder)["slurm_job_ids"]) == 1
    assert record(folder)["resumes"][0]["step"] > 0
    cluster.cancel_all()


@pytest.mark.slow
def test_a_preemption_by_sigterm_queues_the_run_again_and_scancel_does_not(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    launched = command("htc.run", "-m", *tiny_launched(tmp_path, data, iterations=100_000), *SLURM)
    assert launched.returncode == 0, launched.stderr
    (folder,) = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    wait_until(lambda: checkpoint_steps(folder), "a checkpoint")
    before = status(command, tmp_path, "unnamed")[folder.name]
    with cluster.without_user_signal():
        cluster.run("sbatch", "--partition=urgent", f"--nodelist={before['node']}", "--exclusive",
                    "--output=/dev/null", "--wrap=sleep 2")  # fmt: skip
        wait_until(lambda: record(folder).get("resumes"), "the run to resume")
    assert record(folder)["resumes"][0]["step"] > 0
    assert record(folder)["slurm_job_ids"] == [before["job"]]
    cluster.run("scancel", str(before["job"]))
    wait_until(lambda: states(command, tmp_path, "unnamed")[folder.name] == "cancelled", "the run cancelled", 60)


def test_jobs_run_the_code_of_their_submission(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    copy = tmp_path / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    for name in ("htc", "conf", "hydra_plugins", "sweeps"):
        subprocess.run(["cp", "-a", f"{ROOT / name}/.", str(copy / name)], check=True)
    module = copy / "htc" / "experiment.py"
    source = module.read_text()
    module.write_text(source + "\nlogger.warning('the code of the submission')\n")
    arguments = [*tiny_launched(tmp_path / "runs", data, iterations=2), *SLURM, "launcher.sbatch=[--hold]"]
    launched = command("htc.run", "-m", *arguments, cwd=copy)
    assert launched.returncode == 0, launched.stderr
    module.write_text("raise RuntimeError('edited after the submission')\n")
    (folder,) = [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    cluster.run("scontrol", "release", launched.stdout.splitlines()[1].split()[0])
    wait_until(lambda: record(folder).get("status") == "done", "the run done")
    git = record(folder)["git"]
    head = subprocess.run(["git", "-C", str(copy), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert git["commit"] == head.stdout.strip()
    assert "the code of the submission" in git["diff"]
    (log,) = (tmp_path / "runs" / ".sweeps" / "unnamed" / "submissions").glob("*/*_log.err")
    assert "the code of the submission" in log.read_text()


def test_two_people_launching_at_once_start_each_run_once(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    arguments = ["-m", "+sweep=components", *tiny_launched(tmp_path, data), *SLURM, "launcher.sbatch=[--hold]"]
    arguments += ["seed=0,1"]
    both = [start("htc.run", *arguments, environment=cluster.environment) for _ in range(2)]
    output = [process.communicate(timeout=120)[0] for process in both]
    try:
        assert [process.returncode for process in both] == [0, 0]
        assert sorted("8 started" in text for text in output) == [False, True]
        assert sum("nothing to start, 8 queued" in text for text in output) == 1
        # These jobs are held, which distinguishes them from jobs of an earlier test that are still ending.
        jobs = cluster.run("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i").split()
        assert len(jobs) == 8
    finally:
        cluster.cancel_all()


def test_a_launch_that_was_killed_before_it_recorded_its_jobs_starts_none_twice(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    arguments = ["-m", "+sweep=components", *tiny_launched(tmp_path, data), *SLURM, "launcher.sbatch=[--hold]"]
    assert command("htc.run", *arguments).returncode == 0
    (submission,) = (tmp_path / ".sweeps" / "components" / "submissions").glob("*/submission.json")
    content = json.loads(submission.read_text())
    submission.write_text(json.dumps({**content, "jobs": [None] * len(content["jobs"])}))
    try:
        assert "nothing to start, 4 queued" in command("htc.run", *arguments).stdout
    finally:
        cluster.cancel_all()
    assert set(states(command, tmp_path).values()) == {"cancelled"}


@pytest.mark.slow
def test_a_thousand_runs_are_planned_submitted_and_shown(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    """benchmarks/sweeps.py measures how long this takes."""
    arguments = ["-m", "+sweep=components", *tiny_launched(tmp_path, data), *SLURM, "launcher.sbatch=[--hold]"]
    arguments += ["seed=range(0,250)"]
    planned = command("htc.run", *arguments, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "1000 runs: 1000 to start" in planned.stdout
    launched = command("htc.run", *arguments)
    assert launched.returncode == 0, launched.stderr
    assert "1000 started" in launched.stdout
    try:
        shown = command("htc.status", "components", f"runs={tmp_path}")
        assert "components: 1000 queued" in shown.stdout
        again = command("htc.run", *arguments)
        assert "nothing to start, 1000 queued" in again.stdout
    finally:
        with contextlib.suppress(RuntimeError):
            cluster.cancel_all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launcher.partition=nowhere"], ["launcher.partition=nowhere", "closed, few, main, urgent"]),
        (["launcher.gpus_per_node=3"], ["launcher.gpus_per_node=3", "no nodes of this cluster can give"]),
        (["launcher.nodes=9"], ["launcher.nodes=9", "no nodes of this cluster can give"]),
        (["launcher.time=99-00:00:00"], ["launcher.time=99-00:00:00", "time limit"]),
        (["launcher.cpus_per_task=0"], ["launcher.cpus_per_task=0"]),
        (["launcher.sbatch=[--no-such-option]"], ["no-such-option"]),
    ],
    ids=["partition", "gpus", "nodes", "time", "cpus", "option"],
)
def test_options_that_the_cluster_refuses_are_reported_in_one_sentence_and_leave_nothing_behind(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    result = command("htc.run", "-m", *tiny_launched(tmp_path, data), *SLURM, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word.lower() in result.stderr.lower()
    assert not list(tmp_path.glob("*/run.json"))
    assert not cluster.run("squeue", "--noheader").strip()


def test_without_slurm_a_launch_fails_with_one_sentence_and_status_shows_unknown(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    arguments = ["-m", *tiny_launched(tmp_path, data), *SLURM, "launcher.sbatch=[--hold]"]
    without = {"PATH": str(Path(sys.executable).parent)}
    result = command("htc.run", *arguments, **without)
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no Slurm on this machine")
    assert result.stderr.count("\n") == 1
    assert command("htc.run", *arguments).returncode == 0
    try:
        shown = command("htc.status", "unnamed", f"runs={tmp_path}", **without)
        assert shown.returncode == 0
        assert "1 unknown" in shown.stdout
        assert "there is no Slurm on this machine" in shown.stdout
    finally:
        cluster.cancel_all()


def test_a_launch_that_waits_reports_a_failure_and_exits_with_1(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    result = command(
        "htc.run", "-m", *tiny_launched(tmp_path, data, iterations=4), *SLURM, "launcher.wait=true",
        "+hydra.sweeper.rows.good=''", "+hydra.sweeper.rows.broken='checkpoint.file=nowhere.pt'",
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.count("nowhere.pt is not a file") == 1
    assert "1 of 2 runs did not end well: htc-" in result.stderr
    assert sorted(states(command, tmp_path, "unnamed").values(), key=str) == ["done", "failed"]
