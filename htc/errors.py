"""Exceptions whose message is meant for the user's eyes."""

from __future__ import annotations

import re

ALLOCATION = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
# PyTorch's on the CPU and on GPUs, cuDNN's, OpenCV's.
EXHAUSTED = re.compile(
    r"DefaultCPUAllocator: can't allocate|out of memory|CUDNN_STATUS_ALLOC_FAILED|Insufficient memory", re.IGNORECASE
)
# PyTorch's for processes that load data: killed, or without room in /dev/shm to hand on what they have loaded.
LOADERS_EXHAUSTED = re.compile(
    r"DataLoader worker [^\n]*?(?:killed by signal: (?:Killed|Bus error)|exited unexpectedly)|unable to [^<\n]*</torch_"
)


class UserError(Exception):
    """Something the user can mend: the message is one sentence that names the file, key or value and what to do.

    The command line prints the sentence alone and exits with `status`; everything else is a bug and keeps its trace.
    """

    status = 2

    @property
    def sentence(self) -> str:
        """The message alone: PyTorch wraps what a data loader's worker raises into the worker's trace."""
        last = str(self).rstrip().rsplit("\n", 1)[-1]
        return last.removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")


class MemoryExhaustedError(UserError):
    """The memory of the device or of the machine does not suffice.

    Unlike other sentences this one does not exclude that the same command gets further next time: a launched run is
    started again once, as after a crash.
    """

    status = 1


def memory_exhausted(error: BaseException) -> MemoryExhaustedError | None:
    """The sentence for what PyTorch, OpenCV and Python raise where memory does not suffice; None for other errors."""
    text = str(error)
    if not isinstance(error, MemoryError | RuntimeError) and not is_opencvs(error):
        return None
    if ended := LOADERS_EXHAUSTED.search(text):
        reason = ended[0].removesuffix(" </torch_")
        return MemoryExhaustedError(
            f"the processes that load data ran out of memory or of shared memory ({reason}): lower data.workers or "
            "enlarge /dev/shm."
        )
    if not isinstance(error, MemoryError) and not EXHAUSTED.search(text):
        return None
    whose = "GPU" if re.search("CUDA|CUDNN", text) else "machine"
    amount = ALLOCATION.search(text)
    detail = f" ({readable(amount[1])} more were asked for)" if amount else ""
    return MemoryExhaustedError(
        f"the {whose}'s memory does not suffice{detail}: use smaller images (data.short_side, data.long_side) or "
        "precision=bf16; in training, schedule.accumulate=N takes a step in N parts."
    )


def readable(amount: str) -> str:
    """`4.0 GiB` for a number of bytes; PyTorch gives the CPU's as such."""
    number, unit = amount.split()
    return f"{int(number) / 2**30:.1f} GiB" if unit == "bytes" else amount


def is_opencvs(error: BaseException) -> bool:
    return type(error).__module__ == "cv2"
