"""What a checkpoint carries of a training, so that a resumed run equals an uninterrupted one to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from htc.config.signature import to_plain
from htc.engine.rng import random_state, set_random_state
from htc.errors import UserError

if TYPE_CHECKING:
    from htc.engine.trainer import Trainer


def own_state(trainer: Trainer) -> dict[str, Any]:
    """What each process has of its own: its random states, and its losses since the last line of metrics.jsonl."""
    return {"random": random_state(trainer.device), "losses": trainer.losses.state()}


def snapshot(trainer: Trainer, own_states: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that training goes on from. The sampler has no state but its place, which `step` gives."""
    average = trainer.average
    return {
        "model": trainer.raw_model.state_dict(),
        "ema": None if average is None else average.module.state_dict(),
        "ema_updates": 0 if average is None else int(average.n_averaged),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "overflows": trainer.overflows,
        "step": trainer.step,
        "training_seconds": trainer.training_seconds,
        "processes": own_states,
        "metrics_length": trainer.folder.metrics_length(),
        "config": to_plain(trainer.config),
        "categories": categories(trainer),
    }


def categories(trainer: Trainer) -> dict[str, Any]:
    """Ids and names of the data set's categories, by class index."""
    return {"ids": trainer.dataset.category_ids, "names": trainer.dataset.category_names}


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Take up a snapshot, except for the random states: see `restore_randomness`.

    Raises UserError where the data set's categories are others by now: the network's classes would mean other things.
    """
    if state["categories"] != categories(trainer):
        raise UserError(
            f"{trainer.dataset.annotation_file} has other categories than those that the run in "
            f"{trainer.folder.path} was trained on so far: restore the file, or move that folder away to start anew."
        )
    trainer.raw_model.load_state_dict(state["model"])
    if trainer.average is not None:
        trainer.average.module.load_state_dict(state["ema"])
        trainer.average.n_averaged.fill_(state["ema_updates"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.overflows = state["overflows"]
    trainer.step = state["step"]
    trainer.training_seconds = state["training_seconds"]
    # Resumed with another number of processes, averages since the last line are the main process's.
    trainer.losses.load(_own(trainer, state)["losses"])


def restore_randomness(trainer: Trainer, state: dict[str, Any]) -> None:
    """Take up the random states of a snapshot; to be done last, since building a loader draws from them."""
    set_random_state(_own(trainer, state)["random"], trainer.device)


def _own(trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
    states: list[dict[str, Any]] = state["processes"]
    return states[trainer.processes.rank if trainer.processes.rank < len(states) else 0]
