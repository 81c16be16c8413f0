"""`python analysis/make_tables.py [runs=FOLDER] [sweep=NAME] ...`: make the paper's tables from own runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.published import Published
    from analysis.runs import Run

MIN_RESAMPLES = 100
USAGE_LINE = (
    "python analysis/make_tables.py [runs=FOLDER | from=SOURCE] [out=FOLDER] [sweep=NAME] [eval=NAME] "
    "[tables=NAME,...] [base=ROW] [metric=METRIC] [intervals=true] [resamples=N] [by=category] "
    "[systems=FOLDER,...] [format=md,tex,csv,html]"
)
USAGE = f"""usage: {USAGE_LINE}

Averages finished runs over their seeds and shows them next to the published figures. Prints the comparison table and
the components table in Markdown, and writes both as .md, .tex and .csv. Likewise the paper's other studies, a table of
each sweep with its rows in their order, with the differences to a base row and their intervals, and of the trials of
each search.

  runs=FOLDER   where the run folders are, at any depth (default: runs)
  from=SOURCE   runs from wandb in place of run folders: wandb:ENTITY/PROJECT, or offline:FOLDER with .wandb files;
                without intervals, as wandb has no predictions
  out=FOLDER    where the tables are written (default: tables)
  sweep=NAME    only the runs of this sweep (default: all)
  eval=NAME     the evaluation that is shown, such as paper (default: default, or the only one there is)
  tables=NAME   only some of: comparison, components, fusion, weights, beta, extensions, study, search (default: these),
                errors, categories, sizes. fusion, weights, beta and extensions are the paper's studies of these names,
                beside published rows; with sweep=NAME, of that sweep; without runs, they are shown only if they are
                named here
  base=ROW      the row of a sweep that the others are compared with (default: the first one)
  metric=NAME   the metric that rows are compared by, such as bbox.AP, segm.AP75 or boundary.AP, which is a further
                column (default: segm.AP)
  intervals=B   true: intervals of the differences, from the predictions (default); false: none, which is quicker
  resamples=N   resamples of the images for the intervals (default: 1000)
  by=category   with tables=errors: also by category
  systems=LIST  other systems as rows of the sweeps: folders that htc.evaluate predictions=FILE has made
  format=LIST   of the tables of sweeps: md, tex, csv, html (default: all)
"""
DEFAULTS = {
    "runs": "runs", "from": "", "out": "tables", "sweep": "", "eval": "",
    "tables": "comparison,components,fusion,weights,beta,extensions,study,search",
    "base": "", "metric": "segm.AP", "intervals": "true", "resamples": "1000", "format": "md,tex,csv,html",
    "by": "", "systems": "",
}  # fmt: skip


ON_REQUEST = ("errors", "categories", "sizes")
"""Tables of sweeps that are made where they are named."""


@dataclass(frozen=True)
class Choices:
    """Which tables are made, and how."""

    tables: tuple[str, ...] = ("comparison", "components", "fusion", "weights", "beta", "extensions", "study", "search")
    base: str = ""
    """Row that the others of its sweep are compared with; empty for the first one."""
    metric: str = "segm.AP"
    """Metric that rows are compared by."""
    resamples: int = 1000
    """Resamples of the images for the intervals; 0 for no intervals."""
    formats: tuple[str, ...] = ("md", "tex", "csv", "html")
    """Formats of the tables of sweeps."""
    by_category: bool = False
    """Whether errors are also shown by category."""
    systems: tuple[Path, ...] = ()
    """Folders of other systems' results, which are rows of the tables of sweeps."""

    @property
    def are_named(self) -> bool:
        """Whether the tables were asked for by name, and are not simply all."""
        return self.tables != type(self).tables

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Choices:
        """Read the choices from arguments by name. Raises UserError for a value that is none."""
        from analysis.command import MIN_RESAMPLES, read_count
        from htc.errors import UserError

        for key, possible in (("tables", (*cls.tables, *ON_REQUEST)), ("format", cls.formats)):
            if unknown := [each for each in values[key].split(",") if each not in possible]:
                raise UserError(f"{key}={values[key]}: {unknown[0]} is not one of {', '.join(possible)}.")
        if values["by"] not in ("", "category"):
            raise UserError(f"by={values['by']} must be category: errors are shown by category, or over all.")
        if values["intervals"] not in ("true", "false"):
            raise UserError(f"intervals={values['intervals']} must be true or false.")
        number = read_count(values, "resamples", MIN_RESAMPLES)
        resamples = number if values["intervals"] == "true" else 0
        tables, formats = (tuple(values[key].split(",")) for key in ("tables", "format"))
        systems = tuple(Path(each) for each in values["systems"].split(",") if each)
        return cls(tables, values["base"], values["metric"], resamples, formats, values["by"] == "category", systems)


