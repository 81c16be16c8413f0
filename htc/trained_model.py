"""Loading of trained models: from a run folder, or from a checkpoint of this project or of another framework."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from htc.arguments import read_flag
from htc.checkpoint.files import load_newest, read_content
from htc.checkpoint.matching import check_state_dict, load_weights
from htc.checkpoint.record import Checkpoint
from htc.config.compose import composed_config, eval_settings, recorded_config
from htc.config.paths import expand_path
from htc.config.schema import Config
from htc.config.signature import to_plain, value_at
from htc.data.dataset import CocoDataset
from htc.data.transforms import network_size, resize_image
from htc.engine.precision import autocast_of
from htc.errors import UserError
from htc.interop.coco_categories import coco_ids, coco_names
from htc.interop.importer import ImportedCheckpoint, override_value, read_external_checkpoint
from htc.models.detector import Detector, build_detector, build_meta_detector
from htc.structures import Detections

logger = logging.getLogger(__name__)

INPUT_KEYS = (
    "backbone.style", "backbone.bgr", "backbone.pixel_mean", "backbone.pixel_std", "backbone.norm_eps",
    "model.stage_stds", "model.roi_aligned", "model.roi_sampling", "model.rpn.round_anchors",
)  # fmt: skip


@dataclass
class TrainedModel:
    """A model with its weights, on the CPU, with the configuration and categories it was trained with."""

    model: Detector
    config: Config
    category_ids: list[int] | None
    """Category id of each class index; None where the checkpoint does not hold them."""
    category_names: list[str]
    step: int
    unused: dict[str, Tensor] = field(default_factory=dict)
    """Tensors of an imported checkpoint that the network does not use, under the other framework's names."""
    imported: bool = False
    """Whether the checkpoint is of another framework."""
    named: bool = True
    """Whether the checkpoint holds the names of the categories; otherwise `category_names` are generated."""

    @property
    def result_ids(self) -> list[int]:
        """Category id of each class index in COCO results; 1, 2, ... where the checkpoint does not hold them."""
        return self.category_ids or list(range(1, len(self.category_names) + 1))

    @torch.inference_mode()
    def detect(self, pixels: np.ndarray, device: torch.device | str = "cpu") -> Detections:
        """Return the detections in one image, on the CPU and in the image's coordinates.

        Args:
            pixels: [height, width, 3] uint8, RGB.
            device: device of the model.
        """
        config, device = self.config, torch.device(device)
        height, width = pixels.shape[:2]
        resized = resize_image(pixels, network_size(height, width, config.data.short_side, config.data.long_side))
        image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).to(device)
        with autocast_of(config.precision, device)():
            return self.model.predict([image], [(height, width)], config.eval)[0].cpu()


def load_trained_model(arguments: dict[str, str], overrides: list[str]) -> TrainedModel:
    """Return the model of `run=RUN_DIR` or `checkpoint=FILE`, with KEY=VALUE overrides of its configuration.

    Raises UserError unless exactly one of the two is given, can be read and fits the configuration.
    """
    if ("run" in arguments) == ("checkpoint" in arguments):
        raise UserError("give one of run=RUN_DIR and checkpoint=FILE: the model to use.")
    partial = read_flag(arguments, "checkpoint.partial", False)
    if "run" in arguments:
        run = Path(arguments["run"])
        return _from_ours(_newest(run), f"run={run}", overrides, partial)
    path = Path(arguments["checkpoint"])
    source = f"checkpoint={path}"
    content = read_content(path)
    if checkpoint := Checkpoint.from_content(content, source):
        return _from_ours(checkpoint, source, overrides, partial)
    return load_external_model(read_external_checkpoint(content, path), source, overrides, partial)


def start_from(model: Detector, config: Config, dataset: CocoDataset) -> None:
    """Load the weights of `checkpoint.file` into a model that is to be trained on `dataset`.

    A warning names the settings of the input that differ from those of the file: a network that gets other pixels
    learns nevertheless, only worse. Raises UserError where the weights do not fit and `checkpoint.partial` is not set.
    """
    assert config.checkpoint.file is not None
    path = Path(expand_path(config.checkpoint.file, "checkpoint.file"))
    partial = config.checkpoint.partial
    source = f"checkpoint={path}"
    content = read_content(path)
    if checkpoint := Checkpoint.from_content(content, source):
        if not partial and checkpoint.categories.ids not in (None, dataset.category_ids):
            raise UserError(
                f"{source} was trained on other categories than those of {dataset.annotation_file}: "
                "checkpoint.partial=true loads what fits nevertheless."
            )
        load_weights(model, checkpoint.evaluated_weights, source, partial=partial)
    else:
        imported = read_external_checkpoint(content, path, partial=partial)
        logger.info("%s: %s", source, imported.description())
        if changed := _changed(imported, config):
            logger.warning("%s was trained with %s, unlike this run", source, " ".join(changed))
        _load_imported_weights(model, imported, source, config, partial)


