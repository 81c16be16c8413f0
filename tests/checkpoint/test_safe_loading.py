"""Files of tensors: foreign objects become inert, code never runs, and damaged files are refused in one sentence."""

from __future__ import annotations

import io
import pickle
import resource
import sys
import tarfile
import time
import warnings
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import ExitStack, suppress
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from htc.checkpoint.safe_loading import load_tensors
from htc.errors import UserError
from tests.helpers.attacks import ATTACKS, Call, Trap, leave_trace
from tests.helpers.checkpoints import foreign_module, save
from tests.helpers.fuzzing import fuzz

LEGACY = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
# The first two pickles of a file of torch.save in the legacy format.
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


class HistoryBuffer:
    """Like mmengine's class: it stores arrays, and methods by name, as functions and bound to the object."""

    def __init__(self) -> None:
        self._log_history = np.arange(5, dtype=np.float64)
        self._count_history = np.array([3, 4], dtype=np.int64)
        self.methods = {"mean": HistoryBuffer.mean, "current": self.current}

    def mean(self) -> float:
        return 0.0

    def current(self) -> float:
        return 1.0


class ConfigDict(dict[str, Any]):
    """A dict with attributes: pickle fills it item by item."""


class Items(list[int]):
    """A list: pickle fills it by appending."""


class Level(Enum):
    LOW = 1


class Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 3


def refusal(path: Path) -> str:
    """Return the message of the UserError that loading the file raises."""
    with pytest.raises(UserError) as caught:
        load_tensors(path, "checkpoint")
    sentence = str(caught.value)
    assert sentence.startswith(f"checkpoint={path} ")
    assert "\n" not in sentence
    assert "weights_only" not in sentence, "the message explains how to turn off the protection"
    return sentence


def imported() -> set[str]:
    """Return the packages of frameworks that are imported."""
    return {name.split(".")[0] for name in sys.modules} & {"mmengine", "mmcv", "mmdet"}


def foreign_objects() -> dict[str, Any]:
    """Return objects as real checkpoints contain them besides tensors, of classes in mm* packages."""
    config = ConfigDict(lr=0.02, nested=ConfigDict(betas=[1, 2]))
    config.__dict__["filename"] = "htc.py"
    return {
        "buffers": OrderedDict(loss=HistoryBuffer(), time=HistoryBuffer()),
        "config": config,
        "items": Items([1, 2, 3]),
        "empty": [Items(), ConfigDict(), deque(maxlen=3), defaultdict(list)],
        "level": Level.LOW,
        "slotted": Slotted(),
        "class itself": ConfigDict,
    }


def plain_objects() -> dict[str, Any]:
    """Return objects of Python's own classes and of NumPy, as real checkpoints contain them."""
    return {
        "numbers": [np.float64(0.5), np.int64(3), np.bool_(True), np.float32(2), complex(1, 2), Decimal("1.5")],
        "arrays": [np.zeros((2, 3), np.float32), np.array(["a"]), np.array([None, {}], dtype=object), np.arange(0)],
        "dtypes": [np.dtype("float32"), np.float32, torch.float16, torch.device("cpu"), torch.Size([1])],
        "collections": [deque([1, 2], maxlen=2), defaultdict(list, a=[1]), Counter("ab"), {1}, frozenset({2})],
        "rest": [range(3), slice(1), b"bytes", b"", bytearray(b"x"), 2**70, datetime(2020, 2, 3), Path("a/b")],
        "namespaces": [Namespace(lr=1), SimpleNamespace(a=2)],
    }


@LEGACY
def test_tensors_load_from_files_with_objects_of_frameworks_that_are_not_installed(
    tmp_path: Path, legacy: bool
) -> None:
    weight = torch.randn(3, 4)
    with ExitStack() as modules:
        modules.enter_context(foreign_module("mmengine.logging.history_buffer", HistoryBuffer))
        modules.enter_context(foreign_module("mmengine.config.config", ConfigDict, Items))
        modules.enter_context(foreign_module("mmdet.structures", Level, Slotted))
        content = {"state_dict": OrderedDict(w=weight), "meta": {**foreign_objects(), **plain_objects(), "epoch": 12}}
        path = save(tmp_path / "theirs.pth", content, legacy=legacy)
        assert b"mmengine.logging.history_buffer" in path.read_bytes()
    assert not imported(), "the classes can still be imported"
    read = load_tensors(path, "checkpoint")
    assert torch.equal(read["state_dict"]["w"], weight)
    assert read["meta"]["epoch"] == 12
    assert read["meta"]["config"]["nested"]["betas"] == [1, 2]
    assert read["meta"]["items"] == [1, 2, 3]
    assert not imported(), "reading imported the classes"
    with pytest.raises(ModuleNotFoundError):
        torch.load(path, weights_only=False)


