"""Unusual image files are read correctly; broken ones are refused or, if the user asks for it, replaced in training."""

from __future__ import annotations

import dataclasses
import io
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from htc.config.compose import composed_config
from htc.config.schema import OnBadImage
from htc.config.signature import signature
from htc.data.check.decoding import DecodeJob, decode_file, refuse_unreadable_images
from htc.data.dataset import CocoDataset, SeededIndex
from htc.data.image_reading import UnreadableImageError, read_image
from htc.data.loader import build_train_loader
from htc.errors import UserError
from htc.structures import Sample

if TYPE_CHECKING:
    from tests.helpers.hand_made import Folder


@pytest.fixture
def picture() -> np.ndarray:
    """Return an image [80, 100, 3] uint8 RGB that is so smooth that JPEG compression hardly changes it."""
    random = np.random.default_rng(0)
    smooth: np.ndarray = cv2.resize(random.integers(0, 256, (4, 5, 3), np.uint8), (100, 80))
    return smooth


def encoded(picture: np.ndarray, form: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_a_wrong_suffix_is_ignored(tmp_path: Path, picture: np.ndarray, form: str) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(picture, form))
    assert np.abs(read_image(path, (80, 100)).astype(int) - picture).mean() < 4


def test_cmyk_grey_palette_transparent_and_16_bit_images_become_8_bit_rgb(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "image"
    grey = np.repeat(np.asarray(Image.fromarray(picture).convert("L"))[:, :, None], 3, 2)
    path.write_bytes(encoded(picture, "JPEG", "CMYK", quality=95))
    assert np.abs(read_image(path).astype(int) - picture).mean() < 3
    for mode, form in (("L", "PNG"), ("LA", "PNG"), ("L", "JPEG")):
        path.write_bytes(encoded(picture, form, mode))
        assert np.abs(read_image(path).astype(int) - grey).mean() < 2
    path.write_bytes(encoded(picture, "PNG", "RGBA"))
    np.testing.assert_array_equal(read_image(path), picture)
    path.write_bytes(encoded(picture, "PNG", "P"))
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))
    path.write_bytes(cv2.imencode(".png", picture[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes())
    np.testing.assert_array_equal(read_image(path), picture)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused_by_name(tmp_path: Path, picture: np.ndarray, form: str, share: float) -> None:
    noisy = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    data = encoded(noisy, form)
    path = tmp_path / "image"
    path.write_bytes(data)
    if form == "GIF" and not cv2.haveImageReader(str(path)):
        pytest.skip(f"OpenCV {cv2.__version__} does not decode GIF")
    read_image(path)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableImageError, match=f"{path}.*copy the file again"):
        read_image(path)


def test_the_thumbnail_in_a_truncated_jpeg_is_not_taken_for_its_end(tmp_path: Path, picture: np.ndarray) -> None:
    thumbnail = encoded(picture[:8, :8], "JPEG")
    data = encoded(picture, "JPEG", comment=thumbnail, progressive=True)
    (tmp_path / "complete.jpg").write_bytes(data)
    read_image(tmp_path / "complete.jpg")
    (tmp_path / "cut.jpg").write_bytes(data[:-60])
    with pytest.raises(UnreadableImageError, match="cut off"):
        read_image(tmp_path / "cut.jpg")


def test_complete_jpegs_with_other_data_after_them_are_read(tmp_path: Path, picture: np.ndarray) -> None:
    data = encoded(picture, "JPEG")
    for content in (data + bytes(5000), data + data, data + b"\xff\xda video"):
        (tmp_path / "image.jpg").write_bytes(content)
        assert np.abs(read_image(tmp_path / "image.jpg").astype(int) - picture).mean() < 4


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "image.jpg").write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"image\.jpg is .*: copy the file again"):
        read_image(tmp_path / "image.jpg")


def test_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="does not exist"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        read_image(tmp_path)


def broken(folder: Folder, on_bad_image: OnBadImage, *names: str, workers: int = 0) -> CocoDataset:
    """Return a training set of three images, of which those in `names` are truncated after its checks."""
    config = dataclasses.replace(folder.config, on_bad_image=on_bad_image, workers=workers)
    data = CocoDataset(config, config.train, train=True, semantic=False)
    for name in names:
        path = folder.root / "images" / name
        path.write_bytes(path.read_bytes()[:200])
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_training_and_is_named(folder: Folder, workers: int) -> None:
    data = broken(folder, OnBadImage.error, "7.png", workers=workers)
    loader = build_train_loader(data, data.config, batch_size=2, seed=0)
    with pytest.raises(UserError) as caught:
        list(islice(loader, 4))
    assert caught.value.sentence.startswith(f"image 7: {folder.root}/images/7.png is cut off")


