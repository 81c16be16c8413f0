"""Run the commands on bad data, damaged files and broken surroundings, and check their messages and exit statuses.

    python -m tests.robustness.faults [only=TEXT] [out=FILE]

Each fault of tests/robustness/fault_list.py is made in a new folder; then the command runs there, in a process forked
from one that has imported everything. The command either refuses the fault (status 2, the last line begins with
`error:`), or repairs, reads or survives it (status 0, a line reports it), or is stopped by a signal (status 143). In no
case is there a traceback, a hang, a file outside of the run's folder, or a trace of code that a file contained. `only`
selects the faults whose section or name contains the text. The exit status is 1 if one fault ends in another way.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from htc.cli import USER_ERROR, read_settings, run_command
from tests.helpers.hand_made import hand_made
from tests.robustness.fault_list import SECTIONS, Fault, Place
from tests.robustness.forks import import_everything, start

DEFAULTS = {"only": "", "out": ""}
LONGEST = 120
"""Seconds; a command that takes longer is killed as hanging."""


@dataclass
class Outcome:
    section: str
    fault: Fault
    status: int
    message: str
    """The line that informs the user."""
    wrong: str
    """What is not as expected; empty if all is."""


def main() -> None:
    settings = read_settings(sys.argv[1:], DEFAULTS)
    import_everything()
    begin = time.perf_counter()
    outcomes = []
    for section, faults in SECTIONS.items():
        for fault in faults():
            if settings["only"] in f"{section}: {fault.name}":
                outcomes.append(meet(section, fault))
                print(f"{section}: {fault.name}: {outcomes[-1].wrong or 'ok'}", file=sys.stderr, flush=True)
    report = table(outcomes, settings["only"], time.perf_counter() - begin)
    print(report)
    if settings["out"]:
        Path(settings["out"]).write_text(report)
    sys.exit(any(outcome.wrong for outcome in outcomes) or not outcomes)


def meet(section: str, fault: Fault) -> Outcome:
    """Make the fault in a new folder, run the command there, and check how it ends."""
    root = Path(tempfile.mkdtemp(prefix="faults"))
    (root / "data").mkdir()
    place, log = Place(root, hand_made(root / "data")), root / "log"
    try:
        if fault.after_a_run and (status := finish(start("htc.run", place.options(), log))) != 0:
            raise RuntimeError(f"the run before the fault ended with {status}:\n{log.read_text()}")
        added = fault.make(place) or []
        log.touch()
        before = set(files_outside(root))
        arguments = [*([] if fault.bare else place.options()), *added]
        process = start(fault.module, arguments, log, fault.prepare)
        fault.meanwhile(place, process)
        status = finish(process)
        output = log.read_text()
        lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in output.splitlines()]
        message = next((line for line in reversed(lines) if re.search(fault.message, line)), "")
        last = "".join(lines[-1:])
        problems = {
            f"status {status} instead of {fault.status}": status != fault.status,
            "a traceback": "Traceback" in output,
            f"no message of {fault.message}": not message,
            "the last line is not an error": fault.status == USER_ERROR and not last.startswith("error: "),
            "code of a file was run": place.trace.exists(),
            "a file outside of the run's folder": set(files_outside(root)) != before,
        }
        wrong = "; ".join(words for words, is_so in problems.items() if is_so)
        wrong += f"\n{output}" if wrong else ""
        return Outcome(section, fault, status, message.replace(str(root), "DIR"), wrong)
    finally:
        for lock in place.held:
            lock.close()
        shutil.rmtree(root, ignore_errors=True)


def files_outside(root: Path) -> Iterator[Path]:
    """Return the files that are not in the folder of runs."""
    return (path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] != "runs")


def finish(process: int) -> int:
    """Wait for a process, kill it if it hangs, and return its exit status."""
    end = time.perf_counter() + LONGEST
    while time.perf_counter() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def table(outcomes: list[Outcome], only: str, seconds: float) -> str:
    """Return the report as Markdown."""
    command = f"python -m tests.robustness.faults{f' only={only}' if only else ''}"
    lines = [
        "# Faults and how the commands respond", "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores ({platform.machine()}), Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}: {len(outcomes)} faults in {seconds / 60:.0f} min.",
        "",
        "Status 2: refused. Status 0: repaired, read or survived. Status 143: stopped by a signal, after saving. "
        "Tracebacks, hangs, files outside of the run's folder and code that was run are listed here:", "",
        *([f"- {o.section}: {o.fault.name}: {o.wrong}" for o in outcomes if o.wrong] or ["Nothing."]), "",
    ]  # fmt: skip
    for section in dict.fromkeys(outcome.section for outcome in outcomes):
        lines += [f"## {section}", "", "| fault | status | message |", "|---|---|---|"]
        lines += [
            f"| {cell(outcome.fault.name)} | {outcome.status} | {cell(outcome.message)} |"
            for outcome in outcomes
            if outcome.section == section
        ]
        lines.append("")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Return the text as one cell of a table, with unprintable characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace("|", "\\|")


if __name__ == "__main__":
    run_command(main)