def test_state_dict_of_a_foreign_class_keeps_its_tensors(tmp_path: Path) -> None:
    weight = torch.randn(3)
    with foreign_module("mmcv.runner.base", ConfigDict):
        path = save(tmp_path / "theirs.pth", {"state_dict": ConfigDict(w=weight)})
    assert torch.equal(load_tensors(path, "checkpoint")["state_dict"]["w"], weight)


def test_content_of_our_own_files_is_read_unchanged(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "model": {"w": torch.arange(3)},
        "random": (1, (2, 3), None),
        "text": ["a", b"b"],
        "rate": 0.5,
    }
    read = load_tensors(save(tmp_path / "ours.pt", content), "checkpoint")
    assert torch.equal(read.pop("model")["w"], content.pop("model")["w"])
    assert read == content


class TrapState(Trap):
    """A class of a framework that leaves a trace when its state is set."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __setstate__(self, state: dict[str, str]) -> None:
        leave_trace(state["trace"])


def hidden(payload: Any) -> dict[str, Any]:
    """Return the content of an ordinary checkpoint with the payload inside."""
    return {
        "meta": {"epoch": 12, "config": ConfigDict(a=1), "hooks": [{"name": "ema", "state": payload}], "time": "now"},
        "state_dict": OrderedDict(w=torch.zeros(2)),
    }


def wait_for(trace: Path) -> bool:
    """Return whether the trace appears within five seconds: a child process may leave it a little later."""
    for _ in range(500):
        if trace.exists():
            return True
        time.sleep(0.01)
    return False


@LEGACY
@pytest.mark.parametrize("attack", ATTACKS)
def test_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, attack: str, legacy: bool) -> None:
    make, named = ATTACKS[attack]
    trace = tmp_path / "executed"
    with foreign_module("mmengine.hooks", ConfigDict, Trap, leave_trace):
        path = save(tmp_path / "evil.pth", hidden(make(str(trace))), legacy=legacy)
        # Creating some of the objects leaves the trace already.
        trace.unlink(missing_ok=True)
        sentence = refusal(path)
        assert "would run" in sentence
        assert named in sentence
        assert not trace.exists()
        torch.load(path, weights_only=False)
        assert wait_for(trace), "the file is harmless, so the assertions above prove nothing"


@LEGACY
@pytest.mark.parametrize("trap", [Trap, TrapState])
def test_framework_classes_that_run_code_when_they_are_created_become_inert(
    tmp_path: Path, trap: type[Trap], legacy: bool
) -> None:
    trace = tmp_path / "executed"
    with foreign_module("mmengine.hooks", ConfigDict, Trap, TrapState):
        payload = TrapState(str(trace)) if trap is TrapState else Call(Trap, str(trace))
        path = save(tmp_path / "evil.pth", hidden(payload), legacy=legacy)
        assert load_tensors(path, "checkpoint")["meta"]["epoch"] == 12
        assert not trace.exists()
        torch.load(path, weights_only=False)
        assert trace.exists(), "the class is harmless, so the assertions above prove nothing"


def test_pickled_modules_of_pytorch_are_refused(tmp_path: Path) -> None:
    """A file with a complete model instead of its tensors would have to import the classes of the model."""
    sentence = refusal(save(tmp_path / "model.pth", {"model": torch.nn.Linear(2, 2)}))
    assert "torch.nn.modules.linear.Linear" in sentence


def command_pickle(trace: Path, form: str) -> bytes:
    """Return a pickle that calls os.system or eval, in a form that pickle reads but does not write."""
    text = f"touch {trace}".encode()
    short = b"\x8c" + bytes([len(text)]) + text
    return {
        "instance": b"(S'" + text + b"'\nios\nsystem\n.",
        "object": b"(cos\nsystem\nS'" + text + b"'\no.",
        "old name": b"c__builtin__\neval\n(S'open(\"" + str(trace).encode() + b'", "w")\'\ntR.',
        "stack": b"\x80\x04\x8c\x02os\x8c\x06system" + b"\x93" + short + b"\x85R.",
        "dotted": b"\x80\x04\x8c\x07logging\x8c\x09os.system\x93" + short + b"\x85R.",
    }[form]


def write(path: Path, data: bytes, form: str) -> None:
    """Write the pickle alone (bare), at one of three places of a legacy file, or in a zip archive."""
    storages = pickle.dumps([], protocol=2)
    head = b"".join(pickle.dumps(value, protocol=2) for value in (MAGIC, VERSION, {"little_endian": True}))
    if form == "archive":
        torch.save({}, path)
        _replace_member(path, data)
    else:
        path.write_bytes({
            "bare": data, "legacy": head + data + storages, "system": head[:-1] + b"0" + data,
            "storages": head + pickle.dumps({}, protocol=2) + data,
        }[form])  # fmt: skip


def _replace_member(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, data if name.endswith("/data.pkl") else content)


@pytest.mark.parametrize("place", ["bare", "legacy", "system", "storages", "archive"])
@pytest.mark.parametrize("form", ["instance", "object", "old name", "stack", "dotted"])
def test_calls_of_any_form_at_any_place_of_a_file_do_not_run(tmp_path: Path, form: str, place: str) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "executed"
    write(path, command_pickle(trace, form), place)
    sentence = refusal(path)
    assert "would run" in sentence or "could not be read" in sentence
    assert not trace.exists()
    # After the call has run, reading fails, because the rest is not a file of tensors.
    with suppress(Exception):
        torch.load(path, weights_only=False)
    assert trace.exists(), "the file is harmless, so the assertions above prove nothing"


def test_archive_of_the_oldest_format_is_refused_and_does_not_run(tmp_path: Path) -> None:
    """PyTorch before 0.1.10 wrote tar files."""
    path, trace = tmp_path / "evil.tar", tmp_path / "executed"
    with tarfile.open(path, "w") as archive:
        members = {"sys_info": pickle.dumps({}), "storages": command_pickle(trace, "instance"), "tensors": b""}
        for name, data in {**members, "pickle": b""}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert "could not be read" in refusal(path)
    assert not trace.exists()
    with suppress(Exception):
        torch.load(path, weights_only=False)
    assert trace.exists(), "the file is harmless, so the assertions above prove nothing"


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04 cut short", pickle.dumps({"a": 1}), b"\x80\x02]q\x00."])
def test_file_that_torch_save_did_not_write_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(data)
    assert "could not be read" in refusal(path)


@pytest.mark.parametrize("operation", [b"r\xff\xff\xff\xff", b"\x96\x00\x00\x00\x00\x08\x00\x00\x00"])
def test_large_numbers_in_a_damaged_file_do_not_fill_the_memory(tmp_path: Path, operation: bytes) -> None:
    """The numbers are a memo index of 2^32 and the length of an array of 32 GiB."""
    path = tmp_path / "odd.pth"
    write(path, b"\x80\x02]" + operation + b".", "legacy")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(UserError):
        load_tensors(path, "checkpoint")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "more than a gibibyte"


@pytest.fixture(scope="module", params=[False, True], ids=["zip", "legacy"])
def real_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a small checkpoint with foreign objects."""
    with ExitStack() as modules:
        modules.enter_context(foreign_module("mmengine.logging.history_buffer", HistoryBuffer))
        modules.enter_context(foreign_module("mmengine.config.config", ConfigDict, Items, Level, Slotted))
        content = {"state_dict": OrderedDict(w=torch.zeros(2, 3)), "meta": {**foreign_objects(), **plain_objects()}}
        return save(tmp_path_factory.mktemp("real") / "real.pth", content, legacy=request.param).read_bytes()


