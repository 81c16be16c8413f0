"""Paths with environment variables are resolved where the run starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from htc.config.paths import expand_path
from htc.config.schema import DataConfig
from htc.data.dataset import build_dataset
from htc.errors import UserError


@pytest.mark.parametrize("text", ["$HTC_TEST_DATA/coco", "${HTC_TEST_DATA}/coco", "/d/coco"])
def test_variables_are_replaced_by_their_values(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTC_TEST_DATA", "/d")
    assert expand_path(text, "data.root") == "/d/coco"


def test_variable_that_is_not_set_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTC_TEST_DATA", raising=False)
    with pytest.raises(UserError, match=r"data\.root=\$HTC_TEST_DATA/coco: the environment variable HTC_TEST_DATA"):
        build_dataset(DataConfig(name="coco", root="$HTC_TEST_DATA/coco"), train=True, semantic=False)


def test_home_folder_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_path("~/coco", "data.root") == f"{tmp_path}/coco"
