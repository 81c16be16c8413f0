"""Exceptions whose message is written for the user."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

ALLOCATION = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
# Messages of PyTorch on the CPU and on GPUs, of cuDNN and of OpenCV.
EXHAUSTED = re.compile(
    r"DefaultCPUAllocator: can't allocate|out of memory|CUDNN_STATUS_ALLOC_FAILED|Insufficient memory", re.IGNORECASE
)
# Messages of PyTorch about a loader worker that was killed, or that found no room in /dev/shm.
LOADERS_EXHAUSTED = re.compile(
    r"DataLoader worker [^\n]*?(?:killed by signal: (?:Killed|Bus error)|exited unexpectedly)|unable to [^<\n]*</torch_"
)


class UserError(Exception):
    """An error that the user can fix: one sentence that names the file, key or value and what to do.

    The command line prints the sentence alone and exits with `status`; every other exception is a bug and keeps its
    traceback.
    """

    status = 2

    @property
    def sentence(self) -> str:
        """The message alone: PyTorch puts the errors of a loader worker into the worker's traceback."""
        last = str(self).rstrip().rsplit("\n", 1)[-1]
        return last.removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")


class MemoryExhaustedError(UserError):
    """The memory of the device or of the machine is exhausted.

    Unlike other user errors, the same command may get further the next time: a launched run is restarted once, as after
    a crash.
    """

    status = 1


@contextmanager
def memory_errors_as_user_errors() -> Iterator[None]:
    """Raise MemoryExhaustedError for the errors of PyTorch, OpenCV and Python about exhausted memory."""
    try:
        yield
    except BaseException as error:
        if exhausted := memory_exhausted(error):
            raise exhausted from None
        raise


def memory_exhausted(error: BaseException) -> MemoryExhaustedError | None:
    """Return the MemoryExhaustedError for an error of PyTorch, OpenCV or Python; None for errors of other causes."""
    text = str(error)
    from_opencv = type(error).__module__ == "cv2"
    if isinstance(error, UserError) or not (isinstance(error, MemoryError | RuntimeError) or from_opencv):
        return None
    if ended := LOADERS_EXHAUSTED.search(text):
        reason = ended[0].removesuffix(" </torch_")
        return MemoryExhaustedError(
            f"the processes that load data ran out of memory or of shared memory ({reason}): lower data.workers or "
            "enlarge /dev/shm."
        )
    if not isinstance(error, MemoryError) and not EXHAUSTED.search(text):
        return None
    owner = "GPU" if re.search("CUDA|CUDNN", text) else "machine"
    amount = ALLOCATION.search(text)
    detail = f" ({_readable(amount[1])} more were requested)" if amount else ""
    return MemoryExhaustedError(
        f"the {owner}'s memory does not suffice{detail}: use smaller images (data.short_side, data.long_side) or "
        "precision=bf16; in training, schedule.accumulate=N splits a step into N parts."
    )


def nearest(word: str, options: Iterable[str]) -> str:
    """Return `; did you mean X` where an option is similar, else an empty string. A similar last part counts, too."""
    options = sorted(options)
    close = difflib.get_close_matches(word, options, 1, cutoff=0.6)
    if not close:
        leaf = word.rsplit(".", 1)[-1]
        leaves = {option.rsplit(".", 1)[-1]: option for option in options}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, 1, cutoff=0.75)]
    return f"; did you mean {close[0]}" if close else ""


def _readable(amount: str) -> str:
    """Return `4.0 GiB` for a number of bytes: PyTorch reports amounts on the CPU in bytes."""
    number, unit = amount.split()
    return f"{int(number) / 2**30:.1f} GiB" if unit == "bytes" else amount