def make_tables(runs: Path, out: Path, sweep: str = "", evaluation: str = "", choices: Choices | None = None) -> str:
    """Write the tables below `out`, and return their Markdown.

    Runs that cannot be read are skipped, with a sentence on standard error for each.

    Args:
        runs: folder of runs.
        out: folder of the tables.
        sweep: name of the sweep whose runs are shown; empty for all runs.
        evaluation: name of the evaluation that is shown; empty for `default`, or the only one that there is.
        choices: which tables, and how; None for all.

    Raises:
        UserError: for a missing folder of runs, an unknown sweep or evaluation, or a folder `out` that cannot be
            written.
    """
    from analysis.published import load_published
    from analysis.render import write_table
    from analysis.runs import default_evaluation, read_runs, run_folders, select_sweep
    from analysis.search import search_tables, write_search_table
    from analysis.tables import build_tables

    choices = choices or Choices()
    found, complaints = read_runs(runs, evaluation)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    chosen = select_sweep(found, sweep, runs) if sweep else found
    published = load_published()
    tables = build_tables(chosen, published, runs)
    texts = [write_table(table, out) for table in tables if table.name in choices.tables]
    # Found once: the folders of a large pool take seconds to list.
    name = evaluation or default_evaluation(run_folders(runs, []))
    texts += form_tables(found, runs, out, sweep, name, choices, published)
    if {"study", *ON_REQUEST} & set(choices.tables):
        texts += study_tables(found, runs, out, sweep, name, choices)
    if "search" in choices.tables:
        texts += [write_search_table(table, out) for table in search_tables(runs, sweep)]
    return "\n".join(texts)


def form_tables(
    found: Sequence[Run], pool: Path, out: Path, sweep: str, evaluation: str, choices: Choices, published: Published
) -> Iterator[str]:
    """Write the tables of the paper's studies, and yield their Markdown.

    Args:
        found: all runs of the pool.
        pool: folder of runs.
        out: folder of the tables.
        sweep: name of the sweep with the runs; empty for those of the studies.
        evaluation: name of the evaluation.
        choices: how the tables are made.
        published: the published figures.
    """
    from analysis.paper.build import build_form
    from analysis.paper.forms import FORMS
    from analysis.paper.render import write_form
    from analysis.statistics.resampled import Resampler

    resampler = Resampler(choices.resamples) if choices.resamples else None
    for form in FORMS:
        is_own = sweep in ("", form.sweep)
        is_of_user = sweep not in {each.sweep for each in FORMS}
        if form.name in choices.tables and (is_own or (choices.are_named and is_of_user)):
            table = build_form(
                form, found, pool, published, sweep=sweep, base=choices.base, metric=choices.metric,
                evaluation=evaluation, resampler=resampler,
            )  # fmt: skip
            if choices.are_named or table.own is not None:
                yield write_form(table, out, choices.formats)


def study_tables(
    found: Sequence[Run], pool: Path, out: Path, sweep: str, evaluation: str, choices: Choices
) -> Iterator[str]:
    """Write the tables of the sweeps of a pool, and yield their Markdown; searches have tables of their own.

    Args:
        found: all runs of the pool.
        pool: folder of runs.
        out: folder of the tables.
        sweep: name of the only sweep; empty for all that have a name.
        evaluation: name of the evaluation.
        choices: how the tables are made.
    """
    from analysis.error_render import write_errors
    from analysis.error_table import build_errors
    from analysis.factorial import build_factorial
    from analysis.factorial_render import write_factorial
    from analysis.part_render import write_parts
    from analysis.part_table import CATEGORIES, SIZES, build_parts
    from analysis.statistics.resampled import Resampler
    from analysis.study import build_study
    from analysis.study_render import write_study
    from analysis.systems import read_systems
    from htc.runs.pool import SEARCH_FILE, UNNAMED, sweep_folder, sweep_names

    resampler = Resampler(choices.resamples) if choices.resamples else None
    systems = read_systems(choices.systems)
    for each in [sweep] if sweep else [each for each in sweep_names(pool) if each != UNNAMED]:
        if not (sweep_folder(pool, each) / SEARCH_FILE).exists():
            study = build_study(
                found, pool, each, base=choices.base, metric=choices.metric, evaluation=evaluation, resampler=resampler,
                systems=systems,
            )  # fmt: skip
            if "study" in choices.tables:
                yield write_study(study, out, choices.formats)
                if (factorial := build_factorial(study)) is not None:
                    yield write_factorial(factorial, out, choices.formats)
            if "errors" in choices.tables:
                errors = build_errors(study, pool, evaluation, resampler or Resampler(MIN_RESAMPLES))
                yield write_errors(errors, out, choices.formats, choices.by_category)
            for by in (CATEGORIES, SIZES):
                if by in choices.tables:
                    yield write_parts(build_parts(study, by, pool, evaluation, resampler), out, choices.formats)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 for an error that the user can fix."""
    from analysis.command import run

    return run(arguments, USAGE, USAGE_LINE, DEFAULTS, print_tables)


def print_tables(values: Mapping[str, str], given: Mapping[str, str]) -> int:
    """Make the tables that the values ask for, and print them; see USAGE."""
    from htc.errors import UserError

    choices = Choices.of(values)
    source = values["from"]
    if source and "runs" in given:
        raise UserError(f"from={source} and runs={values['runs']} are both sources of runs: give one.")
    if source and given.get("intervals") == "true":
        raise UserError(f"intervals=true needs predictions, which from={source} does not have: leave it out.")
    out = Path(values["out"]).absolute() if source else Path(values["out"])
    with contextlib.ExitStack() as stack:
        runs = Path(values["runs"])
        if source:
            from analysis.wandb_source import pool_from

            runs, choices = stack.enter_context(pool_from(source)), replace(choices, resamples=0)
        markdown = make_tables(runs, out, values["sweep"], values["eval"], choices)
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
