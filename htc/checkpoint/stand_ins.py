"""Stand-ins for the classes that a checkpoint of another framework mentions.

Such files hold more than tensors: logs, configurations, optimiser entries, NumPy values. Their classes are not
installed here and must not be imported. A dry run over the pickle, in which every name is a probe, tells which classes
a file mentions and how it fills them; each harmless one is then given to `torch.load(weights_only=True)` as an empty
stand-in. Everything else is left to PyTorch's own list of what may be loaded.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

# Classes, by their capital: a function of these packages would run code.
FRAMEWORK_CLASS = re.compile(
    r"(mmengine|mmcv|mmdet|mmdet3d|mmcls|mmpretrain|mmseg|mmpose|mmrotate|mmtrack|mmselfsup|addict)(\.\w+)*\.[A-Z]\w*"
)
NUMPY_VALUE = re.compile(
    r"numpy\.(_?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|ndarray|dtype|dtypes\.\w+DType"
    r"|bool_?|str_|bytes_|(u?int|float|complex)[0-9]*_?)"
)
PLAIN_VALUE = re.compile(
    r"builtins\.(object|list|dict|tuple|frozenset|range|slice|int|float|bool|str|bytes)"
    r"|collections\.(defaultdict|deque)|datetime\.\w+|decimal\.Decimal|fractions\.Fraction|uuid\.UUID"
    r"|pathlib\.(_local\.)?\w*Path|argparse\.Namespace|types\.SimpleNamespace|copyreg\._reconstructor"
)
# Bound to a class of a framework, this is how methods are pickled; bound to anything else, it reaches for code.
GETATTR = "builtins.getattr"
# What PyTorch itself may load: its reader judges these names one by one.
LEFT_TO_PYTORCH = re.compile(
    r"torch(\.\w+)+|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class RunsCodeError(Exception):
    """The pickle calls `name`, which is no class of plain values."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class StandIn:
    """An object of a class that is not installed: takes any arguments and state, and keeps none of them."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class DictStandIn(StandIn):
    """Of a class that is filled item by item."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class ListStandIn(StandIn):
    """Of a class that is appended to."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return []


class Probe(StandIn):
    """What a name of the pickle stands for in the dry run."""

    name: str
    stand_in: type[StandIn]

    def __setitem__(self, key: Any, value: Any) -> None:
        type(self).stand_in = DictStandIn

    def append(self, _: Any) -> None:
        type(self).stand_in = ListStandIn

    def extend(self, _: Any) -> None:
        type(self).stand_in = ListStandIn

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RunsCodeError(self.name)


class GetattrProbe(Probe):
    def __new__(cls, *arguments: Any, **_: Any) -> Any:
        owner = arguments[0] if arguments else None
        kind = owner if isinstance(owner, type) else type(owner)
        if not (issubclass(kind, Probe) and FRAMEWORK_CLASS.fullmatch(kind.name)):
            raise RunsCodeError(GETATTR)
        return object.__new__(cls)


class DryRun(pickle._Unpickler):
    """Follows a pickle without importing, calling or storing anything.

    In Python, as PyTorch's reader is: the one in C fills memory up to whatever index a damaged pickle mentions.
    """

    # So would an array of zeros of any length; PyTorch reads none.
    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.probes: dict[str, type[Probe]] = {}

    def find_class(self, module: str, name: str) -> type[Probe]:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"  # after Python 3's names, as PyTorch has it
        if not (needs_stand_in(full) or LEFT_TO_PYTORCH.fullmatch(full)):
            raise RunsCodeError(full)
        if full not in self.probes:
            base = GetattrProbe if full == GETATTR else Probe
            self.probes[full] = type("Probe", (base,), {"name": full, "stand_in": StandIn})
        return self.probes[full]

    def persistent_load(self, _: Any) -> None:
        """Storages are not read."""


def needs_stand_in(name: str) -> bool:
    """Whether a name of a pickle is a class of another framework or of plain values, to be replaced by a stand-in."""
    return name == GETATTR or any(p.fullmatch(name) for p in (FRAMEWORK_CLASS, NUMPY_VALUE, PLAIN_VALUE))


def stand_ins_for(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Stand-ins for the foreign classes of a file that `torch.save` wrote, each with the name that it replaces.

    Raises RunsCodeError for a file that would run code, and what `pickle` and `zipfile` raise for a damaged one.
    """
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive, archive.open(_member(archive)) as member:
                probes = _follow(member)[1]
        else:
            file.seek(0)
            if _follow(file)[0] != LEGACY_MAGIC:
                raise pickle.UnpicklingError("torch.save did not write it")
            _follow(file)  # the version of the format
            _follow(file)  # the system that wrote it
            probes = _follow(file)[1]
    return [
        (type(name.replace(".", "_"), (probe.stand_in,), {}), name)
        for name, probe in probes.items()
        if needs_stand_in(name)
    ]


def _member(archive: zipfile.ZipFile) -> str:
    """The pickle inside of a file of torch.save."""
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise pickle.UnpicklingError("torch.save did not write this archive")
    return names[0]


def _follow(file: IO[bytes]) -> tuple[Any, dict[str, type[Probe]]]:
    """One pickle's value and the names that it mentions."""
    run = DryRun(file)
    return run.load(), run.probes
