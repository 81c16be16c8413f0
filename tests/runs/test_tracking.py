"""Tracking with the real wandb, offline: what is recorded, and that no failure stops a run."""

from __future__ import annotations

import http.server
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.wandb_log import read_records
from htc.config.compose import composed_config
from htc.config.schema import WandbMode
from htc.config.signature import signature
from htc.errors import UserError
from htc.ops.paste import encode_region
from htc.runs.folder import RunFolder
from htc.runs.tracking import Tracker, recorded_id, row_number
from htc.runs.wandb_files import offline_files
from htc.structures import ImagePrediction
from tests.helpers.command import clean_environment, command, run_code
from tests.helpers.tracking import example_config
from tests.helpers.wandb_history import read_history
from tests.helpers.wandb_server import wandb_server

FAKE_KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))


def finished_log(file: Path) -> list[Any]:
    """Return the records of a run that has ended, once wandb's service has written the last one."""
    for _ in range(100):
        records = list(read_records(file))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no exit record")


def logged(folder: Path) -> list[Any]:
    """Return the records of the only run in a folder."""
    files = list(folder.glob("wandb/*/*.wandb"))
    assert len(files) == 1, files
    return finished_log(files[0])


def key_of(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def history(records: list[Any]) -> list[dict[str, Any]]:
    """Return the rows of history, without wandb's own keys."""
    rows = [
        {key_of(item): json.loads(item.value_json) for item in r.history.item} for r in records if r.HasField("history")
    ]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def example_image(shade: int = 120) -> tuple[str, np.ndarray, ImagePrediction]:
    image = np.full((48, 64, 3), shade, dtype=np.uint8)
    mask = encode_region(np.ones((10, 20), dtype=bool), 5, 6, 48, 64)
    boxes = np.array([[5.0, 6.0, 25.0, 16.0], [5.0, 6.0, 25.0, 16.0]])
    return "000000000042.jpg", image, ImagePrediction(boxes, np.array([1, 0]), np.array([0.9, 0.1]), [mask, mask])


def test_offline_run_records_configuration_metrics_pictures_and_results(tmp_path: Path) -> None:
    config = example_config(WandbMode.offline)
    folder = tmp_path / "components" / f"a_run-{signature(config)}"
    tracker = Tracker.start(config, folder)
    assert tracker.on
    train = {
        "kind": "train",
        "step": 20,
        "epoch": 1,
        "lr": 0.02,
        "loss": 1.5,
        "losses": {"s0.loss_cls": 0.25, "s1.loss_cls": float("nan")},
    }
    tracker.log(train, 20)
    tracker.log({"kind": "eval", "step": 40, "bbox": {"AP": 0.5, "APs": None}, "segm": {"AP": 0.25}}, 40)
    tracker.images((example_image(shade) for shade in range(100, 109)), ["circle", "star"], 40)
    tracker.finish({"bbox": {"AP": 0.5}, "parameters": 7})
    assert not tracker.on

    records = logged(folder)
    run = next(record.run for record in records if record.HasField("run"))
    assert run.run_id == json.loads((folder / "run.json").read_text())["wandb"]["id"] and run.run_group == "components"
    assert run.project == "htc" and run.display_name == "a run"
    recorded = {key_of(item): json.loads(item.value_json) for item in run.config.update}
    assert recorded["seed"] == 0 and recorded["model"]["name"] == "htc"

    rows = history(records)
    assert rows[0] == {
        "step": 20,
        "train/epoch": 1,
        "train/lr": 0.02,
        "train/loss": 1.5,
        "train/losses/s0.loss_cls": 0.25,
    }
    assert rows[1] == {"step": 40, "eval/bbox/AP": 0.5, "eval/segm/AP": 0.25}
    pictures = rows[2]
    assert pictures["step"] == 40
    assert pictures["predictions/captions"] == ["000000000042.jpg"] * 4
    images = list(folder.glob("wandb/*/files/media/images/*.jpg"))
    masks = list(folder.glob("wandb/*/files/media/images/mask/*.png"))
    assert len(images) == 4 and masks

    from PIL import Image

    mask = np.asarray(Image.open(masks[0]))
    assert mask[10, 10] == 2 and mask[40, 40] == 0
    boxes = json.loads(next(folder.glob("wandb/*/files/media/metadata/boxes2D/*.json")).read_text())["box_data"]
    assert [box["box_caption"] for box in boxes] == ["star 0.90"]
    summary = {key_of(item): json.loads(item.value_json) for r in records for item in r.summary.update}
    assert summary["bbox/AP"] == 0.5 and summary["parameters"] == 7
    assert next(record.exit.exit_code for record in records if record.HasField("exit")) == 0


def test_nothing_is_printed_or_written_outside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = Tracker.start(example_config(WandbMode.offline), tmp_path / "run")
    tracker.log({"kind": "train", "loss": 1.0}, 1)
    tracker.finish()
    captured = capfd.readouterr()
    assert captured.out == "" and "wandb:" not in captured.err
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "home"}


