"""The faults of `tests.robustness.faults`: how each is made, and how the command that meets it should end."""

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

from htc.checkpoint.files import checkpoint_steps, checksum, checksum_file
from htc.cli import USER_ERROR
from tests.checkpoint.test_safe_loading import ATTACKS
from tests.config.test_messages import MEANINGLESS, REFUSED
from tests.data.test_annotation_faults import FAULTS, REPAIRS, Change, drop
from tests.helpers.hand_made import Folder
from tests.robustness.forks import has_ended

FINE, STOPPED = 0, 128 + signal.SIGTERM
WOULD_RUN = r"would run (posix|builtins|subprocess)\."


@dataclass
class Place:
    """What a fault is made of: a folder, a data set in it that may be spoilt, and a folder of runs."""

    root: Path
    data: Folder
    held: list[io.TextIOWrapper] = field(default_factory=list)
    """Files whose locks this process holds."""

    @property
    def trace(self) -> Path:
        """The file that the code in an evil checkpoint makes."""
        return self.root / "executed"

    @property
    def images(self) -> list[Path]:
        """The images that have objects."""
        return [self.data.root / "images" / f"{name}.png" for name in (3, 7, 40)]

    @property
    def run(self) -> Path:
        (run,) = (path for path in (self.root / "runs").glob("*/*") if (path / "run.json").is_file())
        return run

    def options(self) -> list[str]:
        """A run of four steps on the data set."""
        return [
            "data=coco", f"data.root={self.data.root}", "data.train.images=images", "data.val.images=images",
            "data.train.annotations=annotations.json", "data.val.annotations=annotations.json",
            "data.train.stuff=stuff", "data.short_side=64", "data.long_side=80", "data.workers=0",
            "data.semantic_classes=16", "backbone=resnet18_narrow", "backbone.width=8", "size=narrow",
            "model.channels=16", "model.fc_channels=32", "schedule=short", "schedule.iterations=4",
            "schedule.batch_size=2", "schedule.reference_batch=2", "save.every=2", "log_every=1", "threads=1",
            "device=cpu", "progress=false", "wandb.mode=disabled", f"runs={self.root / 'runs'}",
        ]  # fmt: skip


Make = Callable[[Place], list[str] | None]


@dataclass
class Fault:
    name: str
    make: Make
    """Spoils the place; what it returns are the command's last arguments."""
    status: int = USER_ERROR
    says: str = ""
    """A pattern of the line that tells the user."""
    module: str = "htc.run"
    bare: bool = False
    """Whether the command gets none of the run's options."""
    after_a_run: bool = False
    """Whether the place holds a finished run of the same command."""
    prepare: Callable[[], object] = lambda: None
    """Called in the process of the command."""
    meanwhile: Callable[[Place, int], object] = lambda place, process: None
    """Called while the command runs, with its process id."""


def arguments(*values: str) -> Make:
    return lambda place: list(values)


def nothing(place: Place) -> None:
    pass


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
        yield Fault(name, partial(changed, change), says=r"annotations\.json")
    for name, (change, flaw, _) in REPAIRS.items():
        words = flaw.counted(0).partition(": 0")[0]
        yield Fault(f"{name}: dropped or clipped", partial(changed, change), FINE, re.escape(words))
    yield Fault("no such file", absent, says=r"annotations\.json")
    for name, content in {
        "empty file": "", "no JSON": "<html>", "JSON of something else": "[1, 2]", "no table of images": "{}",
        "JSON that breaks off": '{"images": [{"id": 1', "nested 100,000 deep": "[" * 100_000,
    }.items():  # fmt: skip
        yield Fault(name, partial(text, content), says=r"annotations\.json")


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

    def spoilt_later(place: Place, process: int) -> None:
        """After the checks at the start; images of validation cannot be told apart from those of training here."""
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

    yield Fault("no such folder", no_folder, says="images")
    yield Fault("listed but absent", absent, says=r"7\.png")
    for name, content in {"empty": b"", "a page of HTML": b"<html>", "zeros": bytes(1000)}.items():
        yield Fault(name, partial(written, content), says=r"\.png is")
    yield Fault("cut off: refused before training", cut, says=r"image 3 of .*annotations\.json: .*3\.png is cut off")
    yield Fault("cut off while it trains", arguments(*LONG), says=r"\.png is cut off", meanwhile=spoilt_later)
    yield Fault("another size than the annotations say", smaller, says=r"\.png is")
    for name, mode, form in (
        ("JPEG named png", "RGB", "JPEG"), ("CMYK", "CMYK", "JPEG"), ("grey", "L", "PNG"), ("palette", "P", "PNG"),
        ("transparent", "RGBA", "PNG"),
    ):  # fmt: skip
        yield Fault(f"{name}: read", partial(saved, mode, form), FINE, "step 4/4")
    yield Fault("16 bits: read", deep, FINE, "step 4/4")
    yield Fault("turned by EXIF, which COCO's annotations ignore: read", turned, FINE, "step 4/4")


