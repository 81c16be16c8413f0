"""`python -m htc.convert checkpoint=FILE out=FILE [to=htc|mmdetection] [KEY=VALUE] ...`: convert a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

from htc.cli import log_to_console, read_arguments, run_command
from htc.errors import UserError

USAGE = "python -m htc.convert checkpoint=FILE | run=RUN_DIR out=FILE [to=htc|mmdetection] [KEY=VALUE] ..."
KEYS = {
    "checkpoint": "a checkpoint file: ours, MMDetection's or torchvision's",
    "run": "a run's folder: its newest checkpoint is used",
    "out": "the file to write; an existing file is not overwritten",
    "to": "htc or mmdetection (default: mmdetection for a checkpoint of ours, htc for any other)",
}
FORMS = ("htc", "mmdetection")


def main() -> None:
    arguments = read_arguments(sys.argv[1:], KEYS, USAGE)
    log_to_console()
    convert(arguments.values, arguments.overrides)


def convert(arguments: dict[str, str], overrides: list[str]) -> Path:
    """Write the checkpoint in the format that `to` names, and return the file.

    Raises UserError for a checkpoint that cannot be converted.

    Args:
        arguments: values of KEYS.
        overrides: KEY=VALUE for the model's configuration.
    """
    if "out" not in arguments:
        raise UserError(f"out= is missing; usage: {USAGE}.")
    out = Path(arguments["out"])
    if out.exists():
        raise UserError(f"out={out} exists already: remove it or choose another name.")
    if any(override.startswith("checkpoint.") for override in overrides):
        raise UserError(
            "checkpoint.partial cannot be used in a conversion: what does not fit would be random; leave it out."
        )
    form = arguments.get("to")
    if form not in (None, *FORMS):
        raise UserError(f"to={form} is not one of {', '.join(FORMS)}.")

    import torch

    from htc.checkpoint.record import Categories, Checkpoint
    from htc.config.signature import to_plain
    from htc.interop.export import to_mmdetection
    from htc.runs.files import atomic_path
    from htc.trained_model import load_trained_model

    trained = load_trained_model(arguments, overrides)
    form = form or ("htc" if trained.imported else "mmdetection")
    state = trained.model.state_dict()
    if form == "mmdetection":
        content = to_mmdetection(state, trained.config, trained.category_names, trained.unused)
    else:
        content = Checkpoint(
            model=state,
            config=to_plain(trained.config),
            categories=Categories(trained.category_ids, trained.category_names),
            step=trained.step,
            unused=trained.unused,
        ).to_content()
    with atomic_path(out) as temporary:
        torch.save(content, temporary)
    print(f"{out} holds {len(state)} tensors in the format of {form}")
    return out


def start() -> None:
    """Run the command from the command line."""
    run_command(main)


if __name__ == "__main__":
    start()
