"""The form of each study: the settings that are columns, the published rows, and the row to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.table_rows import backbone_words, deformable_words, norm_words

OFF = "–"
ON = "✓"
Settings = Mapping[str, Any]
"""Settings of a run by dotted key."""


@dataclass(frozen=True)
class Setting:
    """A column that shows a setting."""

    header: str
    words: Callable[[Settings], str]
    """The setting as the table shows it; an empty string where it is not known."""
    align: str = "l"


@dataclass(frozen=True)
class PublishedRows:
    """Rows of a published table that have settings of the study."""

    table: str
    """Key of `Published.tables`."""
    backbone: str = ""
    """Backbone of the rows; empty for any."""
    schedule: str = ""
    """Schedule of the rows; empty for any."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the columns show, by their keys, beyond what the rows themselves state."""
    has_base: bool = False
    """Whether the first of the rows is what others of the same split and schedule are compared with."""


@dataclass(frozen=True)
class Form:
    """How a paper prints one study."""

    name: str
    """Name of the table, as in tables=NAME."""
    sweep: str
    """Name of the shipped sweep, whose rows give the order."""
    caption: str
    columns: Mapping[str, Setting]
    """The settings that are columns, in their order, by key."""
    base: str
    """Label of the row that the others are compared with."""
    published: tuple[PublishedRows, ...]
    note: str
    """What is known and what is not known of the paper's own table."""
    labels: str = ""
    """Header of a column with the labels of the rows; empty for none, where the settings tell the rows apart."""


def _fusion(settings: Settings) -> str:
    return str(settings.get("model.semantic_fusion") or "") if settings.get("model.semantic") else "none"


def _stage_weights(settings: Settings) -> str:
    weights = settings.get("model.stage_loss_weights")
    return ", ".join(f"{weight:g}" for weight in weights) if isinstance(weights, list) else ""


def _semantic_weight(settings: Settings) -> str:
    weight = settings.get("model.semantic_loss_weight")
    if not settings.get("model.semantic"):
        return OFF
    return f"{weight:g}" if isinstance(weight, int | float) else ""


def _backbone(settings: Settings) -> str:
    if settings.get("backbone.name") in (None, "???"):
        return ""
    label, widths = backbone_words(settings)
    return f"{label} ({', '.join(widths)})" if widths else label


def _norm(settings: Settings) -> str:
    return ", ".join(norm_words(settings)) or OFF


ZOO = ("mmdetection_zoo", "ResNet-50-FPN", "20e")
"""The authors' framework, with the settings of the paper."""
FORMS = (
    Form(
        name="fusion",
        sweep="semantic_fusion",
        caption="Heads that use the semantic features",
        columns={"fusion": Setting("fusion", _fusion)},
        base="none",
        published=(
            PublishedRows("components", settings={"fusion": "both"}),
            PublishedRows(*ZOO, settings={"fusion": "both"}),
        ),
        note="The paper's own table of this study was in no source that could be read: published rows are those of HTC "
        "with fusion in both heads.",
    ),
    Form(
        name="weights",
        sweep="stage_loss_weights",
        caption="Weights of the stages' losses",
        columns={"weights": Setting("α", _stage_weights)},
        base="halving",
        published=(PublishedRows(*ZOO, settings={"weights": "1, 0.5, 0.25"}),),
        note="α: weight of the loss of each stage. No source that could be read has a published study of it: the "
        "published row is HTC of MMDetection, with the weights of its configuration files.",
    ),
    Form(
        name="beta",
        sweep="beta",
        caption="Weight of the semantic branch's loss",
        columns={"beta": Setting("β", _semantic_weight, "r")},
        base="beta 0.2",
        published=(PublishedRows(*ZOO, settings={"beta": "0.2"}),),
        note="β: weight of the semantic branch's loss. The paper's own table of this study was in no source that could "
        "be read: the published row is HTC of MMDetection, with the weight of its configuration files.",
    ),
    Form(
        name="extensions",
        sweep="extensions",
        caption="Extensions of HTC",
        labels="extension",
        columns={
            "backbone": Setting("backbone", _backbone),
            "dcn": Setting("DCN", lambda settings: ON if deformable_words(settings) else OFF, "c"),
            "norm": Setting("norm", _norm),
        },
        base="HTC",
        published=(
            PublishedRows("extensions", has_base=True),
            PublishedRows(*ZOO, settings={"dcn": OFF}, has_base=True),
            PublishedRows("mmdetection_zoo", "ResNeXt-101-64x4d-FPN", settings={"dcn": OFF}),
            PublishedRows("mmdetection_zoo", "ResNeXt-101-64x4d-FPN with DCN in c3-c5", settings={"dcn": ON}),
            PublishedRows("scnet", "ResNet-50-FPN", "20e", {"dcn": OFF}),
            PublishedRows("hrnet"),
            PublishedRows("mmdetection_zoo", "ResNet-50-FPN", "1x", {"dcn": OFF}, has_base=True),
            PublishedRows("detectors"),
        ),
        note="Rows on test-dev are the steps of the paper, each added to the row before. Rows on val2017 are "
        "extensions in MMDetection, and later methods built on HTC.",
    ),
)
