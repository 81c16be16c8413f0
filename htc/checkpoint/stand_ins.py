"""Stand-ins for the classes that a checkpoint of another framework refers to.

Such files contain more than tensors: logs, configurations, optimiser state, NumPy values. Their classes are not
installed here and must not be imported. A dry run over the pickle replaces every name by a probe. It finds the classes
that a file refers to, and whether it fills their objects like dicts or like lists. Each harmless class is then given to
`torch.load(weights_only=True)` as an empty stand-in. For all other names, PyTorch's own list of safe globals decides.
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

# Classes are recognised by their capital letter; calling a function of these packages would run code.
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
# Methods are pickled as getattr of their class. It is accepted for classes of frameworks only: elsewhere it can return
# a function that runs code.
GETATTR = "builtins.getattr"
# Names that PyTorch's own reader accepts or refuses.
LEFT_TO_PYTORCH = re.compile(
    r"torch(\.\w+)+|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of a file that torch.save wrote before PyTorch 1.6, or without the zip format."""


class RunsCodeError(Exception):
    """The pickle calls `name`, which is not a class of plain values."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class StandIn:
    """An object of a class that is not installed. It accepts any arguments and state, and stores none of them."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class DictStandIn(StandIn):
    """Stand-in for a class whose objects are filled like a dict."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class ListStandIn(StandIn):
    """Stand-in for a class whose objects are filled like a list."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return []


class Probe(StandIn):
    """Base of the classes that replace the names of the pickle in the dry run."""

    name: str
    """Full name in the pickle."""
    stand_in: type[StandIn]
    """Kind of stand-in for the name, found by the dry run."""

    def __setitem__(self, key: Any, value: Any) -> None:
        type(self).stand_in = DictStandIn

    def append(self, _: Any) -> None:
        type(self).stand_in = ListStandIn

    def extend(self, _: Any) -> None:
        type(self).stand_in = ListStandIn

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RunsCodeError(self.name)


class GetattrProbe(Probe):
    """Replaces `getattr`. Raises RunsCodeError unless its first argument is a class or an object of a framework."""

    def __new__(cls, *arguments: Any, **_: Any) -> Any:
        owner = arguments[0] if arguments else None
        kind = owner if isinstance(owner, type) else type(owner)
        if not (issubclass(kind, Probe) and FRAMEWORK_CLASS.fullmatch(kind.name)):
            raise RunsCodeError(GETATTR)
        return object.__new__(cls)


class DryRun(pickle._Unpickler):
    """Executes a pickle without importing classes, calling functions or reading storages.

    It is based on the unpickler in Python, as PyTorch's reader is: the one in C allocates memory up to any memo index
    that a damaged pickle contains.
    """

    # BYTEARRAY8 would allocate an array of any length; PyTorch's reader does not support it either.
    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.probes: dict[str, type[Probe]] = {}

    def find_class(self, module: str, name: str) -> type[Probe]:
        """Return a probe for a name of the pickle. Raises RunsCodeError for a name that is not a known class."""
        # Names of Python 2 are translated to Python 3's, as PyTorch's reader does.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full_name = f"{module}.{name}"
        if not (needs_stand_in(full_name) or LEFT_TO_PYTORCH.fullmatch(full_name)):
            raise RunsCodeError(full_name)
        if full_name not in self.probes:
            base = GetattrProbe if full_name == GETATTR else Probe
            self.probes[full_name] = type("Probe", (base,), {"name": full_name, "stand_in": StandIn})
        return self.probes[full_name]

    def persistent_load(self, _: Any) -> None:
        """Return None for a storage, without reading it."""


def needs_stand_in(name: str) -> bool:
    """Return whether a name of a pickle is a class of another framework or of plain values, which gets a stand-in."""
    return name == GETATTR or any(p.fullmatch(name) for p in (FRAMEWORK_CLASS, NUMPY_VALUE, PLAIN_VALUE))


def stand_ins_for(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return stand-ins for the foreign classes of a file that `torch.save` wrote, each with the name that it replaces.

    Raises RunsCodeError for a file that would run code, and the exceptions of `pickle` and `zipfile` for a damaged
    file.
    """
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive, archive.open(_pickle_member(archive)) as member:
                probes = _run_dry(member)[1]
        else:
            file.seek(0)
            if _run_dry(file)[0] != LEGACY_MAGIC:
                raise pickle.UnpicklingError("torch.save did not write it")
            _run_dry(file)  # the version of the format
            _run_dry(file)  # the system that wrote it
            probes = _run_dry(file)[1]
    return [
        (type(name.replace(".", "_"), (probe.stand_in,), {}), name)
        for name, probe in probes.items()
        if needs_stand_in(name)
    ]


def _pickle_member(archive: zipfile.ZipFile) -> str:
    """Return the name of the pickle in a zip file of torch.save. Raises UnpicklingError if there is not exactly one."""
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise pickle.UnpicklingError("torch.save did not write this archive")
    return names[0]


def _run_dry(file: IO[bytes]) -> tuple[Any, dict[str, type[Probe]]]:
    """Execute one pickle dry; return its value and the probes of the names that it refers to."""
    run = DryRun(file)
    return run.load(), run.probes
