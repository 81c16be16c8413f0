"""What a report shows, before it is a page: tables whose cells know their value and origin, figures, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    header: str
    numeric: bool = True
    explanation: str = ""
    """What its numbers are, in one or two sentences."""


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and the value that it is sorted by."""

    text: str
    value: Value = None
    """None is sorted last."""
    strong: bool = False
    """Whether the cell is emphasised."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    cells: Sequence[Cell]
    origin: int | None = None
    """Index in `Report.origins`; None for a row without runs."""


@dataclass(frozen=True)
class ReportTable:
    """A table that can be sorted."""

    name: str
    """Unique in the report: letters, digits and `-`."""
    title: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()

    @property
    def linked(self) -> bool:
        """Whether cells can be opened."""
        return any(row.origin is not None for row in self.rows)


@dataclass(frozen=True)
class RunOrigin:
    """Where the numbers of one run come from."""

    folder: str
    seed: int
    facts: Mapping[str, str]
    """Command, commit, times, device, evaluation, by words."""
    values: Mapping[str, float]
    """By key of the column, in percent where the column is."""


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one row come from."""

    label: str
    runs: Sequence[RunOrigin]


@dataclass(frozen=True)
class Figure:
    """A figure."""

    title: str
    svg: str
    """An `<svg>` element of our own making."""
    caption: str = ""


@dataclass(frozen=True)
class Overlay:
    """What one variant predicts on one image."""

    variant: int
    """Index in `Report.variants`."""
    shapes: Sequence[Shape]


@dataclass(frozen=True)
class Shape:
    """A predicted object, or a true one."""

    path: str
    """Outlines as the data of an SVG path, in pixels of the picture."""
    label: str
    """Name of the category."""
    score: float
    """In 0..1; 1 for a true object."""
    color: int
    """Index of the category's color."""
    corner: tuple[float, float]
    """Top left of the box, in pixels of the picture."""


@dataclass(frozen=True)
class Picture:
    """An image with the predictions of all variants."""

    title: str
    source: str
    """A data URI."""
    width: int
    height: int
    overlays: Sequence[Overlay]


@dataclass
class Report:
    """The contents of one page."""

    title: str
    summary: list[str] = field(default_factory=list)
    """Sentences at the top."""
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    """Labels of what the pictures switch between; the first one is the ground truth."""
    pictures: list[Picture] = field(default_factory=list)
    pictures_note: str = ""
    """How the images were chosen, and what is drawn."""
    settings: ReportTable | None = None
    """The settings in which the rows differ."""
    origins: list[Origin] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What is missing, and how it is made."""
    facts: dict[str, str] = field(default_factory=dict)
    """How the page was made, by words."""

    def data(self) -> dict[str, Any]:
        """Return what the page's script reads, as JSON values."""
        return {
            "origins": [
                {
                    "label": origin.label,
                    "runs": [
                        {"folder": run.folder, "seed": run.seed, "facts": dict(run.facts), "values": dict(run.values)}
                        for run in origin.runs
                    ],
                }
                for origin in self.origins
            ],
            "columns": {
                table.name: [
                    {"key": column.key, "header": column.header, "explanation": column.explanation}
                    for column in table.columns
                ]
                for table in (*self.tables, *((self.settings,) if self.settings else ()))
            },
        }
