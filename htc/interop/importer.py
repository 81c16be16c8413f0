"""Import of checkpoints of other frameworks: recognition, translation to our names, and the fitting configuration."""

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
    "the file carries no configuration, so test settings are the defaults; models of MMDetection's zoo with `caffe` in "
    "their name need backbone.style=caffe backbone.bgr=true backbone.pixel_std=[1,1,1], and HTC's published figures "
    "need eval=paper"
)
"""Hint for a checkpoint without the text of its configuration."""


@dataclass
class ImportedCheckpoint:
    """A checkpoint of another framework, translated to our names."""

    source: str
    """Framework: MMDetection or torchvision."""
    state: dict[str, Tensor]
    """State dict under our names."""
    original: dict[str, str]
    """Name in the file of each tensor of `state`, by our names."""
    num_classes: int
    """Number of object categories; 0 if only the backbone was recognised."""
    class_names: list[str] | None
    """Names of the categories, or None if the file has none."""
    overrides: dict[str, Any]
    """Overrides of our configuration, from the tensors and from the text of the configuration in the file."""
    unused: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that the network does not use, by their names in the file; an export writes them back."""
    unexpected: list[str] = field(default_factory=list)
    """Names in the file of tensors that belong to no part of our network."""
    hints: list[str] = field(default_factory=list)
    """Messages about settings that the file does not show, and how to set them."""

    def leave_out_idle(self, mask_flow: bool) -> None:
        """Move the embeddings that a model with or without mask flow does not use from `state` to `unused`."""
        for ours in idle_tensors(self.state, mask_flow=mask_flow):
            self.unused[self.their_name(ours)] = self.state.pop(ours)

    def their_name(self, ours: str) -> str:
        """Return the file's name of one of our tensors, or the name that a tensor missing in the file would have."""
        if self.source != MMDETECTION:
            return ours
        return self.original.get(ours) or their_name(ours, numbered_heads=True) or ours

    def description(self) -> str:
        """Return one line that says what was inferred."""
        values = " ".join(f"{key}={override_value(value)}" for key, value in self.overrides.items())
        return f"{self.source} checkpoint with {self.num_classes} classes; inferred: {values}"


def read_external_checkpoint(content: Any, path: Path, *, partial: bool = False) -> ImportedCheckpoint:
    """Import the content of a checkpoint file of another framework.

    Args:
        content: content of the file, as `load_tensors` reads it.
        path: path of the file, for messages.
        partial: accept any network with a backbone under MMDetection's names. If our configuration cannot express the
            network, the result has no classes and no overrides.

    Raises UserError for a file of an unknown framework, or of a network that our configuration cannot express.
    """
    source = f"checkpoint={path}"
    found = find_state(content)
    # DistributedDataParallel adds this prefix.
    prefixed = all(name.startswith("module.") for name in found)
    state = {name.removeprefix("module."): value for name, value in found.items()} if prefixed else found
    names = set(state)
    if partial and any(name.startswith("backbone.layer") for name in names):
        try:
            return _from_mmdetection(state, _meta(content), source)
        except UserError:
            return _known_parts(state, source)
    if any(name.startswith(("roi_head.", "rpn_head.")) for name in names):
        if any(name.startswith(("bbox_head.", "mask_head.")) for name in names):
            raise UserError(
                f"{source} is a checkpoint of MMDetection 1.x, whose classes are in another order: convert it with "
                "MMDetection's tools/model_converters/upgrade_model_version.py first."
            )
        return _from_mmdetection(state, _meta(content), source)
    if any(name.startswith("roi_heads.box_predictor.cls_score") for name in names):
        return _from_torchvision(state, source)
    if any(name.startswith("proposal_generator.") for name in names):
        raise UserError(f"{source} is a checkpoint of Detectron2, which cannot be loaded: give one of MMDetection.")
    raise UserError(
        f"{source} is neither a checkpoint of this project nor one of MMDetection or torchvision's Mask R-CNN: it "
        f"holds {_summary(content)}."
    )


def find_state(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a file by name: all of its content, or of its item `state_dict` or `model`.

    The result is empty if none of these is a dict of tensors.
    """
    for candidate in (content, *(_get(content, key) for key in ("state_dict", "model"))):
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {str(name): value for name, value in candidate.items()}
    return {}


def _from_mmdetection(state: dict[str, Tensor], meta: Mapping[str, Any], source: str) -> ImportedCheckpoint:
    known, original, rest = _split(state, source)
    architecture = read_architecture({name: tuple(value.shape) for name, value in known.items()}, source)
    settings = read_settings(next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), ""))
    overrides = architecture.overrides | settings
    # The configuration can turn mask flow off although the embeddings exist, but not on without them.
    overrides["model.mask_flow"] &= architecture.overrides["model.mask_flow"]
    if not overrides["model.semantic"]:
        overrides.pop("model.semantic_fusion", None)
    unused = _pop_pixel_statistics(rest)
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


def _known_parts(state: dict[str, Tensor], source: str) -> ImportedCheckpoint:
    """Import the tensors that we have names for, without inferring the network."""
    known, original, rest = _split(state, source)
    unused = _pop_pixel_statistics(rest)
    return ImportedCheckpoint(MMDETECTION, known, original, 0, None, {}, unused=unused, unexpected=sorted(rest))


def _split(state: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Tensor]]:
    """Split the state dict as `split_known` does. Raises UserError if two tensors have the same name of ours."""
    try:
        return split_known(state)
    except ValueError as error:
        raise UserError(f"{source} is ambiguous: {error}; remove one of the two.") from None


def _pop_pixel_statistics(rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove and return mean and standard deviation of the pixels, which are not weights, if the file has them."""
    return {name: rest.pop(name) for name in list(rest) if name.startswith("data_preprocessor.")}


def idle_tensors(names: Iterable[str], *, mask_flow: bool) -> list[str]:
    """Return the names of unused mask-flow embeddings: all of them without mask flow, else those of the first stage."""
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


def _class_names(meta: Mapping[str, Any], num_classes: int) -> list[str] | None:
    """Return the class names, which are in meta.CLASSES (MMDetection 2.x) or meta.dataset_meta.classes (3.x).

    The result is None if there are none, or not `num_classes` of them.
    """
    for names in (
        _get(meta.get("dataset_meta"), "classes"),
        _get(meta.get("dataset_meta"), "CLASSES"),
        meta.get("CLASSES"),
    ):
        if (
            isinstance(names, list | tuple)
            and len(names) == num_classes
            and all(isinstance(name, str) for name in names)
        ):
            return list(names)
    return None


def _summary(content: Any) -> str:
    """Describe the content of a file in a few words, for a message."""
    if isinstance(content, Mapping):
        return "the keys " + ", ".join(str(key) for key in list(content)[:5]) if content else "an empty dict"
    return f"a {type(content).__name__}"


def override_value(value: Any) -> str:
    """Return a value in the form in which Hydra reads it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(override_value(item) for item in value) + "]"
    return str(value)
