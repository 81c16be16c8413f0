"""Tables from wandb alone equal the tables from the run folders of the same runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from analysis.make_tables import main
from analysis.wandb_log import BLOCK, DamagedLogError, read_run_log
from analysis.wandb_source import TrackedRun
from analysis.wandb_source import write_pool as write_pool_of
from htc.config.schema import Config, WandbMode
from htc.runs.evaluations import evaluation_folder
from htc.runs.files import write_json
from htc.runs.pool import SEARCH_FILE, SelectedRun, change_rows, sweep_folder
from tests.helpers.command import clean_environment, command, run_code
from tests.helpers.run_folders import ON, run_writer
from tests.helpers.tracked_runs import track
from tests.helpers.wandb_server import KEY, wandb_server

CONTENT = {split: {"annotations": split * 9, "images": 12, "files": "abc", "stuff": None} for split in ("train", "val")}
KILLED = """
import os, signal, sys, time
from pathlib import Path
from htc.config.schema import WandbMode
from tests.helpers.tracked_runs import start_tracking
start_tracking(Path(sys.argv[1]), WandbMode(sys.argv[2]))
for file in Path(sys.argv[1]).glob("wandb/*/*.wandb"):
    while b"running" not in file.read_bytes():
        time.sleep(0.1)
# A server receives it within the second.
time.sleep(0 if sys.argv[2] == "offline" else 3)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))


def one_beta(config: Config) -> None:
    config.model.semantic_loss_weight = 2.0


