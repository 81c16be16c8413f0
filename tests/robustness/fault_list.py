"""The faults of `tests.robustness.faults`: how each is made, and how the command must end."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from htc.checkpoint.files import checkpoint_steps, checksum_file
from htc.cli import USER_ERROR
from htc.runs.files import sha256_of
from tests.helpers.annotation_faults import FAULTS, REPAIRS, Change, drop
from tests.helpers.attacks import ATTACKS
from tests.helpers.hand_made import Folder
from tests.helpers.refused_settings import MEANINGLESS, REFUSED
from tests.helpers.tiny_run import SMALL
from tests.robustness.forks import has_ended

FINE, STOPPED = 0, 128 + signal.SIGTERM
WOULD_RUN = r"would run (posix|builtins|subprocess)\."


@dataclass
class Place:
    """A folder with a data set, in which a fault is made, and a folder of runs."""

    root: Path
    data: Folder
    held: list[io.TextIOWrapper] = field(default_factory=list)
    """Files whose locks this process holds."""

    @property
    def trace(self) -> Path:
        """The file that the code in an evil checkpoint would create."""
        return self.root / "executed"

    @property
    def images(self) -> list[Path]:
        """The images that have objects."""
        return [self.data.root / "images" / f"{name}.png" for name in (3, 7, 40)]

    @property
    def run(self) -> Path:
        """The folder of the only run."""
        (run,) = (path for path in (self.root / "runs").glob("*") if (path / "run.json").is_file())
        return run

    def options(self) -> list[str]:
        """Return the overrides of a run of four steps on the data set."""
        return [
            "data=coco", f"data.root={self.data.root}", "data.train.images=images", "data.val.images=images",
            "data.train.annotations=annotations.json", "data.val.annotations=annotations.json",
            "data.train.stuff=stuff", "data.semantic_classes=16", "backbone=resnet18_narrow", "size=narrow", *SMALL,
            "schedule=short", "schedule.iterations=4", "schedule.batch_size=2", "schedule.reference_batch=2",
            "save.every=2", "log_every=1", "threads=1", "device=cpu", "progress=false", "wandb.mode=disabled",
            f"runs={self.root / 'runs'}",
        ]  # fmt: skip


Make = Callable[[Place], list[str] | None]


@dataclass
class Fault:
    """A fault, and the command that has to cope with it."""

    name: str
    make: Make
    """Make the fault in a place, and return further arguments of the command."""
    status: int = USER_ERROR
    """Expected exit status."""
    message: str = ""
    """Pattern of the line that informs the user."""
    module: str = "htc.run"
    bare: bool = False
    """True if the command gets no overrides of the run."""
    after_a_run: bool = False
    """True if the same command has finished a run in the place before."""
    prepare: Callable[[], object] = lambda: None
    """Called in the process of the command before it starts."""
    meanwhile: Callable[[Place, int], object] = lambda place, process: None
    """Called with the process id while the command runs."""


def arguments(*values: str) -> Make:
    """Return a fault that consists of arguments alone."""
    return lambda place: list(values)


def nothing(place: Place) -> None:
    """Leave the place as it is."""


# Annotations and images


def annotation_faults() -> Iterator[Fault]:
    def changed(change: Change, place: Place) -> None:
        change(place.data.content)
        place.data.write()

    def text(content: str, place: Place) -> None:
        place.data.file.write_text(content)

    def absent(place: Place) -> None:
        place.data.file.unlink()

    for name, (change, _) in FAULTS.items():
        yield Fault(name, partial(changed, change), message=r"annotations\.json")
    for name, (change, flaw, _) in REPAIRS.items():
        words = flaw.counted(0).partition(": 0")[0]
        yield Fault(f"{name}: dropped or clipped", partial(changed, change), FINE, re.escape(words))
    yield Fault("no such file", absent, message=r"annotations\.json")
    for name, content in {
        "empty file": "", "not JSON": "<html>", "JSON of another kind": "[1, 2]", "no table of images": "{}",
        "truncated JSON": '{"images": [{"id": 1', "nested 100,000 deep": "[" * 100_000,
    }.items():  # fmt: skip
        yield Fault(name, partial(text, content), message=r"annotations\.json")


def image_faults() -> Iterator[Fault]:
    def written(content: bytes, place: Place) -> None:
        for path in place.images:
            path.write_bytes(content)

    def absent(place: Place) -> None:
        place.images[1].unlink()

    def no_folder(place: Place) -> None:
        shutil.rmtree(place.data.root / "images")

    def cut(place: Place) -> None:
        for path in place.images:
            path.write_bytes(path.read_bytes()[:300])

    def cut_later(place: Place, process: int) -> None:
        """Cut the images off after the checks at the start; training and validation use the same files here."""
        wait_for_training(place, process)
        cut(place)

    def saved(mode: str, form: str, place: Place) -> None:
        for path in place.images:
            out = io.BytesIO()
            Image.open(path).convert(mode).save(out, form)
            path.write_bytes(out.getvalue())

    def deep(place: Place) -> None:
        for path in place.images:
            image = cv2.imread(str(path))
            assert image is not None
            cv2.imwrite(str(path), image.astype(np.uint16) * 257)

    def turned(place: Place) -> None:
        for path in place.images:
            image = Image.open(path)
            exif = image.getexif()
            exif[0x0112] = 6
            image.save(path, "PNG", exif=exif)

    def smaller(place: Place) -> None:
        for path in place.images:
            cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))

    yield Fault("no such folder", no_folder, message="images")
    yield Fault("listed but missing", absent, message=r"7\.png")
    for name, content in {"empty": b"", "HTML": b"<html>", "zeros": bytes(1000)}.items():
        yield Fault(name, partial(written, content), message=r"\.png is")
    before = r"image 3 of .*annotations\.json: .*3\.png is cut off"
    yield Fault("truncated: refused before training", cut, message=before)
    yield Fault("truncated during training", arguments(*LONG), message=r"\.png is cut off", meanwhile=cut_later)
    yield Fault("a size that differs from the annotations", smaller, message=r"\.png is")
    for name, mode, form in (
        ("JPEG named png", "RGB", "JPEG"), ("CMYK", "CMYK", "JPEG"), ("grey", "L", "PNG"), ("palette", "P", "PNG"),
        ("transparent", "RGBA", "PNG"),
    ):  # fmt: skip
        yield Fault(f"{name}: read", partial(saved, mode, form), FINE, "step 4/4")
    yield Fault("16 bits: read", deep, FINE, "step 4/4")
    yield Fault("EXIF orientation, which COCO's annotations ignore: read", turned, FINE, "step 4/4")


def stuff_faults() -> Iterator[Fault]:
    def maps(place: Place, leave_out: int = 0, size: tuple[int, int] | None = None, value: int = 1) -> list[str]:
        folder = place.data.root / "stuff"
        folder.mkdir()
        rows = place.data.content["images"]
        for row in rows[: len(rows) - leave_out]:
            shape = size or (row["height"], row["width"])
            cv2.imwrite(str(folder / f"{row['id']}.png"), np.full(shape, value, np.uint8))
        return []

    yield Fault("missing for one image", partial(maps, leave_out=1), message="stuff")
    yield Fault("another size than the image", partial(maps, size=(9, 9)), message="stuff")
    yield Fault("a class that the network does not have", partial(maps, value=77), message="77")
    yield Fault("no folder: targets drawn from the masks", nothing, FINE, "drawn from the instance masks")
    yield Fault("no folder, but required", arguments("data.semantic_source=stuff"), message="stuff")


def split_faults() -> Iterator[Fault]:
    def other(change: Change, place: Place) -> list[str]:
        content = json.loads(json.dumps(place.data.content))
        change(content)
        (place.data.root / "val.json").write_text(json.dumps(content))
        return ["data.val.annotations=val.json"]

    def copied(place: Place) -> list[str]:
        other(drop(7), place)
        shutil.copytree(place.data.root / "images", place.data.root / "copies")
        return ["data.val.annotations=val.json", "data.val.images=copies"]

    def jar(content: dict[str, list[dict[str, object]]]) -> None:
        content["categories"][0]["name"] = "jar"

    def boat(content: dict[str, list[dict[str, object]]]) -> None:
        content["categories"].append({"id": 9, "name": "boat"})

    yield Fault("one annotation file for both: reported", nothing, FINE, "memorised")
    yield Fault("validation shares images with training", partial(other, drop(7)), message="is in training")
    yield Fault("validation has copies of training images", copied, message="same image")
    yield Fault("a category of another name", partial(other, jar), message="'bottle'")
    yield Fault("a category that one split does not have", partial(other, boat), message="boat")
    yield Fault("an empty split", partial(other, drop(3, 7, 12, 40)), message="no image")


def configuration_faults() -> Iterator[Fault]:
    for name, (given, parts) in REFUSED.items():
        yield Fault(name, arguments(*given), message=re.escape(parts[0]), bare=True)
    for named, given in MEANINGLESS.items():
        yield Fault(" ".join(given), arguments(*given), message=named, bare=True)


# Checkpoints


def unfinished(place: Place) -> list[Path]:
    """Change the finished run to one that crashed after its last save, and return its checkpoints, newest first."""
    (place.run / "evaluations" / "default" / "results.json").unlink()
    record = json.loads((place.run / "run.json").read_text())
    (place.run / "run.json").write_text(json.dumps(record | {"status": "running"}))
    return [path for _, path in reversed(checkpoint_steps(place.run / "checkpoints"))]


def evil_file(attack: str, place: Place) -> Path:
    """Write a checkpoint whose unpickling would create `place.trace`, and return its path."""
    content = {
        "meta": {"time": "now", "hook": ATTACKS[attack][0](str(place.trace))},
        "state_dict": {"w": torch.zeros(2)},
    }
    torch.save(content, place.root / "evil.pth")
    place.trace.unlink(missing_ok=True)  # some attacks run when they are made
    return place.root / "evil.pth"


def checkpoint_faults() -> Iterator[Fault]:
    def half(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def crash(place: Place) -> None:
        unfinished(place)

    def newest(damage: Callable[[Path], None], place: Place) -> None:
        damage(unfinished(place)[0])

    def every(damage: Callable[[Path], None], place: Place) -> None:
        for path in unfinished(place):
            damage(path)

    def record(place: Place) -> None:
        (place.run / "run.json").write_text("{")

    def evil_own(place: Place) -> None:
        for path in unfinished(place):
            path.write_bytes(evil_file("os.system", place).read_bytes())
            checksum_file(path).write_text(sha256_of(path))
        (place.root / "evil.pth").unlink()

    def evil(attack: str, place: Place) -> list[str]:
        return [f"checkpoint={evil_file(attack, place)}"]

    def given(data: bytes | None, place: Place) -> list[str]:
        path = place.root / "weights.pth"
        if data is not None:
            path.write_bytes(data)
        return [f"checkpoint={path}"]

    def foreign(place: Place) -> list[str]:
        torch.save({"state_dict": {"conv.weight": torch.zeros(2)}}, place.root / "foreign.pth")
        return [f"checkpoint={place.root / 'foreign.pth'}"]

    yield Fault("killed after the last save: resumed", crash, FINE, "continuing after step 4", after_a_run=True)
    for name, change in (("the newest is truncated", half), ("a bit of the newest is flipped", flip)):
        yield Fault(f"{name}: resumed from the one before", partial(newest, change), FINE, "continuing after step 2",
                    after_a_run=True)  # fmt: skip
    yield Fault("all are truncated: started again", partial(every, half), FINE, "step 1/4", after_a_run=True)
    yield Fault("run.json is damaged: finished again", record, FINE, "box AP", after_a_run=True)
    yield Fault("a checkpoint of the run would run code", evil_own, message=WOULD_RUN, after_a_run=True)
    for attack in ("os.system", "eval", "Popen", "__import__"):
        yield Fault(f"checkpoint=FILE that would run code ({attack})", partial(evil, attack), message=WOULD_RUN)
    yield Fault("checkpoint=FILE that does not exist", partial(given, None), message=r"weights\.pth")
    for name, data in {"empty": b"", "text": b"hello", "half a zip": b"PK\x03\x04 cut"}.items():
        yield Fault(f"checkpoint=FILE that is no checkpoint ({name})", partial(given, data), message=r"weights\.pth")
    yield Fault("checkpoint=FILE of another network", foreign, message=r"foreign\.pth")


# Runs and what surrounds them

LONG = ("schedule.iterations=100000", "save.every=100000")


def wait_for_training(place: Place, process: int) -> None:
    while not list(place.root.glob("runs/*/metrics.jsonl")) and not has_ended(process):
        time.sleep(0.01)


def run_faults() -> Iterator[Fault]:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60 << 10, 60 << 10))

    def held(place: Place) -> None:
        lock = (place.run / ".lock").open("w")
        lock.write("process 1 on elsewhere")
        lock.flush()
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        place.held.append(lock)
        unfinished(place)

    def send(number: int, place: Place, process: int) -> None:
        wait_for_training(place, process)
        os.kill(process, number)

    def environment(**values: str) -> Callable[[], None]:
        return lambda: os.environ.update(values)

    diverging = arguments("schedule.learning_rate=1e30", "schedule.clip_norm=null", "schedule.optimizer=sgd",
                          "schedule.warmup_iterations=0")  # fmt: skip
    online = arguments("wandb.mode=online")
    yield Fault("a full disk (no file may exceed 60 KiB)", nothing, message="make room", prepare=small_files)
    yield Fault("a folder that cannot be written", arguments("runs=/dev/null/runs"), message="/dev/null/runs")
    yield Fault("another process uses the run", held, message="in use by process 1 on elsewhere", after_a_run=True)
    yield Fault("done already: nothing happens", nothing, FINE, "is done already", after_a_run=True)
    for name, number in (("SIGTERM", signal.SIGTERM), ("Ctrl-C", signal.SIGINT)):
        yield Fault(f"{name}: saves and is resumable", arguments(*LONG), STOPPED,
                    "the same command continues", meanwhile=partial(send, number))  # fmt: skip
    yield Fault("a loss that is not finite", diverging, message="not finite at step")
    yield Fault("not logged in to wandb: continues", online, FINE, "not logged in")
    yield Fault("wandb's server cannot be reached: continues", online, FINE, "Tracking by wandb is off",
                prepare=environment(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40))  # fmt: skip
    yield Fault("a device that does not exist", arguments("device=cuda"), message="device=cuda",
                prepare=environment(CUDA_VISIBLE_DEVICES=""))  # fmt: skip


def command_faults() -> Iterator[Fault]:
    def of_run(*values: str) -> Callable[[Place], list[str]]:
        """Return a fault of arguments, in which RUN, OUT and ROOT stand for folders."""

        def make(place: Place) -> list[str]:
            run = str(place.run) if any("RUN" in value for value in values) else ""
            return [
                value.replace("RUN", run).replace("OUT", str(place.root / "out")).replace("ROOT", str(place.root))
                for value in values
            ]

        return make

    def photo(place: Place) -> list[str]:
        (place.root / "photo.jpg").write_bytes(b"<html>")
        return of_run("run=RUN", "images=ROOT/photo.jpg", "out=OUT")(place)

    def evil(*values: str) -> Make:
        def make(place: Place) -> list[str]:
            evil_file("os.system", place)
            return of_run(*values)(place)

        return make

    yield Fault("evaluate: no such run", of_run("run=ROOT/absent"), message="absent", module="htc.evaluate", bare=True)
    yield Fault(
        "evaluate: a folder that is not a run", of_run("run=ROOT"), message="run", module="htc.evaluate", bare=True
    )
    yield Fault("evaluate: an unknown key", of_run("run=ROOT", "evl.limit=2"), message=r"evl\.limit",
                module="htc.evaluate", bare=True)  # fmt: skip
    yield Fault("evaluate: a checkpoint that would run code", evil("checkpoint=ROOT/evil.pth"), message=WOULD_RUN,
                module="htc.evaluate", bare=True)  # fmt: skip
    yield Fault("predict: no such image", of_run("run=RUN", "images=ROOT/absent.png", "out=OUT"),
                message=r"absent\.png", module="htc.predict", after_a_run=True, bare=True)  # fmt: skip
    yield Fault("predict: a file that is not an image", photo, message=r"photo\.jpg", module="htc.predict",
                after_a_run=True, bare=True)  # fmt: skip
    yield Fault("convert: a checkpoint that would run code", evil("checkpoint=ROOT/evil.pth", "out=OUT"),
                message=WOULD_RUN, module="htc.convert", bare=True)  # fmt: skip
    yield Fault("replay: a file that would run code", evil("ROOT/evil.pth"), message=WOULD_RUN, module="htc.replay",
                bare=True)  # fmt: skip
    yield Fault("data.check: an unknown key", arguments("data.rot=x"), message=r"data\.rot", module="htc.data.check",
                bare=True)  # fmt: skip
    yield Fault("status: no such folder", of_run("runs=ROOT/absent"), message="absent", module="htc.status", bare=True)


SECTIONS: dict[str, Callable[[], Iterator[Fault]]] = {
    "Annotations": annotation_faults,
    "Images": image_faults,
    "Stuff maps": stuff_faults,
    "Splits": split_faults,
    "Configuration": configuration_faults,
    "Checkpoints": checkpoint_faults,
    "Runs": run_faults,
    "Other commands": command_faults,
}
