"""A run's folder: the files that are written, what survives a crash, and the secrets that must never be recorded."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from htc.config.finalize import derive
from htc.config.schema import Config
from htc.config.signature import signature, to_plain
from htc.errors import UserError
from htc.runs import provenance, redaction
from htc.runs.folder import RunFolder, find_folder
from htc.runs.record import RunRecord

SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_handlers_left_behind() -> Iterator[None]:
    """Restore the handlers of the package's log after each test."""
    logger = logging.getLogger("htc")
    before, propagate, level = list(logger.handlers), logger.propagate, logger.level
    yield
    for handler in [handler for handler in logger.handlers if handler not in before]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate, logger.level = propagate, level


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the Slurm job in which the tests may run."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def config_in(runs: Path, **changes: object) -> Config:
    """Return a configuration with the folder of runs `runs`; keywords set its fields."""
    config = Config()
    config.model.name, config.backbone.name, config.data.name, config.data.root = "htc", "resnet18", "shapes", "here"
    config.runs, config.device = str(runs), "cpu"
    for key, value in changes.items():
        setattr(config, key, value)
    derive(config)
    return config


def started(tmp_path: Path, **changes: object) -> RunFolder:
    """Return the folder of a run that has started; keywords set fields of its configuration."""
    config = config_in(tmp_path, **changes)
    folder = RunFolder(find_folder(config))
    folder.start(["python", "-m", "htc.run", "seed=0"], config, resume=False)
    return folder


def finish(folder: RunFolder) -> None:
    """Give the run results and the status `done`."""
    folder.evaluation("default").write({"bbox": {}})
    folder.set_status("done")


