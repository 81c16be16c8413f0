"""Tracking of a run by wandb. Tracking never stops a run: a failure is logged once, and turns tracking off.

wandb is imported only when it is used: with wandb.mode=disabled it need not be installed.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from htc.config.schema import Config, WandbMode
from htc.config.signature import signature, to_plain
from htc.runs.files import plain_json
from htc.runs.folder import RunFolder, now
from htc.runs.json_values import number
from htc.runs.record import WandbRun
from htc.runs.redaction import redact
from htc.runs.wandb_files import offline_files, remove_offline_runs
from htc.runs.wandb_record import RECORD_KEY, public_results, started, state, tags_of

if TYPE_CHECKING:
    import wandb

    from htc.structures import ImagePrediction

logger = logging.getLogger(__name__)

INIT_TIMEOUT = 30.0
"""Seconds that the start of a run waits for wandb's server."""
FINISH_TIMEOUT = 60.0
"""Seconds that the end of a run waits for uploads; `wandb sync` can upload the rest from the run's folder later."""
ROWS_OF_A_STEP = ("train", "eval", "pictures")
"""Kinds of rows that one step can log, in this order."""
DELETED = "previously created and deleted"
"""Words with which wandb's server refuses the id of a deleted run."""
SHOWN_SCORE = 0.3
"""Pictures show only detections with at least this score."""


class Tracker:
    """Sends a run's configuration, metrics and pictures to wandb; does nothing if tracking is off.

    It is created by `Tracker.start`. Each row of wandb's history is a line of metrics.jsonl or a set of pictures, and
    wandb's row number is computed from its step and kind (`row_number`). So a resumed run sends only the rows after the
    last one that the server has, and not the steps that it repeats, also if it logs or evaluates more or less often
    than before. The horizontal axis of charts is the `step` that is logged with every row.
    """

    def __init__(self, run: wandb.Run | None, folder: Path | None = None, shown_images: int = 0) -> None:
        self._run = run
        self._folder = folder
        self._shown_images = shown_images
        self._first_row = 0 if run is None else run.starting_step
        """Number of the first row that the server does not have."""

    @property
    def on(self) -> bool:
        """True if the run is tracked."""
        return self._run is not None

    @classmethod
    def start(cls, config: Config, folder: Path, lines: Sequence[Mapping[str, Any]] = ()) -> Tracker:
        """Start or resume the wandb run of a run folder, in the mode `wandb.mode`. It never asks for a login or raises.

        Args:
            config: the run's configuration.
            folder: the run's folder.
            lines: the lines of metrics.jsonl so far. Those that the server lacks are sent. An offline run sends all of
                them, and replaces the earlier offline runs in the folder.
        """
        mode = _wanted_mode(config)
        if mode == "disabled":
            return cls(None)
        earlier = offline_files(folder)
        try:
            _wait_for_another_second(earlier)
            folder.mkdir(parents=True, exist_ok=True)
            run = _start_known_run(config, folder, mode)
        except Exception as error:  # noqa: BLE001 - no failure of tracking may stop the run
            logger.warning("Tracking by wandb is off, it could not start: %s", _first_line(error))
            return cls(None)
        if run is not None:
            logger.info("Tracked by wandb: %s", run.url or run.dir)
        tracker = cls(run, folder, config.wandb.images)
        tracker._attempt(lambda run: run.summary.update(state(folder)))
        for line in lines:
            tracker.log(line, int(number(line.get("step")) or 0))
        if tracker.on:
            remove_offline_runs(earlier)
        return tracker

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log a line of metrics.jsonl. Nested keys are joined by `/`, after the line's `kind` (train or eval)."""
        kind = metrics.get("kind")
        values = _flatten({k: v for k, v in metrics.items() if k not in ("kind", "step")}, kind or "")
        row = row_number(step, "eval" if kind == "eval" else "train")
        self._attempt(lambda run: self._send(run, row, {**values, "step": step}))

    def images(
        self,
        images: Iterable[tuple[str, np.ndarray, ImagePrediction]],
        names: Sequence[str],
        step: int,
    ) -> None:
        """Log pictures with predicted masks and boxes, for the first `wandb.images` of the images.

        Args:
            images: caption, picture [height, width, 3] uint8 RGB, and detections in the frame of the picture, for each
                image. Only the images that are shown are taken from the iterable.
            names: name of each contiguous class index.
            step: training step.
        """

        def show(run: wandb.Run) -> None:
            pairs = zip(range(self._shown_images), images, strict=False)
            shown = [_picture(caption, image, prediction, names) for _, (caption, image, prediction) in pairs]
            if shown:
                self._send(run, row_number(step, "pictures"), {"predictions": shown, "step": step})

        self._attempt(show)

    def finish(
        self,
        results: Mapping[str, Any] | None = None,
        *,
        exit_code: int = 0,
        preempted: bool = False,
        error: str | None = None,
    ) -> None:
        """End the wandb run with the state of its folder as its summary, and turn tracking off.

        Args:
            results: content of results.json of the run's own evaluation, which is at the top of the summary.
            exit_code: any value but 0 marks the run as failed.
            preempted: mark the run as preempted.
            error: why the run failed.
        """

        def end(run: wandb.Run) -> None:
            status = "preempted" if preempted else "failed" if exit_code else "done"
            if preempted:
                run.mark_preempting()
            if results is not None:
                run.summary.update(_flatten(public_results(results), ""))
            if self._folder is not None:
                run.summary.update(state(self._folder, status, now(), None if error is None else redact(error)))
            import wandb

            run.finish(exit_code=exit_code)
            # wandb's service ends with this process and may still be writing: wait until it has written everything.
            wandb.teardown(exit_code=exit_code)

        self._attempt(end)
        self._run = None

    def _send(self, run: wandb.Run, row: int, values: dict[str, Any]) -> None:
        """Log a row, unless the server has it already."""
        if row >= self._first_row:
            run.log(values, step=row, commit=True)

    def _attempt(self, action: Callable[[wandb.Run], None]) -> None:
        """Run an action if tracking is on; if it raises, log a warning and turn tracking off."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # noqa: BLE001 - no failure of tracking may stop the run
            logger.warning("Tracking by wandb is off from here on: %s", _first_line(error))
            self._run = None


def row_number(step: int, kind: str) -> int:
    """Return wandb's row number for a step and a kind of row; the kinds of one step have consecutive numbers."""
    return len(ROWS_OF_A_STEP) * step + ROWS_OF_A_STEP.index(kind)