def read_or_refuse(folder: Path, data: bytes) -> None:
    """Load a file of these bytes; any exception but UserError fails the test."""
    path = folder / "fuzzed.pth"
    path.write_bytes(data)
    with suppress(UserError), warnings.catch_warnings(action="ignore"):
        load_tensors(path, "checkpoint")


FUZZ = fuzz(150)


@FUZZ
@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\x00("]))
def test_random_bytes_are_refused_or_read(tmp_path: Path, data: bytes, start: bytes) -> None:
    read_or_refuse(tmp_path, start + data)


@FUZZ
@given(st.floats(0, 1))
def test_truncated_file_is_refused_or_read(tmp_path: Path, real_file: bytes, part: float) -> None:
    read_or_refuse(tmp_path, real_file[: int(part * len(real_file))])


@FUZZ
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_file_with_changed_bytes_is_refused_or_read(
    tmp_path: Path, real_file: bytes, changes: list[tuple[float, int]]
) -> None:
    damaged = bytearray(real_file)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    read_or_refuse(tmp_path, bytes(damaged))


@FUZZ
@given(st.binary(max_size=200))
def test_pickle_of_random_operations_is_refused_or_read(tmp_path: Path, data: bytes) -> None:
    """The pickle follows a valid header of the legacy format, in which no checksum detects the damage."""
    write(tmp_path / "fuzzed.pth", b"\x80\x02" + data, "legacy")
    with suppress(UserError), warnings.catch_warnings(action="ignore"):
        load_tensors(tmp_path / "fuzzed.pth", "checkpoint")
