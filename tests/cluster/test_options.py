"""Options of the Slurm launcher on a real cluster: what Slurm is asked for and refuses, and jobs that never begin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.observe import record, run_folder, wait_until
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.test_sweeps import states, status
from tests.helpers.command import Command
from tests.helpers.tiny_run import SLURM, tiny_launched

pytestmark = pytest.mark.slurm
HOLD = "launcher.sbatch=[--hold]"


def sweep_file(folder: Path, rows: str, name: str = "mine") -> str:
    """Write a sweep with these rows, in YAML, and return the folder as HTC_CONFIG_DIR."""
    path = folder / "settings" / "sweeps" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    text = f"# @package _global_\nsweep: {name}\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    rows:\n"
    path.write_text(text + "".join(f"      {line}\n" for line in rows.strip().splitlines()))
    return str(folder / "settings")


def show_job(cluster: SlurmCluster, job: str) -> str:
    return cluster.run("scontrol", "show", "job", job)


def only_job(cluster: SlurmCluster) -> str:
    """Return what Slurm shows of the only job that is held."""
    (job,) = set(cluster.run("squeue", "--noheader", "--states=PENDING", "--format=%A").split())
    return show_job(cluster, job)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["launcher.gpus_per_node=a100:2"], ["TresPerNode=gres:gpu:a100:2", "NumTasks=2"]),
        (["launcher.sbatch=[--hold,'--gres=gpu:v100:2']"], ["TresPerNode=gres:gpu:v100:2", "NumTasks=2"]),
        (
            ["launcher.sbatch=[--hold,'-J mine','--time=7','--partition=urgent','--comment=for the paper']"],
            ["JobName=mine", "TimeLimit=00:07:00", "Partition=urgent", "Comment=htc:", " for the paper"],
        ),
        (["launcher.sbatch=[--hold,--no-requeue]"], ["Requeue=0"]),
    ],
    ids=["typed", "gres", "own", "no requeue"],
)
def test_slurm_is_asked_for_what_the_options_say(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path, options: list[str], expected: list[str]
) -> None:
    launched = command("htc.run", *tiny_launched(tmp_path, data), *SLURM, HOLD, *options)
    assert launched.returncode == 0, launched.stderr
    try:
        shown = only_job(cluster)
        assert [words for words in expected if words not in shown] == []
        assert set(states(command, tmp_path, "unnamed").values()) == {"queued"}
    finally:
        cluster.cancel_all()


def test_an_environment_variable_does_not_replace_an_option(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    launched = command(
        "htc.run", *tiny_launched(tmp_path, data), *SLURM, HOLD, "launcher.time=9", SBATCH_TIMELIMIT="3",
        SBATCH_JOB_NAME="other", SBATCH_PARTITION="urgent",
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    try:
        shown = only_job(cluster)
        assert "TimeLimit=00:09:00" in shown
        assert "JobName=unnamed/" in shown
        # The launcher sets no partition, so the user's variable does.
        assert "Partition=urgent" in shown
    finally:
        cluster.cancel_all()


def test_a_refusal_by_the_clusters_own_rules_is_shown_in_full(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    result = command("htc.run", *tiny_launched(tmp_path, data), *SLURM, "launcher.account=unpaid")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "launcher.account=unpaid" in result.stderr
    assert "Account unpaid has no hours left; Ask help@cluster for more" in result.stderr
    assert not list(tmp_path.glob("*/run.json"))


def test_what_was_submitted_before_a_refusal_is_shown_and_kept(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    rows = """
taken: model.mask_flow=false
refused: {overrides: model.interleaved=false, launcher: {partition: nowhere}}
"""
    arguments = ["-m", "+sweep=mine", *tiny_launched(tmp_path / "runs", data), *SLURM, HOLD]
    result = command("htc.run", *arguments, HTC_CONFIG_DIR=sweep_file(tmp_path, rows))
    try:
        assert result.returncode == 2
        assert "launcher.partition=nowhere" in result.stderr
        assert "1 runs were submitted before" in result.stderr
        assert result.stderr.count("\n") == 1
        assert "1 started" in result.stdout
        found = {row["label"]: row["state"] for row in status(command, tmp_path / "runs", "mine").values()}
        assert found == {"taken": "queued", "refused": "missing"}
    finally:
        cluster.cancel_all()


def test_jobs_that_fail_before_their_run_begins_are_failed_with_their_last_lines(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    rows = """
setup: {overrides: seed=1, launcher: {setup: ["module load cuda"]}}
python: {overrides: seed=2, launcher: {python: /no/such/python}}
package: {overrides: seed=3, launcher: {python: /usr/bin/python3 -I}}
"""
    runs = tmp_path / "runs"
    arguments = ["-m", "+sweep=mine", *tiny_launched(runs, data, iterations=2), *SLURM, "launcher.cpus_per_task=1"]
    launched = command("htc.run", *arguments, HTC_CONFIG_DIR=sweep_file(tmp_path, rows))
    assert launched.returncode == 0, launched.stderr
    wait_until(lambda: set(states(command, runs, "mine").values()) == {"failed"}, "three failed runs")
    found = {str(row["label"]): str(row["error"]) for row in status(command, runs, "mine").values()}
    assert "launcher.setup: module load cuda: failed (status 127)" in found["setup"]
    assert "/no/such/python" in found["python"]
    assert "No module named" in found["package"]
    # What Slurm remembers for some minutes is not needed.
    shown = command("htc.status", "mine", f"runs={runs}", PATH="/nowhere").stdout
    assert "mine: 3 failed" in shown
    again = command("htc.run", *arguments, HOLD, HTC_CONFIG_DIR=str(tmp_path / "settings"))
    try:
        assert "3 started" in again.stdout, "a launch starts failed runs again"
    finally:
        cluster.cancel_all()


@pytest.mark.slow
def test_jobs_share_the_runs_where_a_queue_takes_few_and_are_named_by_their_runs(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    arguments = ["-m", *tiny_launched(tmp_path, data, iterations=2), *SLURM, "launcher.partition=few", "seed=range(5)"]
    arguments += ["+hydra.sweeper.rows.good=''", "launcher.srun=[--label]", "launcher.cpus_per_task=2"]
    arguments += ["sweep=shared"]
    refused = command("htc.run", *arguments)
    assert refused.returncode == 2
    assert "launcher.submit_limit" in refused.stderr
    launched = command(
        "htc.run", *arguments, "launcher.submit_limit=2", "launcher.sbatch=[--hold,'--export=NONE']",
        "+hydra.sweeper.rows.broken='checkpoint.file=nowhere.pt'",
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    assert "10 started" in launched.stdout
    jobs = cluster.run("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i").split()
    assert len(jobs) == 2
    assert set(states(command, tmp_path, "shared").values()) == {"queued"}
    cancelled = run_folder(tmp_path, "shared", "good", 4).name
    assert command("htc.status", "cancel", cancelled, f"runs={tmp_path}").returncode == 0
    assert len(cluster.run("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i").split()) == 2
    cluster.run("scontrol", "release", jobs[0].split("_")[0])

    def names() -> set[str]:
        return set(cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%j").split("\n")) & {"shared/good"}

    wait_until(names, "a job with the name of its run")
    wait_until(lambda: not {"queued", "running"} & set(states(command, tmp_path, "shared").values()), "all runs ended")
    found = status(command, tmp_path, "shared")
    assert [row["state"] for row in found.values() if row["label"] == "broken"] == ["failed"] * 5
    good = {name: row["state"] for name, row in found.items() if row["label"] == "good"}
    assert good.pop(cancelled) == "cancelled"
    assert set(good.values()) == {"done"}
    used = {job for run in good for job in record(tmp_path / run)["slurm_job_ids"]}
    assert used <= set(jobs), "every run was in one of the two jobs"
    (log, *_) = (tmp_path / ".sweeps" / "shared" / "submissions").glob("*/*_log.err")
    assert any(line.startswith("0: ") for line in log.read_text().splitlines()), "srun labels its lines"


@pytest.mark.slow
def test_a_shared_job_that_is_requeued_goes_on_with_its_run_and_then_with_the_others(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    arguments = ["-m", *tiny_launched(tmp_path, data), *SLURM, "seed=0,1", "launcher.submit_limit=1", "sweep=shared"]
    launched = command("htc.run", *arguments)
    assert launched.returncode == 0, launched.stderr
    first = tmp_path / next(iter(status(command, tmp_path, "shared")))
    wait_until(lambda: list((first / "checkpoints").glob("step_*.pt")), "a checkpoint")
    (job,) = set(cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%A").split())
    cluster.run("scontrol", "requeue", job)
    wait_until(lambda: set(states(command, tmp_path, "shared").values()) == {"done"}, "both runs done")
    assert len(record(first)["resumes"]) == 1
    assert (
        len({job for row in status(command, tmp_path, "shared") for job in record(tmp_path / row)["slurm_job_ids"]})
        == 1
    )


@pytest.mark.slow
def test_two_processes_share_the_runs_of_one_job(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    arguments = ["-m", *tiny_launched(tmp_path, data, iterations=2), *SLURM, "seed=0,1", "launcher.gpus_per_node=2"]
    arguments += ["launcher.cpus_per_task=2", "launcher.submit_limit=1", "sweep=shared"]
    arguments += ["+hydra.sweeper.rows.broken='checkpoint.file=nowhere.pt'", "+hydra.sweeper.rows.good=''"]
    launched = command("htc.run", *arguments)
    assert launched.returncode == 0, launched.stderr
    wait_until(lambda: not {"queued", "running"} & set(states(command, tmp_path, "shared").values()), "all ended")
    found = sorted((str(row["label"]), str(row["state"])) for row in status(command, tmp_path, "shared").values())
    assert found == [("broken", "failed")] * 2 + [("good", "done")] * 2
    good = run_folder(tmp_path, "shared", "good", 1)
    assert json.loads((good / "run.json").read_text())["training"]["processes"] == 2


@pytest.mark.slow
def test_with_fail_fast_the_first_failure_stops_the_others_which_can_go_on_later(
    command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path
) -> None:
    cluster.wait_for_idle_nodes()
    arguments = ["-m", *tiny_launched(tmp_path, data, iterations=100_000), *SLURM, "seed=0,1", "sweep=fast"]
    arguments += ["launcher.fail_fast=true"]
    good = "+hydra.sweeper.rows.good=''"
    broken = "+hydra.sweeper.rows.broken='checkpoint.file=nowhere.pt'"
    launched = command("htc.run", *arguments, broken, good, "launcher.max_running=3")
    assert launched.returncode == 0, launched.stderr
    wait_until(lambda: not {"queued", "running"} & set(states(command, tmp_path, "fast").values()), "all ended")
    found = sorted(str(state) for state in states(command, tmp_path, "fast").values())
    assert found in (["cancelled"] * 3 + ["failed"], ["cancelled"] * 2 + ["failed"] * 2)
    again = command("htc.run", *arguments, good, HOLD)
    try:
        assert "2 started" in again.stdout
    finally:
        cluster.cancel_all()


@pytest.mark.slow
def test_a_search_runs_its_trials_as_jobs(command: Command, cluster: SlurmCluster, data: Path, tmp_path: Path) -> None:
    cluster.wait_for_idle_nodes()
    arguments = [*tiny_launched(tmp_path, data, iterations=2), *SLURM, "launcher.cpus_per_task=1", "sweep=search"]
    arguments += ["hydra/sweeper=optuna", "schedule.learning_rate=interval(0.001,0.01)", "sweeper.n_trials=3"]
    result = command("htc.run", *arguments, "sweeper.n_jobs=2")
    assert result.returncode == 0, result.stderr
    assert "best of 3 trials" in result.stdout
    found = status(command, tmp_path, "search")
    assert [row["state"] for row in found.values()] == ["done"] * 3
    assert all(record(tmp_path / name)["slurm_job_ids"] for name in found)
