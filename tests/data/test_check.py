"""The command `python -m htc.data.check`, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from htc.config.schema import DataConfig
from htc.data.coco.annotations import Annotations
from htc.data.coco.reader import load_annotations
from tests.helpers.command import command

if TYPE_CHECKING:
    from tests.helpers.hand_made import Folder


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return command("htc.data.check", *arguments)


def arguments(folder: Folder, val: str = "val.json") -> list[str]:
    return [
        "data=coco", f"data.root={folder.root}", "data.train.images=images", "data.train.annotations=annotations.json",
        "data.train.stuff=stuff", "data.val.images=images", f"data.val.annotations={val}", "processes=2",
        f"out={folder.root / 'out'}",
    ]  # fmt: skip


def make_valid(folder: Folder) -> None:
    """Remove the flawed annotations, and add stuff maps and a validation split with its own image."""
    folder.content["annotations"] = [row for row in folder.content["annotations"] if row["image_id"] != 12]
    (folder.root / "stuff").mkdir()
    for row in folder.content["images"]:
        labels = np.full((row["height"], row["width"]), 90 + row["id"], np.uint8)
        labels[:10] = 255
        cv2.imwrite(str(folder.root / "stuff" / f"{row['id']}.png"), labels)
    folder.write()
    cv2.imwrite(str(folder.root / "images" / "val.png"), np.full((60, 80, 3), 200, np.uint8))
    image = {"id": 40, "file_name": "val.png", "height": 60, "width": 80}
    content = {**folder.content, "images": [image], "annotations": folder.content["annotations"][:1]}
    (folder.root / "val.json").write_text(json.dumps(content))


def test_valid_data_are_summarised_and_drawn_with_exit_code_0(folder: Folder) -> None:
    make_valid(folder)
    done = check(*arguments(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "4 images, 3 of them with objects to learn from", "6 annotations: 5 objects, 1 crowds, 0 not used",
        "80 x 60 (1)", "files: PNG RGB 4", "3 categories, 0 of them without objects", "bicycle", "The data are sound.",
    ):  # fmt: skip
        assert text in done.stdout
    for name in ("training", "validation"):
        sheet = cv2.imread(str(folder.root / "out" / f"{name}.png"))
        assert f"{folder.root}/out/{name}.png" in done.stdout
        assert sheet is not None and sheet.std() > 20


def test_every_problem_is_listed_with_its_file_and_the_exit_code_is_1(folder: Folder) -> None:
    make_valid(folder)
    folder.content["annotations"][0] |= {"category_id": 5}
    folder.content["annotations"][1] |= {"area": 0}
    folder.content["images"].append({"id": 50, "file_name": "absent.png", "height": 5, "width": 5})
    folder.write()
    images, stuff = folder.root / "images", folder.root / "stuff"
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:5000])
    jpeg = cv2.imencode(".jpg", np.zeros((50, 50, 3), np.uint8))[1].tobytes()
    (images / "12.png").write_bytes(jpeg)
    (stuff / "12.png").unlink()
    cv2.imwrite(str(stuff / "7.png"), np.zeros((5, 5), np.uint8))
    cv2.imwrite(str(stuff / "40.png"), np.full((60, 80), 200, np.uint8))
    (images / "val.png").write_bytes((images / "40.png").read_bytes())
    done = check(*arguments(folder))
    assert done.returncode == 1, done.stdout + done.stderr
    file = folder.root / "annotations.json"
    for line in (
        f"fault: {file}: annotation 1 names category 5",
        f"repaired: {file}: annotation 2 has no area",
        f"fault: {images}/absent.png does not exist.",
        f"fault: {images}/3.png is cut off",
        f"note: {images}/12.png is a JPEG file; it is read as such.",
        f"fault: {stuff}/12.png does not exist.",
        f"fault: {stuff}/7.png has shape (5, 5)",
        f"fault: {stuff}/40.png holds the class 200 but data.semantic_classes=183",
        f"fault: {images}/40.png and {images}/val.png, which are the same image, are in training",
        "refused by training: ",
    ):
        assert f"\n{line}" in done.stdout, f"{line}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr


def test_stuff_map_shared_by_two_images_is_a_fault(folder: Folder) -> None:
    make_valid(folder)
    images = folder.root / "images"
    (images / "town").mkdir()
    (images / "town" / "3.png").write_bytes((images / "3.png").read_bytes())
    folder.content["images"].append({**folder.content["images"][1], "id": 50, "file_name": "town/3.png"})
    folder.write()
    done = check(*arguments(folder), "decode=false", "samples=0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"fault: {folder.file}: the images 3.png and town/3.png have one stuff map, 3.png in" in done.stdout
    (folder.root / "stuff" / "town").mkdir()
    (folder.root / "stuff" / "town" / "3.png").write_bytes((folder.root / "stuff" / "3.png").read_bytes())
    done = check(*arguments(folder), "samples=0")
    assert done.returncode == 0, done.stdout + done.stderr


def test_decode_false_does_not_decode_files(folder: Folder) -> None:
    make_valid(folder)
    (folder.root / "images" / "3.png").write_bytes(b"no image")
    done = check(*arguments(folder), "decode=false", "samples=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (folder.root / "out").exists()


def test_check_reports_a_missing_annotation_file_and_differing_categories_and_goes_on(folder: Folder) -> None:
    make_valid(folder)
    done = check(*arguments(folder, "absent.json"), "decode=false", "samples=0")
    assert done.returncode == 1
    assert f"fault: {folder.root}/absent.json does not exist" in done.stdout
    assert "4 images" in done.stdout
    content = json.loads((folder.root / "val.json").read_text())
    content["categories"][0]["name"] = "jar"
    (folder.root / "val.json").write_text(json.dumps(content))
    done = check(*arguments(folder), "decode=false", "samples=0")
    assert done.returncode == 1 and "category 44 is 'bottle'" in done.stdout


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("decode=maybe", "decode=maybe must be true or false"),
        ("processes=0", "processes=0 must be a whole number of 1 or more"),
        ("sample=3", "sample is not a key of this command; did you mean samples"),
        ("data=cocoa", "data=cocoa is not one of coco, shapes, shapes_hard; did you mean coco"),
        ("data=coco", "data.root has no value"),
        ("data.on_bad_image=ignore", "on_bad_image"),
    ],
)
def test_bad_arguments_end_in_one_sentence_and_exit_code_2(argument: str, sentence: str) -> None:
    done = check(argument)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_real_photographs_have_no_faults(coco_tiny: DataConfig, tmp_path: Path) -> None:
    done = check("data=coco", f"data.root={coco_tiny.root}", f"out={tmp_path}", "processes=2", "samples=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fault" not in done.stdout


def _overwrite(annotations: Annotations) -> None:
    annotations.boxes[0] = 77


def test_spawned_workers_share_the_annotations_instead_of_copying_them(folder: Folder) -> None:
    annotations = load_annotations(folder.file, folder.root / "images")
    expected = {name: value.copy() for name, value in vars(annotations).items() if isinstance(value, np.ndarray)}
    process = torch.multiprocessing.get_context("spawn").Process(target=_overwrite, args=(annotations,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (annotations.boxes[0] == 77).all()
    for name in set(expected) - {"boxes"}:
        np.testing.assert_array_equal(getattr(annotations, name), expected[name])
