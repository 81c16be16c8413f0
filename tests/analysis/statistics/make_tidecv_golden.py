"""Write what `tidecv` 1.0.1 says of random cases, and of detections on images of COCO, to golden/tidecv.json.

test_errors.py compares with it.

pip install tidecv==1.0.1    # in an environment of its own: it needs opencv-python, which replaces our OpenCV
python -m tests.analysis.statistics.make_tidecv_golden
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from analysis.statistics.truth import read_truth
from tests.analysis.statistics.detections import REAL, noisy_truth, random_results, random_truth

GOLDEN = Path(__file__).with_name("golden") / "tidecv.json"
SEEDS = (0, 3, 13, 26)
COCO = "coco"
"""In place of the seed: the images of COCO."""
NAMES = {
    "Cls": "classification", "Loc": "localization", "Both": "both", "Dupe": "duplicate", "Bkg": "background",
    "Miss": "missed", "FalsePos": "false positives", "FalseNeg": "false negatives",
}  # fmt: skip


def main() -> None:
    found: list[dict[str, Any]] = []
    for seed in SEEDS:
        content = random_truth(seed)
        bbox, segm = random_results(content, seed + 100)
        found.append(
            {"seed": seed, **{kind: by_tidecv(content, each, kind) for kind, each in (("bbox", bbox), ("segm", segm))}}
        )
    content, results = json.loads(REAL.read_bytes()), noisy_truth(read_truth(REAL))
    found.append({"seed": COCO, **{kind: by_tidecv(content, results[kind], kind) for kind in ("bbox", "segm")}})
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


def by_tidecv(content: dict[str, Any], results: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return AP50, its losses in percent, and the numbers of errors."""
    from tidecv import TIDE, datasets  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        truth, predictions = Path(folder, "truth.json"), Path(folder, "results.json")
        # In the order of the ids, in which equal scores are everywhere.
        ordered = sorted(content["images"], key=lambda image: int(image["id"]))
        named = [{**image, "file_name": f"{image['id']}.jpg"} for image in ordered]
        truth.write_text(json.dumps({**content, "images": named}))
        predictions.write_text(json.dumps(results))
        mode = TIDE.BOX if kind == "bbox" else TIDE.MASK
        run = TIDE().evaluate(datasets.COCO(str(truth)), datasets.COCOResult(str(predictions)), mode=mode)
    costs = {**run.fix_main_errors(), **run.fix_special_errors()}
    return {
        "AP50": run.ap,
        "costs": {NAMES[error.short_name]: cost for error, cost in costs.items()},
        "counts": {NAMES[error.short_name]: number for error, number in run.count_errors().items()},
    }


if __name__ == "__main__":
    main()
