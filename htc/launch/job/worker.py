"""`python -m htc.launch.job.worker SUBMISSION ROW`: run one process of a launched run."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from pathlib import Path

from omegaconf import OmegaConf

from htc.cli import fail, run_command
from htc.config.finalize import finalize
from htc.errors import UserError
from htc.launch.submission import Submission


def main() -> None:
    submission, index = Submission.read(Path(sys.argv[1])), int(sys.argv[2])
    row = submission.row(index)
    try:
        config = finalize(OmegaConf.create(row.config))
        # PyTorch takes seconds to import, which a refused configuration does not need.
        from htc.experiment import run_experiment

        command = shlex.split(f"python -m htc.run {shlex.join(row.overrides)}")
        run_experiment(config, command, submission.pool / row.folder)
    except UserError as error:
        # The supervisor reads the reason from this file: torchrun hides the exit status, and run.json may be the file
        # that cannot be written, or the one of another process.
        if error.status == UserError.status:
            with suppress(OSError):
                submission.error_file(index).write_text(error.sentence + "\n", encoding="utf-8")
        fail(error.sentence, error.status)


if __name__ == "__main__":
    run_command(main)
