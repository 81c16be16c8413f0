"""`python -m htc.data.check [data=NAME] [KEY=VALUE] ...`: summarise a data set and list all its problems."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

from htc.arguments import read_count, read_flag
from htc.cli import log_to_console, read_arguments, run_command
from htc.config.compose import composed_config
from htc.config.paths import expand_path
from htc.config.schema import Config
from htc.config.signature import GENERATED_DATA
from htc.data.coco.problems import Problem, Severity

USAGE = "python -m htc.data.check [data=NAME] [KEY=VALUE] ... [out=DIR]"
KEYS = {
    "out": "folder of the contact sheets (default: checks/NAME)",
    "decode": "false: do not decode the images and stuff maps (default true)",
    "processes": "number of processes that decode (default: one per core)",
    "samples": "images per split on the contact sheet; 0: no contact sheet (default 12)",
}


def main() -> None:
    arguments = read_arguments(sys.argv[1:], KEYS, USAGE)
    values = arguments.values
    log_to_console()
    config = composed_config(arguments.overrides)
    decode = read_flag(values, "decode", True)
    problems = check(
        config,
        Path(values.get("out", f"checks/{config.data.name}")),
        decode=decode,
        processes=read_count(values, "processes", os.cpu_count() or 1, 1),
        samples=read_count(values, "samples", 12, 0),
    )
    sys.exit(1 if any(problem.severity is Severity.fault for problem in problems) else 0)


def check(config: Config, out: Path, *, decode: bool, processes: int, samples: int) -> list[Problem]:
    """Check both splits, print summaries and problems, and write contact sheets.

    The `limit` of a split is ignored: all its images are checked.

    Args:
        config: The configuration whose data set is checked.
        out: Folder of the contact sheets.
        decode: Decode every image and stuff map.
        processes: Number of processes that decode.
        samples: Number of images per split on the contact sheet; 0 writes none.

    Returns:
        All problems of both splits.
    """
    from htc.data.check.split import SplitCheck
    from htc.data.check.summary import summary
    from htc.data.shapes.generate import ensure_shapes
    from htc.data.splits import category_problems

    config.data.root = expand_path(config.data.root, "data.root")
    if config.data.name == GENERATED_DATA:
        config.data = ensure_shapes(config.data)
    checks = {
        "training": SplitCheck(config, config.data.train, train=True),
        "validation": SplitCheck(config, config.data.val, train=False),
    }
    problems: list[Problem] = []
    for name, split in checks.items():
        if decode:
            split.decode(processes, name)
        if split.annotations is not None:
            print(f"\n{name}: {summary(split.annotations, split.formats)}")
        if samples and split.annotations is not None and (path := split.draw(out / f"{name}.png", samples)):
            print(f"contact sheet: {path}")
        problems += split.problems
    train, val = checks.values()
    if train.annotations is not None and val.annotations is not None:
        problems += category_problems(train.annotations, val.annotations)
        problems += train.shared_with(val)
    print_problems(problems)
    return problems


def print_problems(problems: list[Problem]) -> None:
    """Print one line per problem, the worst last, where a terminal shows them, and then the number of each kind."""
    order = [Severity.note, Severity.repair, Severity.fault]
    print()
    for problem in sorted(problems, key=lambda problem: order.index(problem.severity)):
        print(f"{problem.severity.value}: {problem.sentence}")
    counts = Counter((problem.severity, problem.kind) for problem in problems)
    for severity, meaning in (
        (Severity.note, "worth a look"),
        (Severity.repair, "repaired by training"),
        (Severity.fault, "refused by training"),
    ):
        kinds = [f"{count} {kind}" for (of, kind), count in sorted(counts.items(), key=str) if of is severity]
        if kinds:
            print(f"{meaning}: {', '.join(kinds)}")
    if not any(problem.severity is Severity.fault for problem in problems):
        print("The data are sound.")


def start() -> None:
    """Run the command from the command line."""
    run_command(main)


if __name__ == "__main__":
    start()
