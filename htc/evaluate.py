"""`python -m htc.evaluate run=RUN_DIR | checkpoint=FILE [KEY=VALUE] ...`: evaluate a trained model again."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from htc.cli import log_to_console, read_arguments, run_command
from htc.config.evaluation import reevaluation_name
from htc.config.schema import Config
from htc.config.signature import flatten, hash_of, to_plain
from htc.errors import UserError
from htc.runs.evaluations import EvaluationFolder
from htc.runs.folder import RunFolder

logger = logging.getLogger(__name__)
USAGE = (
    "python -m htc.evaluate run=RUN_DIR | checkpoint=FILE | sweep=NAME | predictions=FILE[,FILE] annotations=FILE "
    "[out=DIR] [eval=NAME] [KEY=VALUE] ..."
)
DRY_RUN = "--dry-run"
KEYS = {
    "run": "a run's folder: its newest checkpoint is used",
    "checkpoint": "a checkpoint file: ours, MMDetection's or torchvision's",
    "sweep": "a sweep: its trained runs that lack the evaluation are evaluated, by a launcher: [hydra/launcher=slurm] "
    "[launcher.KEY=VALUE] [--dry-run]",
    "runs": "with sweep: folder of all runs (default: runs)",
    "checkpoint.partial": "true: leave what does not fit as it was initialised (default false)",
    "predictions": "result files in COCO's format of any system, of boxes, masks or both: FILE[,FILE]",
    "annotations": "with predictions: the annotation file, in COCO's format",
    "name": "with predictions: name of the system, which tables show (default: that of the file's folder)",
    "out": "folder of predictions and results (default: evaluations/ in the run's folder, or next to the checkpoint)",
}


def main() -> None:
    given = sys.argv[1:]
    of_launcher = [each for each in given if each.startswith(("hydra/launcher=", "launcher.")) or each == DRY_RUN]
    arguments = read_arguments([each for each in given if each not in of_launcher], KEYS, USAGE)
    values = arguments.values
    if "sweep" in values:
        if other := sorted({"run", "checkpoint", "out"} & set(values)):
            raise UserError(f"{other[0]} has no meaning with sweep={values['sweep']}: give one of them.")
        from htc.launch.evaluate_sweep import evaluate_sweep

        launcher = [each for each in of_launcher if each != DRY_RUN]
        pool = Path(values.get("runs", "runs"))
        evaluate_sweep(pool, values["sweep"], arguments.overrides, launcher, dry_run=DRY_RUN in of_launcher)
        return
    if "predictions" in values:
        evaluate_files(values, arguments.overrides)
        return
    if of_launcher:
        raise UserError(f"{of_launcher[0]} has no meaning without sweep=NAME: one run is evaluated here.")
    if alone := [key for key in ("annotations", "name") if key in values]:
        raise UserError(f"{alone[0]} has a meaning only with predictions=FILE.")
    log_to_console()
    evaluate(values, arguments.overrides)


def evaluate(arguments: dict[str, str], overrides: list[str]) -> dict[str, Any]:
    """Evaluate with other test settings or on other data; write and return the results.

    The run's own results stay as they are: tables show the results that the run recorded.

    Args:
        arguments: values of KEYS.
        overrides: KEY=VALUE for the recorded configuration.
    """
    from htc.distributed.devices import use_threads
    from htc.distributed.processes import start_processes
    from htc.reevaluation import evaluate_model
    from htc.trained_model import load_trained_model

    trained = load_trained_model(arguments, overrides)
    config = trained.config
    if trained.imported and not any(override.startswith("data.root=") for override in overrides):
        raise UserError("data.root has no value: name the folder of COCO's images and annotations, data.root=DIR.")
    use_threads(config)
    processes = start_processes(config.device)
    out = EvaluationFolder(output_folder(arguments, config))
    facts = {"overrides": overrides, "config": to_plain(config)}
    results = evaluate_model(trained, out, processes, facts=facts)
    if processes.is_main:
        print(metrics_table(results))
        speed = results["speed"]
        conditions = speed["conditions"]
        print(
            f"{speed['fps'] or 0:.2f} images/s ({conditions['device']}, {conditions['threads']} CPU threads, "
            f"{conditions['precision']}, batch size {conditions['batch_size']}); predictions and results are in "
            f"{out.path}"
        )
    processes.close()
    return results


def evaluate_files(values: dict[str, str], overrides: list[str]) -> dict[str, Any]:
    """Evaluate the result files of any system; write and return the results.

    Args:
        values: values of KEYS.
        overrides: KEY=VALUE for a configuration, which result files do not have.
    """
    from htc.evaluation.result_files import evaluate_result_files

    given = values["predictions"]
    if other := [*overrides, *(key for key in ("run", "checkpoint", "checkpoint.partial", "runs") if key in values)]:
        raise UserError(f"{other[0].partition('=')[0]} has no meaning with predictions={given}: leave it out.")
    if missing := [key for key in ("annotations", "out") if key not in values]:
        raise UserError(f"{missing[0]} has no value: predictions={given} is evaluated by annotations=FILE out=DIR.")
    out = EvaluationFolder(Path(values["out"]))
    paths = [Path(each) for each in given.split(",")]
    results = evaluate_result_files(paths, Path(values["annotations"]), out, values.get("name", ""))
    print(metrics_table(results))
    print(f"{results['images_evaluated']} images; predictions and results are in {out.path}")
    return results


def output_folder(arguments: dict[str, str], config: Config) -> Path:
    """Return the folder of predictions and results, which is unique per checkpoint file and per set of settings.

    Args:
        arguments: values of KEYS.
        config: configuration of the evaluation.
    """
    if "out" in arguments:
        return Path(arguments["out"])
    if "run" in arguments:
        run = RunFolder(arguments["run"])
        return run.evaluation(reevaluation_name(config, run.read_config())).path
    checkpoint = Path(arguments["checkpoint"])
    return checkpoint.parent / "evaluations" / f"{checkpoint.stem}-{hash_of(flatten(to_plain(config)))}"


def metrics_table(results: dict[str, Any]) -> str:
    """Return the twelve metrics of boxes and of masks in percent, as a Markdown table."""
    names = list(results["bbox"])
    lines = ["| " + " | ".join(["", *names]) + " |", "|" + "---|" * (len(names) + 1)]
    for kind, title in (("bbox", "boxes"), ("segm", "masks")):
        values = ["–" if value is None else f"{100 * value:.1f}" for value in results[kind].values()]
        lines.append("| " + " | ".join([title, *values]) + " |")
    return "\n".join(lines)


def start() -> None:
    """Run the command from the command line."""
    run_command(main)


if __name__ == "__main__":
    start()
