"""Measure annotations of COCO's size: time to load, memory of each worker, time to the first batch, time to check.

python benchmarks/annotations.py [images=118287] [objects=860001] [workers=4] [folder=DIR] [decode=10000]

The annotation file is synthetic and as long as COCO's instances_train2017.json (polygons of 6 to some hundred numbers,
1 % crowds with run lengths). It is written to `folder` and kept there, with links to one image of a photograph's size.
The check decodes `decode` images; the time for all images is extrapolated. Memory is read from /proc, so this runs on
Linux only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from htc.cli import read_settings, run_command
from htc.config.schema import DataConfig, SplitConfig
from htc.data.check.decoding import DecodeJob, decode_all
from htc.data.dataset import CocoDataset
from htc.data.loader import build_train_loader

HEIGHT, WIDTH = 480, 640
FILE = "annotations.json"
CATEGORIES = [k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
POOL = 4000
"""Number of different outlines, among which the objects choose."""
CROWDS = 0.01
"""Share of crowds."""
DEFAULTS = {"images": "118287", "objects": "860001", "workers": "4", "decode": "10000", "folder": "", "method": ""}
MIB = 1 << 20


def main() -> None:
    arguments = read_settings(sys.argv[1:], DEFAULTS)
    images, objects, workers = (int(arguments[key]) for key in ("images", "objects", "workers"))
    folder = Path(arguments["folder"] or Path(tempfile.gettempdir()) / f"htc-annotations-{images}-{objects}")
    if arguments["method"]:
        parts = {"json": plain_json, "check": check_time, "decode": decode_time}
        method = arguments["method"]
        print(json.dumps(parts[method](folder, workers) if method in parts else measure(folder, workers, method)))
        return
    synthesise(folder, images, objects)
    size = (folder / FILE).stat().st_size / MIB
    print(f"{images} images, {objects} objects, {size:.0f} MiB of JSON; Python {platform.python_version()}, "
          f"PyTorch {torch.__version__}, NumPy {np.__version__}, {os.cpu_count()} cores\n")  # fmt: skip
    fork, spawn = (child(folder, workers, method) for method in ("fork", "spawn"))
    print("| | fork | spawn |\n|---|---|---|")
    for key in fork:
        print(f"| {key} | {fork[key]} | {spawn[key]} |")
    print("\n| | |\n|---|---|")
    for method in ("json", "check", "decode"):
        for key, value in child(folder, int(arguments["decode"]), method).items():
            print(f"| {key} | {value} |")


def child(folder: Path, workers: int, method: str) -> dict[str, Any]:
    """Measure in a new process, so that its peak memory is that of the measured step."""
    command = [sys.executable, __file__, f"folder={folder}", f"workers={workers}", f"method={method}"]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return result


def measure(folder: Path, workers: int, method: str) -> dict[str, Any]:
    """Load the annotations, start workers, read batches, and return times and the memory of all processes."""
    multiprocessing.set_start_method(method)
    imports = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1)
    bare = imports.apply(memory_here)
    imports.terminate()
    split = SplitConfig(images="images", annotations=FILE)
    config = DataConfig(name="coco", root=str(folder), train=split, val=split, workers=workers)
    before = memory(os.getpid())
    start, busy = time.perf_counter(), time.process_time()
    dataset = CocoDataset(config, split, train=True, semantic=False)
    loaded, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    after = memory(os.getpid())
    start = time.perf_counter()
    batches = iter(build_train_loader(dataset, config, batch_size=2, seed=0))
    next(batches)
    first = time.perf_counter() - start
    for _ in range(200):
        next(batches)
    found = [memory(process.pid) for process in multiprocessing.active_children() if process.pid is not None]
    largest = {kind: max(entry[kind] for entry in found) for kind in ("Pss", "Uss", "Rss")}
    return {
        "load and check, s": round(loaded, 1),
        "of processor time, s": round(busy, 1),
        "a spawned process with the imports alone, MiB (USS)": round(bare["Uss"]),
        "parent before loading, MiB (PSS)": round(before["Pss"]),
        "parent after loading, MiB (PSS)": round(after["Pss"]),
        "parent's peak, MiB (RSS)": round(peak),
        "workers": workers,
        "first batch, s": round(first, 1),
        "worker after 200 batches, MiB (PSS, largest)": round(largest["Pss"]),
        "worker after 200 batches, MiB (USS, largest)": round(largest["Uss"]),
        "worker after 200 batches, MiB (RSS, largest)": round(largest["Rss"]),
    }


def plain_json(folder: Path, _: int) -> dict[str, Any]:
    """Measure time and memory of `json.load` for comparison."""
    start, busy = time.perf_counter(), time.process_time()
    with (folder / FILE).open() as file:
        json.load(file)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "json.load alone, s": round(time.perf_counter() - start, 1),
        "of processor time, s": round(time.process_time() - busy, 1),
        "its peak, MiB (RSS)": round(peak),
    }


def check_time(folder: Path, _: int) -> dict[str, Any]:
    """Measure `htc.data.check decode=false` with the complete file as both splits."""
    command = [sys.executable, "-m", "htc.data.check", "data=coco", f"data.root={folder}", "decode=false", "samples=4",
               f"out={folder}/out"]  # fmt: skip
    command += [f"data.{split}.{key}" for split in ("train", "val") for key in ("images=images", f"annotations={FILE}")]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "htc.data.check decode=false of two such splits, s": round(time.perf_counter() - start, 1),
        "of processor time, s": round(_child_seconds(), 1),
        "its peak, MiB (RSS)": round(peak),
    }


def decode_time(folder: Path, images: int) -> dict[str, Any]:
    """Measure decoding in one process per core."""
    names = sorted(os.listdir(folder / "images"))
    jobs = [DecodeJob(folder / "images" / name, (HEIGHT, WIDTH)) for name in names[:images]]
    cores = os.cpu_count() or 1
    start = time.perf_counter()
    assert all(not found.problems for found in decode_all(jobs, cores))
    seconds = time.perf_counter() - start
    return {
        f"decoding {len(jobs)} images of {WIDTH} x {HEIGHT} in {cores} processes, s": round(seconds, 1),
        "of processor time, s": round(_child_seconds(), 1),
        "hence all of them, min": round(seconds / len(jobs) * len(names) / 60, 1),
    }


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def memory_here() -> dict[str, float]:
    return memory(os.getpid())


def memory(process: int) -> dict[str, float]:
    """Return PSS, USS and RSS of a process in MiB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    values = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in text.splitlines()[1:]}
    return {"Pss": values["Pss"], "Rss": values["Rss"], "Uss": values["Private_Clean"] + values["Private_Dirty"]}