def test_the_replacement_of_a_skipped_image_is_the_same_with_any_workers_and_after_resuming_and_is_counted(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []
    for workers, start in ((0, 0), (2, 0), (2, 5)):
        data = broken(folder, OnBadImage.skip, "7.png", workers=workers)
        caplog.clear()
        runs.append(list(islice(build_train_loader(data, data.config, batch_size=2, seed=3, start=start), 12 - start)))
        assert f"{folder.root}/images/7.png" in caplog.text
        assert "1 times so far, 1 files" in caplog.text
        assert "2 times so far, 1 files" in caplog.text
    uninterrupted = [sample for batch in runs[0] for sample in batch]
    assert {sample.image_id for sample in uninterrupted} == {3, 40}
    assert sum(bool(sample.replaces) for sample in uninterrupted) >= 4
    for other, expected in ((runs[1], runs[0]), (runs[2], runs[0][5:])):
        for batch, wanted in zip(other, expected, strict=True):
            assert all(same(a, b) for a, b in zip(batch, wanted, strict=True))


def same(a: Sample, b: Sample) -> bool:
    assert a.targets is not None and b.targets is not None
    return (a.image_id, a.replaces) == (b.image_id, b.replaces) and torch.equal(a.targets.masks, b.targets.masks)


def test_readable_images_are_the_same_with_skip_and_with_error(folder: Folder) -> None:
    a, b = broken(folder, OnBadImage.error), broken(folder, OnBadImage.skip)
    for seed in range(6):
        assert torch.equal(a[SeededIndex(0, seed)].image, b[SeededIndex(0, seed)].image)
        assert b[SeededIndex(0, seed)].replaces == ()


def test_skip_stops_if_hardly_any_image_can_be_read(folder: Folder) -> None:
    data = broken(folder, OnBadImage.skip, "3.png", "7.png", "40.png")
    with pytest.raises(UserError, match="11 images in a row cannot be used"):
        data[SeededIndex(0, 1)]


def test_on_bad_image_is_not_in_the_signature_so_that_a_stopped_run_can_continue_with_skip() -> None:
    assert signature(composed_config([])) == signature(composed_config(["data.on_bad_image=skip"]))


def test_validation_never_skips(folder: Folder) -> None:
    config = dataclasses.replace(folder.config, on_bad_image=OnBadImage.skip)
    data = CocoDataset(config, config.val, train=False, semantic=False)
    (folder.root / "images" / "3.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"3\.png"):
        data[0]


@pytest.mark.parametrize("processes", [0, 2])
def test_an_unreadable_validation_image_is_refused_before_training(folder: Folder, processes: int) -> None:
    data = CocoDataset(folder.config, folder.config.val, train=False, semantic=False)
    refuse_unreadable_images(data, None, processes)
    last = data.image_ids[-1]
    path = folder.root / "images" / f"{last}.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        UserError, match=rf"image {last} of .*annotations\.json: .*{last}\.png is (cut off|not an image)"
    ):
        refuse_unreadable_images(data, None, processes)
    refuse_unreadable_images(data, len(data) - 1, processes)


def test_a_flipped_sample_keeps_the_seed_of_its_sampling(folder: Folder) -> None:
    config = dataclasses.replace(folder.config, flip=1.0)
    targets = CocoDataset(config, config.train, train=True, semantic=False)[SeededIndex(0, 77)].targets
    assert targets is not None and targets.seed == 77


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("exif", [b"II*\0", b"MM\0*\0\0", b"Exif\0\0II*\0\x08"])
def test_image_with_damaged_exif_data_is_read_and_passes_the_check(tmp_path: Path, suffix: str, exif: bytes) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (20, 10), (9, 9, 9)).save(path, exif=exif)
    assert read_image(path, (10, 20)).shape == (10, 20, 3)
    assert decode_file(DecodeJob(path, (10, 20))).problems == []
