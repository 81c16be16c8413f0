"""Options of the Slurm launcher as options of sbatch: typed GPUs, time limits, and the options that a user adds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from htc.errors import UserError

SHORT_OPTIONS = {
    "A": "account", "b": "begin", "C": "constraint", "c": "cpus-per-task", "d": "dependency", "D": "chdir",
    "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "i": "input", "J": "job-name", "k": "no-kill",
    "L": "licenses", "M": "clusters", "m": "distribution", "N": "nodes", "n": "ntasks", "O": "overcommit",
    "o": "output", "p": "partition", "q": "qos", "s": "oversubscribe", "S": "core-spec", "t": "time",
    "w": "nodelist", "W": "wait", "x": "exclude", "a": "array",
}  # fmt: skip
"""Short options of sbatch by their letters."""
KEY_OF = {
    "account": "account", "partition": "partition", "qos": "qos", "constraint": "constraint", "time": "time",
    "nodes": "nodes", "mem": "mem", "cpus-per-task": "cpus_per_task", "ntasks-per-node": "tasks_per_node",
    "gpus-per-node": "gpus_per_node",
}  # fmt: skip
"""Options of sbatch that a key of the launcher sets, too: the option replaces the key."""
COUNTS = ("nodes", "cpus_per_task", "tasks_per_node")
OTHER_GPU_OPTIONS = ("gpus", "gpus-per-task", "gpus-per-socket")
"""Options of sbatch that ask for GPUs without saying how many there are on a node."""
OTHER_MEMORY_OPTIONS = ("mem-per-cpu", "mem-per-gpu")
RESERVED = {
    "array": "the launcher makes the arrays; launcher.max_running limits the jobs that run at the same time",
    "output": "the output of the jobs is in the folder of the submission",
    "error": "the output of the jobs is in the folder of the submission",
    "open-mode": "the output of the jobs is in the folder of the submission",
    "signal": "set launcher.signal_before instead",
    "wrap": "the jobs run their rows",
    "wait": "set launcher.wait=true instead",
    "parsable": "the launcher reads the output of sbatch",
    "test-only": "add --dry-run instead",
    "chdir": "a job runs in the folder of its launch",
    "ntasks": "set launcher.nodes and launcher.tasks_per_node instead",
}
"""Options of sbatch that the launcher needs for itself, and what to do instead."""


@dataclass(frozen=True)
class Gpus:
    """GPUs per node."""

    count: int
    kind: str | None = None
    """Type of the GPUs, such as `a100`; None for any."""

    @classmethod
    def parse(cls, value: Any, where: str = "") -> Gpus:
        """Read `8`, `a100:8` or null. Raises UserError for another value, which is written `where`."""
        found = re.fullmatch(r"(?:([A-Za-z][\w.-]*):)?(\d+)", str(0 if value is None else value))
        if found is None or isinstance(value, bool):
            raise UserError(
                f"launcher.gpus_per_node={value}{where} must be a whole number, 0 or more, or a type and a number such "
                "as a100:2."
            )
        return cls(int(found[2]), found[1])

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}" if self.kind else str(self.count)


def with_sbatch_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the launcher's options, in which those of the key `sbatch` have replaced the keys of the same meaning.

    The key `sbatch` is a dict afterwards: the other options by name, with True for an option without a value. Raises
    UserError for an option that the launcher needs for itself.
    """
    merged = dict(options)
    extra: dict[str, Any] = {}
    for option in words(options.get("sbatch")):
        name, value = sbatch_option(option)
        if name in RESERVED:
            raise UserError(f"launcher.sbatch has --{name}, which the launcher sets: {RESERVED[name]}.")
        if (key := KEY_OF.get(name)) is None:
            extra[name] = value
        else:
            merged[key] = _number(name, value) if key in COUNTS else value
    if (gres := extra.get("gres")) is not None and (gpus := _gpus_of_gres(str(gres))) is not None:
        merged["gpus_per_node"] = str(gpus)
        others = [part for part in str(gres).split(",") if not part.startswith("gpu")]
        extra["gres"] = ",".join([*others, f"gpu:{gpus}"])
    if asked := next((name for name in OTHER_GPU_OPTIONS if name in extra), None):
        merged["gpus_per_node"] = None
        if not merged.get("tasks_per_node"):
            raise UserError(
                f"launcher.sbatch has --{asked}, which does not say how many processes a node runs: set "
                "launcher.tasks_per_node, or launcher.gpus_per_node instead."
            )
    if any(name in extra for name in OTHER_MEMORY_OPTIONS):
        merged["mem"] = None
    # What is checked here is refused before anything is submitted.
    Gpus.parse(merged.get("gpus_per_node"))
    merged["sbatch"] = extra
    return merged


