"""The images to predict: those of a folder, or those that a COCO file lists with their ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from htc.data.coco.json_stream import read_tables
from htc.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class ImageFile:
    """An image file and the image id of its predictions."""

    id: int
    name: str
    """Path relative to `images=`."""
    path: Path


def image_files(path: Path) -> list[ImageFile]:
    """Return the images in `path`, a folder or a single file, sorted by name, with ids from 1.

    Raises UserError if there are none.
    """
    if path.is_file():
        return [ImageFile(1, path.name, path)]
    _check_folder(path)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"images={path} contains no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return [ImageFile(number, file.name, file) for number, file in enumerate(files, start=1)]


def listed_images(file: Path, folder: Path) -> list[ImageFile]:
    """Return the images below `folder` that a COCO file lists, in its order; annotations are not needed.

    Raises UserError if the file cannot be read, an entry is malformed, an id is used twice, or an image is missing.
    """
    _check_folder(folder)
    images: dict[int, ImageFile] = {}
    for _, row in read_tables(file, ("images",)):
        number, name = (row.get("id"), row.get("file_name")) if isinstance(row, dict) else (None, None)
        if type(number) is not int or not isinstance(name, str) or not name:
            raise UserError(f"{file} lists an image without a whole number as its id, or without a file_name: {row!r}.")
        if number in images:
            raise UserError(f"{file} lists two images with the id {number}: remove one.")
        images[number] = ImageFile(number, name, folder / name)
    missing = [image for image in images.values() if not image.path.is_file()]
    if missing:
        raise UserError(f"{missing[0].path}, listed in {file}, is missing ({len(missing)} in total): set images=.")
    if not images:
        raise UserError(f"{file} lists no image.")
    return list(images.values())


def picture_files(images: list[ImageFile], out: Path) -> list[Path]:
    """Return the file in `out` for the drawn picture of each image.

    It is NAME.png, or NAME.SUFFIX.png if names repeat, or ID_NAME.SUFFIX.png if these repeat too. Raises UserError if a
    picture would overwrite one of the images.
    """
    by_stem, by_name = (
        [f"{form(image.path)}.png" for image in images] for form in (lambda p: p.stem, lambda p: p.name)
    )
    with_id = [f"{image.id}_{image.path.name}.png" for image in images]
    names = next(names for names in (by_stem, by_name, with_id) if len(set(names)) == len(names))
    pictures = [out / name for name in names]
    sources = {image.path.resolve() for image in images}
    for picture in pictures:
        if picture.resolve() in sources:
            raise UserError(f"the picture {picture} would replace an image: choose an out= other than images=.")
    return pictures


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise UserError(f"images={path} does not exist: give an image file or a folder of images.")
