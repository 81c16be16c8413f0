"""`python -m analysis.figures [sweep=NAME] [figures=NAME,...] ...`: draw figures of runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.command import run
from htc.errors import UserError

if TYPE_CHECKING:
    from analysis.figures.drawing import Choices

USAGE_LINE = (
    "python -m analysis.figures [sweep=NAME] [figures=NAME,...] [runs=FOLDER] [out=FOLDER] [width=1|2] "
    "[format=png,pdf,svg] [eval=NAME] [base=ROW] [against=ROW] [metric=METRIC] [score=NUMBER] [resamples=N]"
)
USAGE = f"""usage: {USAGE_LINE}

Draws figures of finished runs for papers: SWEEP_FIGURE.png and .pdf. Each row of the sweep is one variant.

  sweep=NAME     the sweep whose rows are drawn (default: all runs, named by method and settings)
  figures=LIST   some of (default: all that the runs have something for):
                   training     total loss, learning rate, and AP over the steps, with bands over the seeds
                   losses       losses by task and stage, with bands over the seeds; curves: training,losses
                   speed        AP against images per second
                   cost         AP against device-hours of training; tradeoffs: speed,cost
                   components   what each component adds
                   effects      main effects, interactions and shares in a factorial sweep
                   categories   differences of two rows by category, with intervals from resampled images
                   thresholds   AP against the IoU threshold
                   predictions  two rows side by side on the images on which they differ most
                   failures     missed objects, false detections and duplicates of a row
  runs=FOLDER    where the run folders are, at any depth (default: runs)
  out=FOLDER     where the figures are written (default: figures)
  width=1|2      columns of the paper that a figure spans: 3.3 or 6.9 inches (default: what suits the figure)
  format=LIST    of png, pdf, svg (default: png,pdf)
  eval=NAME      the evaluation that is shown (default: default, or the only one there is)
  base=ROW       the row that others are compared with (default: the first one)
  against=ROW    the row of categories, predictions and failures (default: the last one)
  metric=NAME    such as bbox.AP or segm.AP75 (default: segm.AP)
  score=NUMBER   detections below this score are not drawn in pictures (default: 0.5)
  resamples=N    resamples of the images for intervals (default: 1000)
"""
DEFAULTS = {
    "runs": "runs", "out": "figures", "sweep": "", "figures": "", "width": "", "format": "png,pdf", "eval": "",
    "base": "", "against": "", "metric": "segm.AP", "score": "0.5", "resamples": "1000",
}  # fmt: skip


def make_figures(
    runs: Path, out: Path, sweep: str = "", evaluation: str = "", choices: Choices | None = None,
    formats: Sequence[str] = ("png", "pdf"),
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """Draw figures below `out`, and return their files, and a sentence for each figure that cannot be drawn.

    Runs that are not shown get a sentence on standard error each.

    Args:
        runs: folder of runs.
        out: folder of the figures.
        sweep: name of the sweep whose rows are drawn; empty for all runs.
        evaluation: name of the evaluation; empty for `default`, or the only one that there is.
        choices: which figures, and how; None for all.
        formats: endings, of FORMATS.

    Raises:
        UserError: for a missing folder of runs, an unknown sweep or evaluation, no finished run, a folder `out` that
            cannot be written, or where matplotlib is missing.
    """
    from analysis.figures.drawing import Choices, Drawing
    from analysis.figures.output import save_figure
    from analysis.figures.style import paper_style
    from analysis.figures.variants import read_groups
    from analysis.statistics.resampled import Resampler

    choices = choices or Choices()
    with paper_style():
        pass
    groups, complaints = read_groups(runs, sweep, evaluation)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if not groups:
        raise UserError(f"no run below {runs} is done: there is nothing to draw.")
    resampler = Resampler(choices.resamples)
    written: list[Path] = []
    left_out: list[str] = []
    for group in groups:
        drawing = Drawing(group, runs, choices, resampler)
        for name in choices.figures:
            of_data = f"_{group.slug}" if len(groups) > 1 else ""
            try:
                figure = drawing.draw(name)
            except UserError as error:
                left_out.append(f"{name}{f' of {group.title}' if of_data else ''} is not drawn: {error.sentence}")
                continue
            written += save_figure(figure, out / f"{group.sweep or 'runs'}{of_data}_{name}", formats)
    return written, left_out


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 for an error that the user can fix.

    A figure that was asked for by its name and cannot be drawn is such an error.
    """
    return run(arguments, USAGE, USAGE_LINE, DEFAULTS, draw_figures)


def draw_figures(values: Mapping[str, str], given: Mapping[str, str]) -> int:
    """Draw the figures that the values ask for, and print their files; see USAGE."""
    from analysis.figures.drawing import Choices
    from analysis.figures.output import FORMATS

    choices = Choices.of(values)
    formats = values["format"].split(",")
    if unknown := [each for each in formats if each not in FORMATS]:
        raise UserError(f"format={values['format']}: {unknown[0]} is not one of {', '.join(FORMATS)}.")
    written, left_out = make_figures(
        Path(values["runs"]), Path(values["out"]), values["sweep"], values["eval"], choices, formats
    )
    for sentence in left_out:
        print(sentence, file=sys.stderr)
    for path in written:
        print(path)
    return 2 if left_out and (values["figures"] or not written) else 0


def start() -> None:
    """Run the command from the command line."""
    sys.exit(main())


if __name__ == "__main__":
    start()
