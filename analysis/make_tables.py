"""`python analysis/make_tables.py [runs=FOLDER] [sweep=NAME] ...`: make the paper's tables from own runs."""

from __future__ import annotations

import sys
from pathlib import Path

USAGE_LINE = "python analysis/make_tables.py [runs=FOLDER] [out=FOLDER] [sweep=NAME] [eval=NAME]"
USAGE = f"""usage: {USAGE_LINE}

Averages finished runs over their seeds and shows them next to the published figures. Prints the comparison table and
the components table in Markdown, and writes both as .md, .tex and .csv; likewise a table of the trials of each search.

  runs=FOLDER   where the run folders are, at any depth (default: runs)
  out=FOLDER    where the tables are written (default: tables)
  sweep=NAME    only the runs of this sweep (default: all)
  eval=NAME     the evaluation that is shown, such as paper (default: default, or the only one there is)
"""
DEFAULTS = {"runs": "runs", "out": "tables", "sweep": "", "eval": ""}


def make_tables(runs: Path, out: Path, sweep: str = "", evaluation: str = "") -> str:
    """Write both tables, and one for each search, below `out` in three formats, and return their Markdown.

    Runs that cannot be read are skipped, with a sentence on standard error for each.

    Args:
        runs: folder of runs.
        out: folder of the tables.
        sweep: name of the sweep whose runs are shown; empty for all runs.
        evaluation: name of the evaluation that is shown; empty for `default`, or the only one that there is.

    Raises:
        UserError: for a missing folder of runs, an unknown sweep or evaluation, or a folder `out` that cannot be
            written.
    """
    from analysis.published import load_published
    from analysis.render import write_table
    from analysis.runs import read_runs, select_sweep
    from analysis.search import search_tables, write_search_table
    from analysis.tables import build_tables

    found, complaints = read_runs(runs, evaluation)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if sweep:
        found = select_sweep(found, sweep, runs)
    tables = build_tables(found, load_published(), runs)
    texts = [write_table(table, out) for table in tables]
    return "\n".join([*texts, *(write_search_table(table, out) for table in search_tables(runs, sweep))])


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 for an error that the user can fix."""
    from htc.arguments import parse_arguments
    from htc.errors import UserError

    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(USAGE, end="")
        return 0
    try:
        chosen = {**DEFAULTS, **parse_arguments(arguments, USAGE_LINE, keys=DEFAULTS).values}
        markdown = make_tables(Path(chosen["runs"]), Path(chosen["out"]), chosen["sweep"], chosen["eval"])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # ± and ✓ also where the locale is C
    print(markdown, end="")
    return 0


def start() -> None:
    """Run the command from the command line."""
    sys.exit(main())


if __name__ == "__main__":
    if not __package__:
        # Python puts the folder of a script on the import path; the packages are in the folder above it.
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    start()
