"""Checks of commands as the documents show them: their own parsers read them, and nothing is trained.

A command that no check knows is refused, so a document cannot show a new kind of command unchecked.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import analysis.dashboards
import analysis.figures.__main__
import analysis.make_tables
import analysis.report.__main__
import htc.convert
import htc.data.check.__main__
import htc.evaluate
import htc.predict
import htc.replay
import htc.status
from analysis.wandb_server import check_project
from htc.cli import run_command
from htc.config.compose import composed_config
from htc.engine.replay_file import ReplayFile
from htc.runs.pool import SelectedRun, change_rows
from tests.helpers.command import ROOT

PROGRAMS = ("python", "python3", "torchrun", "make", "pip", "source", "pre-commit", "apt-get")
"""Programs with which an inline command begins; others are `htc-...` and `htc.... ARGUMENT`."""
OTHER_PROGRAMS = (
    "ssh cluster",
    "git clone REPOSITORY",
    "cd htc",
    "python3 -m venv .venv",
    "source .venv/bin/activate",
    "pre-commit install",
    "apt-get install slurm-wlm slurmctld slurmd slurm-client munge",
    "wandb sync --yes runs/*/wandb/offline-run-*",
)
"""Commands of other programs, which are not checked further."""
EXAMPLE_FILES = ("tests/models/test_global_context.py",)
"""Files that the reader of docs/extending.md writes."""
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
with (ROOT / "pyproject.toml").open("rb") as _file:
    PROJECT = tomllib.load(_file)["project"]


class Checker:
    """Checks commands in a folder that has what they refer to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.modules: dict[str, Callable[[list[str]], None]] = {
            "htc.run": self.check_run,
            "htc.status": self.check_status,
            "htc.evaluate": lambda arguments: self.check_model_command(htc.evaluate, "evaluate", arguments),
            "htc.predict": lambda arguments: self.check_model_command(htc.predict, "predict", arguments),
            "htc.convert": lambda arguments: self.check_model_command(htc.convert, "convert", arguments),
            "htc.data.check": self.check_data_check,
            "htc.replay": self.check_replay,
            "analysis.make_tables": self.check_tables,
            "analysis.dashboards": self.check_dashboards,
            "analysis.figures": self.check_figures,
            "analysis.report": self.check_report,
            "pytest": self.check_pytest,
        }

    def check(self, line: str) -> None:
        """Check one or more commands, joined by `&&`. Fails the test where they would not work."""
        for command in variants(line):
            words = shlex.split(command)
            while "&&" in words:
                self.check_words(words[: words.index("&&")])
                words = words[words.index("&&") + 1 :]
            self.check_words(words)

    def check_words(self, words: list[str]) -> None:
        words = [word for word in words if word != "export"] if words[0] == "export" else words
        while words and (assignment := re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL)):
            if assignment[1].isupper():
                assert is_variable(assignment[1]), f"nothing reads the variable {assignment[1]}"
                self.monkeypatch.setenv(assignment[1], assignment[2])
            words = words[1:]
        if not words or " ".join(words) in OTHER_PROGRAMS:
            return
        program, *arguments = words
        if program == "make":
            self.check_make(arguments)
        elif program == "pip":
            self.check_pip(arguments)
        elif program.startswith("htc-"):
            self.check_scripts(words)
        elif program in ("python", "torchrun") or program.startswith("htc."):
            self.check_python(words if program == "python" else ["python", *module_arguments(words)])
        else:
            pytest.fail(f"{' '.join(words)} is a kind of command that this test does not check yet")

    def check_python(self, words: list[str]) -> None:
        if words[1] == "-m":
            module, arguments = words[2], words[3:]
        else:
            assert (ROOT / words[1]).is_file(), f"{words[1]} does not exist"
            module, arguments = words[1].removesuffix(".py").replace("/", "."), words[2:]
        assert module in self.modules, f"python -m {module} is a command that this test does not check yet"
        self.monkeypatch.setattr(sys, "argv", [module, *arguments])
        self.modules[module](arguments)

    def check_run(self, arguments: list[str]) -> None:
        """Compose and plan the runs, as --dry-run does; --help and --cfg run as they are."""
        shows = {"--help", "--cfg"} & set(arguments)
        if "--config-dir" in arguments:
            self.monkeypatch.delenv("HTC_CONFIG_DIR")
        if not shows and "--dry-run" not in arguments:
            sys.argv.append("--dry-run")
        # RUN of the documents stands for a run that is done.
        self.monkeypatch.setattr("htc.launch.plan.find_parent", lambda config: None)
        succeeds(importlib.import_module("htc.run").start)
        printed = self.capsys.readouterr().out
        assert printed if shows else "Nothing was started." in printed

    def check_model_command(self, module: object, name: str, arguments: list[str]) -> None:
        """Parse the arguments of a command on a trained model, and compose its overrides."""
        parsed: list[list[str]] = []
        self.monkeypatch.setattr(module, name, lambda values, overrides: parsed.append(overrides))
        self.monkeypatch.setattr(
            "htc.launch.evaluate_sweep.evaluate_sweep",
            lambda pool, sweep, overrides, launcher, **options: parsed.append(overrides),
        )

        def evaluate_nothing(files: list[Path], annotations: Path, out: object, name: str) -> dict[str, Any]:
            assert len(files) <= 2, "boxes and masks"
            parsed.append([])
            return {"bbox": {}, "segm": {}, "images_evaluated": 0}

        self.monkeypatch.setattr("htc.evaluation.result_files.evaluate_result_files", evaluate_nothing)
        succeeds(module.start)  # type: ignore[attr-defined]
        (overrides,) = parsed
        succeeds(lambda: run_command(lambda: composed_config(["data=coco", "data.root=.", *overrides])))

    def check_data_check(self, arguments: list[str]) -> None:
        module = htc.data.check.__main__
        self.monkeypatch.setattr(module, "check", lambda *values, **options: [])
        succeeds(module.start)

    def check_replay(self, arguments: list[str]) -> None:
        self.monkeypatch.setattr(ReplayFile, "read", lambda path: None)
        self.monkeypatch.setattr(htc.replay, "replay", lambda *values: htc.replay.Replay(gradients=["reproduced"]))
        self.monkeypatch.setattr(htc.replay, "report", lambda *values: "")
        succeeds(htc.replay.start)

    def check_status(self, arguments: list[str]) -> None:
        """Show the states of the runs of this folder; nothing is cancelled, started, moved or deleted."""
        actions = [f"htc.launch.manage.{name}" for name in ("cancel", "retry")]
        actions += [f"htc.launch.housekeeping.{name}" for name in ("rename", "forget", "clean", "delete")]
        for action in (*actions, "htc.launch.adopt.adopt"):
            self.monkeypatch.setattr(action, lambda *values, **options: print("done"))
        self.monkeypatch.setattr("htc.status.wait", lambda *values: print("waited"))
        self.monkeypatch.setattr("time.sleep", lambda seconds: sys.exit(0))
        succeeds(htc.status.start)
        assert self.capsys.readouterr().out

    def check_tables(self, arguments: list[str]) -> None:
        """Parse the arguments; a source at wandb is named correctly, and not read."""
        self.monkeypatch.setattr(analysis.make_tables, "make_tables", lambda *values: "")
        self.monkeypatch.setattr("analysis.wandb_source.read_project", self.read_no_runs)
        self.monkeypatch.setattr("analysis.wandb_source.read_offline", lambda root: ([], []))
        assert analysis.make_tables.main(arguments) == 0

    def check_figures(self, arguments: list[str]) -> None:
        module = analysis.figures.__main__
        self.monkeypatch.setattr(module, "make_figures", lambda *values: ([Path("figures/figure.png")], []))
        assert module.main(arguments) == 0

    def check_report(self, arguments: list[str]) -> None:
        """Parse the arguments; the missing folder of runs is the only complaint."""
        assert analysis.report.__main__.main([*arguments, f"runs={Path('no-such-folder')}"]) == 2
        assert "no-such-folder is not a folder" in self.capsys.readouterr().err

    @staticmethod
    def read_no_runs(project: str) -> list[Any]:
        check_project(project, f"from=wandb:{project}")
        return []

    def check_dashboards(self, arguments: list[str]) -> None:
        def make(project: str, sweep: str, runs: Path) -> analysis.dashboards.Dashboards:
            check_project(project, f"project={project}")
            return analysis.dashboards.Dashboards("", "")

        self.monkeypatch.setattr(analysis.dashboards, "make_dashboards", make)
        assert analysis.dashboards.main(arguments) == 0

    @staticmethod
    def check_pytest(arguments: list[str]) -> None:
        for path in arguments:
            assert path in EXAMPLE_FILES or (ROOT / path).exists(), f"{path} does not exist"

    @staticmethod
    def check_make(arguments: list[str]) -> None:
        targets = [argument for argument in arguments if "=" not in argument]
        assert targets
        for target in targets:
            assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), f"make has no target {target}"
        for variable in (argument.split("=")[0] for argument in arguments if "=" in argument):
            assert re.search(rf"^{variable} \?=", MAKEFILE, re.MULTILINE), f"the Makefile has no variable {variable}"

    @staticmethod
    def check_pip(arguments: list[str]) -> None:
        if arguments in (["wheel", "--no-deps", "."], ["install", "htc-*.whl"]):
            return
        found = re.fullmatch(r"install -e \.\[([\w,]+)\]", " ".join(arguments))
        assert found, f"pip {' '.join(arguments)} is not checked yet"
        assert set(found[1].split(",")) <= set(PROJECT["optional-dependencies"])

    def check_scripts(self, words: list[str]) -> None:
        """Check `htc-NAME ARGUMENTS`, or a list of such names."""
        for script in (word for word in words if word.startswith("htc-")):
            assert script in PROJECT["scripts"], f"{script} is not a console script"
            module, _, function = PROJECT["scripts"][script].partition(":")
            assert callable(getattr(importlib.import_module(module), function))
        if arguments := [word for word in words if not word.startswith("htc-")]:
            module = PROJECT["scripts"][words[0]].partition(":")[0].removesuffix(".__main__")
            self.check_python(["python", "-m", module, *arguments])


