"""Links, files and keys that the documents name exist."""

from __future__ import annotations

import re

import pytest
import yaml

from htc.config.folders import CONFIG_FOLDER, config_groups
from htc.config.schema import schema_keys
from tests.docs.documents import Document, documents
from tests.helpers.command import ROOT

DOCUMENTS = {document.name: document for document in documents()}
ALL = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())
FOLDERS = ("htc", "conf", "sweeps", "hydra_plugins", "analysis", "benchmarks", "tests", "docs")
EXAMPLES = {
    "conf/backbone/resnet34.yaml",
    "htc/models/global_context.py",
    "sweeps/global_context.yaml",
    "tests/models/test_global_context.py",
}
"""Files that the reader of docs/extending.md writes."""
EXAMPLE_KEYS = {"model.global_context"}
"""Keys that the reader of docs/extending.md adds."""
OTHER_KEYS = {"decode", "to", "affects"}
"""Keys of one command, and parameters of functions, that the documents write as KEY=VALUE."""


@ALL
def test_links_lead_to_files_and_headings(document: Document) -> None:
    for link in document.links():
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = document.path.parent / path if path else document.path
        assert target.exists(), f"{document.name} links to {link}"
        assert not anchor or anchor in Document(target.resolve()).anchors(), f"{document.name} links to {link}"


@ALL
def test_named_files_exist(document: Document) -> None:
    for span in document.inline_code():
        is_path = re.fullmatch(r"[\w.*-]+(?:/[\w.*-]+)*/?", span) and span.split("/")[0] in FOLDERS and "/" in span
        if is_path and span not in EXAMPLES:
            assert list(ROOT.glob(span.rstrip("/"))), f"{document.name} names {span}"


@ALL
def test_named_keys_exist(document: Document) -> None:
    launchers = {f"launcher.{key}" for key in launcher_keys()}
    known = {*schema_keys(), *config_groups(), *launchers, *EXAMPLE_KEYS}
    nodes = {key for key in known if "." in key}
    for span in document.inline_code():
        for word in () if "(" in span else span.split():
            key, equals, _ = word.strip("'").lstrip("+").partition("=")
            is_dotted = re.fullmatch(r"[a-z_]+(?:\.[a-z_]+)+", key) and key.split(".")[0] in roots(nodes)
            is_assigned = equals and re.fullmatch(r"[a-z_/]+", key) and key not in OTHER_KEYS
            if is_dotted or is_assigned:
                assert key in known, f"{document.name} names {word}"


def test_examples_are_still_in_the_documents() -> None:
    spans = {span for document in documents() for span in document.inline_code()}
    assert spans >= EXAMPLES | EXAMPLE_KEYS


def launcher_keys() -> set[str]:
    """Return the options of both launchers."""
    files = (CONFIG_FOLDER / "hydra" / "launcher").glob("*.yaml")
    return {key for path in files for key in yaml.safe_load(path.read_text(encoding="utf-8"))}


def roots(keys: set[str]) -> set[str]:
    return {key.split(".")[0] for key in keys}