def stuff_faults() -> Iterator[Fault]:
    def maps(place: Place, leave_out: int = 0, size: tuple[int, int] | None = None, value: int = 1) -> list[str]:
        folder = place.data.root / "stuff"
        folder.mkdir()
        rows = place.data.content["images"]
        for row in rows[: len(rows) - leave_out]:
            shape = size or (row["height"], row["width"])
            cv2.imwrite(str(folder / f"{row['id']}.png"), np.full(shape, value, np.uint8))
        return []

    yield Fault("none for one image", partial(maps, leave_out=1), says="stuff")
    yield Fault("another size than the image", partial(maps, size=(9, 9)), says="stuff")
    yield Fault("classes beyond the network's", partial(maps, value=77), says="77")
    yield Fault("no folder: drawn from the masks", nothing, FINE, "drawn from the instance masks")
    yield Fault("no folder, but asked for", arguments("data.semantic_source=stuff"), says="stuff")


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

    yield Fault("one file for both: meant, and said", nothing, FINE, "memorised")
    yield Fault("validation shares images with training", partial(other, drop(7)), says="is in training")
    yield Fault("copies of them in another folder", copied, says="same image")
    yield Fault("a category of another name", partial(other, jar), says="'bottle'")
    yield Fault("a category that one of them lacks", partial(other, boat), says="boat")
    yield Fault("an empty split", partial(other, drop(3, 7, 12, 40)), says="no image")


def configuration_faults() -> Iterator[Fault]:
    for name, (given, parts) in REFUSED.items():
        yield Fault(name, arguments(*given), says=re.escape(parts[0]), bare=True)
    for named, given in MEANINGLESS.items():
        yield Fault(" ".join(given), arguments(*given), says=named, bare=True)


# Checkpoints


def unfinished(place: Place) -> list[Path]:
    """Leave the finished run as a crash after its last save would have -> its checkpoints, newest first."""
    (place.run / "results.json").unlink()
    record = json.loads((place.run / "run.json").read_text())
    (place.run / "run.json").write_text(json.dumps(record | {"status": "running"}))
    return [path for _, path in reversed(checkpoint_steps(place.run / "checkpoints"))]


def evil_file(attack: str, place: Place) -> Path:
    """A checkpoint whose unpickling would leave `place.trace`."""
    content = {
        "meta": {"time": "now", "hook": ATTACKS[attack][0](str(place.trace))},
        "state_dict": {"w": torch.zeros(2)},
    }
    torch.save(content, place.root / "evil.pth")
    place.trace.unlink(missing_ok=True)  # some are called when they are made
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
            checksum_file(path).write_text(checksum(path))
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

    yield Fault("killed after the last save: goes on", crash, FINE, "continuing after step 4", after_a_run=True)
    yield Fault("the newest cut short: the one before it", partial(newest, half), FINE, "continuing after step 2",
                after_a_run=True)  # fmt: skip
    yield Fault("a bit of the newest flipped: the one before it", partial(newest, flip), FINE,
                "continuing after step 2", after_a_run=True)  # fmt: skip
    yield Fault("all cut short: from the start", partial(every, half), FINE, "step 1/4", after_a_run=True)
    yield Fault("run.json damaged: done anew", record, FINE, "box AP", after_a_run=True)
    yield Fault("the run's own would run code", evil_own, says=WOULD_RUN, after_a_run=True)
    for attack in ("os.system", "eval", "Popen", "__import__"):
        yield Fault(f"checkpoint=FILE that would run code ({attack})", partial(evil, attack), says=WOULD_RUN)
    yield Fault("checkpoint=FILE that is not there", partial(given, None), says=r"weights\.pth")
    for name, data in {"empty": b"", "text": b"hello", "half a zip": b"PK\x03\x04 cut"}.items():
        yield Fault(f"checkpoint=FILE that is none ({name})", partial(given, data), says=r"weights\.pth")
    yield Fault("checkpoint=FILE of another network", foreign, says=r"foreign\.pth")