def succeeds(start: Callable[[], object]) -> None:
    """Start a command that reads sys.argv. Fails the test where it ends with an error."""
    code: object = None
    try:
        start()
    except SystemExit as error:
        code = error.code
    assert not code, f"{' '.join(sys.argv)} ends with status {code}"


def module_arguments(words: Sequence[str]) -> list[str]:
    """Return `-m MODULE ARGUMENTS` of a command that begins with `torchrun` or with the module's name."""
    return [*words[words.index("-m") :]] if words[0] == "torchrun" else ["-m", *words]


def substitute(line: str, variables: Mapping[str, str]) -> str:
    """Return a line with the values of `$NAME`."""
    return re.sub(r"\$(\w+)", lambda name: variables[name[1]], line)


def variants(line: str) -> list[str]:
    """Return a command with and without its `[OPTIONAL]` parts, and with each of `a|b`."""
    optional = re.compile(r"(?<=\s)\[([^\]]*)\]|(?<=\w)\[(/\w+)\]")
    if not optional.search(line):
        return [line]
    full = optional.sub(lambda part: part[1] or part[2], line)
    choices = re.search(r"=(\w+)\|(\w+)", full)
    every = [full.replace(choices[0], f"={choice}") for choice in choices.groups()] if choices else [full]
    return [optional.sub("", line), *every]