def _changed(imported: ImportedCheckpoint, config: Config) -> list[str]:
    """Return the checkpoint's settings of the network's input that differ from the configuration, as KEY=VALUE."""
    plain = to_plain(config)
    had = {key: imported.overrides[key] for key in INPUT_KEYS if key in imported.overrides}
    return [f"{key}={override_value(value)}" for key, value in had.items() if value_at(plain, key) != value]


def _from_ours(checkpoint: Checkpoint, source: str, overrides: list[str], partial: bool) -> TrainedModel:
    config = recorded_config(checkpoint.config, overrides)
    config.backbone.weights = None
    ids, names = checkpoint.categories.ids, checkpoint.categories.names
    weights = checkpoint.evaluated_weights
    if not partial:
        check_state_dict(build_meta_detector(config, len(names)), weights, source)
    model = build_detector(config, len(names))
    load_weights(model, weights, source, partial=partial)
    return TrainedModel(model, config, ids, names, checkpoint.step, checkpoint.unused)


def load_external_model(imported: ImportedCheckpoint, source: str, overrides: list[str], partial: bool) -> TrainedModel:
    """Return the model of another framework's checkpoint.

    Args:
        imported: the checkpoint, with the settings that are inferred from it.
        source: the checkpoint's name in messages.
        overrides: KEY=VALUE arguments, which take precedence over inferred settings.
        partial: whether to load what fits, and to leave the rest as it was initialised.

    Raises:
        UserError: where the weights do not fit the configuration and `partial` is not set.
    """
    logger.info("%s: %s", source, imported.description())
    for hint in imported.hints:
        logger.warning("%s: %s", source, hint)
    # For Hydra, an inferred single value would take precedence over the file of values that the user names.
    chosen = {f"eval.{key}" for text in overrides if text.startswith("eval=") for key in eval_settings(text[5:])}
    inferred = [f"{key}={override_value(value)}" for key, value in imported.overrides.items() if key not in chosen]
    # A prediction reads no data set; an evaluation requires data.root.
    config = composed_config(["data=coco", "data.root=.", "backbone.weights=null", *inferred, *overrides])
    model = build_detector(config, imported.num_classes)
    _load_imported_weights(model, imported, source, config, partial)
    ids = None
    names = imported.class_names or [f"class {i}" for i in range(1, imported.num_classes + 1)]
    if imported.num_classes == len(coco_ids()) and imported.class_names in (None, coco_names()):
        ids, names = coco_ids(), coco_names()
    named = ids is not None or imported.class_names is not None
    return TrainedModel(model, config, ids, names, 0, imported.unused, imported=True, named=named)


def _load_imported_weights(
    model: Detector, imported: ImportedCheckpoint, source: str, config: Config, partial: bool
) -> None:
    imported.leave_out_idle(config.model.mask_flow)
    load_weights(
        model,
        imported.state,
        source,
        partial=partial,
        unexpected=imported.unexpected,
        name=imported.their_name,
    )


def _newest(run: Path) -> Checkpoint:
    if not run.is_dir():
        raise UserError(f"run={run} is not a folder: give a run's folder, such as runs/NAME-SIGNATURE.")
    checkpoint = load_newest(run / "checkpoints")
    if checkpoint is None:
        raise UserError(f"run={run} holds no undamaged checkpoint: train it first, or give checkpoint=FILE.")
    return checkpoint


def check_categories(trained: TrainedModel, dataset: CocoDataset) -> None:
    """Raise UserError for data whose categories, in order, are not those that the model was trained on.

    Category ids that the checkpoint does not hold are taken from the data, with a warning.
    """
    names, file = trained.category_names, dataset.annotation_file
    same_ids = trained.category_ids in (None, dataset.category_ids)
    if len(names) != len(dataset.category_names) or not same_ids:
        raise UserError(
            f"{file} has {len(dataset.category_names)} categories, the model was trained on {len(names)}, or their ids "
            "differ: evaluate on data with the same categories."
        )
    if trained.named and names != dataset.category_names:
        ours, theirs = next(pair for pair in zip(names, dataset.category_names, strict=True) if pair[0] != pair[1])
        raise UserError(
            f"{file} has the category {theirs!r} where the model has {ours!r}: evaluate on data with the same names "
            "in the same order."
        )
    if trained.category_ids is None:
        logger.warning("the checkpoint holds no category ids: those of %s are used", file)