def test_started_run_records_its_command_versions_host_and_configuration(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    folder = started(tmp_path)
    record = folder.read()
    assert (
        folder.path
        == tmp_path / f"htc-no_interleaved-no_mask_flow-no_semantic-resnet18-shapes-seed0-{signature(config)}"
    )
    assert record.status == "running" and record.error is None and record.end is None
    assert record.command == "python -m htc.run seed=0"
    assert record.signature == signature(config) and record.name == config.name
    assert record.versions["python"] == ".".join(map(str, sys.version_info[:3])) and record.versions["torch"]
    assert record.host and len(record.devices) == 1 and record.slurm_job_ids == [] and record.resumes == []
    assert datetime.fromisoformat(str(record.start)).utcoffset() is not None
    assert yaml.safe_load(folder.config_file.read_text()) == to_plain(config)


def test_status_changes_keep_all_other_keys(tmp_path: Path) -> None:
    folder = started(tmp_path)
    content = json.loads(folder.run_file.read_text())
    folder.run_file.write_text(json.dumps({**content, "added_by_another_tool": {"a": [1, 2]}}))
    folder.set_status("failed", "RuntimeError: out of memory")
    record = folder.read()
    assert record.other["added_by_another_tool"] == {"a": [1, 2]}
    assert record.status == "failed" and record.error == "RuntimeError: out of memory" and record.end
    with pytest.raises(ValueError, match="finished"):
        folder.set_status("finished")


def test_resumed_run_keeps_its_start_time_and_records_the_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1000")
    folder = started(tmp_path)
    first = folder.read()
    folder.set_status("preempted")
    monkeypatch.setenv("SLURM_JOB_ID", "1001")
    for step in (120, 240):
        folder.start(["python", "-m", "htc.run", "seed=0"], config_in(tmp_path), resume=True, step=step)
    record = folder.read()
    assert record.start == first.start and record.status == "running" and record.end is None
    assert [resume.step for resume in record.resumes] == [120, 240]
    assert record.resumes[0].slurm_job_id == "1001" and record.resumes[0].host == first.host
    assert record.slurm_job_ids == ["1000", "1001"]


def test_queued_run_that_starts_has_a_start_time_and_no_resume(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    folder = RunFolder(find_folder(config))
    folder.update(status="queued", slurm_job_ids=["77_3"])
    folder.start(["htc"], config, resume=False)
    record = folder.read()
    assert record.status == "running" and record.start and record.resumes == []
    assert record.slurm_job_ids == ["77_3"]


def test_job_of_an_array_is_named_as_squeue_names_it() -> None:
    array = {"SLURM_JOB_ID": "79", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}
    assert provenance.slurm_job_id(array) == "77_3"
    assert provenance.slurm_job_id({"SLURM_JOB_ID": "79"}) == "79"
    assert provenance.slurm_job_id({}) is None


def test_broken_run_file_does_not_stop_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.run_file.write_text('{"status": "runn')
    assert folder.read() == RunRecord() and not folder.trained
    folder.set_status("failed")
    assert folder.read().status == "failed"


@pytest.mark.parametrize("lost", ["deleted", "damaged", "without its start"])
def test_run_that_continues_without_its_record_keeps_its_metrics(tmp_path: Path, lost: str) -> None:
    folder = started(tmp_path)
    original = folder.read()
    for step in (10, 20):
        folder.append_metrics({"kind": "train", "step": step})
    if lost == "deleted":
        folder.run_file.unlink()
    else:
        folder.run_file.write_text('{"status": "runn' if lost == "damaged" else '{"status": "queued"}')
    folder.start(["python", "-m", "htc.run", "seed=0"], config_in(tmp_path), resume=True, step=10)
    folder.append_metrics({"kind": "train", "step": 20})
    assert [line["step"] for line in folder.read_metrics()] == [10, 20]
    record = folder.read()
    assert record.signature == original.signature and record.start
    assert [resume.step for resume in record.resumes] == [10]


def test_record_that_cannot_be_read_is_not_treated_as_missing(tmp_path: Path) -> None:
    """Reading /proc/self/mem at its start fails with the error of a bad sector."""
    folder = started(tmp_path)
    folder.append_metrics({"kind": "train", "step": 10})
    finish(folder)
    folder.run_file.unlink()
    folder.run_file.symlink_to("/proc/self/mem")
    assert folder.read() == RunRecord()
    for action in (
        lambda: folder.start(["htc"], config_in(tmp_path), resume=False),
        lambda: folder.set_status("failed"),
        lambda: find_folder(config_in(tmp_path, force=True)),
    ):
        with pytest.raises(UserError, match=r"run\.json could not be read \(Input/output error\)"):
            action()
    assert folder.run_file.is_symlink() and len(folder.read_metrics()) == 1


@pytest.mark.parametrize(
    "content", ['{"slurm_job_ids": 12, "start": "then"}', '{"start": ' + "[" * 10_000, '{"slurm_job_ids": null}', "[]"]
)
def test_record_with_damaged_values_does_not_stop_a_run(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1000")
    folder = RunFolder(tmp_path)
    folder.run_file.write_text(content)
    folder.start(["htc"], config_in(tmp_path), resume=True, step=10)
    assert folder.read().slurm_job_ids == ["1000"] and folder.read().start


def test_damaged_lines_of_metrics_do_not_stop_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = ['{"step": null}', '{"step": "9"}', '{"step": [1]}', "[" * 10_000, '{"step": 1}', '{"step": 3}']
    folder.metrics_file.write_text("\n".join(lines))
    folder.rewind(2)
    assert [line["step"] for line in folder.read_metrics()] == [None, "9", [1], 1]


def test_lost_lines_of_metrics_are_reported_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("htc"), "propagate", True)
    RunFolder(tmp_path).rewind(5, 1000)
    assert "lines of it are lost" in caplog.text and not list(tmp_path.iterdir())


def test_reader_never_sees_a_partial_run_file(tmp_path: Path) -> None:
    """Another process reads while this one writes, and every read finds a complete record."""
    folder = RunFolder(tmp_path)
    folder.update(other={"counter": 0, "filling": "x" * 200_000})
    script = (
        "import json, sys, time\n"
        "end = time.time() + 1.5\n"
        "reads = 0\n"
        "while time.time() < end:\n"
        "    json.loads(open(sys.argv[1]).read())\n"
        "    reads += 1\n"
        "print(reads)\n"
    )
    reader = subprocess.Popen([sys.executable, "-c", script, str(folder.run_file)], stdout=subprocess.PIPE, text=True)
    counter = 0
    while reader.poll() is None:
        counter += 1
        folder.update(other={"counter": counter, "filling": "x" * 200_000})
    assert reader.returncode == 0 and reader.stdout is not None and int(reader.stdout.read()) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_metrics_are_lines_of_json_without_nan(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"kind": "train", "step": 1, "loss": math.nan, "losses": {"a": math.inf}, "lr": 0.1})
    folder.append_metrics({"kind": "train", "step": np.int64(2), "loss": np.float32(0.5)})
    lines = folder.metrics_file.read_text().splitlines()
    assert json.loads(lines[0]) == {"kind": "train", "step": 1, "loss": None, "losses": {"a": None}, "lr": 0.1}
    assert json.loads(lines[1]) == {"kind": "train", "step": 2, "loss": 0.5}


def test_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    folder = started(tmp_path)
    for step in (10, 20, 30):
        folder.append_metrics({"kind": "train", "step": step, "loss": 1.0})
    with folder.metrics_file.open("a") as file:
        file.write('{"kind": "train", "step": 40, "lo')
    folder.start(["htc"], config_in(tmp_path), resume=True, step=20)
    for step in (30, 40):
        folder.append_metrics({"kind": "train", "step": step, "loss": 2.0})
    assert [(line["step"], line["loss"]) for line in folder.read_metrics()] == [
        (10, 1.0),
        (20, 1.0),
        (30, 2.0),
        (40, 2.0),
    ]
    assert len(folder.metrics_file.read_text().splitlines()) == 4


def test_incomplete_line_is_dropped_even_if_its_step_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    folder.rewind(100)
    assert folder.metrics_file.read_text() == '{"kind": "train", "step": 1}\n'
    RunFolder(tmp_path / "without metrics").rewind(5)


def test_run_that_starts_again_drops_the_metrics_of_the_failed_attempt(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.append_metrics({"kind": "train", "step": 10})
    folder.start(["htc"], config_in(tmp_path), resume=False)
    assert folder.read_metrics() == []


def test_same_configuration_has_the_same_folder(tmp_path: Path) -> None:
    folder = started(tmp_path)
    assert find_folder(config_in(tmp_path)) == folder.path and not folder.trained
    assert find_folder(config_in(tmp_path, seed=1)) != folder.path
    assert find_folder(config_in(tmp_path, sweep="other")) == folder.path
    finish(folder)
    assert find_folder(config_in(tmp_path)) == folder.path and folder.trained


def test_evaluation_is_complete_when_it_has_its_results(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.set_status("done")
    assert not folder.has_results() and not folder.has_results("default")
    (folder.evaluations / "paper").mkdir(parents=True)
    (folder.evaluations / "paper" / "bbox.json").write_text("[]")
    assert not folder.has_results("paper")
    folder.evaluation("paper").write({"segm": {"AP": 0.3}})
    assert folder.has_results("paper") and folder.has_results() and not folder.has_results("default")
    assert folder.read_results() == folder.read_results("paper") == {"segm": {"AP": 0.3}}
    folder.evaluation("default").write({"segm": {"AP": 0.2}})
    assert folder.read_results() == {"segm": {"AP": 0.2}}


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../x", "a\n"])
def test_name_of_an_evaluation_does_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of an evaluation"):
        RunFolder(tmp_path).evaluation(name)


def test_failed_evaluation_leaves_a_trained_run_done(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.fail("no data")
    assert (folder.read().status, folder.read().error) == ("failed", "no data")
    finish(folder)
    folder.fail("no such annotations")
    assert (folder.read().status, folder.read().error) == ("done", "no such annotations")


def test_renamed_run_continues_in_its_folder(tmp_path: Path) -> None:
    folder = started(tmp_path, name="first name")
    assert folder.path.name.startswith("first_name-")
    assert find_folder(config_in(tmp_path, name="second/name")) == folder.path


def test_forced_run_has_a_folder_next_to_the_finished_one(tmp_path: Path) -> None:
    folder = started(tmp_path)
    forced = config_in(tmp_path, force=True)
    assert find_folder(forced) == folder.path
    finish(folder)
    second = find_folder(forced)
    assert second.name == folder.path.name + "-r2"
    RunFolder(second).start(["htc"], forced, resume=False)
    # A forced run that was preempted continues in its own folder.
    assert find_folder(forced) == second
    finish(RunFolder(second))
    assert find_folder(forced).name == folder.path.name + "-r3"
    assert find_folder(config_in(tmp_path)) == folder.path


def test_log_file_has_time_and_level_and_the_console_has_the_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.setup_logging()
    logging.getLogger("htc.engine.trainer").info("epoch 1 of 12")
    logging.getLogger("htc.data").warning("no stuff maps")
    lines = folder.log_file.read_text().splitlines()
    assert len(lines) == 2
    datetime.strptime(lines[0][:19], "%Y-%m-%d %H:%M:%S")
    assert lines[0][20:] == "INFO htc.engine.trainer: epoch 1 of 12"
    assert lines[1][20:] == "WARNING htc.data: no stuff maps"
    console = capsys.readouterr().err.splitlines()
    assert [line[9:] for line in console] == ["epoch 1 of 12", "warning: no stuff maps"]


def test_next_run_in_one_process_has_a_log_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = RunFolder(tmp_path / "1"), RunFolder(tmp_path / "2")
    first.setup_logging()
    second.setup_logging()
    logging.getLogger("htc").info("second")
    assert first.log_file.read_text() == "" and "second" in second.log_file.read_text()
    assert capsys.readouterr().err.count("second") == 1


def test_processes_other_than_the_main_one_show_warnings_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.setup_logging(main=False)
    logging.getLogger("htc").info("logged by all processes")
    logging.getLogger("htc").warning("logged as a warning")
    assert capsys.readouterr().err[9:] == "warning: logged as a warning\n" and not folder.path.exists()


def test_no_secret_is_in_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    config = config_in(tmp_path)
    folder = RunFolder(find_folder(config))
    folder.setup_logging()
    folder.start(
        ["htc", "+api_key=hunter2hunter2", "--token", "swordfish", f"note={SECRET}", "seed=0"], config, resume=False
    )
    logging.getLogger("htc").error("cannot log in with %s, api_key: hunter2hunter2", SECRET)
    folder.set_status("failed", f"AuthenticationError: {SECRET}")
    written = {path: path.read_text() for path in folder.path.rglob("*") if path.is_file()}
    assert len(written) >= 3
    for path, text in written.items():
        for secret in (SECRET, "hunter2hunter2", "swordfish"):
            assert secret not in text, path
    assert "seed=0" in str(folder.read().command) and "+api_key=<redacted>" in str(folder.read().command)


def test_options_with_names_similar_to_secrets_are_kept() -> None:
    command = ["htc", "model.num_tokens=5", "data.root=/data/secrets", "seed=0"]
    assert redaction.redact_command(command) == "htc model.num_tokens=5 data.root=/data/secrets seed=0"


@pytest.mark.parametrize(
    "text",
    [
        'os.environ["WANDB_API_KEY"] = "hunter2"', "os.environ.setdefault('WANDB_API_KEY', 'hunter2')",
        'wandb.login(key="hunter2")', 'wandb.login(\n+    relogin=True,\n+    key="hunter2",\n+)',
        "export AWS_SECRET_ACCESS_KEY=hunter2/abc+d", 'api_key: str = "hunter2"', 'api_key: str | None = "hunter2"',
        'api_key = (\n+    "hunter2"\n+)', 'token = b"hunter2"', 'token = """hunter2"""', 'token == "hunter2"',
        '{\\"api_key\\": \\"hunter2\\"}', 'password: "1\\"hunter2"', 'api_key="hunter2', "PRIVATE_KEY=hunter2",
        f"wandb login --relogin {SECRET}", f'wandb.Api("{SECRET}")', f'key = "{SECRET}"', f"password {SECRET}",
        "wandb_v1_hunter2_0123456789",
    ],
)  # fmt: skip
def test_secret_is_redacted_in_every_notation_of_code(text: str) -> None:
    safe = redaction.redact(text)
    assert "<redacted>" in safe and "hunter2" not in safe and SECRET not in safe


@pytest.mark.parametrize(
    "text",
    [
        f"commit {SECRET}\n\n    Change the key\n", f"wandb: at commit {SECRET}", "index 0123456..789abcd 100644",
        "num_tokens=5", "sorted(files, key=len)", "if token:\n    return 1", 'environ["API_KEY"]',
    ],
)  # fmt: skip
def test_ordinary_text_is_not_changed(text: str) -> None:
    assert redaction.redact(text) == text


@pytest.mark.parametrize("text", ["key --a " * 10_000, "login(" * 10_000, "wandb" * 10_000, 'token="""' * 10_000])
def test_redaction_of_long_text_is_fast(text: str) -> None:
    started = time.monotonic()
    redaction.redact(text)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "DEPLOY_PRIVATE_KEY", "WANDB_API_KEY"])
def test_value_of_a_secret_variable_is_redacted_everywhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "mackerel")
    assert redaction.redact("a mackerel b") == "a <redacted> b"


def git(folder: Path, *arguments: str) -> None:
    """Run a git command in a folder, as a test user."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_git_facts_name_commit_and_changes(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("a = 1\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = provenance.git_facts(package)
    assert clean is not None and len(clean["commit"]) == 40 and clean["dirty"] is False and clean["diff"] == ""
    (package / "code.py").write_text("a = 2\napi_key = 'hunter2hunter2'\n")
    dirty = provenance.git_facts(package)
    assert dirty is not None and dirty["dirty"] and "+a = 2" in dirty["diff"] and "hunter2" not in dirty["diff"]
    assert dirty["commit"] == clean["commit"]
    # A package that is installed inside a repository is not part of it.
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "code.py").write_text("")
    assert provenance.git_facts(tmp_path / "site-packages") is None


def test_git_facts_are_null_without_repository_or_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.git_facts(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_facts(Path(__file__).parent) is None


def test_hanging_git_does_not_delay_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "git"
    # A caller that waits gets an output, and takes the folder for a repository.
    hanging.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(5)\nprint('{tmp_path}')\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_TIMEOUT", 0.2)
    assert provenance.git_facts(tmp_path) is None


def test_reading_a_folder_does_not_load_pytorch() -> None:
    script = "import sys, htc.runs.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2]).returncode == 0