def synthesise(folder: Path, images: int, objects: int) -> None:
    """Write annotations and links to the image, unless they exist."""
    file = folder / FILE
    if file.is_file():
        return
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    picture = cv2.resize(random.integers(0, 256, (HEIGHT // 6, WIDTH // 6, 3), np.uint8), (WIDTH, HEIGHT))
    cv2.imwrite(str(folder / "picture.jpg"), picture)
    names = [f"{index + 1:012d}.jpg" for index in range(images)]
    for name in names:
        (folder / "images" / name).symlink_to(folder / "picture.jpg")
    listed = [{"id": k + 1, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 1,
               "coco_url": f"http://images.cocodataset.org/train2017/{name}", "date_captured": "2013-11-14 16:28:13"}
              for k, name in enumerate(names)]  # fmt: skip
    categories = [{"id": k, "name": f"category {k}", "supercategory": "thing"} for k in CATEGORIES]
    partial = file.with_suffix(".partial")
    with partial.open("w") as out:
        out.write(f'{{"info": {{}}, "licenses": [], "images": {json.dumps(listed)}, "annotations": [')
        for index, row in enumerate(tqdm(annotation_rows(images, objects, random), total=objects, disable=None)):
            out.write((", " if index else "") + row)
        out.write(f'], "categories": {json.dumps(categories)}}}')
    partial.rename(file)


def annotation_rows(images: int, objects: int, random: np.random.Generator) -> Iterator[str]:
    """Yield annotations as JSON in random order of images, as in COCO."""
    outlines = [outline(random) for _ in range(POOL)]
    run = WIDTH * HEIGHT // 100
    crowd = json.dumps({"counts": [run] * 100, "size": [HEIGHT, WIDTH]})
    chosen, owners = random.integers(0, POOL, objects), random.integers(1, images + 1, objects)
    categories, crowds = random.choice(CATEGORIES, objects), random.random(objects) < CROWDS
    for index in range(objects):
        segmentation, box, area = outlines[chosen[index]]
        head = f'{{"segmentation": {crowd if crowds[index] else segmentation}, "area": {area}, '
        yield (f'{head}"iscrowd": {int(crowds[index])}, "image_id": {owners[index]}, "bbox": {box}, '
               f'"category_id": {categories[index]}, "id": {index + 1}}}')  # fmt: skip


def outline(random: np.random.Generator) -> tuple[str, str, float]:
    """Return a star-shaped polygon (two polygons in one case of ten): segmentation and box as JSON, and area."""
    polygons: list[list[float]] = []
    for _ in range(1 + (random.random() < 0.1)):
        points = int(np.clip(random.lognormal(3.0, 0.7), 3, 300))
        angles = np.sort(random.uniform(0, 2 * np.pi, points))
        radius = random.lognormal(3.3, 0.9) * random.uniform(0.6, 1.4, points)
        centre = random.uniform([0, 0], [WIDTH, HEIGHT])
        corners = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        polygons.append(np.clip(corners, 0, [WIDTH, HEIGHT]).round(2).ravel().tolist())
    joined = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    low, size = joined.min(0).round(2).tolist(), np.ptp(joined, axis=0).round(2).tolist()
    return json.dumps(polygons), json.dumps([*low, *size]), round(0.5 * size[0] * size[1], 4)


if __name__ == "__main__":
    run_command(main)
