"""Search over settings by optuna: trials are ordinary runs of a sweep, started by either launcher.

The study is a journal in the sweep's folder. A search that was interrupted goes on with the same command: trials whose
runs are under way are waited for, and those whose runs have stopped are resumed.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.config.schema import Affects
from htc.config.signature import affected
from htc.errors import UserError
from htc.launch.plan import RequestedRun
from htc.launch.search_space import SearchSpace
from htc.launch.status.states import RunState, run_states
from htc.launch.submit import launch
from htc.runs.file_lock import FileLock
from htc.runs.files import write_json
from htc.runs.folder import RunFolder
from htc.runs.json_values import mapping, number
from htc.runs.pool import LOCKS_FOLDER, SEARCH_FILE, UNNAMED, SelectedRun, read_rows, sweep_folder

if TYPE_CHECKING:
    import optuna

POLL_SECONDS = 3.0
SAMPLERS = ("tpe", "random")
SECTIONS = {"segm": "mask AP", "bbox": "box AP"}
PARALLEL_ON_SLURM = 4
"""Trials at a time on a cluster: a search with many at a time is a random one."""
MIN_TRIALS_OF_IMPORTANCE = 4


@dataclass(frozen=True)
class SearchOptions:
    """Options of the search, with the keys of conf/hydra/sweeper/optuna.yaml."""

    n_trials: int = 20
    n_jobs: int | None = None
    objective: str = "segm"
    sampler: str = "tpe"
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("n_trials", "n_jobs", "seed"):
            value, low = getattr(self, key), 0 if key == "seed" else 1
            if (value is None and key == "n_jobs") or (type(value) is int and value >= low):
                continue
            raise UserError(f"sweeper.{key}={value} must be a whole number, {low} or more.")
        if self.objective.split(".")[0] not in SECTIONS:
            raise UserError(
                f"sweeper.objective={self.objective} is not a result: use segm (mask AP), bbox (box AP), or another "
                "metric of these, such as segm.AP75."
            )
        if self.sampler not in SAMPLERS:
            raise UserError(f"sweeper.sampler={self.sampler} is not one of {', '.join(SAMPLERS)}.")

    @property
    def words(self) -> str:
        """The objective in words, such as `mask AP`."""
        section, _, metric = self.objective.partition(".")
        return SECTIONS[section] if metric in ("", "AP") else f"{SECTIONS[section].split()[0]} {metric}"

    def text(self, value: float) -> str:
        """Return a value of the objective in percent, such as `mask AP 38.41`."""
        return f"{self.words} {100 * value:.2f}"

    def value(self, results: Mapping[str, Any]) -> float | None:
        """Return the objective of a run's results; None where they do not have it."""
        section, _, metric = self.objective.partition(".")
        found = number(mapping(results.get(section)).get(metric or "AP"))
        return None if found is None or not math.isfinite(found) else float(found)


