"""Checkpoints that are not ours: which framework wrote them, what they hold, and what to build for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from htc.errors import UserError
from htc.interop.architecture import read_architecture
from htc.interop.mmdetection_config import read_settings
from htc.interop.mmdetection_names import split_known, their_name
from htc.interop.torchvision import TORCHVISION_SETTINGS, from_torchvision

MMDETECTION, TORCHVISION = "MMDetection", "torchvision"
EMBEDDINGS = "cascade.mask_branch.flow.embeddings."
NO_SETTINGS = (
    "the file carries no configuration, so test settings are the defaults; models of the zoo called `caffe` need "
    "backbone.style=caffe backbone.bgr=true backbone.pixel_std=[1,1,1], and HTC's published figures eval=paper"
)


@dataclass
class ImportedCheckpoint:
    """A checkpoint of another framework, under our names."""

    source: str
    """MMDetection or torchvision."""
    state: dict[str, Tensor]
    original: dict[str, str]
    """The file's name of each tensor of the state."""
    num_classes: int
    class_names: list[str] | None
    """As the file gives them; None where it does not."""
    overrides: dict[str, Any]
    """The configuration that fits: from the tensors, then from the configuration's text in the file."""
    unused: dict[str, Tensor] = field(default_factory=dict)
    """Their tensors that the network has no use for, under their names: an export puts them back."""
    unexpected: list[str] = field(default_factory=list)
    """Their names of tensors that belong to no part of ours."""
    hints: list[str] = field(default_factory=list)
    """What the file does not tell, and how to set it."""

    def leave_out_idle(self, mask_flow: bool) -> None:
        """Move embeddings that a model with or without mask flow has no use for to the unused tensors."""
        for ours in idle_tensors(self.state, mask_flow=mask_flow):
            self.unused[self.their_name(ours)] = self.state.pop(ours)

    def their_name(self, ours: str) -> str:
        """The file's name of one of our tensors, the one it would have where the file lacks it."""
        if self.source != MMDETECTION:
            return ours
        return self.original.get(ours) or their_name(ours, counted=True) or ours

    def description(self) -> str:
        """One line that says what was inferred."""
        values = " ".join(f"{key}={override_value(value)}" for key, value in self.overrides.items())
        return f"{self.source} checkpoint with {self.num_classes} classes; inferred: {values}"


def read_external_checkpoint(content: Any, path: Path, *, partial: bool = False) -> ImportedCheckpoint:
    """What a file of another framework holds. Raises UserError where it is of no known kind or no known network.

    partial: any network of MMDetection's names will do, for its backbone alone; one that ours cannot be has no classes
    and no overrides.
    """
    source = f"checkpoint={path}"
    found = find_state(content)
    # Wrapped for several processes, a model's tensors are those of its attribute `module`.
    wrapped = all(name.startswith("module.") for name in found)
    state = {name.removeprefix("module."): value for name, value in found.items()} if wrapped else found
    names = set(state)
    if partial and any(name.startswith("backbone.layer") for name in names):
        try:
            return _from_mmdetection(state, _meta(content), source)
        except UserError:
            return _parts(state, source)
    if any(name.startswith(("roi_head.", "rpn_head.")) for name in names):
        if any(name.startswith(("bbox_head.", "mask_head.")) for name in names):
            raise UserError(
                f"{source} is a checkpoint of MMDetection 1.x, whose classes are in another order: convert it with its "
                "tools/model_converters/upgrade_model_version.py first."
            )
        return _from_mmdetection(state, _meta(content), source)
    if any(name.startswith("roi_heads.box_predictor.cls_score") for name in names):
        return _from_torchvision(state, source)
    if any(name.startswith("proposal_generator.") for name in names):
        raise UserError(f"{source} is a checkpoint of Detectron2, which cannot be loaded: give one of MMDetection.")
    raise UserError(
        f"{source} is neither a checkpoint of this project nor one of MMDetection or torchvision's Mask R-CNN: it "
        f"holds {_glimpse(content)}."
    )


