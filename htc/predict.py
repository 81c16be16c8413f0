"""`python -m htc.predict checkpoint=FILE images=DIR out=DIR [KEY=VALUE] ...`: draw and write what a model finds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.cli import log_to_console, read_arguments, run_command
from htc.errors import UserError

if TYPE_CHECKING:
    import torch

    from htc.engine.coco_metrics import Result
    from htc.trained import Trained

USAGE = "python -m htc.predict checkpoint=FILE | run=RUN_DIR images=DIR out=DIR [score=0.5] [KEY=VALUE] ..."
KEYS = {
    "checkpoint": "a checkpoint file: ours, MMDetection's or torchvision's",
    "checkpoint.partial": "true: leave what does not fit as it was initialised (default false)",
    "run": "a run's folder: its newest checkpoint is used",
    "images": "an image file, or a folder of images",
    "out": "folder for the pictures and the predictions",
    "score": "detections below this score are not drawn (default 0.5); the JSON files hold all",
}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def main() -> None:
    arguments, overrides = read_arguments(sys.argv[1:], KEYS, USAGE)
    log_to_console()
    predict(arguments, overrides)


def predict(arguments: dict[str, str], overrides: list[str]) -> None:
    """Predict every image: a picture each with boxes, masks, labels and scores, and COCO results for all of them.

    `out` receives a picture of each image (`picture_files`), bbox.json, segm.json, and images.json, which tells each
    image id's file.
    """
    for key in ("images", "out"):
        if key not in arguments:
            raise UserError(f"{key}= is missing; usage: {USAGE}.")
    shown_score = _score(arguments.get("score", "0.5"))
    files = image_files(Path(arguments["images"]))

    from tqdm import tqdm

    from htc.data.transforms import UnreadableImageError
    from htc.engine.coco_metrics import write_results_file
    from htc.engine.distributed import choose_device
    from htc.engine.files import write_json
    from htc.trained import load_trained, place, use_threads

    out = Path(arguments["out"])
    pictures = picture_files(files, out)
    trained = load_trained(arguments, overrides)
    use_threads(trained.config)
    device = choose_device(trained.config.device)
    place(trained.model, trained.config, device)
    out.mkdir(parents=True, exist_ok=True)
    bbox: list[Result] = []
    segm: list[Result] = []
    images: list[dict[str, Any]] = []
    unreadable: list[UnreadableImageError] = []
    pairs = zip(tqdm(files, unit="image", disable=None), pictures, strict=True)
    for image_id, (file, picture) in enumerate(pairs, start=1):
        try:
            boxes, masks = predict_file(trained, device, file, image_id, picture, shown_score)
        except UnreadableImageError as error:
            unreadable.append(error)
            continue
        bbox += boxes
        segm += masks
        images.append({"id": image_id, "file_name": file.name})
    write_results_file(out / "bbox.json", bbox)
    write_results_file(out / "segm.json", segm)
    write_json(out / "images.json", images)
    print(f"{len(bbox)} detections in {len(images)} images; pictures, bbox.json and segm.json are in {out}")
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(files)} images could not be read and are not in the predictions, the first: "
            f"{unreadable[0].sentence}"
        )


def predict_file(
    trained: Trained, device: torch.device, file: Path, image_id: int, picture: Path, shown_score: float
) -> tuple[list[Result], list[Result]]:
    """Predict one image file and draw it into `picture` -> its COCO results of boxes and of masks."""
    import cv2
    import numpy as np
    import torch

    from htc.data.transforms import network_size, read_image, resize_image
    from htc.engine.draw import draw_detections
    from htc.engine.evaluate import to_results
    from htc.engine.precision import autocast_of

    config = trained.config
    pixels = read_image(file)
    size = (pixels.shape[0], pixels.shape[1])
    resized = resize_image(pixels, network_size(*size, config.data.short_side, config.data.long_side))
    image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).to(device)
    with torch.inference_mode(), autocast_of(config.precision, device)():
        found = trained.model.predict([image], [size], config.eval)[0].cpu()
    category_ids = trained.category_ids or list(range(1, len(trained.category_names) + 1))
    bbox, segm = to_results(image_id, found, size, category_ids, config.eval.mask_threshold)
    shown = int((found.scores >= shown_score).sum())
    drawn = draw_detections(
        pixels,
        found.boxes[:shown].numpy(),
        found.labels[:shown].numpy(),
        found.scores[:shown].numpy(),
        [result["segmentation"] for result in segm[:shown]],
        trained.category_names,
    )
    if not cv2.imwrite(str(picture), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)):
        raise UserError(f"{picture} could not be written: choose another out=.")
    return bbox, segm


def image_files(path: Path) -> list[Path]:
    """The image files that `images=` names, by name. Raises UserError where there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"images={path} does not exist: give an image file or a folder of images.")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"images={path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return files


def picture_files(files: list[Path], out: Path) -> list[Path]:
    """The picture to draw of each image: NAME.png, or NAME.SUFFIX.png where two images have one name.

    Raises UserError where a picture would replace one of the images.
    """
    stems = [file.stem for file in files]
    distinct = len(set(stems)) == len(stems)
    pictures = [out / f"{file.stem if distinct else file.name}.png" for file in files]
    images = {file.resolve() for file in files}
    for picture in pictures:
        if picture.resolve() in images:
            raise UserError(f"the picture {picture} would replace an image: choose an out= other than images=.")
    return pictures


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise UserError(f"score={text} must be a number between 0 and 1.")
    return score


if __name__ == "__main__":
    run_command(main)