def new_id(config: Config) -> str:
    """Return a new id of a run at wandb. It is random: two people may run one configuration in one project."""
    return f"{signature(config)}-{secrets.token_hex(4)}"


def recorded_id(config: Config, folder: Path) -> str:
    """Return wandb's id of the run in a folder, which run.json keeps; a new one where there is none yet.

    It is recorded before wandb knows it, so that a run that is killed in between continues under the same id. Where
    run.json was lost, the offline files of the run still have the id.
    """
    run = RunFolder(folder)
    if (known := run.read(strict=True).wandb) is not None:
        return known.id
    files = offline_files(folder)
    chosen = files[-1].stem.removeprefix("run-") if files else new_id(config)
    run.update(wandb=WandbRun(chosen))
    return chosen


def replace_deleted_id(config: Config, folder: Path) -> str:
    """Record a new id for a run that was deleted on the server, and return it."""
    run = RunFolder(folder)
    before = run.read(strict=True).wandb
    earlier = [] if before is None else [*before.earlier, before.id]
    chosen = new_id(config)
    run.update(wandb=WandbRun(chosen, earlier))
    return chosen


def _wait_for_another_second(earlier: Sequence[Path]) -> None:
    """Wait until the current second is in no name of the earlier folders.

    wandb names folders by the second: a run that starts again within a second would write into the earlier folder.
    """
    while any(time.strftime("%Y%m%d_%H%M%S") in file.parent.name for file in earlier):
        time.sleep(0.05)


def _wanted_mode(config: Config) -> str:
    """Return the mode `online`, `offline` or `disabled`, or `` for online if the user is logged in."""
    if config.wandb.mode is not None:
        return config.wandb.mode.value
    mode = os.environ.get("WANDB_MODE", "")
    # `dryrun` and `run` are older names that wandb still accepts.
    return {"dryrun": "offline", "run": "online"}.get(mode, mode)


