"""`python -m htc.predict checkpoint=FILE images=DIR out=DIR [KEY=VALUE] ...`: predict and draw images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.arguments import read_flag
from htc.cli import log_to_console, read_arguments, run_command
from htc.data.image_files import ImageFile, image_files, listed_images, picture_files
from htc.errors import UserError

if TYPE_CHECKING:
    import torch

    from htc.evaluation.engines import Result
    from htc.trained_model import TrainedModel

USAGE = (
    "python -m htc.predict checkpoint=FILE | run=RUN_DIR images=DIR out=DIR [annotations=FILE] [score=0.5] [draw=true] "
    "[KEY=VALUE] ..."
)
KEYS = {
    "checkpoint": "a checkpoint file: ours, MMDetection's or torchvision's",
    "checkpoint.partial": "true: leave what does not fit as it was initialised (default false)",
    "run": "a run's folder: its newest checkpoint is used",
    "images": "an image file, or a folder of images",
    "annotations": "a COCO file, such as image_info_test-dev2017.json: only its images are predicted, with its ids",
    "out": "folder for the pictures and the predictions",
    "draw": "false: write only the JSON files (default true)",
    "score": "detections below this score are not drawn (default 0.5); the JSON files hold all",
}


def main() -> None:
    arguments = read_arguments(sys.argv[1:], KEYS, USAGE)
    log_to_console()
    predict(arguments.values, arguments.overrides)


def predict(arguments: dict[str, str], overrides: list[str]) -> None:
    """Predict images; draw boxes, masks, labels and scores, and write COCO results.

    `out` receives one picture per image (`picture_files`), bbox.json and segm.json in the format of COCO's server, and
    images.json with the file of each image id.

    Args:
        arguments: values of KEYS.
        overrides: KEY=VALUE for the model's configuration.
    """
    for key in ("images", "out"):
        if key not in arguments:
            raise UserError(f"{key}= is missing; usage: {USAGE}.")
    shown_score = _score(arguments.get("score", "0.5"))
    draw = read_flag(arguments, "draw", True)
    image_path = Path(arguments["images"])
    if "annotations" in arguments:
        files = listed_images(Path(arguments["annotations"]), image_path)
    else:
        files = image_files(image_path)

    from tqdm import tqdm

    from htc.data.image_reading import UnreadableImageError
    from htc.distributed.devices import choose_device, to_device, use_threads
    from htc.evaluation.coco_metrics import write_results_file
    from htc.runs.files import write_json
    from htc.trained_model import load_trained_model

    out = Path(arguments["out"])
    pictures = picture_files(files, out) if draw else [None] * len(files)
    trained = load_trained_model(arguments, overrides)
    use_threads(trained.config)
    device = choose_device(trained.config.device)
    to_device(trained.model, trained.config, device).eval()
    out.mkdir(parents=True, exist_ok=True)
    bbox: list[Result] = []
    segm: list[Result] = []
    images: list[dict[str, Any]] = []
    unreadable: list[UnreadableImageError] = []
    pairs = zip(tqdm(files, unit="image", disable=None), pictures, strict=True)
    for file, picture in pairs:
        try:
            boxes, masks = predict_file(trained, device, file, picture, shown_score)
        except UnreadableImageError as error:
            unreadable.append(error)
            continue
        bbox += boxes
        segm += masks
        images.append({"id": file.id, "file_name": file.name})
    if not images:
        raise UserError(f"none of the {len(files)} images could be read, the first: {unreadable[0].sentence}")
    write_results_file(out / "bbox.json", bbox)
    write_results_file(out / "segm.json", segm)
    write_json(out / "images.json", images)
    written = "pictures, bbox.json and segm.json" if draw else "bbox.json and segm.json"
    print(f"{len(bbox)} detections in {len(images)} images; {written} are in {out}")
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(files)} images could not be read and are not in the predictions, the first: "
            f"{unreadable[0].sentence}"
        )


def predict_file(
    trained: TrainedModel, device: torch.device, file: ImageFile, picture: Path | None, shown_score: float
) -> tuple[list[Result], list[Result]]:
    """Predict one image, draw it unless `picture` is None, and return its COCO results of boxes and of masks.

    Args:
        trained: the model, on `device`.
        device: the device to compute on.
        file: the image.
        picture: the file to draw into.
        shown_score: detections below this score are not drawn.
    """
    import cv2

    from htc.data.image_reading import read_image
    from htc.evaluation.inference import to_results
    from htc.visualize import draw_detections

    pixels = read_image(file.path)
    found = trained.detect(pixels, device)
    size = (pixels.shape[0], pixels.shape[1])
    bbox, segm = to_results(file.id, found, size, trained.result_ids, trained.config.eval.mask_threshold)
    if picture is None:
        return bbox, segm
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


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise UserError(f"score={text} must be a number between 0 and 1.")
    return score


def start() -> None:
    """Run the command from the command line."""
    run_command(main)


if __name__ == "__main__":
    start()