# Runs and what surrounds them

LONG = ("schedule.iterations=100000", "save.every=100000")


def wait_for_training(place: Place, process: int) -> None:
    while not list(place.root.glob("runs/*/*/metrics.jsonl")) and not has_ended(process):
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
    yield Fault("a full disk (no file may exceed 60 KiB)", nothing, says="make room", prepare=small_files)
    yield Fault("a folder that cannot be written", arguments("runs=/dev/null/runs"), says="/dev/null/runs")
    yield Fault("another process has the run", held, says="in use by process 1 on elsewhere", after_a_run=True)
    yield Fault("done already: left alone", nothing, FINE, "is done already", after_a_run=True)
    for name, number in (("SIGTERM", signal.SIGTERM), ("Ctrl-C", signal.SIGINT)):
        yield Fault(f"{name}: saves, and says how to go on", arguments(*LONG), STOPPED,
                    "the same command continues", meanwhile=partial(send, number))  # fmt: skip
    yield Fault("a loss that is not finite", diverging, says="not finite at step")
    yield Fault("not logged in to wandb: goes on", online, FINE, "not logged in")
    yield Fault("wandb's server cannot be reached: goes on", online, FINE, "Tracking by wandb is off",
                prepare=environment(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40))  # fmt: skip
    yield Fault("a device that is not here", arguments("device=cuda"), says="device=cuda",
                prepare=environment(CUDA_VISIBLE_DEVICES=""))  # fmt: skip


def command_faults() -> Iterator[Fault]:
    def of_run(*values: str) -> Callable[[Place], list[str]]:
        """RUN, OUT and ROOT stand for the folders."""

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

    yield Fault("evaluate: no such run", of_run("run=ROOT/absent"), says="absent", module="htc.evaluate", bare=True)
    yield Fault("evaluate: a folder that is no run", of_run("run=ROOT"), says="run", module="htc.evaluate", bare=True)
    yield Fault("evaluate: an unknown key", of_run("run=ROOT", "evl.limit=2"), says=r"evl\.limit",
                module="htc.evaluate", bare=True)  # fmt: skip
    yield Fault("evaluate: a checkpoint that would run code", evil("checkpoint=ROOT/evil.pth"), says=WOULD_RUN,
                module="htc.evaluate", bare=True)  # fmt: skip
    yield Fault("predict: no such image", of_run("run=RUN", "images=ROOT/absent.png", "out=OUT"), says=r"absent\.png",
                module="htc.predict", after_a_run=True, bare=True)  # fmt: skip
    yield Fault("predict: an image that is none", photo, says=r"photo\.jpg", module="htc.predict", after_a_run=True,
                bare=True)  # fmt: skip
    yield Fault("convert: a checkpoint that would run code", evil("checkpoint=ROOT/evil.pth", "out=OUT"),
                says=WOULD_RUN, module="htc.convert", bare=True)  # fmt: skip
    yield Fault("replay: a file that would run code", evil("ROOT/evil.pth"), says=WOULD_RUN, module="htc.replay",
                bare=True)  # fmt: skip
    yield Fault("data.check: an unknown key", arguments("data.rot=x"), says=r"data\.rot", module="htc.data.check",
                bare=True)  # fmt: skip
    yield Fault("status: no such folder", of_run("runs=ROOT/absent"), says="absent", module="htc.status", bare=True)


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
