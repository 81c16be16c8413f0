"""`python -m htc.evaluate run=RUN_DIR | checkpoint=FILE [KEY=VALUE] ...`: evaluate a trained model again."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from htc.cli import log_to_console, read_arguments, run_command
from htc.errors import UserError

log = logging.getLogger(__name__)
USAGE = "python -m htc.evaluate run=RUN_DIR | checkpoint=FILE [out=DIR] [eval=NAME] [KEY=VALUE] ..."
KEYS = {
    "run": "a run's folder: its newest checkpoint is used",
    "checkpoint": "a checkpoint file: ours, MMDetection's or torchvision's",
    "checkpoint.partial": "true: leave what does not fit as it was initialised (default false)",
    "out": "folder of predictions and results (default: evaluations/ in the run's folder, or beside the checkpoint)",
}


def main() -> None:
    arguments, overrides = read_arguments(sys.argv[1:], KEYS, USAGE)
    log_to_console()
    evaluate(arguments, overrides)


def evaluate(arguments: dict[str, str], overrides: list[str]) -> dict[str, Any]:
    """Evaluate with other test settings or on other data -> the results, written with the predictions to a folder.

    The run's own results stay as they are: tables show what a run was recorded with.
    """
    from htc.config import signature, to_plain
    from htc.data.coco import build_dataset
    from htc.engine.distributed import start_processes
    from htc.engine.evaluation import Evaluator
    from htc.engine.files import write_json
    from htc.trained import load_trained, place

    trained = load_trained(arguments, overrides)
    config = trained.config
    if trained.foreign and not any(override.startswith("data.root=") for override in overrides):
        raise UserError("data.root has no value: name the folder of COCO's images and annotations, data.root=DIR.")
    processes = start_processes(config.device)
    dataset = build_dataset(config.data, train=False, semantic=False)
    same = len(trained.category_names) == len(dataset.category_ids)
    if not same or trained.category_ids not in (None, dataset.category_ids):
        raise UserError(
            f"{dataset.annotation_file} has {len(dataset.category_ids)} categories, the model was trained on "
            f"{len(trained.category_names)}, or their ids differ: evaluate on data with the same categories."
        )
    if trained.category_ids is None:
        log.warning("the checkpoint does not tell its category ids: those of %s are taken", dataset.annotation_file)
    result = Evaluator(config, dataset, processes).evaluate(place(trained.model, config, processes.device))
    results = {**result.to_dict(), "iterations": trained.step, "overrides": overrides, "config": to_plain(config)}
    if processes.is_main:
        base = Path(arguments["run"]) if "run" in arguments else Path(arguments["checkpoint"]).parent
        out = Path(arguments["out"]) if "out" in arguments else base / "evaluations" / signature(config)
        result.write(out / "predictions")
        write_json(out / "results.json", results)
        print(metrics_table(results))
        print(f"{result.predictions.speed.fps or 0:.2f} images/s; predictions and results are in {out}")
    processes.close()
    return results


def metrics_table(results: dict[str, Any]) -> str:
    """The twelve metrics of boxes and of masks in percent, as a Markdown table."""
    names = list(results["bbox"])
    lines = ["| " + " | ".join(["", *names]) + " |", "|" + "---|" * (len(names) + 1)]
    for kind, title in (("bbox", "boxes"), ("segm", "masks")):
        values = ["–" if value is None else f"{100 * value:.1f}" for value in results[kind].values()]
        lines.append("| " + " | ".join([title, *values]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