def _start_known_run(config: Config, folder: Path, mode: str) -> wandb.Run | None:
    """Start or resume the wandb run of a folder; return None if the user is not logged in.

    A run that was deleted on the server goes on as a new one: the server refuses its id.
    """
    try:
        return _start_run(config, folder, mode, recorded_id(config, folder))
    except Exception as error:
        if DELETED not in str(error):
            raise
        chosen = replace_deleted_id(config, folder)
        logger.warning("the run was deleted at wandb: it goes on there as %s, with its complete history", chosen)
        return _start_run(config, folder, mode, chosen)


def _start_run(config: Config, folder: Path, mode: str, run_id: str) -> wandb.Run | None:
    """Start or resume the wandb run with an id; return None if the user is not logged in."""
    import wandb

    # Silent: wandb's banners would disturb the log and the progress bar; `start` logs the address.
    settings = wandb.Settings(mode="offline" if mode == "offline" else "online", silent=True, quiet=True)
    # If the parent process uses wandb, this variable names its service. That service would survive a kill of this run,
    # keep the run's id, and refuse rows of the process that resumes the run.
    os.environ.pop("WANDB_SERVICE", None)
    wandb.setup(settings=settings)
    # Look for credentials, without asking the user or the server.
    if mode != "offline" and not wandb.login(prompt=False, verify=False):
        requested = mode == WandbMode.online.value
        level = logging.WARNING if requested else logging.INFO
        logger.log(level, "Tracking by wandb is off: not logged in (`wandb login`, or WANDB_API_KEY, turns it on).")
        return None
    settings.console = "off"
    settings.init_timeout = INIT_TIMEOUT
    settings.finish_timeout = FINISH_TIMEOUT
    settings.symlink = False
    # The command line and the uncommitted changes may contain secrets; run.json has both, with secrets redacted.
    settings.disable_git = settings.disable_code = settings.x_disable_meta = True
    run = wandb.init(
        project=config.wandb.project,
        entity=config.wandb.entity,
        dir=folder.absolute(),
        id=run_id,
        name=config.name,
        group=config.sweep,
        tags=[signature(config), *tags_of(folder)],
        config={**to_plain(config), RECORD_KEY: started(config, folder)},
        allow_val_change=True,
        resume="allow",
        # One process may execute several runs of a sweep.
        reinit="create_new",
        settings=settings,
    )
    run.define_metric("*", step_metric="step")
    return run


def _flatten(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return nested values under keys joined by `/`, without values that are None or not finite."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}/{key}" if prefix else key
        if isinstance(value, Mapping):
            flat |= _flatten(value, path)
        elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            flat[path] = plain_json(value)
    return flat


def _picture(caption: str, image: np.ndarray, prediction: ImagePrediction, names: Sequence[str]) -> wandb.Image:
    """Return a picture [height, width, 3] uint8 RGB with the masks and boxes of its detections."""
    import wandb
    from pycocotools import mask as coco_mask

    height, width = image.shape[:2]
    shown = [index for index, score in enumerate(prediction.scores) if score >= SHOWN_SCORE]
    classes = np.zeros((height, width), dtype=np.uint8)
    # The best detection is drawn last, over the others.
    for index in reversed(shown):
        inside = coco_mask.decode(prediction.masks[index]) > 0
        # wandb's masks have one byte per pixel, and 0 is the background.
        classes[inside] = min(int(prediction.labels[index]) + 1, 255)
    boxes = []
    for index in shown:
        x0, y0, x1, y1 = (float(value) for value in prediction.boxes[index])
        label, score = int(prediction.labels[index]), float(prediction.scores[index])
        boxes.append(
            {
                "position": {"minX": x0 / width, "minY": y0 / height, "maxX": x1 / width, "maxY": y1 / height},
                "class_id": label + 1,
                "box_caption": f"{names[label]} {score:.2f}",
                "scores": {"score": score},
            }
        )
    labels = {index + 1: name for index, name in enumerate(names)}
    return wandb.Image(
        image,
        caption=caption,
        masks={"masks": {"mask_data": classes, "class_labels": {0: "background", **labels}}},
        boxes={"boxes": {"box_data": boxes, "class_labels": labels}} if boxes else None,
        file_type="jpg",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