def is_variable(name: str) -> bool:
    """Return whether the package or its tests read an environment variable."""
    folders = (ROOT / "htc", ROOT / "tests")
    return any(f'"{name}"' in path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py"))


def is_inline_command(span: str) -> bool:
    """Return whether inline code is a command, and not a key or a name."""
    program, *arguments = span.split()
    is_ours = re.fullmatch(r"htc-[a-z-]+", program) or (re.fullmatch(r"htc\.[a-z.]+", program) and arguments)
    return bool(is_ours) or (program in PROGRAMS and bool(arguments))


def settings_file(block: str) -> str:
    """Return the path of the file that a YAML block shows, below the user's folder: a comment in its first lines."""
    found = re.match(r"(?:# @package _global_\n)?# (?:mine/)?([\w/]+\.yaml)", block)
    assert found, f"the first lines do not name the file: {block.splitlines()[:2]}"
    return found[1]


def prepare(folder: Path, settings: Mapping[str, str]) -> None:
    """Write what the commands of the documents refer to.

    Args:
        folder: The folder in which the commands are checked.
        settings: Configuration files that the documents show, by their paths below the user's folder.
    """
    run = folder / "runs" / "RUN"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"status": "failed", "error": "an example"}')
    (folder / "OLD_RUNS").mkdir()
    for sweep in ("components", "SWEEP"):
        change_rows(folder / "runs", sweep, lambda _: [SelectedRun("RUN", "cascade")])
    for file, block in settings.items():
        path = folder / "mine" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        # The key that the reader of docs/extending.md adds is replaced by one like it.
        path.write_text(block.replace("model.global_context", "model.low_quality_matches"), encoding="utf-8")
    (folder / "mine" / "backbone" / "resnet34.yaml").write_text("name: resnet34\n")
