"""What the dashboards of a project show: sections of panels, as wandb-workspaces describes them.

The keys are those that `htc.runs.tracking` logs: losses as `train/losses/s0.loss_mask`, evaluations as `eval/segm/AP`,
and the results of a run's own evaluation at the top of its summary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.runs import METRICS
from analysis.table_rows import ADDED_SWITCHES, IDEAS
from htc.runs.wandb_record import RECORD_KEY

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

STEP = "step"
"""The horizontal axis of curves: training steps. wandb's own step counts rows."""
STAGES = 3
"""Stages with a chart of their own; the charts by task show the stages of any cascade."""
TASKS = {"cls": "classification", "bbox": "boxes", "mask": "masks"}
VARIANT = f"{RECORD_KEY}.variant"
"""Key of what runs that differ in the seed only have in common."""


@dataclass(frozen=True)
class PanelSection:
    """Panels under one heading."""

    title: str
    words: str
    """A sentence about them."""
    panels: list[Any]


def row_key(sweep: str) -> str:
    """Return the key of wandb's configuration that names the row of a run: its label in a sweep, or its variant."""
    # wandb takes a dot for the border between two keys.
    return f"{RECORD_KEY}.label.{sweep}" if sweep and "." not in sweep else VARIANT


def sections(sweep: str = "") -> list[PanelSection]:
    """Return the sections of panels, each with fresh panels.

    Args:
        sweep: name of the sweep whose rows are compared; empty for all runs of the project.
    """
    import wandb_workspaces.reports.v2 as wr

    row = wr.Config(row_key(sweep))
    return [
        PanelSection(
            "Sweep overview",
            "AP of each row, mean and range over its seeds, and what it costs in speed; settings in which runs differ.",
            list(_overview(row)),
        ),
        PanelSection(
            "Components",
            "What each idea brings: runs with it and runs without it, and the metrics of masks by row.",
            list(_components(row)),
        ),
        PanelSection(
            "Curves by stage and task", "Losses of each task over all stages, and of each stage over its tasks; AP.",
            list(_curves()),
        ),
        PanelSection(
            "Predictions", "Masks and boxes on the same validation images.",
            [wr.MediaBrowser(title="Predictions", media_keys=["predictions"], mode="grid", grid_x_axis="run",
                             grid_y_axis="index")],
        ),
    ]  # fmt: skip


def _overview(row: wr.Config) -> Iterator[Any]:
    import wandb_workspaces.reports.v2 as wr

    yield _bars("mask AP", "segm/AP", row)
    yield _bars("box AP", "bbox/AP", row)
    yield wr.ScatterPlot(title="mask AP and speed", x=wr.SummaryMetric("speed/fps"), y=wr.SummaryMetric("segm/AP"))
    keys = [f"model.{idea}" for idea in (*IDEAS, *ADDED_SWITCHES)]
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in (*keys, "model.num_stages")]
    last = wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("segm/AP"), display_name="mask AP")
    yield wr.ParallelCoordinatesPlot(title="settings and mask AP", columns=[*columns, last])
    yield wr.RunComparer(diff_only="split")


def _components(row: wr.Config) -> Iterator[Any]:
    import wandb_workspaces.reports.v2 as wr

    for idea, words in {**IDEAS, **ADDED_SWITCHES}.items():
        yield _bars(f"mask AP by {words}", "segm/AP", wr.Config(f"model.{idea}"))
    for key, (section, metric) in METRICS.items():
        if key not in ("mask_AP", "box_AP"):
            yield _bars(f"mask {metric}", f"{section}/{metric}", row)


def _curves() -> Iterator[Any]:
    import wandb_workspaces.reports.v2 as wr

    yield wr.LinePlot(title="total loss", x=STEP, y=["train/loss"])
    for task, words in TASKS.items():
        yield wr.LinePlot(title=f"loss of {words}, by stage", x=STEP, metric_regex=rf"train/losses/s\d+\.loss_{task}")
    for stage in range(STAGES):
        yield wr.LinePlot(
            title=f"losses of stage {stage + 1}, by task", x=STEP,
            y=[f"train/losses/s{stage}.loss_{task}" for task in TASKS],
        )  # fmt: skip
    yield wr.LinePlot(title="loss of the semantic branch", x=STEP, y=["train/losses/loss_semantic_seg"])
    yield wr.LinePlot(title="losses of the RPN", x=STEP, y=["train/losses/loss_rpn_cls", "train/losses/loss_rpn_bbox"])
    yield wr.LinePlot(title="AP during training", x=STEP, y=["eval/bbox/AP", "eval/segm/AP"])
    yield wr.LinePlot(title="learning rate", x=STEP, y=["train/lr"])
    yield wr.LinePlot(title="images per second", x=STEP, y=["train/images_per_second"])
    yield wr.LinePlot(title="peak memory in MB", x=STEP, y=["train/memory_mb"])


def _bars(title: str, metric: str, group: wr.Config) -> wr.BarPlot:
    """Return a chart with a bar per group of runs: their mean, with their range."""
    import wandb_workspaces.reports.v2 as wr

    return wr.BarPlot(
        title=title, metrics=[metric], orientation="h", groupby=group, groupby_aggfunc="mean",
        groupby_rangefunc="minmax", max_bars_to_show=50,
    )  # fmt: skip
