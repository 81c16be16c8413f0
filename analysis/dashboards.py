"""`python -m analysis.dashboards project=ENTITY/PROJECT [sweep=NAME]`: make the dashboards of a project at wandb."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

USAGE_LINE = "python -m analysis.dashboards project=ENTITY/PROJECT [sweep=NAME] [runs=FOLDER]"
USAGE = f"""usage: {USAGE_LINE}

Makes a workspace and a report of a project at wandb: sweep overview, components, curves by stage and task, predictions.
Their addresses are printed, and kept in the folder of runs: the same command again updates them, and makes no others.
What was changed in them by hand is replaced.

  project=ENTITY/PROJECT   the project at wandb
  sweep=NAME               dashboards of the runs of this sweep, in place of all runs of the project
  runs=FOLDER              where the addresses are kept, in .dashboards.json (default: runs)
"""
DEFAULTS = {"project": "", "sweep": "", "runs": "runs"}
KEPT_IN = ".dashboards.json"
UNFILTERED = "=<>"
"""Characters that wandb-workspaces changes in the value of a filter."""


@dataclass(frozen=True)
class Dashboards:
    """The addresses of the dashboards."""

    workspace: str
    report: str


def make_dashboards(project: str, sweep: str, runs: Path) -> Dashboards:
    """Make or update the workspace and the report of a project, and return their addresses.

    Args:
        project: `ENTITY/PROJECT`.
        sweep: name of the sweep whose runs are shown; empty for all runs.
        runs: folder in which the addresses are kept.

    Raises:
        UserError: for a missing package, a project or sweep that is not at wandb, a server that cannot be used, or a
            folder that cannot be written.
    """
    from analysis.wandb_server import check_project, connection
    from htc.errors import UserError
    from htc.runs.files import read_object, write_json
    from htc.runs.json_values import mapping, text

    given = f"project={project}"
    check_project(project, given)
    if any(character in sweep for character in UNFILTERED):
        raise UserError(f"sweep={sweep}: wandb's filters do not take the characters {' '.join(UNFILTERED)}.")
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError:
        raise UserError(
            f"{given} needs wandb-workspaces, which is not installed: pip install wandb-workspaces."
        ) from None
    file = runs / KEPT_IN
    with connection(given) as api:
        _check_runs(api, project, sweep)
        kept = read_object(file)
        key = f"{api.settings['base_url']} {project} {sweep}".strip()
        known = mapping(kept.get(key))
        # Fails now if the folder cannot be written: the addresses of what is made would be lost.
        write_json(file, kept)
        workspace = _workspace(project, sweep, text(known.get("workspace")))
        workspace.save()
        # Kept at once: the report may fail, and the next try must not make a second workspace.
        write_json(file, {**kept, key: {**known, "workspace": workspace.url}})
        report = _report(project, sweep, text(known.get("report")), workspace.url)
        report.save()
        write_json(file, {**kept, key: {"workspace": workspace.url, "report": report.url}})
    return Dashboards(workspace.url, report.url)


def _check_runs(api: wandb.Api, project: str, sweep: str) -> None:
    """Raise UserError for a sweep without runs; a project that does not exist raises ValueError."""
    from htc.errors import UserError

    if not len(api.runs(project, filters={"tags": {"$in": [sweep]}} if sweep else None, per_page=1)) and sweep:
        raise UserError(f"sweep={sweep} has no run in {project}: its runs have the sweep's name as a tag.")


def _title(project: str, sweep: str) -> str:
    return f"HTC: sweep {sweep}" if sweep else f"HTC: {project.partition('/')[2]}"


def _filter(sweep: str) -> str:
    return f'Metric("Tags") in [{sweep!r}]' if sweep else ""


def _workspace(project: str, sweep: str, address: str | None) -> ws.Workspace:
    """Return the workspace, with the identity of the one at an address if there is one."""
    import wandb_workspaces.workspaces as ws

    from analysis.dashboard_panels import row_key, sections

    entity, _, name = project.partition("/")
    found = _existing(ws.Workspace, address)
    workspace = ws.Workspace(entity=entity, project=name) if found is None else found
    workspace.name = _title(project, sweep)
    workspace.sections = [ws.Section(name=each.title, panels=each.panels, is_open=True) for each in sections(sweep)]
    workspace.settings = ws.WorkspaceSettings(x_axis="step", max_runs=50)
    workspace.runset_settings = ws.RunsetSettings(
        filters=_filter(sweep),
        groupby=[ws.Config(row_key(sweep))] if sweep else [],
        pinned_columns=["summary:status", "summary:segm/AP", "summary:bbox/AP", "summary:speed/fps"],
    )
    return workspace


def _report(project: str, sweep: str, address: str | None, workspace: str) -> wr.Report:
    """Return the report, with the identity of the one at an address if there is one."""
    import wandb_workspaces.reports.v2 as wr

    from analysis.dashboard_panels import row_key, sections

    entity, _, name = project.partition("/")
    found = _existing(wr.Report, address)
    report = wr.Report(entity=entity, project=name) if found is None else found
    of_sweep = [f"sweep={sweep}"] if sweep else []
    command = shlex.join(["python", "-m", "analysis.make_tables", f"from=wandb:{project}", *of_sweep])
    report.title = _title(project, sweep)
    report.description = "Made by python -m analysis.dashboards, which replaces what is changed by hand."
    report.width = "fluid"
    blocks: list[Any] = [
        wr.P(["The same runs are in the ", wr.Link("workspace", url=workspace), ". This makes their tables:"]),
        wr.P([wr.InlineCode(command)]),
    ]
    for each in sections(sweep):
        runset = wr.Runset(
            entity=entity, project=name, name=sweep or "all runs", filters=_filter(sweep),
            groupby=[f"config.{row_key(sweep)}"] if sweep else [],
        )  # fmt: skip
        blocks += [wr.H2(each.title), wr.P(each.words), wr.PanelGrid(runsets=[runset], panels=each.panels)]
    report.blocks = blocks
    return report


def _existing(kind: Any, address: str | None) -> Any:
    """Return the workspace or report at an address; None where there is none, or it was deleted."""
    if address is None:
        return None
    try:
        return kind.from_url(address)
    except (ValueError, TypeError):
        # This is how wandb-workspaces reports a view that does not exist.
        return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 for an error that the user can fix."""
    from analysis.command import run

    return run(arguments, USAGE, USAGE_LINE, DEFAULTS, show_dashboards)


def show_dashboards(values: Mapping[str, str], given: Mapping[str, str]) -> int:
    """Make the dashboards that the values ask for, and print their addresses; see USAGE."""
    from htc.errors import UserError

    if not values["project"]:
        raise UserError(f"project is missing: name the project at wandb, as in project=lab/htc; usage: {USAGE_LINE}.")
    try:
        made = make_dashboards(values["project"], values["sweep"], Path(values["runs"]))
    except OSError as error:
        raise UserError(f"runs={values['runs']} cannot be written ({error.strerror}): name another folder.") from error
    print(f"workspace: {made.workspace}\nreport: {made.report}")
    return 0


def start() -> None:
    """Run the command from the command line."""
    sys.exit(main())


if __name__ == "__main__":
    start()
