"""A step that was not finite leaves a file, and the command does that step again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from htc.config.messages import explain
from htc.config.schema import DataConfig, Precision
from htc.config.signature import to_plain
from htc.distributed.processes import Processes
from htc.engine.replay_file import ReplayFile, _to_plain
from htc.engine.trainer import Trainer
from htc.errors import UserError
from htc.replay import replay
from htc.runs.folder import RunFolder
from htc.runs.tracking import Tracker
from htc.structures import Sample
from tests.helpers.command import command
from tests.helpers.fuzzing import ANYTHING, damage, fuzz, is_sentence
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_detector
from tests.helpers.trainers import make_trainer, training_config


def spoil_gradient(trainer: Trainer, step: int, value: float) -> None:
    """From a step on, multiply one gradient; losses stay as they are."""
    parameter = trainer.raw_model.get_parameter("cascade.box_heads.2.logits.bias")
    passes: list[int] = []
    trainer.raw_model.register_forward_pre_hook(lambda *_: passes.append(0))
    parameter.register_hook(lambda gradient: gradient * (value if len(passes) >= step else 1.0))


def test_step_with_a_huge_weight_is_done_again_and_its_place_is_named(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    trainer = make_trainer(training_config(tiny_shapes), tmp_path)
    passes: list[int] = []

    def spoil(module: torch.nn.Module, arguments: Any) -> None:
        passes.append(0)
        if len(passes) == 2:
            torch.nn.init.constant_(trainer.raw_model.get_parameter("cascade.box_heads.1.fc1.weight"), 1e38)

    trainer.raw_model.register_forward_pre_hook(spoil)
    with pytest.raises(
        UserError, match=r"the loss is not finite at step 2 .*python -m htc.replay (\S+) repeats"
    ) as caught:
        trainer.train(Tracker(None))
    (file,) = (tmp_path / "replay").glob("*.pt")
    assert str(file) in str(caught.value)
    done = command("htc.replay", str(file), "device=cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("step 2, images ") and lines[-1] == "reproduced"
    assert "in order of computation that are not finite: cascade.box_heads.1.fc1," in done.stdout
    terms = dict(line.split() for line in lines if line.startswith("  "))
    said = str(caught.value)
    assert all(f"{name} {float(value):.4g}" in said for name, value in terms.items() if name.startswith("s0"))


def test_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(
    tiny_shapes: DataConfig, tmp_path: Path
) -> None:
    trainer = make_trainer(training_config(tiny_shapes), tmp_path)
    spoil_gradient(trainer, 3, float("inf"))
    with pytest.raises(UserError, match="the gradient is not finite at step 3 ") as caught:
        trainer.train(Tracker(None))
    assert "s2.loss_cls" in str(caught.value)
    assert all(value.isfinite().all() for value in trainer.raw_model.state_dict().values() if value.is_floating_point())
    (file,) = (tmp_path / "replay").glob("*.pt")
    done = command("htc.replay", str(file))
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == "all values are finite here: not reproduced", (
        "what spoilt the gradient in this test is not in the file"
    )


@pytest.mark.parametrize(
    ("precision", "device"),
    [(Precision.fp32, "cpu"), pytest.param(Precision.fp16, "cuda", marks=pytest.mark.gpu)],
)
def test_overflow_of_scaled_gradients_leaves_the_step_out_and_is_counted(
    tiny_shapes: DataConfig, tmp_path: Path, precision: Precision, device: str
) -> None:
    """fp16 needs a GPU; its scaler works on any device, and overflows fp32 as well where the scale is high enough."""
    config = training_config(tiny_shapes)
    config.precision = precision
    trainer = make_trainer(config, tmp_path, Processes(0, 1, torch.device(device)))
    trainer.scaler = torch.amp.GradScaler(device, init_scale=2.0**126, growth_interval=1000)
    updates: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: updates.append(trainer.step))
    trainer.train(Tracker(None))
    assert trainer.overflows > 0 and trainer.overflows + len(updates) == 6
    assert trainer.scaler.get_scale() == 2.0 ** (126 - trainer.overflows)
    assert RunFolder(tmp_path).read_metrics()[-1]["overflows"] == trainer.overflows
    assert all(value.isfinite().all() for value in trainer.raw_model.state_dict().values() if value.is_floating_point())


def test_overflow_that_no_scale_prevents_stops_the_run(tiny_shapes: DataConfig, tmp_path: Path) -> None:
    trainer = make_trainer(training_config(tiny_shapes), tmp_path)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    spoil_gradient(trainer, 1, float("inf"))
    with pytest.raises(UserError, match="the gradient is not finite at step 3 "):
        trainer.train(Tracker(None))
    assert trainer.overflows == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give one file of a run's replay folder"),
        (["nowhere.pt"], "nowhere.pt is not a file"),
        (["pyproject.toml"], "pyproject.toml could not be read"),
        (["pyproject.toml", "devise=cpu"], "devise is not a key of this command; did you mean device"),
    ],
)
def test_what_is_no_replay_file_is_refused_in_a_sentence(arguments: list[str], sentence: str) -> None:
    done = command("htc.replay", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and sentence in done.stderr


def content() -> dict[str, Any]:
    """What a replay file of a tiny run holds."""
    config = tiny_config(interleaved=True, mask_flow=True, semantic=True)
    batch = zip(*tiny_batch(), strict=True)
    samples = [Sample(image, i, (64, 96), targets) for i, (image, targets) in enumerate(batch)]
    return {
        "replay": 1,
        "config": to_plain(config),
        "categories": {"ids": [1, 3, 4], "names": ["one", "three", "four"]},
        "model": tiny_detector(config).state_dict(),
        "step": 6,
        "loss_scale": 1.0,
        "passes": [[_to_plain(sample)] for sample in samples],
    }


SOUND = content()


def refusal(state: Any, path: Path, *overrides: str) -> str | None:
    """The sentence with which a file of this content is refused; None where its step is done again."""
    torch.save(state, path)
    try:
        replay(ReplayFile.read(path), list(overrides), str(path))
    except UserError as error:
        return error.sentence
    except OmegaConfBaseException as error:
        return explain(error, [])
    return None


def test_sound_file_is_replayed(tmp_path: Path) -> None:
    assert refusal(SOUND, tmp_path / "sound.pt") is None


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"replay": 1}, "is damaged: its `config` is not what a run writes"),
        ({"replay": torch.ones(2)}, "is not a replay file"),
        ({**SOUND, "passes": [[{}]]}, "its `passes` is not"),
        ({**SOUND, "categories": {"ids": [1], "names": []}}, "its `categories` is not"),
        ({**SOUND, "categories": {"ids": [1], "names": ["one"]}}, "does not fit the model"),
    ],
)
def test_content_that_no_run_writes_is_named(tmp_path: Path, state: Any, sentence: str) -> None:
    assert sentence in str(refusal(state, tmp_path / "wrong.pt"))


@pytest.mark.parametrize(("entry", "value"), [("labels", 3), ("labels", -1), ("semantic", 200)])
def test_class_that_the_model_does_not_know_is_refused(tmp_path: Path, entry: str, value: int) -> None:
    state = copy.deepcopy(SOUND)
    state["passes"][0][0]["targets"][entry].flatten()[0] = value
    assert "classes that its model does not have" in str(refusal(state, tmp_path / "wrong.pt"))


def test_override_that_changes_the_model_is_refused(tmp_path: Path) -> None:
    per_stage = [f"model.{key}=null" for key in ("stage_loss_weights", "stage_ious", "stage_stds")]
    sentence = refusal(SOUND, tmp_path / "sound.pt", "model.num_stages=2", *per_stage)
    assert "sound.pt does not fit the model: " in str(sentence)
    assert "leave out overrides that change the model" in str(sentence)


@fuzz(40)
@given(
    place=st.sampled_from(["file", "sample", "config"]),
    path=st.lists(st.integers(0, 400), min_size=1, max_size=3),
    value=ANYTHING,
)
def test_any_content_is_replayed_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, place: str, path: list[int], value: Any
) -> None:
    state = copy.deepcopy(SOUND)
    damage({"file": state, "sample": state["passes"][0][0], "config": state["config"]}[place], path, value)
    sentence = refusal(state, tmp_path_factory.mktemp("fuzz") / "any.pt")
    assert sentence is None or is_sentence(sentence)
