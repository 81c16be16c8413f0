"""Each set of evaluation settings has its own name, under which a run keeps the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from htc.config.compose import composed_config, recorded_config
from htc.config.evaluation import evaluated_data, evaluation_name, reevaluation_name
from htc.config.signature import to_plain

COCO = ["data=coco", "data.root=/datasets/coco"]


def test_named_settings_have_their_name() -> None:
    assert evaluation_name(composed_config(COCO)) == "default"
    assert evaluation_name(composed_config([*COCO, "eval=paper"])) == "paper"
    assert evaluation_name(composed_config([*COCO, "eval.score_threshold=0.05"])) == "default"
    assert evaluation_name(composed_config([*COCO, "eval=paper", "eval.score_threshold=0.001"])) == "paper"
    assert evaluation_name(composed_config([*COCO, "eval.engine=pycocotools"])) == "default"


def test_changed_settings_have_a_name_of_their_own() -> None:
    changes = ["eval.limit=5", "eval.limit=6", "eval.mask_stages=last", "eval.score_threshold=0.001"]
    names = {evaluation_name(composed_config([*COCO, change])) for change in changes}
    assert len(names) == len(changes)
    assert all(name.startswith("default-") for name in names)


def test_data_of_the_run_itself_are_in_no_name_and_other_data_are() -> None:
    own = composed_config([*COCO, "data.val.annotations=annotations/mine.json", "data.val.limit=9"])
    assert evaluation_name(own) == "default"
    assert evaluation_name(own, evaluated_data(to_plain(own))) == "default"
    assert evaluation_name(composed_config(COCO), evaluated_data(to_plain(own))).startswith("default-")


@pytest.mark.parametrize("change", ["data.short_side=600", "precision=bf16", "model.rpn.test_proposals=2000"])
def test_other_settings_than_those_of_the_training_are_in_the_name(change: str) -> None:
    recorded = to_plain(composed_config(COCO))
    assert reevaluation_name(recorded_config(recorded, []), recorded) == "default"
    assert reevaluation_name(recorded_config(recorded, ["eval=paper"]), recorded) == "paper"
    assert reevaluation_name(recorded_config(recorded, ["data.root=/moved"]), recorded) == "default"
    assert reevaluation_name(recorded_config(recorded, ["eval.engine=pycocotools"]), recorded) == "default"
    assert reevaluation_name(recorded_config(recorded, ["eval=paper", change]), recorded).startswith("paper-")


def test_own_file_of_settings_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "strict.yaml").write_text("name: strict\nnms_iou: 0.3\n")
    monkeypatch.setenv("HTC_CONFIG_DIR", str(tmp_path))
    recorded = to_plain(composed_config(COCO))
    assert evaluation_name(recorded_config(recorded, ["eval=strict"])) == "strict"
