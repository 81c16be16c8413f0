"""Too little memory ends a run with one message, in its record too, and with a status that does not blame the user."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from htc.errors import UserError, memory_exhausted
from tests.helpers.command import run_code
from tests.helpers.tiny_run import tiny

# More than any machine has, so that the allocation fails at once.
PEBIBYTE = 1 << 50
# A run whose process may allocate 300 MiB more than it has after the import of PyTorch.
CONFINED = """
import resource
import runpy

import htc.experiment

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
runpy.run_module("htc.run", run_name="__main__", alter_sys=True)
"""


def allocation_error(device: str) -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(PEBIBYTE, dtype=torch.uint8, device=device)
    return caught.value


def test_what_pytorch_raises_on_a_cpu_is_one_sentence() -> None:
    error = memory_exhausted(allocation_error("cpu"))
    assert error is not None
    assert error.sentence.startswith("the machine's memory does not suffice (1048576.0 GiB more were requested): ")
    assert error.status == 1


@pytest.mark.gpu
def test_what_pytorch_raises_on_a_gpu_is_one_sentence() -> None:
    error = memory_exhausted(allocation_error("cuda"))
    assert error is not None
    assert error.sentence.startswith("the GPU's memory does not suffice (")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"), UserError("out of memory"), OSError("disk"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "),
    ],
)  # fmt: skip
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert memory_exhausted(error) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits on memory need Linux")
def test_a_run_without_enough_memory_says_so_and_records_it(tmp_path: Path) -> None:
    large = ["data.short_side=3000", "data.long_side=4000", "threads=1", "wandb.mode=disabled"]
    overrides = tiny(tmp_path / "runs", overrides=large)
    result = run_code(CONFINED, *overrides)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "error: the machine's memory does not suffice" in result.stderr.splitlines()[-1]
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "failed"
    assert "the machine's memory does not suffice" in record["error"]