def write_pool(runs: Path) -> None:
    """Write runs of everything that tables distinguish, below a folder."""
    write = run_writer(runs)
    git = {"commit": "1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f7a8b9c0d", "dirty": True, "diff": "+ api_key = 'hunter2hunter2'"}
    for seed, mask_ap in enumerate((0.28, 0.3)):
        folder = write(mask_ap=mask_ap, seed=seed, git=git, content=CONTENT, data={"name": "mine"}, **ON)
        results = evaluation_folder(folder, "default")
        per_category = {"bbox": {"a.b/c d": 1.0}, "segm": {"hot dog": None}}
        results.write({**results.read(), "per_category": per_category, "data": CONTENT["val"]})
        paper = {**results.read(), "settings": {**results.read()["settings"], "eval.score_threshold": 0.0}}
        paper["segm"]["AP"] = mask_ap + 0.01
        evaluation_folder(folder, "paper").write(paper)
    write(
        mask_ap=0.25, seed=0, content=CONTENT, data={"name": "mine"}, interleaved=True, mask_flow=False, semantic=True
    )
    write(mask_ap=0.22, seed=0, sweep=None, change=one_beta, **ON)
    write(mask_ap=0.27, seed=0, sweep=None, suffix="-r2", change=one_beta, end="2025-02-01T10:00:00+00:00", **ON)
    write(status="failed", seed=3, interleaved=True, mask_flow=True, semantic=False)
    write(status="preempted", seed=4, interleaved=True, mask_flow=True, semantic=False)
    write(status="running", seed=5, interleaved=True, mask_flow=True, semantic=False)
    trial = write(mask_ap=0.2, sweep="search", backbone="resnet50")
    trials = [{"number": 0, "value": 0.2, "params": {"model.beta": 0.1}, "run": trial.name}]
    search = {"objective": "segm", "words": "mask AP", "settings": ["model.beta"], "importances": {}, "trials": trials}
    write_json(sweep_folder(runs, "search") / SEARCH_FILE, search)
    change_rows(
        runs, "components",
        lambda rows: [
            SelectedRun(row.run, label=f"row {index}", overrides=["model.semantic=true", f"seed={index}"])
            for index, row in enumerate([*rows, SelectedRun("htc-00000000")])
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pool `runs`, and with `offline`, which holds only what wandb wrote of the same runs."""
    place = tmp_path_factory.mktemp("pools")
    runs = place / "runs"
    write_pool(runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place / "home"))
        for folder in sorted(runs.iterdir()):
            if folder.name.startswith("."):
                continue
            if json.loads((folder / "run.json").read_text())["status"] == "running":
                run_code(KILLED, folder, "offline")
            else:
                track(folder)
    for file in runs.glob("*/wandb/offline-run-*/*.wandb"):
        target = place / "offline" / file.relative_to(runs)
        target.parent.mkdir(parents=True)
        shutil.copy(file, target)
    return place


def tables(out: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, bytes]:
    """Run the command, and return the content of the files that it writes."""
    assert main([*arguments, f"out={out}"]) == 0, capsys.readouterr().err
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize("more", [[], ["eval=paper"], ["sweep=components"]], ids=["all", "paper", "sweep"])
def test_tables_from_offline_files_are_those_of_the_run_folders_to_the_byte(
    pools: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tables(tmp_path / "a", capsys, f"runs={pools / 'runs'}", "intervals=false", *more)
    printed = capsys.readouterr()
    found = tables(tmp_path / "b", capsys, f"from=offline:{pools / 'offline'}", *more)
    again = capsys.readouterr()
    assert found == expected and set(found) >= {
        f"{name}.md" for name in ("comparison", "components", *([] if "eval=paper" in more else ["study_components"]))
    }
    assert ("search_search.md" in found) == ("sweep=components" not in more)
    assert again.out == printed.out
    if not more:
        assert all(f"Not finished, {status}" in printed.out for status in ("failed", "preempted", "running"))
        assert "29.0 ± 1.4" in printed.out and "htc-00000000` is missing" in printed.out
        assert again.err == printed.err.replace(str(pools / "runs"), f"offline:{pools / 'offline'}")


def test_offline_files_are_found_in_the_pool_itself(
    pools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tables(tmp_path / "a", capsys, f"runs={pools / 'runs'}", "intervals=false")
    assert tables(tmp_path / "b", capsys, f"from=offline:{pools / 'runs'}") == expected


@pytest.mark.slow
def test_tables_from_the_server_are_those_of_the_run_folders_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs are sent by the real SDK, whose service changes 1.0 to 1 and the order of keys."""
    runs = tmp_path / "runs"
    write_pool(runs)
    with wandb_server() as server:
        server.page = 3
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        folders = [folder for folder in sorted(runs.iterdir()) if not folder.name.startswith(".")]
        for folder in folders:
            if json.loads((folder / "run.json").read_text())["status"] == "running":
                run_code(KILLED, folder, "online", environment=server.environment(HOME=str(tmp_path / "home")))
            else:
                track(folder, WandbMode.online)
        assert len(server.runs) == len(folders) == 9
        assert any('"semantic_loss_weight":2,' in run.config for run in server.runs.values())
        for more in ([], ["eval=paper"]):
            expected = tables(tmp_path / "a", capsys, f"runs={runs}", "intervals=false", *more)
            assert tables(tmp_path / "b", capsys, "from=wandb:me/htc", *more) == expected
        environment = server.environment(HOME=str(tmp_path / "home"))
        done = command("analysis.make_tables", "from=wandb:me/htc", f"out={tmp_path / 'c'}", environment=environment)
    assert done.returncode == 0 and "wandb: " not in done.stderr
    written = [
        (tmp_path / "c" / f"{name}.md").read_text()
        for name in ("comparison", "components", "study_components", "search_search")
    ]
    assert done.stdout == "\n".join(written)


def test_secrets_do_not_leave_the_folder(pools: Path) -> None:
    files = list((pools / "offline").rglob("*.wandb"))
    assert len(files) == 9
    assert not any(b"hunter2hunter2" in file.read_bytes() for file in files)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the sentence with which the command refuses arguments."""
    assert main([*arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["from=lab/htc"], "is no source of runs: use from=wandb:ENTITY/PROJECT"),
        (["from=wandb:htc"], "does not name a project: write ENTITY/PROJECT"),
        (["from=wandb:lab/htc/x"], "does not name a project"),
        (["from=offline:nowhere"], "from=offline:nowhere is not a folder"),
        (["from=offline:."], "has no offline-run-*/*.wandb"),
        (["from=offline:.", "runs=runs"], "are both sources of runs"),
        (["from=offline:.", "intervals=true"], "intervals=true needs predictions"),
        (["from=wandb:lab/htc"], "you are not logged in at wandb"),
    ],
)
def test_source_that_cannot_be_read_is_refused_in_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("project", "words"), [("me/missing", "wandb has no such project"), ("other/htc", "wandb has no such project")]
)
def test_unknown_project_is_refused_in_one_sentence(
    project: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with wandb_server() as server:
        server.projects.add("htc")
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        assert words in refused(capsys, f"from=wandb:{project}")


@pytest.mark.parametrize("status", [200, 401, 403])
def test_wrong_key_is_refused_in_one_sentence_without_the_key(
    status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with wandb_server() as server:
        server.status, server.knows_key = status, False
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        sentence = refused(capsys, "from=wandb:me/htc")
    assert "wandb refuses your key" in sentence and KEY not in sentence


@pytest.mark.parametrize("silent", [False, True], ids=["nobody listens", "nobody answers"])
def test_missing_network_is_reported_after_the_timeout(
    silent: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1] if silent else 9
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "3")
        start = time.monotonic()
        assert "does not answer within 3 s" in refused(capsys, "from=wandb:me/htc")
        assert time.monotonic() - start < 30


@pytest.mark.parametrize("source", ["wandb:me/htc", "offline:"])
def test_missing_wandb_is_named(source: str, pools: Path) -> None:
    source = f"{source}{pools / 'offline'}" if source.endswith(":") else source
    program = (
        "import sys; sys.modules['wandb'] = None\n"
        "from analysis.make_tables import main\n"
        f"sys.exit(main(['from={source}']))\n"
    )
    done = run_code(program)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "needs wandb, which is not installed: pip install wandb" in done.stderr


def test_damaged_files_are_named_counted_and_skipped(
    pools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offline = tmp_path / "offline"
    shutil.copytree(pools / "offline", offline)
    first, second, third, *_ = sorted(offline.rglob("*.wandb"))
    data = bytearray(first.read_bytes())
    data[200] ^= 1
    first.write_bytes(data)
    second.write_bytes(b"not a log")
    third.write_bytes(b"")
    assert main([f"from=offline:{offline}", f"out={tmp_path / 'tables'}"]) == 0
    lines = capsys.readouterr().err.splitlines()
    reasons = {file: "".join(line for line in lines if str(file) in line) for file in (first, second, third)}
    assert "its checksum at byte" in reasons[first] and "does not begin as a file of wandb" in reasons[second]
    assert "it has no record of a run" in reasons[third]
    assert f"3 of 9 runs of offline:{offline} were skipped." in lines


def test_log_that_was_cut_off_has_what_was_written_before(pools: Path, tmp_path: Path) -> None:
    """A process or a machine that dies leaves a part of the last record, or zeros."""
    file = max((pools / "offline").rglob("*.wandb"), key=lambda file: file.stat().st_size)
    data, cut = file.read_bytes(), tmp_path / "run-a.wandb"
    whole = read_run_log(file)
    assert whole.summary["status"] == "done" and len(data) > BLOCK / 4
    for length in range(0, len(data), 97):
        for ending in (b"", bytes(64)):
            cut.write_bytes(data[:length] + ending)
            try:
                found = read_run_log(cut)
            except DamagedLogError:
                continue
            assert found.id == whole.id
            assert found.summary == {} or found.summary["status"] in ("done", "running")
    cut.write_bytes(data + bytes(5000))
    assert read_run_log(cut) == whole


def test_any_changed_byte_is_noticed_or_harmless(pools: Path, tmp_path: Path) -> None:
    file = max((pools / "offline").rglob("*.wandb"), key=lambda file: file.stat().st_size)
    data, changed = file.read_bytes(), tmp_path / "run-a.wandb"
    whole = read_run_log(file)
    noticed = 0
    for position in range(0, len(data), max(1, len(data) // 300)):
        changed.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            assert read_run_log(changed).id == whole.id
        except DamagedLogError:
            noticed += 1
    assert noticed > 250


def test_records_across_blocks_are_joined(tmp_path: Path) -> None:
    """wandb's own writer makes the file."""
    program = (
        "import sys, wandb\n"
        "settings = wandb.Settings(mode='offline', silent=True, console='off', x_disable_meta=True)\n"
        "run = wandb.init(dir=sys.argv[1], id='long', config={'text': 'ä' * 100_000}, settings=settings)\n"
        "run.summary.update({'text': 'b' * 70_000, 'nested': {'a.b': 1.0, 'c': None}})\n"
        "run.config.update({'text': 'c' * 90_000}, allow_val_change=True)\n"
        "run.finish(); wandb.teardown()\n"
    )
    assert run_code(program, tmp_path, environment=clean_environment(HOME=str(tmp_path))).returncode == 0
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found = read_run_log(file)
    assert found.config["text"] == "c" * 90_000 and found.summary["text"] == "b" * 70_000
    assert found.summary["nested"] == {"a.b": 1.0, "c": None} and found.exit_code == 0


def tracked(name: str, run_id: str = "one", end: str = "2026-01-01T00:00:00+00:00", **files: str) -> TrackedRun:
    record = {"folder": name, "start": end, "files": {"config.yaml": "{}"}}
    return TrackedRun("here", run_id, "finished", {"record": record}, {"end": end, "files": files})


def test_runs_of_two_people_with_one_configuration_are_both_kept(tmp_path: Path) -> None:
    runs = [tracked("htc-1a2b3c4d", "old"), tracked("htc-1a2b3c4d", "new", "2026-02-01T00:00:00+00:00")]
    write_pool_of(runs, tmp_path / "pool")
    assert {path.name for path in (tmp_path / "pool").iterdir()} == {"htc-1a2b3c4d", "htc-1a2b3c4d@old"}
    assert tracked("x").updated == runs[0].updated < runs[1].updated


@pytest.mark.parametrize(
    "path",
    [
        "../outside", "/tmp/outside", "evaluations/../../outside/results.json", "evaluations/a/b/results.json",
        ".sweeps/../sweep.json", ".sweeps/../../x/sweep.json", "checkpoints/a.pt", "log.txt",
    ],
)  # fmt: skip
def test_names_from_the_server_do_not_lead_out_of_the_pool(path: str, tmp_path: Path) -> None:
    pool = tmp_path / "a" / "pool"
    write_pool_of([tracked("run-1a2b3c4d", **{path: '{"rows": []}', "run.json": "{}"})], pool)
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {f"a/pool/run-1a2b3c4d/{name}" for name in ("config.yaml", "run.json")}
    assert tracked("../x").folder == tracked(".x").folder == tracked("").folder == ""


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("finished", "done"),
        ("crashed", "failed"),
        ("killed", "failed"),
        ("running", "running"),
        ("preempting", "preempted"),
    ],
)
def test_run_that_logged_no_status_has_that_of_wandb(state: str, status: str) -> None:
    run = TrackedRun("here", "id", state, {"record": {"folder": "a", "start": "2026-01-01T00:00:00+00:00"}}, {})
    assert json.loads(run.files["run.json"])["status"] == status
