"""Every command in the documents works, as far as it can be checked in seconds."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.commands import Checker, is_inline_command, prepare, settings_file, substitute
from tests.docs.documents import Document, command_lines, documents


def shell_lines(document: Document) -> list[str]:
    """Return the lines of all blocks of commands."""
    return [line for block in document.blocks("") for line in command_lines(block)]


def variables(document: Document) -> dict[str, str]:
    """Return the shell variables that the commands of a document set."""
    found = (re.fullmatch(r'(\w+)="(.*)"', line) for line in shell_lines(document))
    return {"PWD": ".", **{match[1]: match[2] for match in found if match}}


LANGUAGES = {"", "text", "yaml", "python", "mermaid"}
"""Languages of code blocks; those without one hold commands, and those of `text` outputs."""
COMMANDS = {
    " ".join(substitute(line.partition(" #")[0], variables(document)).split()): document.name
    for document in documents()
    for line in [*shell_lines(document), *filter(is_inline_command, document.inline_code())]
}
"""Commands of all documents, each once, with the name of a document that has it."""
SETTINGS = {settings_file(block): block for document in documents() for block in document.blocks("yaml")}
"""Configuration files that the documents show, by their paths below the user's folder."""
BROKEN = [
    "python -m htc.run model.mask_flwo=true",
    "python -m htc.run model=mask_rcn",
    "python -m htc.run data=coco",
    "python -m htc.run model.mask_flow=true model.num_stages=1",
    "python -m htc.run -m +sweep=component --dry-run",
    "python -m htc.run -m +sweep=components launcher.job=2",
    "python -m htc.run hydra/launcher=slurmm --cfg hydra -p hydra.launcher",
    "torchrun --nproc-per-node=8 -m htc.run schedule=2x",
    "python -m htc.evaluate chekpoint=FILE",
    "python -m htc.evaluate checkpoint=FILE eval.max_detection=3",
    "python -m htc.evaluate checkpoint=FILE eval=papers",
    "python -m htc.predict image=DIR",
    "python -m htc.convert form=htc",
    "python -m htc.data.check data=cocoo",
    "python -m htc.data.check decode=maybe",
    "python -m htc.replay",
    "python -m htc.status component",
    "python -m htc.status components --wacth",
    "python -m analysis.make_tables swep=NAME",
    "python -m analysis.make_tables from=lab/htc",
    "python -m analysis.make_tables from=wandb:htc",
    "python analysis/make_table.py",
    "python -m analysis.dashboards",
    "python -m analysis.dashboards project=htc",
    "python -m htc.runs",
    "python -m pytest tests/missing",
    "make tset",
    "make test-short PYTHONS=python3.13",
    "htc-rnu",
    "htc-run model=mask_rcn",
    "pip install -e '.[devel]'",
    "HTC_CONFIG_DIRS=mine python -m htc.run",
    "git push --force",
]
"""Commands that do not work, or of a kind that no check knows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, and with the files that the documents let the reader write."""
    made = tmp_path_factory.mktemp("documents")
    prepare(made, SETTINGS)
    return made


@pytest.fixture
def checker(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Checker]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("HTC_CONFIG_DIR", "mine")
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield Checker(monkeypatch, capsys)
    # Hydra configures the root logger.
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.mark.parametrize("line", COMMANDS, ids=[f"{name}: {line}" for line, name in COMMANDS.items()])
def test_command_works(line: str, checker: Checker) -> None:
    checker.check(line)


@pytest.mark.parametrize("file", SETTINGS)
def test_shown_file_works(file: str, checker: Checker) -> None:
    group, _, name = file.removesuffix(".yaml").rpartition("/")
    choices = {
        "sweeps": f"+sweep={name}",
        "hydra/cluster": "hydra/launcher=slurm",
        "data": f"data={name}",
        "backbone": f"backbone={name}",
    }
    checker.check(f"python -m htc.run {choices[group]}")


@pytest.mark.parametrize("line", BROKEN)
def test_broken_command_is_noticed(line: str, checker: Checker) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        checker.check(line)


def test_documents_have_commands_in_blocks_without_a_language_only() -> None:
    for document in documents():
        assert document.languages <= LANGUAGES, document.name
    assert len(COMMANDS) > 60
    assert len(SETTINGS) == sum(len(document.blocks("yaml")) for document in documents())