def sbatch_option(option: Any) -> tuple[str, Any]:
    """Return the long name and the value of an option; True for one without a value, such as `--hold`.

    The forms are those of sbatch: `--exclude=node7`, `--exclude node7`, `-x node7`, `-xnode7`. Raises UserError for
    other text.
    """
    text = str(option).strip()
    if found := re.fullmatch(r"--([a-z][\w-]*)(?:(?:=|\s+)(.+))?", text, re.DOTALL):
        return found[1], found[2] or True
    if (found := re.fullmatch(r"-([A-Za-z])\s*=?(.+)?", text, re.DOTALL)) and found[1] in SHORT_OPTIONS:
        return SHORT_OPTIONS[found[1]], found[2] or True
    raise UserError(
        f"launcher.sbatch has {option!r}: write options as sbatch has them, in quotes, such as "
        """'launcher.sbatch=["--exclude=node7"]'."""
    )


def names_jobs(options: Mapping[str, Any]) -> bool:
    """Return whether the options, as the user gave them, give the jobs a name."""
    return any(sbatch_option(each)[0] == "job-name" for each in words(options.get("sbatch")))


def gpus_per_node(options: Mapping[str, Any]) -> Gpus:
    """Return the GPUs per node of the launcher's options. Raises UserError for a value that is not valid."""
    return Gpus.parse(options.get("gpus_per_node"))


def processes_per_node(options: Mapping[str, Any]) -> int:
    """Return the number of processes per node: `tasks_per_node`, or one per GPU."""
    return int(options.get("tasks_per_node") or max(1, gpus_per_node(options).count))


def submitit_parameters(
    options: Mapping[str, Any], name: str, comment: str, setup: Sequence[str], teardown: Sequence[str]
) -> dict[str, Any]:
    """Return parameters of submitit.

    Args:
        options: What `with_sbatch_options` returns.
        name: Name of the jobs, unless the options have another one.
        comment: Comment of the jobs, by which they are found; one of the options follows it.
        setup: Shell lines that a job runs first.
        teardown: Shell lines that a job runs last.
    """
    extra = dict(options["sbatch"])
    gpus = gpus_per_node(options)
    own_comment = extra.pop("comment", None)
    if options["mem"] is not None:
        extra["mem"] = options["mem"]
    if not extra.get("no-requeue"):
        # Slurm requeues a job whose node fails.
        extra["requeue"] = True
    parameters = {
        "job_name": extra.pop("job-name", name),
        "comment": f"{comment} {own_comment}" if own_comment else comment,
        "time": minutes(options["time"]),
        "nodes": options["nodes"],
        "ntasks_per_node": processes_per_node(options),
        "cpus_per_task": options["cpus_per_task"],
        "gpus_per_node": str(gpus) if gpus.count and _gpus_of_gres(str(extra.get("gres"))) is None else None,
        "signal_delay_s": options["signal_before"],
        "array_parallelism": options["max_running"],
        "setup": list(setup),
        "teardown": list(teardown),
        "srun_args": words(options.get("srun")),
        "additional_parameters": extra,
        **{key: options[key] for key in ("partition", "account", "qos", "constraint")},
    }
    return {key: value for key, value in parameters.items() if value is not None}


def minutes(time: Any) -> int:
    """Return a time limit of sbatch in minutes, rounded up. Raises UserError for a value that is not a time limit.

    The formats are minutes, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM` and `D-HH:MM:SS`.
    """
    text = str(time)
    match = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(?:(\d+):)?(\d+):(\d+)|(\d+))", text)
    if match is None:
        raise UserError(f"launcher.time={text} is not a time: write minutes, HH:MM:SS or D-HH:MM:SS.")
    days, hours, day_minutes, day_seconds, h, m, s, plain = (int(part or 0) for part in match.groups())
    seconds = ((days * 24 + hours + h) * 60 + day_minutes + m + plain) * 60 + day_seconds + s
    if seconds == 0:
        raise UserError(f"launcher.time={text} is zero: write minutes, HH:MM:SS or D-HH:MM:SS.")
    return -(-seconds // 60)


def words(value: Any) -> list[str]:
    """Return a list of texts, such as options; a text alone is one of them, and null is none."""
    return [value] if isinstance(value, str) else [str(each) for each in value or []]


def _number(name: str, value: Any) -> int:
    if not re.fullmatch(r"[1-9]\d*", str(value)):
        raise UserError(f"launcher.sbatch has --{name}={value}, which must be a whole number, 1 or more.")
    return int(value)


def _gpus_of_gres(gres: str) -> Gpus | None:
    """Return the GPUs of `gpu:a100:2`, `gpu:2` or `gpu`, possibly beside other resources; None without GPUs."""
    for part in gres.split(","):
        if found := re.fullmatch(r"gpu(?::([A-Za-z][\w.-]*))?(?::(\d+))?", part):
            return Gpus(int(found[2] or 1), found[1])
    return None
