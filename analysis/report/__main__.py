"""`python -m analysis.report sweep=NAME [KEY=VALUE] ...`: make a page about a sweep."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

USAGE_LINE = (
    "python -m analysis.report [sweep=NAME] [runs=FOLDER] [out=FILE] [eval=NAME] [base=ROW] [metric=METRIC] "
    "[intervals=true] [resamples=N] [pictures=N] [systems=FOLDER,...]"
)
USAGE = f"""usage: {USAGE_LINE}

Makes one HTML file about a sweep: its tables with intervals, figures, predictions of its rows side by side, the
settings in which the rows differ, and for each number the runs, commands and code that it comes from. The file needs no
network: it opens in any browser, and can be sent to others.

  sweep=NAME    the sweep (default: the only one)
  runs=FOLDER   where the run folders are (default: runs)
  out=FILE      the page (default: report_NAME.html)
  eval=NAME     the evaluation that is shown, such as paper (default: default, or the only one there is)
  base=ROW      the row that the others are compared with (default: the first one)
  metric=NAME   the metric that rows are compared by, such as bbox.AP or segm.AP75 (default: segm.AP)
  intervals=B   true: intervals of the differences, from the predictions (default); false: none, which is quicker
  resamples=N   resamples of the images for the intervals (default: 1000)
  pictures=N    images with the predictions of all rows (default: 8); 0 for none
  systems=LIST  other systems as rows: folders that htc.evaluate predictions=FILE has made
"""
DEFAULTS = {
    "sweep": "", "runs": "runs", "out": "", "eval": "", "base": "", "metric": "segm.AP", "intervals": "true",
    "resamples": "1000", "pictures": "8", "systems": "",
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 for an error that the user can fix."""
    from analysis.command import run

    return run(arguments, USAGE, USAGE_LINE, DEFAULTS, make_report)


def make_report(values: Mapping[str, str], given: Mapping[str, str]) -> int:
    """Make the page that the values ask for; see USAGE."""
    from analysis.command import MIN_RESAMPLES, read_count
    from htc.arguments import read_flag

    resamples, pictures = read_count(values, "resamples", MIN_RESAMPLES), read_count(values, "pictures", 0)
    intervals = read_flag(dict(values), "intervals", True)
    from analysis.report.build import build_report, only_sweep
    from analysis.report.page import write_report

    pool = Path(values["runs"])
    sweep = values["sweep"] or only_sweep(pool)
    report = build_report(
        pool, sweep, base=values["base"], metric=values["metric"], evaluation=values["eval"],
        resamples=resamples if intervals else 0, pictures=pictures,
        systems=[Path(each) for each in values["systems"].split(",") if each],
    )  # fmt: skip
    path = Path(values["out"] or f"report_{sweep}.html")
    write_report(report, path)
    print(f"The report is in {path} ({path.stat().st_size / 2**20:.1f} MiB).")
    return 0


def start() -> None:
    """Run the command from the command line."""
    sys.exit(main())


if __name__ == "__main__":
    start()
