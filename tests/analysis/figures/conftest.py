"""A pool of finished runs with images, predictions and curves, for the tests of the figures."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.figures.variants import Group, read_groups
from analysis.statistics.matching import match
from analysis.statistics.truth import KINDS, read_truth
from analysis.statistics.weighted_ap import METRICS, unit_ap
from htc.runs.pool import SelectedRun, change_rows
from tests.analysis.statistics.detections import random_results, random_truth, write
from tests.helpers.run_folders import run_writer

IMAGES = 12
LABELS = ("none", "interleaved", "$x$ _flow <b>&", "both")
"""Rows of the sweep `ideas`; one label is hostile."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set in COCO layout, with images."""
    root = tmp_path_factory.mktemp("data")
    content = random_truth(3, IMAGES)
    for category, name in zip(content["categories"], ("ring", "$a$_b", "<i>"), strict=True):
        category["name"] = name
    (root / "val2017").mkdir()
    (root / "annotations").mkdir()
    random = np.random.default_rng(0)
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.png"
        pixels = random.integers(0, 255, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val2017" / image["file_name"])
    write(root / "annotations" / "instances_val2017.json", content)
    return root


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Runs of the sweep `ideas`: two ideas in all combinations, two seeds, and one run that has failed."""
    runs = tmp_path_factory.mktemp("pool") / "runs"
    runs.mkdir()
    write_run = run_writer(runs)
    rows = []
    for row, (interleaved, mask_flow) in enumerate(itertools.product((False, True), repeat=2)):
        for seed in (0, 1):
            folder = write_run(
                sweep=None, seed=seed, interleaved=interleaved, mask_flow=mask_flow, semantic=False,
                images=IMAGES, fps=2.0 + row + seed / 10,
            )  # fmt: skip
            add_predictions(folder, data, 10 * row + seed)
            add_training(folder, row, seed)
            label = LABELS[[0, 2, 1, 3][row]]
            rows.append(SelectedRun(folder.name, label))
    failed = write_run(sweep=None, seed=7, status="failed")
    rows.append(SelectedRun(failed.name, LABELS[3]))
    rows.sort(key=lambda each: LABELS.index(each.label or ""))
    change_rows(runs, "ideas", lambda _: rows)
    return runs


def add_predictions(folder: Path, data: Path, seed: int) -> None:
    """Write predictions and their metrics to a run."""
    annotations = data / "annotations" / "instances_val2017.json"
    place = folder / "evaluations" / "default"
    results = json.loads((place / "results.json").read_text())
    truth = read_truth(annotations, IMAGES)
    for kind, found in zip(KINDS, random_results(json.loads(annotations.read_text()), seed), strict=True):
        write(place / f"{kind}.json", found)
        values = unit_ap(match(found, truth, kind))
        results[kind] = {name: nullable(values.metric(name)[0]) for name in METRICS}
    write(place / "results.json", {**results, "annotation_file": str(annotations)})


def nullable(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def add_training(folder: Path, row: int, seed: int) -> None:
    """Write a record of the training and its lines: 20 logging steps, and three evaluations."""
    record = json.loads((folder / "run.json").read_text())
    record["devices"] = ["Example GPU"]
    record["training"] = {"training_seconds": 1800.0 * (row + 1), "processes": 2, "iterations": 200}
    write(folder / "run.json", record)
    lines: list[dict[str, Any]] = []
    for step in range(10, 201, 10):
        losses = {f"s{stage}.loss_{task}": 1 / (stage + 1) for stage in range(3) for task in ("cls", "bbox", "mask")}
        losses |= {"loss_rpn_cls": 0.1, "loss_rpn_bbox": 0.2}
        lines.append({"kind": "train", "step": step, "lr": 1e-3, "loss": row + seed + 100 / step, "losses": losses})
        if step % 60 == 0:
            lines.append(
                {"kind": "eval", "step": step, "bbox": {"AP": step / 1000}, "segm": {"AP": (step + row) / 1000}}
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def group(pool: Path) -> Group:
    """The rows of the sweep."""
    (found,), _ = read_groups(pool, "ideas")
    return found
