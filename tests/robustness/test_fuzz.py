"""Any value in a configuration, on a command line or in a run's folder gives a result or one message, not a traceback.

Tests of annotations, images and checkpoints with random content are in tests/data and tests/checkpoint.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from analysis.make_tables import main as make_tables
from htc.config.compose import composed_config, recorded_config
from htc.config.messages import explain, raised_by_hydra
from htc.config.schema import Config, schema_keys
from htc.config.signature import to_plain
from htc.errors import UserError
from htc.status import as_json, as_text
from tests.helpers.fuzzing import TEXT, VALUES, damage, fuzz, is_sentence
from tests.helpers.run_folders import ON, run_writer

KEYS = sorted(schema_keys())
# Typing errors, and characters that nobody types.
TYPED = st.one_of(
    st.sampled_from(
        ["null", "true", "-1", "0", "1e9", "nan", "[1,2]", "{a:1}", "???", "${model}", "${oc.env:HOME}", "", "'"]
    ),
    st.text(max_size=6),
)
FUZZ = fuzz(30)
LINE = {"kind": "train", "step": 20, "epoch": 0.5, "loss": 1.5, "images_per_second": 9.5}
RESULTS = "evaluations/default/results.json"
LAUNCHED = {
    "launch": {"length": {"iterations": None, "epochs": 12, "batch_size": 16}, "failures": []},
    "resumes": [{"host": "n1", "step": 10}],
    "error": "the disk is full",
}


def base() -> dict[str, Any]:
    return to_plain(composed_config(["data=shapes"]))


def refusal(make: Callable[[], Config], arguments: list[str]) -> str | None:
    """Return the message that refuses a configuration; None if it is accepted."""
    try:
        assert isinstance(make(), Config)
    except UserError as error:
        return error.sentence
    except Exception as error:
        if not isinstance(error, HydraException | OmegaConfBaseException) and not raised_by_hydra(error):
            raise
        return explain(error, arguments)
    return None


@FUZZ
@given(key=st.sampled_from(KEYS) | TEXT, typed=TYPED)
def test_any_argument_composes_or_is_explained_in_one_sentence(key: str, typed: str) -> None:
    argument = f"{key}={typed}"
    sentence = refusal(lambda: composed_config([argument]), [argument])
    assert sentence is None or is_sentence(sentence)


@pytest.mark.parametrize("argument", ["backbone.deformable_stages=${model}", "backbone.norm=${data.train.stuff}"])
def test_reference_to_a_value_of_another_type_is_explained(argument: str) -> None:
    sentence = refusal(lambda: composed_config([argument]), [argument])
    assert sentence is not None and is_sentence(sentence)
    assert argument.split("=")[0] in sentence or "reference" in sentence


RECORDED = base()


@FUZZ
@given(path=st.lists(st.integers(0, 50), min_size=1, max_size=4), value=VALUES)
def test_any_recorded_configuration_is_read_or_refused_in_one_sentence(path: list[int], value: Any) -> None:
    recorded = copy.deepcopy(RECORDED)
    damage(recorded, path, value)
    sentence = refusal(lambda: recorded_config(recorded, []), [])
    assert sentence is None or is_sentence(sentence)


@FUZZ
@given(
    file=st.sampled_from(["run.json", RESULTS, "config.yaml"]),
    path=st.lists(st.integers(0, 50), max_size=4),
    value=VALUES,
)
def test_any_damage_to_a_run_leaves_the_tables_of_the_others(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    file: str,
    path: list[int],
    value: Any,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    write = run_writer(folder / "runs")
    write(mask_ap=0.4321, **ON)
    damaged = write(mask_ap=0.2, **{**ON, "semantic": False}) / file
    content = yaml.safe_load(damaged.read_text())
    if path:
        damage(content, path, value)
    else:
        content = value
    damaged.write_text(yaml.safe_dump(content) if file == "config.yaml" else json.dumps(content))
    assert make_tables([f"runs={folder / 'runs'}", f"out={folder / 'tables'}"]) == 0
    assert "43.2" in (folder / "tables" / "comparison.md").read_text(encoding="utf-8")
    assert sorted(entry.name for entry in folder.iterdir()) == ["runs", "tables"]
    assert "Traceback" not in capsys.readouterr().err


@FUZZ
@given(
    file=st.sampled_from(["run.json", RESULTS, "config.yaml", "metrics.jsonl"]),
    state=st.sampled_from(["done", "running", "failed", "preempted"]),
    path=st.lists(st.integers(0, 50), max_size=4),
    value=VALUES,
)
def test_any_damage_to_a_run_leaves_the_status_of_the_others(
    tmp_path_factory: pytest.TempPathFactory, file: str, state: str, path: list[int], value: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    write = run_writer(folder)
    sound = write(mask_ap=0.4321, **ON)
    damaged = write(mask_ap=0.2, status=state, **{**ON, "semantic": False})
    (damaged / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
    record = json.loads((damaged / "run.json").read_text())
    (damaged / "run.json").write_text(json.dumps({**record, **LAUNCHED}))
    content = yaml.safe_load((damaged / file).read_text()) if (damaged / file).is_file() else {}
    if path:
        damage(content, path, value)
    else:
        content = value
    (damaged / file).parent.mkdir(parents=True, exist_ok=True)
    (damaged / file).write_text(yaml.safe_dump(content) if file == "config.yaml" else json.dumps(content) + "\n")
    text, _ = as_text(folder, ["components"])
    assert any(sound.name in line and " done " in line for line in text.splitlines())
    assert "mask AP 43.2" in text and damaged.name in text
    assert {run["run"] for run in json.loads(as_json(folder, [])[0])} == {sound.name, damaged.name}


@FUZZ
@given(content=st.binary(max_size=200), file=st.sampled_from(["run.json", RESULTS, "config.yaml"]))
def test_any_bytes_in_a_run_leave_the_tables_of_the_others(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, file: str
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    write = run_writer(folder / "runs")
    write(mask_ap=0.4321, **ON)
    Path(write(mask_ap=0.2, **{**ON, "semantic": False}) / file).write_bytes(content)
    assert make_tables([f"runs={folder / 'runs'}", f"out={folder / 'tables'}"]) == 0
    assert "43.2" in (folder / "tables" / "comparison.md").read_text(encoding="utf-8")