@dataclass
class Search:
    """A search in progress."""

    space: SearchSpace
    options: SearchOptions
    request: Callable[[list[str], str], RequestedRun]
    """Function that composes the run of overrides, with the label of its row."""
    launcher: str
    launcher_options: Mapping[str, Any]
    open: dict[int, tuple[optuna.Trial, SelectedRun]] = field(default_factory=dict)
    """Trials whose runs have been started, by number."""

    def run(self) -> None:
        """Start trials until there are as many as asked for, and tell the study their results.

        Raises UserError where optuna is not installed, a run cannot be started, or another process works on the search.
        """
        first = self._sample_request()
        self.pool, self.sweep = first.pool, first.sweep
        if self.sweep == UNNAMED:
            raise UserError("a search is kept under the name of its sweep: give it one, as in sweep=SEARCH.")
        lock = FileLock(self.pool / LOCKS_FOLDER / f"{self.sweep}.search.lock")
        if not lock.acquire():
            raise UserError(f"another process works on the search sweep={self.sweep}: wait until it ends.")
        try:
            self.study = self._open_study()
            self._run()
        finally:
            lock.release()

    def describe(self) -> str:
        """Return what the search would do, without starting anything."""
        first = self._sample_request()
        lines = [f"{key}: {text}" for key, text in self.space.texts.items()]
        done = len(mapping_list(read_search(sweep_folder(first.pool, first.sweep))))
        lines.append(f"All with: {' '.join(self.space.fixed)}")
        lines.append(
            f"{self.options.n_trials} trials for the best {self.options.words}, {done} of them done. Nothing was "
            "started."
        )
        return "\n".join(lines)

    def _sample_request(self) -> RequestedRun:
        """Return the request of some trial, which shows whether all settings can be composed."""
        return self.request(self.space.overrides(self.space.any_values()), "trial 0")

    def _open_study(self) -> optuna.Study:
        optuna = import_optuna()
        folder = sweep_folder(self.pool, self.sweep)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "search.journal").exists() and read_rows(self.pool, self.sweep):
            raise UserError(f"sweep={self.sweep} is a sweep of other runs already: give the search another name.")
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / "search.journal"))
        )
        study = optuna.create_study(study_name=self.sweep, storage=storage, direction="maximize", load_if_exists=True)
        # After an interruption, the sampler must not draw the same values again.
        seed = self.options.seed + len(study.get_trials(deepcopy=False))
        study.sampler = (
            optuna.samplers.TPESampler(seed=seed)
            if self.options.sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        self._check_settings(study)
        return study

    def _check_settings(self, study: optuna.Study) -> None:
        """Raise UserError where the trials of the study are of other settings, so that they cannot be compared."""
        choices = {key: sorted(values) for key, values in self.space.choices().items()}
        settings = {
            "sweeper.objective": [self.options.objective],
            "what is the same in all trials": trained_settings(self.space.fixed),
            "what varies": sorted(self.space.distributions),
            **{f"the choices of {key}": values for key, values in choices.items()},
        }
        before = study.user_attrs.get("settings")
        if before is None:
            study.set_user_attr("settings", settings)
            return
        for key in {**before, **settings}:
            new, old = set(settings.get(key, [])), set(before.get(key, []))
            if new != old:
                changes = [
                    *(f"new: {each}" for each in sorted(new - old)),
                    *(f"before: {each}" for each in sorted(old - new)),
                ]
                raise UserError(
                    f"the search sweep={self.sweep} began with other settings ({key}: {', '.join(changes)}), and its "
                    "trials cannot be compared with new ones: give this search another name, as in sweep=SEARCH2."
                )

    def _run(self) -> None:
        self._take_up()
        while True:
            self._start_trials()
            if not self.open:
                break
            self._tell_ended()
        self._report()

    def _take_up(self) -> None:
        """Go on with the trials that an earlier process has started."""
        optuna = import_optuna()
        requests = []
        for frozen in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            trial = optuna.Trial(self.study, frozen._trial_id)
            if set(frozen.params) != set(self.space.distributions):
                # The process ended while it chose the values.
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            requests.append((trial, self.request(self.space.overrides(frozen.params), label_of(frozen.number))))
        self._launch(requests)

    def _start_trials(self) -> None:
        parallel = self.options.n_jobs or self._usual_parallel()
        left = self.options.n_trials - len(self.study.get_trials(deepcopy=False))
        requests = []
        for _ in range(min(parallel - len(self.open), left)):
            trial = self.study.ask(self.space.distributions)
            requests.append((trial, self.request(self.space.overrides(trial.params), label_of(trial.number))))
        self._launch(requests)

    def _usual_parallel(self) -> int:
        return PARALLEL_ON_SLURM if self.launcher == "slurm" else int(self.launcher_options.get("jobs") or 1)

    def _launch(self, requests: Sequence[tuple[optuna.Trial, RequestedRun]]) -> None:
        """Start the runs of trials; with the local launcher, wait until they have ended."""
        if not requests:
            return
        chosen = [request for _, request in requests]
        launch(chosen, self.launcher, {**self.launcher_options, "wait": self.launcher == "local"})
        rows = {row.label: row for row in read_rows(self.pool, self.sweep)}
        for trial, _ in requests:
            row = rows[label_of(trial.number)]
            trial.set_user_attr("run", row.run)
            self.open[trial.number] = trial, row

    def _tell_ended(self) -> None:
        """Wait until a trial has ended, and tell the study."""
        optuna = import_optuna()
        while True:
            states, _ = run_states(self.pool, [row for _, row in self.open.values()])
            ended = [(index, state) for index, state in zip(self.open, states, strict=True) if not state.is_live]
            if ended:
                break
            time.sleep(POLL_SECONDS)
        for index, state in ended:
            trial, row = self.open.pop(index)
            value = self._result(state, row)
            words = self.options.text(value) if value is not None else state.state
            if value is not None:
                self.study.tell(trial, value)
            else:
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            print(f"trial {index}: {words} ({row.run})", file=sys.stderr, flush=True)
        self._write()

    def _result(self, state: RunState, row: SelectedRun) -> float | None:
        if state.state != "done":
            return None
        return self.options.value(RunFolder(state.folder).read_results(row.evaluation))

    def _write(self) -> None:
        """Write search.json, which tables read."""
        trials = self.study.get_trials(deepcopy=False)
        write_json(
            sweep_folder(self.pool, self.sweep) / SEARCH_FILE,
            {
                "objective": self.options.objective,
                "words": self.options.words,
                "settings": list(self.space.distributions),
                "importances": importances(self.study, list(self.space.distributions)),
                "trials": [
                    {
                        "number": trial.number,
                        "state": trial.state.name.lower(),
                        "value": trial.value,
                        "params": trial.params,
                        "run": trial.user_attrs.get("run"),
                    }
                    for trial in trials
                    if trial.state.is_finished()
                ],
            },
        )

    def _report(self) -> None:
        self._write()
        complete = [trial for trial in self.study.get_trials(deepcopy=False) if trial.value is not None]
        if not complete:
            print(f"sweep={self.sweep}: no trial has a result.", file=sys.stderr)
            sys.exit(1)
        best = max(complete, key=lambda trial: trial.value or -math.inf)
        settings = " ".join(self.space.overrides(best.params)[len(self.space.fixed) :])
        print(f"best of {len(complete)} trials: {self.options.text(best.value or 0.0)}, trial {best.number}")
        print(f"  {settings}")
        print(f"  {self.pool / str(best.user_attrs.get('run'))}")
        if shares := importances(self.study, list(self.space.distributions)):
            print("importance: " + ", ".join(f"{key} {share:.2f}" for key, share in shares.items()))


def import_optuna() -> Any:
    """Return the module. Raises UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("optuna is not installed: pip install 'htc[search]', or pip install optuna.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def importances(study: optuna.Study, settings: Sequence[str]) -> dict[str, float]:
    """Return the share of each setting in what decides the best trials, largest first; empty for too few trials.

    The method is PED-ANOVA (Watanabe et al., IJCAI 2023), which needs no other package.
    """
    optuna = import_optuna()
    complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len(complete) < MIN_TRIALS_OF_IMPORTANCE or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(settings))
    return {key: float(share) for key, share in found.items()}


def read_search(folder: Path) -> dict[str, Any]:
    """Return the content of a sweep's search.json; an empty dict where there is none."""
    try:
        return mapping(json.loads((folder / SEARCH_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def mapping_list(search: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the trials in the content of search.json."""
    trials = search.get("trials")
    return [mapping(trial) for trial in trials] if isinstance(trials, list) else []


def trained_settings(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that can change a training or its evaluation, sorted."""
    keys = [(each.split("=", 1)[0].lstrip("+~"), each) for each in overrides]
    return sorted(each for key, each in keys if affected(key) is not Affects.nothing)


def label_of(number: int) -> str:
    """Return the label of a trial's row."""
    return f"trial {number}"
