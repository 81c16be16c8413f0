"""Progress of a run: its step, the time left and its last metric, read from the end of metrics.jsonl."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from htc.launch.status.outcome import last_lines
from htc.launch.status.states import RunState
from htc.runs.folder import RunFolder
from htc.runs.json_values import number
from htc.runs.record import Length
from htc.runs.results import ap_summary

UNKNOWN_LENGTH = Length(None, None, None)
TAIL_LINES = 40
"""Number of lines at the end of metrics.jsonl among which the newest training line is looked for."""


@dataclass(frozen=True)
class RunProgress:
    """Progress of one run; values that are not known are None."""

    step: int | None
    total: int | None
    """Steps of the complete run."""
    seconds_left: float | None
    metric: str
    """Last loss or AP, or the results of a finished run, as text."""
    age: float | None
    """Seconds since the run last wrote a line to metrics.jsonl."""


def read_progress(state: RunState) -> RunProgress:
    """Read the progress of a run from the files in its folder."""
    folder = RunFolder(state.folder)
    lines = [line for text in last_lines(folder.metrics_file, TAIL_LINES) if (line := _parse_line(text))]
    train: dict[str, Any] = next((line for line in reversed(lines) if line.get("kind") == "train"), {})
    step = max((line["step"] for line in lines if isinstance(line.get("step"), int)), default=None)
    launch = state.record.launch
    length = launch.length if launch is not None else _configured_length(folder) if lines else UNKNOWN_LENGTH
    total = _total_steps(length, train)
    rate, batch, left = number(train.get("images_per_second")), length.batch_size, None
    if state.state == "running" and total is not None and step is not None and rate and batch:
        left = number(float(max(0, total - step)) * batch / rate)
    return RunProgress(step, total, left, _last_metric(state, lines), _age(folder))


def read_state_results(state: RunState) -> dict[str, Any]:
    """Return the results of the evaluation that the state's row asks for; an empty dict where there are none."""
    return RunFolder(state.folder).read_results(state.row.evaluation if state.row else None)


def _last_metric(state: RunState, lines: list[dict[str, Any]]) -> str:
    if state.state == "done":
        return ap_summary(read_state_results(state))
    if not lines:
        return ""
    last = lines[-1]
    if last.get("kind") == "eval":
        return ap_summary(last)
    return f"loss {last['loss']:.3f}" if isinstance(last.get("loss"), float) else ""


def _total_steps(length: Length, train: dict[str, Any]) -> int | None:
    """Return the steps of the complete run, by its configured length and its newest training line."""
    if length.iterations is not None:
        return length.iterations
    epochs, step, epoch = length.epochs, number(train.get("step")), number(train.get("epoch"))
    if epochs is None or step is None or not epoch:
        return None
    # The steps of one epoch depend on the annotations, which are not read here. The training line gives their ratio.
    total = number(float(epochs) * step / epoch)
    return None if total is None else round(total)


def _configured_length(folder: RunFolder) -> Length:
    """Read the length of a run that no launcher started from its configuration."""
    return Length.from_json(folder.read_config().get("schedule"))


def _age(folder: RunFolder) -> float | None:
    try:
        return max(0.0, time.time() - folder.metrics_file.stat().st_mtime)
    except OSError:
        return None


def _parse_line(text: str) -> dict[str, Any] | None:
    """Return the JSON object of a line; None for a line that holds none, such as an incomplete one."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None
