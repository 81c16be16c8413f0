"""The launcher's options as options of sbatch: what a user adds replaces ours, or is refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from htc.config.folders import CONFIG_FOLDER
from htc.errors import UserError
from htc.launch.launchers import check_options
from htc.launch.sbatch import (
    RESERVED,
    Gpus,
    processes_per_node,
    sbatch_option,
    submitit_parameters,
    with_sbatch_options,
)
from htc.launch.submit_array import refusal, without_variables

DEFAULTS = {
    key: value
    for key, value in yaml.safe_load((CONFIG_FOLDER / "hydra" / "launcher" / "slurm.yaml").read_text()).items()
    if key not in ("_target_", "defaults")
}


def parameters(**options: Any) -> dict[str, Any]:
    """Return the parameters of submitit of the default options but for these."""
    return submitit_parameters(with_sbatch_options({**DEFAULTS, **options}), "name", "htc:1", [], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--exclude=n1,n2", ("exclude", "n1,n2")),
        ("--exclude n1,n2", ("exclude", "n1,n2")),
        ("-x n1", ("exclude", "n1")),
        ("-xn1", ("exclude", "n1")),
        ("-p=gpu", ("partition", "gpu")),
        ("--hold", ("hold", True)),
        ("-H", ("hold", True)),
        ("--gres=gpu:a100:2,tmpfs:10G", ("gres", "gpu:a100:2,tmpfs:10G")),
        ("--comment=two words", ("comment", "two words")),
    ],
)
def test_an_option_is_read_in_every_form_of_sbatch(text: str, expected: tuple[str, Any]) -> None:
    assert sbatch_option(text) == expected


@pytest.mark.parametrize(
    ("value", "expected", "processes"),
    [
        (None, None, 1),
        (0, None, 1),
        (2, "2", 2),
        ("2", "2", 2),
        ("a100:2", "a100:2", 2),
        ("nvidia_h100_80gb_hbm3:8", "nvidia_h100_80gb_hbm3:8", 8),
    ],
)
def test_gpus_per_node_may_have_a_type(value: object, expected: str | None, processes: int) -> None:
    found = parameters(gpus_per_node=value)
    assert found.get("gpus_per_node") == expected
    assert found["ntasks_per_node"] == processes


@pytest.mark.parametrize("value", ["a100", "a100:", "a100:x", -1, 1.5, True, "a100:2,v100:1", [2]])
def test_other_values_for_gpus_per_node_are_refused_before_anything_is_composed(value: object) -> None:
    with pytest.raises(UserError, match=r"launcher\.gpus_per_node=.* in row 'x' must be a whole number"):
        check_options("slurm", {"gpus_per_node": value}, " in row 'x'")


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("--partition=other", "partition", "other"),
        ("-t 2:00:00", "time", 120),
        ("--account=me", "account", "me"),
        ("--qos=high", "qos", "high"),
        ("-C a100", "constraint", "a100"),
        ("--nodes=2", "nodes", 2),
        ("--cpus-per-task=7", "cpus_per_task", 7),
        ("--ntasks-per-node=3", "ntasks_per_node", 3),
        ("--gpus-per-node=v100:4", "gpus_per_node", "v100:4"),
        ("--job-name=mine", "job_name", "mine"),
        ("--comment=for the paper", "comment", "htc:1 for the paper"),
    ],
)
def test_an_option_of_sbatch_replaces_the_launchers_own(option: str, name: str, value: object) -> None:
    found = parameters(
        sbatch=[option], partition="p", time=5, account="a", qos="q", constraint="c", nodes=1, cpus_per_task=1,
        gpus_per_node=1,
    )  # fmt: skip
    assert found[name] == value
    assert option.split("=")[0].lstrip("-") not in found["additional_parameters"], "an option is given once"


def test_gpus_that_are_asked_for_by_gres_give_as_many_processes() -> None:
    found = parameters(sbatch=["--gres=tmpfs:10G,gpu:a100:4"], gpus_per_node=1)
    assert found["ntasks_per_node"] == 4
    assert "gpus_per_node" not in found, "GPUs that are asked for twice are refused by some clusters"
    assert found["additional_parameters"]["gres"] == "tmpfs:10G,gpu:a100:4"
    assert parameters(sbatch=["--gres=gpu"])["ntasks_per_node"] == 1
    # A resource that is no GPU leaves the launcher's GPUs.
    assert parameters(sbatch=["--gres=tmpfs:10G"], gpus_per_node=2)["gpus_per_node"] == "2"


def test_gpus_without_a_number_per_node_need_the_number_of_processes() -> None:
    with pytest.raises(UserError, match=r"--gpus, which does not say .* launcher\.tasks_per_node"):
        parameters(sbatch=["--gpus=8"])
    found = parameters(sbatch=["-G 8"], tasks_per_node=4, nodes=2)
    assert found["additional_parameters"]["gpus"] == "8"
    assert (found["ntasks_per_node"], found["nodes"]) == (4, 2)
    assert "gpus_per_node" not in found


def test_memory_is_asked_for_once_and_a_job_is_requeued_unless_the_user_forbids_it() -> None:
    found = parameters(sbatch=["--mem-per-gpu=20G", "--no-requeue"], mem="64G")["additional_parameters"]
    assert found == {"mem-per-gpu": "20G", "no-requeue": True}
    assert parameters(mem="64G")["additional_parameters"] == {"mem": "64G", "requeue": True}
    assert parameters(sbatch=["--mem=1G"], mem="64G")["additional_parameters"]["mem"] == "1G"


@pytest.mark.parametrize("name", RESERVED)
def test_an_option_that_the_launcher_needs_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(UserError, match=rf"launcher\.sbatch has --{name}, which the launcher sets: "):
        parameters(sbatch=[f"--{name}=1"])


def test_one_option_need_not_be_a_list() -> None:
    assert parameters(sbatch="--exclude=n1")["additional_parameters"]["exclude"] == "n1"
    assert parameters(srun="--mpi=none")["srun_args"] == ["--mpi=none"]


def test_processes_are_one_per_gpu_unless_they_are_given() -> None:
    assert processes_per_node({"gpus_per_node": "a100:4"}) == 4
    assert processes_per_node({"gpus_per_node": 4, "tasks_per_node": 1}) == 1
    assert str(Gpus.parse("a100:4")) == "a100:4"


def test_variables_of_sbatch_and_of_a_surrounding_job_do_not_change_what_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    given = {
        "SBATCH_TIMELIMIT": "1", "SBATCH_PARTITION": "mine", "SBATCH_ACCOUNT": "mine", "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_NODE": "1", "SLURM_CONF": "/etc/slurm.conf", "RANK": "1", "SBATCH_RESERVATION": "r",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with without_variables(parameters(time=5, partition="other")):
        kept = {name for name in given if name in os.environ}
    # The account is not set by the launcher, so the user's variable is.
    assert kept == {"SBATCH_ACCOUNT", "SLURM_CONF", "SBATCH_RESERVATION"}
    assert all(os.environ[name] == value for name, value in given.items())


def test_every_line_of_a_refusal_is_shown() -> None:
    message = "\n".join(
        [
            "sbatch: error: Jobs on this cluster need an account.",
            "sbatch: error: Ask help@cluster for one.",
            "sbatch: error: Batch job submission failed: Unspecified error",
        ]
    )
    text = refusal(message, with_sbatch_options(DEFAULTS))
    assert "need an account; Ask help@cluster for one; Unspecified error" in text
    assert "\n" not in text


def test_a_limit_of_jobs_names_the_key_that_respects_it() -> None:
    message = "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
    text = refusal(message + "accounting/QOS policy (job submit limit, user's size)", with_sbatch_options(DEFAULTS))
    assert "launcher.submit_limit" in text
