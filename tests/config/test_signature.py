"""Signatures of existing runs stay when keys are added to the schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import pytest

from htc.config.compose import composed_config
from htc.config.schema import setting
from htc.config.signature import omitted_defaults, signature


@dataclass
class Added:
    """Fields as a schema has them that was extended after runs existed."""

    switch: bool = setting(True, omit_default=True)
    stages: list[int] = setting(factory=list, omit_default=True)
    other: int = setting(3)


@pytest.fixture
def added_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Treat three keys of the schema as if they had been added as in `Added`."""
    keys = ("model.roi_aligned", "backbone.deformable_stages", "model.num_stages")
    added = tuple(zip(keys, fields(Added), strict=True))
    omitted_defaults.cache_clear()
    monkeypatch.setattr("htc.config.signature.schema_fields", lambda: added)
    yield
    omitted_defaults.cache_clear()


def test_signature_of_the_default_run_stays_when_a_key_is_added() -> None:
    # A new key without omit_default=True changes it, and then all finished runs would be run again.
    assert signature(composed_config([])) == "292766a1"


@pytest.mark.usefixtures("added_keys")
def test_only_keys_with_omit_default_are_omitted() -> None:
    assert omitted_defaults() == {"model.roi_aligned": True, "backbone.deformable_stages": []}


def test_omitted_default_is_not_in_the_signature_and_other_values_are(request: pytest.FixtureRequest) -> None:
    changes = ["model.roi_aligned=false", "backbone.deformable_stages=[3]"]
    configs = [composed_config(["backbone=resnet50", *([change] if change else [])]) for change in ["", *changes]]
    before = [signature(config) for config in configs]
    request.getfixturevalue("added_keys")
    after = [signature(config) for config in configs]
    assert after[0] != before[0]
    assert len(set(after)) == 3
