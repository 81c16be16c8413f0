"""Evaluation of a model on a data set, distributed over the processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from htc.config.schema import Config, EvalEngine
from htc.data.dataset import CocoDataset
from htc.data.loader import build_val_loader
from htc.distributed.processes import Processes
from htc.engine.precision import autocast_of
from htc.engine.stopping import Stopped, StopRequest
from htc.evaluation.coco_metrics import Metrics, coco_metrics
from htc.evaluation.inference import Predictions, Predictor, merge_predictions, predict_dataset, write_predictions
from htc.structures import ImagePrediction, Sample


@dataclass
class Evaluation:
    """Predictions on a data set, and their COCO metrics."""

    predictions: Predictions
    metrics: Metrics

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation's part of results.json."""
        return {
            **asdict(self.metrics),
            "speed": self.predictions.speed.to_dict(),
            "images_evaluated": len(self.predictions.image_ids),
        }

    def summary(self) -> dict[str, Any]:
        """Return the twelve metrics of boxes and of masks, for metrics.jsonl."""
        return {"bbox": self.metrics.bbox, "segm": self.metrics.segm}

    def write(self, folder: Path) -> None:
        write_predictions(folder, self.predictions)


class Evaluator:
    """Evaluates models on the first `eval.limit` images of a data set; every process takes its share."""

    def __init__(self, config: Config, dataset: CocoDataset, processes: Processes) -> None:
        self.config, self.dataset, self.processes = config, dataset, processes
        self.indices = list(range(len(dataset)))[: config.eval.limit]

    def evaluate(self, model: Predictor, stop: StopRequest | None = None) -> Evaluation:
        """Predict every image once and compute the metrics; every process returns the same evaluation.

        Raises Stopped on all processes where one of them was asked to stop. What one process raises over an image, all
        processes raise.
        """
        processes, dataset = self.processes, self.dataset
        own = self.indices[processes.rank :: processes.world_size]
        predictions = processes.on_all(lambda: self._predict(model, own, stop))
        if any(processes.any(stop is not None and stop.received is not None)):
            raise Stopped
        merged = merge_predictions(processes.gather(predictions))
        engine = None if self.config.eval.engine is EvalEngine.auto else self.config.eval.engine.value
        metrics = processes.on_main(
            lambda: coco_metrics(dataset.annotation_file, merged.bbox, merged.segm, merged.image_ids, engine)
        )
        return Evaluation(merged, metrics)

    def _predict(self, model: Predictor, indices: list[int], stop: StopRequest | None) -> Predictions:
        loader = build_val_loader(self.dataset, self.config.data, indices=indices)
        with tqdm(total=len(indices), unit="image", desc="evaluate", disable=self._bar_disabled(), leave=False) as bar:
            return predict_dataset(
                model,
                _until(stop, loader),
                self.config.eval,
                category_ids=self.dataset.category_ids,
                device=self.processes.device,
                autocast=autocast_of(self.config.precision, self.processes.device),
                progress=_advance(bar),
            )

    def pictures(self, evaluation: Evaluation) -> Iterator[tuple[str, np.ndarray, ImagePrediction]]:
        """Yield caption, picture [h, w, 3] uint8 RGB at original size, and detections of each evaluated image."""
        for index in self.indices:
            image_id = self.dataset.image_ids[index]
            picture = self.dataset.read_original(index)
            found = evaluation.predictions.of_image(image_id, self.dataset.category_ids)
            yield f"image {image_id}", picture, found

    def _bar_disabled(self) -> bool | None:
        """Return tqdm's argument `disable`: None shows the bar on a terminal only."""
        return None if self.config.progress and self.processes.is_main else True


def _until(stop: StopRequest | None, loader: Iterable[list[Sample]]) -> Iterator[list[Sample]]:
    for samples in loader:
        if stop is not None and stop.received is not None:
            return
        yield samples


def _advance(bar: tqdm[Any]) -> Callable[[int], None]:
    def advance(done: int) -> None:
        bar.update(done - bar.n)

    return advance
