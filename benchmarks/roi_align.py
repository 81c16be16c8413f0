"""Compare our RoIAlign on the CPU with torchvision's kernel: ratios of forward plus backward times, run alternately.

python -m benchmarks.roi_align
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from htc.ops.roi_align import roi_align

ROUNDS = 15


def seconds(pool: Callable[[], Tensor], gradient: Tensor) -> float:
    """Return the time of one forward and backward pass."""
    start = time.perf_counter()
    pool().backward(gradient)
    return time.perf_counter() - start


def compare(size: int, sampling: int) -> list[float]:
    """Return torchvision's time divided by ours for each round, after two warm-up rounds."""
    torch.manual_seed(0)
    features = torch.randn(4, 64, 24, 24, requires_grad=True)
    corners, sides = torch.rand(128, 2) * 120, torch.rand(128, 2) * 60 + 4
    rois = torch.cat([torch.randint(0, 4, (128, 1)).float(), corners, corners + sides], 1)

    def ours() -> Tensor:
        return roi_align(features, rois, size, 1 / 8, sampling)

    def theirs() -> Tensor:
        return torchvision.ops.roi_align(features, rois, (size, size), 1 / 8, sampling, aligned=True)

    gradient = torch.randn(len(rois), features.shape[1], size, size)
    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
    pairs = [(seconds(theirs, gradient), seconds(ours, gradient)) for _ in range(ROUNDS + 2)]
    return [theirs_s / ours_s for theirs_s, ours_s in pairs[2:]]


def main() -> None:
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    print("| cells | sampling | torchvision / ours: median | lowest | highest |\n|---|---|---|---|---|")
    for size, sampling in ((7, 1), (7, 2), (14, 1), (14, 2)):
        ratios = compare(size, sampling)
        print(f"| {size} | {sampling} | {statistics.median(ratios):.1f} | {min(ratios):.1f} | {max(ratios):.1f} |")


if __name__ == "__main__":
    main()
