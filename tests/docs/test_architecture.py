"""docs/architecture.md names what exists, and its map is that of the imports."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache

import grimp
import pytest

from tests.docs.documents import Document
from tests.helpers.command import ROOT

PAGE = Document(ROOT / "docs" / "architecture.md")
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("htc", "analysis", "hydra_plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
REFERENCES = sorted(set(re.findall(r"`([A-Za-z_.]+)`\s+(?:in\s+|\()`([\w/.]+\.py)`", PAGE.prose)))


@cache
def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports, `analysis` among them."""
    graph = grimp.build_graph("htc", "analysis")
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            rooms = [_room(name) for name in (module, imported)]
            if "htc" not in rooms and rooms[0] != rooms[1]:
                found[rooms[0]].add(rooms[1])
    return dict(found)


def _room(module: str) -> str:
    package, _, rest = module.partition(".")
    return rest.split(".")[0] if package == "htc" and rest else package


def diagram() -> dict[str, set[str]]:
    """Return the arrows of the diagram."""
    (block,) = PAGE.blocks("mermaid")
    arrows: dict[str, set[str]] = defaultdict(set)
    for line in block.splitlines()[1:]:
        sources, targets = (side.split(" & ") for side in line.strip().split(" --> "))
        for source in sources:
            arrows[source].update(targets)
    return dict(arrows)


def reachable(arrows: Mapping[str, set[str]], start: str) -> set[str]:
    """Return all rooms that can be reached from one room."""
    found: set[str] = set()
    open_rooms = [start]
    while open_rooms:
        new = arrows.get(open_rooms.pop(), set()) - found
        found |= new
        open_rooms += new
    return found


def test_arrows_are_the_imports() -> None:
    arrows = diagram()
    for source, targets in arrows.items():
        assert targets <= imports()[source], f"{source} does not import all of {targets}"
    rooms = {*imports(), *arrows}
    assert {room: reachable(arrows, room) for room in rooms} == {room: reachable(imports(), room) for room in rooms}


def test_arrows_that_follow_from_others_are_left_out() -> None:
    arrows = diagram()
    for source, targets in arrows.items():
        for target in targets:
            others = {**arrows, source: targets - {target}}
            assert target not in reachable(others, source), f"{source} --> {target} follows from other arrows"


def test_rooms_are_in_the_order_of_the_linter() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = [re.split(r" [:|] ", layer) for layer in contracts[0]["layers"]]
    rows = re.findall(r"^\| (`.*?`) \|.*\|.*\|$", PAGE.prose, re.MULTILINE)
    assert [room for row in rows for room in re.findall(r"`(\w+)`", row)] == [
        room for layer in layers for room in layer
    ]


@pytest.mark.parametrize(("name", "file"), REFERENCES)
def test_named_parts_are_in_the_named_file(name: str, file: str) -> None:
    source = SOURCES[file]
    owner, _, member = name.rpartition(".")
    assert re.search(rf"^(?:class|def) {owner or member}\b", source, re.MULTILINE), f"{file} does not define {name}"
    assert not owner or re.search(rf"^    (?:async )?def {member}\b", source, re.MULTILINE)


def test_all_named_parts_exist() -> None:
    assert len(REFERENCES) > 30
    text = "\n".join(SOURCES.values())
    walks = PAGE.prose[PAGE.prose.index("## The life of a run") :]
    for name in re.findall(r"`([A-Za-z_]+(?:\.[a-z_]+)?)`", walks):
        if name.endswith((".json", ".jsonl", ".yaml")) or name.startswith(("schedule.", "model.", "htc.")):
            continue
        owner, _, member = name.rpartition(".")
        assert re.search(rf"\b{member}\b", text), f"{name} is not in the code"
        assert not owner or re.search(rf"^class {owner}\b", text, re.MULTILINE), f"{owner} is not a class"