def test_two_runs_in_one_process_are_tracked_separately(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        tracker = Tracker.start(example_config(WandbMode.offline, seed=seed), folder)
        tracker.log({"kind": "train", "loss": float(seed)}, 1)
        tracker.finish()
    assert [history(logged(tmp_path / str(seed)))[0]["train/loss"] for seed in (0, 1)] == [0.0, 1.0]


KILLED = """
import json, os, signal
config, folder = example_config(WandbMode.offline), Path(sys.argv[1])
lines = [{"kind": "train", "step": step, "loss": 1.0 / step} for step in json.loads(sys.argv[2])]
tracker = Tracker.start(config, folder, lines)
for step in json.loads(sys.argv[3]):
    tracker.log({"kind": "train", "step": step, "loss": 1.0 / step}, step)
if sys.argv[4] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
tracker.finish({"AP": 0.5})
"""


@pytest.mark.parametrize("parent", ["without wandb", "with wandb"])
def test_offline_run_that_was_killed_and_resumed_is_synced_as_one_complete_run(tmp_path: Path, parent: str) -> None:
    """`wandb sync` finds one file with every step once in the run's folder.

    A process that uses wandb passes its service to its child processes by an environment variable.
    """
    environment = {}
    if parent == "with wandb":
        tracker = Tracker.start(example_config(WandbMode.offline), tmp_path / "parent")
        environment["WANDB_SERVICE"] = os.environ["WANDB_SERVICE"]
    for before, now, end in (
        ("[]", "[10, 20, 30]", "kill"),
        ("[10]", "[20, 30]", "kill"),
        ("[10, 20]", "[30, 40]", ""),
    ):
        run_script(KILLED, tmp_path, before, now, end, **environment)
    files = offline_files(tmp_path / "run")
    assert len(files) == 1
    finished_log(files[0])
    rows = read_history(files[0])
    assert [(row["_step"], row["step"], row["train/loss"]) for row in rows] == [
        (row_number(step, "train"), step, 1 / step) for step in (10, 20, 30, 40)
    ]
    dry_run = command("wandb", "sync", "--dry-run", tmp_path / "run" / "wandb")
    assert "Would sync 1 run(s)" in dry_run.stdout + dry_run.stderr
    if parent == "with wandb":
        tracker.finish()


@pytest.mark.parametrize("log_every", [10, 5, 15])
def test_resumed_run_sends_exactly_the_rows_that_the_server_lacks(tmp_path: Path, log_every: int) -> None:
    """The server has the rows of steps 10 and 20, and the run continues from the checkpoint of step 10.

    wandb gives a resumed run the number after the server's last row; here the test sets it.
    """
    tracker = Tracker.start(example_config(WandbMode.offline), tmp_path)
    tracker._first_row = row_number(20, "train") + 1
    tracker.log({"kind": "train", "loss": 1.0}, 10)
    for step in range(10 + log_every, 41, log_every):
        tracker.log({"kind": "train", "loss": 1.0}, step)
        if step == 20:
            tracker.log({"kind": "eval"}, step)
    tracker.finish()
    expected = {10: [20, 30, 40], 5: [20, 25, 30, 35, 40], 15: [25, 40]}
    assert [row["step"] for row in history(logged(tmp_path))] == expected[log_every]


def test_runs_of_one_configuration_have_different_ids_and_each_keeps_its_own(tmp_path: Path) -> None:
    config = example_config(WandbMode.offline)
    ours, theirs = (tmp_path / name / "a-1234" for name in ("ours", "theirs"))
    ids = [recorded_id(config, folder) for folder in (ours, theirs, ours, ours.with_name("a-1234-r2"))]
    assert ids[0] == ids[2] and len(set(ids)) == 3
    assert all(each.startswith(signature(config)) for each in ids)
    assert json.loads((ours / "run.json").read_text())["wandb"] == {"id": ids[0], "earlier": []}


def test_id_survives_a_new_start_and_the_loss_of_the_record(tmp_path: Path) -> None:
    config = example_config(WandbMode.offline)
    folder = RunFolder(tmp_path)
    folder.start(["htc"], config, resume=False)
    tracker = Tracker.start(config, tmp_path)
    tracker.finish()
    wandb = folder.read().wandb
    assert wandb is not None
    folder.start(["htc"], config, resume=False)
    assert folder.read().wandb == wandb
    folder.run_file.write_text("{")
    assert recorded_id(config, tmp_path) == wandb.id, "the offline files have the id"


ONLINE_RUN = """
import logging, sys
from pathlib import Path
from htc.config.schema import WandbMode
from htc.runs import tracking
from tests.helpers.tracking import example_config
logging.basicConfig(level=logging.INFO)
# The SDK repeats a refused request until then.
tracking.INIT_TIMEOUT = tracking.FINISH_TIMEOUT = 3.0
tracker = tracking.Tracker.start(example_config(WandbMode.online), Path(sys.argv[1]))
print("tracked" if tracker.on else "off")
tracker.finish()
"""


def test_run_that_was_deleted_on_the_server_goes_on_under_a_new_id_and_says_so(tmp_path: Path) -> None:
    deleted = recorded_id(example_config(WandbMode.online), tmp_path)
    with wandb_server() as server:
        server.deleted.add(deleted)
        environment = clean_environment(WANDB_BASE_URL=server.address, WANDB_API_KEY=FAKE_KEY, HOME=str(tmp_path))
        result = run_code(ONLINE_RUN, tmp_path, environment=environment)
    assert result.returncode == 0 and "tracked" in result.stdout, result.stderr
    record = RunFolder(tmp_path).read().wandb
    assert record is not None and record.earlier == [deleted]
    assert server.started and set(server.started) == {record.id}
    assert f"the run was deleted at wandb: it goes on there as {record.id}" in result.stderr


@pytest.mark.parametrize(
    ("project", "entity", "found"),
    [("htc", None, (None, "htc")), ("lab/htc", None, ("lab", "htc")), ("lab/htc", "lab", ("lab", "htc"))],
)
def test_project_may_name_its_entity(project: str, entity: str | None, found: tuple[str | None, str]) -> None:
    config = composed_config([f"wandb.project={project}", f"wandb.entity={entity or 'null'}"])
    assert (config.wandb.entity, config.wandb.project) == found


@pytest.mark.parametrize(
    ("project", "entity"), [("lab/htc", "other"), ("a/b/c", None), ("/htc", None), ("lab/", None), ("x" * 129, None),
                            ("what?", None), ("50%", None), ("a:b", None)],
)  # fmt: skip
def test_project_that_wandb_refuses_is_refused_before_anything_starts(project: str, entity: str | None) -> None:
    with pytest.raises(UserError, match=r"wandb\.project="):
        composed_config([f"wandb.project='{project}'", f"wandb.entity={entity or 'null'}"])


def test_failed_run_is_marked_as_failed(tmp_path: Path) -> None:
    tracker = Tracker.start(example_config(WandbMode.offline), tmp_path)
    tracker.finish(exit_code=1)
    assert next(record.exit.exit_code for record in logged(tmp_path) if record.HasField("exit")) == 1


def run_script(script: str, tmp_path: Path, *arguments: str, **environment: str) -> str:
    """Run a script, with the imports that it needs, in a new process without a terminal; return its output.

    The process must end within two minutes, successfully or by SIGKILL.
    """
    prelude = (
        "import sys, logging\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from pathlib import Path\n"
        "from htc.config.schema import WandbMode\n"
        "from htc.runs.tracking import Tracker\n"
        "from tests.helpers.tracking import example_config\n"
    )
    done = run_code(prelude + script, tmp_path / "run", *arguments, environment=clean_environment(**environment))
    assert done.returncode in (0, -9), done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("how", ["key", "environment"])
def test_disabled_tracking_does_not_import_wandb(tmp_path: Path, how: str) -> None:
    mode = "WandbMode.disabled" if how == "key" else "None"
    script = (
        f"tracker = Tracker.start(example_config({mode}), Path(sys.argv[1]))\n"
        "tracker.log({'loss': 1.0}, 1); tracker.images([], [], 1); tracker.finish({})\n"
        "assert 'wandb' not in sys.modules and not Path(sys.argv[1]).exists()\n"
    )
    environment = {"WANDB_MODE": "disabled"} if how == "environment" else {}
    run_script(script, tmp_path, **environment)


def test_tracking_without_a_login_is_off_and_does_not_ask_for_one(tmp_path: Path) -> None:
    for mode in ("None", "WandbMode.online"):
        script = f"assert not Tracker.start(example_config({mode}), Path(sys.argv[1])).on\n"
        output = run_script(script, tmp_path)
        assert "not logged in" in output


def test_environment_variable_selects_offline_mode(tmp_path: Path) -> None:
    script = "tracker = Tracker.start(example_config(None), Path(sys.argv[1]))\nassert tracker.on\ntracker.finish()\n"
    run_script(script, tmp_path, WANDB_MODE="offline")
    assert logged(tmp_path / "run")


def test_failure_during_a_run_turns_tracking_off_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker.start(example_config(WandbMode.offline), tmp_path)
    with caplog.at_level(logging.WARNING, logger="htc"):
        tracker.images([("broken", np.zeros((2, 2, 7), np.uint8), example_image()[2])], ["a"], 1)
        tracker.log({"kind": "train", "loss": 1.0}, 2)
        tracker.finish({})
    warnings = [record for record in caplog.records if record.name.startswith("htc")]
    assert not tracker.on and len(warnings) == 1


def test_missing_wandb_turns_tracking_off(tmp_path: Path) -> None:
    script = (
        "sys.modules['wandb'] = None\n"
        "assert not Tracker.start(example_config(WandbMode.offline), Path(sys.argv[1])).on\n"
    )
    output = run_script(script, tmp_path)
    assert "Tracking by wandb is off" in output


def test_secrets_are_not_written_to_the_folder(tmp_path: Path) -> None:
    script = (
        "tracker = Tracker.start(example_config(WandbMode.offline), Path(sys.argv[1]))\n"
        "tracker.log({'loss': 1.0}, 1); tracker.finish({'a': 1})\n"
    )
    run_script(script, tmp_path, "+api_key=hunter2hunter2", WANDB_API_KEY=FAKE_KEY)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        content = path.read_bytes()
        assert FAKE_KEY.encode() not in content and b"hunter2hunter2" not in content, path


@pytest.mark.slow
def test_unreachable_server_does_not_block_a_run(tmp_path: Path) -> None:
    script = (
        "tracker = Tracker.start(example_config(WandbMode.online), Path(sys.argv[1]))\n"
        "assert not tracker.on\n"
        "tracker.log({'loss': 1.0}, 1); tracker.finish({'a': 1})\n"
    )
    output = run_script(script, tmp_path, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=FAKE_KEY)
    assert output.count("Tracking by wandb is off") == 1


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that answers every request as wandb's server answers a wrong key."""

    def _refuse(self) -> None:
        body = b'{"errors": [{"message": "user is not logged in"}], "error": "permission denied"}'
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = _refuse  # noqa: N815 - the library's names

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("key", [FAKE_KEY, "short"])
def test_wrong_key_turns_tracking_off_and_is_logged_once_without_the_key(tmp_path: Path, key: str) -> None:
    script = (
        "tracker = Tracker.start(example_config(WandbMode.online), Path(sys.argv[1]))\n"
        "assert not tracker.on\n"
        "tracker.log({'loss': 1.0}, 1); tracker.finish({'a': 1})\n"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        output = run_script(script, tmp_path, WANDB_BASE_URL=address, WANDB_API_KEY=key)
        server.shutdown()
    assert output.count("Tracking by wandb is off") == 1
    assert key not in output