def find_state(content: Any) -> dict[str, Tensor]:
    """The tensors of a file by name, whether it wraps them or is nothing else; empty where there are none."""
    for candidate in (content, *(_get(content, key) for key in ("state_dict", "model"))):
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {str(name): value for name, value in candidate.items()}
    return {}


def _from_mmdetection(state: dict[str, Tensor], meta: Mapping[str, Any], source: str) -> ImportedCheckpoint:
    known, original, rest = _split(state, source)
    architecture = read_architecture({name: tuple(value.shape) for name, value in known.items()}, source)
    settings = read_settings(next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), ""))
    overrides = architecture.overrides | settings
    # Embeddings may be there and unused, but what is not there cannot be used.
    overrides["model.mask_flow"] &= architecture.overrides["model.mask_flow"]
    if not overrides["model.semantic"]:
        overrides.pop("model.semantic_fusion", None)
    unused = _without_use(rest)
    imported = ImportedCheckpoint(
        MMDETECTION,
        known,
        original,
        architecture.num_classes,
        _class_names(meta, architecture.num_classes),
        overrides,
        unused=unused,
        unexpected=sorted(rest),
        hints=[] if settings else [NO_SETTINGS],
    )
    imported.leave_out_idle(overrides["model.mask_flow"])
    return imported


def _parts(state: dict[str, Tensor], source: str) -> ImportedCheckpoint:
    """What has a name of ours, whatever the rest is."""
    known, original, rest = _split(state, source)
    unused = _without_use(rest)
    return ImportedCheckpoint(MMDETECTION, known, original, 0, None, {}, unused=unused, unexpected=sorted(rest))


def _split(state: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Tensor]]:
    try:
        return split_known(state)
    except ValueError as error:
        raise UserError(f"{source} is ambiguous: {error}; remove one of the two.") from None


def _without_use(rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take out what is no weight: the mean and the standard deviation of the pixels, where a file holds them."""
    return {name: rest.pop(name) for name in list(rest) if name.startswith("data_preprocessor.")}


def idle_tensors(names: Iterable[str], *, mask_flow: bool) -> list[str]:
    """Of our names, the embeddings of the mask flow that nothing uses: all without flow, with it the first stage's."""
    return [name for name in names if name.startswith(f"{EMBEDDINGS}0." if mask_flow else EMBEDDINGS)]


def _from_torchvision(state: dict[str, Tensor], source: str) -> ImportedCheckpoint:
    known = from_torchvision(state, source)
    architecture = read_architecture({name: tuple(value.shape) for name, value in known.items()}, source)
    overrides = architecture.overrides | TORCHVISION_SETTINGS
    return ImportedCheckpoint(TORCHVISION, known, {}, architecture.num_classes, None, overrides)


def _meta(content: Any) -> Mapping[str, Any]:
    meta = _get(content, "meta")
    return meta if isinstance(meta, Mapping) else {}


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def _class_names(meta: Mapping[str, Any], number: int) -> list[str] | None:
    """MMDetection 2.x: meta.CLASSES; 3.x: meta.dataset_meta.classes."""
    for names in (
        _get(meta.get("dataset_meta"), "classes"),
        _get(meta.get("dataset_meta"), "CLASSES"),
        meta.get("CLASSES"),
    ):
        if isinstance(names, list | tuple) and len(names) == number and all(isinstance(name, str) for name in names):
            return list(names)
    return None


def _glimpse(content: Any) -> str:
    if isinstance(content, Mapping):
        return "the keys " + ", ".join(str(key) for key in list(content)[:5]) if content else "an empty dict"
    return f"a {type(content).__name__}"


def override_value(value: Any) -> str:
    """A value as Hydra reads it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(override_value(item) for item in value) + "]"
    return str(value)
