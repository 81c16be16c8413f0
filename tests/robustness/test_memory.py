"""Memory that does not suffice: a sentence, the record of it, and a status that does not call it the user's slip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from htc.errors import UserError, memory_exhausted
from tests.test_run import ROOT, tiny

# More than any machine has, so that it is refused at once.
PEBIBYTE = 1 << 50
# A run whose process may take 300 MiB more than it has once PyTorch is imported.
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_a_run_without_enough_memory_says_so_and_records_it(tmp_path: Path) -> None:
    overrides = [*tiny(tmp_path), "data.short_side=3000", "data.long_side=4000", "threads=1", "wandb.mode=disabled"]
    result = subprocess.run(
        [sys.executable, "-c", CONFINED, *overrides], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "error: the machine's memory does not suffice" in result.stderr.splitlines()[-1]
    (run,) = (tmp_path / "runs" / "single").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "failed"
    assert "the machine's memory does not suffice" in record["error"]
