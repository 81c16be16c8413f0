"""The run on a wandb dashboard. Tracking never stops a run: what fails is logged once, and tracking is off from there.

wandb is imported only where it may be used: with wandb.mode=disabled it need not be installed.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from htc.config.schema import Config, WandbMode, signature, to_plain
from htc.runs.files import plain_json
from htc.runs.wandb_files import offline_files, remove_offline_runs
from htc.runs.json_values import number

if TYPE_CHECKING:
    import wandb

    from htc.structures import ImagePrediction

logger = logging.getLogger(__name__)

INIT_TIMEOUT = 30.0
"""Seconds that the start of a run waits for wandb's server."""
FINISH_TIMEOUT = 60.0
"""Seconds that the end of a run waits for uploads; what is left lies in the run's folder for `wandb sync`."""
ROWS_OF_A_STEP = ("train", "eval", "pictures")
SHOWN_SCORE = 0.3
"""Detections below are left out of the pictures."""


class Tracker:
    """Sends a run's configuration, metrics and pictures to wandb; does nothing where tracking is off.

    Made by `Tracker.start`. A row of wandb's history is a line of metrics.jsonl, and wandb's own counter of rows tells
    the step and the kind of the line: a resumed run sends what is beyond the last row there, and leaves out what it
    does again, also where it logs or evaluates more or less often than before. Charts go by the `step` that is logged
    with every value.
    """

    def __init__(self, run: wandb.Run | None, shown_images: int = 0) -> None:
        self._run = run
        self._shown_images = shown_images
        self._first_row = 0 if run is None else run.starting_step
        """The server has what comes before."""

    @property
    def on(self) -> bool:
        return self._run is not None

    @classmethod
    def start(cls, config: Config, folder: Path, lines: Sequence[Mapping[str, Any]] = ()) -> Tracker:
        """Start or resume the wandb run of a run folder, as `wandb.mode` says. Never asks for a login, never raises.

        `lines` of metrics.jsonl are there already: those that the server lacks are sent, and an offline run begins with
        all of them, and takes the place of the offline runs that are in the folder.
        """
        mode = _wanted_mode(config)
        if mode == "disabled":
            return cls(None)
        earlier = offline_files(folder)
        try:
            _wait_for_another_second(earlier)
            run = _start_run(config, folder, mode)
        except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the run goes on
            logger.warning("Tracking by wandb is off, it could not start: %s", _first_line(error))
            return cls(None)
        if run is not None:
            logger.info("Tracked by wandb: %s", run.url or run.dir)
        tracker = cls(run, config.wandb.images)
        for line in lines:
            tracker.log(line, int(number(line.get("step")) or 0))
        if tracker.on:
            remove_offline_runs(earlier)
        return tracker

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log a line of metrics.jsonl: nested keys are joined by `/`, below the line's `kind` (train, eval)."""
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
        """Show predicted masks and boxes, on the first `wandb.images` of the images.

        Args:
            images: caption, picture [height, width, 3] uint8 RGB, and its detections in the picture's frame. Taken
                one by one, so that a generator reads no more of them than are shown.
            names: name of each contiguous class index.
        """

        def show(run: wandb.Run) -> None:
            pairs = zip(range(self._shown_images), images, strict=False)
            shown = [_picture(caption, image, found, names) for _, (caption, image, found) in pairs]
            if shown:
                self._send(run, row_number(step, "pictures"), {"predictions": shown, "step": step})

        self._attempt(show)

    def finish(self, results: Mapping[str, Any] | None = None, *, exit_code: int = 0, preempted: bool = False) -> None:
        """End the wandb run, with results.json as its summary; an exit code other than 0 marks it as failed."""

        def end(run: wandb.Run) -> None:
            if preempted:
                run.mark_preempting()
            if results is not None:
                run.summary.update(_flatten(results, ""))
            import wandb

            run.finish(exit_code=exit_code)
            # Its service may still be writing, and ends with this process: what it holds would be lost with a kill.
            wandb.teardown(exit_code=exit_code)

        self._attempt(end)
        self._run = None

    def _send(self, run: wandb.Run, row: int, values: dict[str, Any]) -> None:
        if row >= self._first_row:
            run.log(values, step=row, commit=True)

    def _attempt(self, action: Callable[[wandb.Run], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the run goes on
            logger.warning("Tracking by wandb is off from here on: %s", _first_line(error))
            self._run = None


def row_number(step: int, kind: str) -> int:
    """wandb's number of the row of a step: of one step, the kinds follow each other as a run makes them."""
    return len(ROWS_OF_A_STEP) * step + ROWS_OF_A_STEP.index(kind)


def run_id(config: Config, folder: Path) -> str:
    """wandb's id of a run: the same whenever the folder's run is resumed, another for a forced run beside it."""
    again = re.search(r"-r\d+$", folder.name)
    name = f"{config.sweep}-{signature(config)}{again.group() if again else ''}"
    # wandb takes at most 128 characters, and the end is what tells runs apart.
    return re.sub(r"[^\w-]+", "_", name)[-128:]


def _wait_for_another_second(earlier: Sequence[Path]) -> None:
    """wandb names folders by the second: one that is started at once again would write into the folder before."""
    while any(time.strftime("%Y%m%d_%H%M%S") in file.parent.name for file in earlier):
        time.sleep(0.05)


def _wanted_mode(config: Config) -> str:
    """`online`, `offline`, `disabled`, or `` for online where the user is logged in."""
    if config.wandb.mode is not None:
        return config.wandb.mode.value
    asked = os.environ.get("WANDB_MODE", "")
    # The first two are older names that wandb still takes.
    return {"dryrun": "offline", "run": "online"}.get(asked, asked)


def _start_run(config: Config, folder: Path, mode: str) -> wandb.Run | None:
    import wandb

    # Silent: wandb writes no banners into the log or over the progress display; the address is logged by `start`.
    settings = wandb.Settings(mode="offline" if mode == "offline" else "online", silent=True, quiet=True)
    # The service of the process that started this one, where that uses wandb too: it would outlive a kill of the run,
    # still hold the run's id, and take nothing more from whoever goes on with it.
    os.environ.pop("WANDB_SERVICE", None)
    wandb.setup(settings=settings)
    # A look for credentials that neither asks the user nor the server.
    if mode != "offline" and not wandb.login(prompt=False, verify=False):
        wanted = mode == WandbMode.online.value
        level = logging.WARNING if wanted else logging.INFO
        logger.log(level, "Tracking by wandb is off: not logged in (`wandb login`, or WANDB_API_KEY, turns it on).")
        return None
    settings.console = "off"
    settings.init_timeout = INIT_TIMEOUT
    settings.finish_timeout = FINISH_TIMEOUT
    settings.symlink = False
    # The command line and the code's changes may hold secrets; run.json has both, without them.
    settings.disable_git = settings.disable_code = settings.x_disable_meta = True
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=config.wandb.project,
        entity=config.wandb.entity,
        dir=folder.absolute(),
        id=run_id(config, folder),
        name=config.name,
        group=config.sweep,
        config=to_plain(config),
        allow_val_change=True,
        resume="allow",
        # Several runs of a sweep may follow each other in one process.
        reinit="create_new",
        settings=settings,
    )
    run.define_metric("*", step_metric="step")
    return run


def _flatten(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested values under joined keys, without those that are missing or not finite."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}/{key}" if prefix else key
        if isinstance(value, Mapping):
            flat |= _flatten(value, path)
        elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            flat[path] = plain_json(value)
    return flat


def _picture(caption: str, image: np.ndarray, found: ImagePrediction, names: Sequence[str]) -> wandb.Image:
    import wandb
    from pycocotools import mask as coco_mask

    height, width = image.shape[:2]
    shown = [index for index, score in enumerate(found.scores) if score >= SHOWN_SCORE]
    classes = np.zeros((height, width), dtype=np.uint8)
    # The best detection is drawn last, over the others.
    for index in reversed(shown):
        inside = coco_mask.decode(found.masks[index]) > 0
        # wandb's masks hold one byte a pixel, and 0 is the background.
        classes[inside] = min(int(found.labels[index]) + 1, 255)
    boxes = []
    for index in shown:
        x0, y0, x1, y1 = (float(value) for value in found.boxes[index])
        label, score = int(found.labels[index]), float(found.scores[index])
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
