"""What the commands say of bad data, damaged files and broken surroundings.

    python -m tests.robustness.faults [only=TEXT] [out=FILE]

Each fault of tests/robustness/fault_list.py is made in a fresh folder, then a whole command meets it, in a process
forked from one that has imported everything. It is either refused (status 2, a last line that begins with `error:`),
repaired, read or survived (status 0, a line that says so), or stops the run (a signal, status 143). In no case may
there be a traceback, a hang, a file beside the run's folder, or a trace of code that a file brought along. `only` picks
the faults whose section or name holds the text. The exit status is 1 where one ends otherwise.
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
"""Seconds; a command that takes longer hangs."""


@dataclass
class Outcome:
    section: str
    fault: Fault
    status: int
    said: str
    """The line that tells the user."""
    wrong: str
    """What is not as it should be; empty where nothing is."""


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
    """Make the fault in a fresh folder and let the command meet it."""
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
        said = next((line for line in reversed(lines) if re.search(fault.says, line)), "")
        wrong = {
            f"status {status} instead of {fault.status}": status != fault.status,
            "a traceback": "Traceback" in output,
            f"nothing is said of {fault.says}": not said,
            "the last line is no error": fault.status == USER_ERROR and not "".join(lines[-1:]).startswith("error: "),
            "code of a file ran": place.trace.exists(),
            "a file beside the run's folder": set(files_outside(root)) != before,
        }
        found = "; ".join(words for words, is_so in wrong.items() if is_so)
        return Outcome(section, fault, status, said.replace(str(root), "DIR"), found + (f"\n{output}" if found else ""))
    finally:
        for lock in place.held:
            lock.close()
        shutil.rmtree(root, ignore_errors=True)


def files_outside(root: Path) -> Iterator[Path]:
    """Files that are not in the folder of runs."""
    return (path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] != "runs")


def finish(process: int) -> int:
    """The status of a process, which is killed where it hangs."""
    end = time.perf_counter() + LONGEST
    while time.perf_counter() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def table(outcomes: list[Outcome], only: str, seconds: float) -> str:
    command = f"python -m tests.robustness.faults{f' only={only}' if only else ''}"
    lines = [
        "# Faults and what becomes of them", "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores ({platform.machine()}), Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}: {len(outcomes)} faults in {seconds / 60:.0f} min.",
        "",
        "Status 2: refused. Status 0: repaired, read or survived. Status 143: stopped by a signal, after saving. A "
        "traceback, a hang, a file beside the run's folder or code that ran would be listed here:", "",
        *([f"- {o.section}: {o.fault.name}: {o.wrong}" for o in outcomes if o.wrong] or ["Nothing."]), "",
    ]  # fmt: skip
    for section in dict.fromkeys(outcome.section for outcome in outcomes):
        lines += [f"## {section}", "", "| fault | status | what is said |", "|---|---|---|"]
        lines += [
            f"| {cell(outcome.fault.name)} | {outcome.status} | {cell(outcome.said)} |"
            for outcome in outcomes
            if outcome.section == section
        ]
        lines.append("")
    return "\n".join(lines)


def cell(text: str) -> str:
    """One line of a table, whatever characters the text holds."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace("|", "\\|")


if __name__ == "__main__":
    run_command(main)
