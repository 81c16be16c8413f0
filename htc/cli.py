"""What the commands share: bad input ends in one sentence and a non-zero exit, never in a trace.

Nothing heavy is imported here: `--help` reads this file.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from htc.config.finalize import finalize, schema_keys
from htc.config.schema import Config, register
from htc.errors import UserError, memory_exhausted

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "conf"
USER_ERROR = UserError.status


def run_command(main: Callable[[], Any]) -> None:
    """Run a command's `main`; a UserError, or a configuration that cannot be composed, is printed as one sentence."""
    # Makes Hydra hand its exceptions to us instead of printing them in its own words.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except UserError as error:
        fail(error.sentence, error.status)
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename} cannot be used ({error.strerror}): make it readable, or writable if it is an output.")
    except Exception as error:
        if exhausted := memory_exhausted(error):
            fail(exhausted.sentence, exhausted.status)
        if not while_composing(error):
            raise
        fail(explain(error, sys.argv[1:]))


def while_composing(error: Exception) -> bool:
    """Whether Hydra raised it over a configuration: `backbone=null`, for one, ends there in a plain ValueError."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename.endswith("config_loader_impl.py") for frame, _ in frames)


def log_to_console() -> None:
    """Show what a command has to say on standard error, one plain line each."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("htc.trained_model").setLevel(logging.INFO)


def fail(sentence: str, status: int = USER_ERROR) -> NoReturn:
    """Print the sentence to standard error and exit."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)


def explain(error: Exception, arguments: list[str]) -> str:
    """One sentence for what Hydra or OmegaConf refused, with the nearest valid key where a key is unknown."""
    return " ".join(_explanation(error, arguments).split())


def _explanation(error: Exception, arguments: list[str]) -> str:
    causes = [error]
    # Under a debugger or OC_CAUSE=1, OmegaConf makes errors causes of each other in a circle.
    while isinstance(cause := causes[-1].__cause__, Exception) and all(cause is not known for known in causes):
        causes.append(cause)
    message = " ".join(str(error).split())
    if bare := re.search(r"parsing override '([^']+)' missing EQUAL", message):
        return f"{bare[1]} is not of the form KEY=VALUE, as in {bare[1]}=VALUE."
    group = re.search(r"Could not find '([\w./]+)/([^/']+)'", message)
    if group:
        options = group_options(group[1])
        name = "+sweep" if group[1] == "sweeps" else group[1]
        return f"{name}={group[2]} is not one of {', '.join(options)}{nearest(group[2], options)}."
    valid = {*schema_keys(), *config_groups()}
    for key in override_keys(arguments):
        if key not in valid and not key.startswith("hydra"):
            return f"{key} is not a key of the configuration{nearest(key, valid)}; --cfg job shows all of them."
    for argument in arguments:
        key, _, value = argument.partition("=")
        options = group_options(key) if key in config_groups() else []
        if options and value not in options:
            return f"{argument} is not one of {', '.join(options)}{nearest(value, options)}."
    # The innermost that names a key: under a debugger OmegaConf adds causes of its own below it.
    for cause in reversed(causes):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            reason = str(cause.msg or cause).split("\n")[0].rstrip(".")
            # OmegaConf converts whole numbers, but not in lists of lists.
            if whole := re.match(r"Value (-?\d+) \(int\) is incompatible with type hint 'float'", reason):
                reason += f": write {whole[1]}.0"
            return f"{cause.full_key}: {reason}."
    return message.removesuffix(".") + "."


def nearest(word: str, options: set[str] | list[str]) -> str:
    """`; did you mean X` where one of the options is close, else nothing. A leaf name alone counts as close, too."""
    close = difflib.get_close_matches(word, sorted(options), 1, cutoff=0.6)
    if not close:
        leaf = word.rsplit(".", 1)[-1]
        leaves = {option.rsplit(".", 1)[-1]: option for option in sorted(options)}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, 1, cutoff=0.75)]
    return f"; did you mean {close[0]}" if close else ""


def config_groups() -> list[str]:
    return sorted(str(path.relative_to(CONFIG_FOLDER)) for path in CONFIG_FOLDER.rglob("*") if path.is_dir())


def group_options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))


def override_keys(arguments: list[str]) -> list[str]:
    """The keys of KEY=VALUE arguments, without Hydra's prefixes."""
    keys = [argument.split("=", 1)[0] for argument in arguments if "=" in argument and not argument.startswith("-")]
    return [key.lstrip("+~").split("@")[0] for key in keys]


def read_arguments(arguments: list[str], known: dict[str, str], usage: str) -> tuple[dict[str, str], list[str]]:
    """Split KEY=VALUE arguments into the command's own keys and overrides of the configuration.

    `known` maps each own key to its description; `--help` prints these and exits. Raises UserError for anything that
    is neither an own key nor a key of the configuration.
    """
    if {"-h", "--help"} & set(arguments):
        lines = [f"  {key:<12} {text}" for key, text in known.items()]
        print("\n".join([f"usage: {usage}", "", *lines, "", "and any key of the run's configuration, KEY=VALUE."]))
        sys.exit(0)
    own: dict[str, str] = {}
    overrides: list[str] = []
    valid = set(schema_keys())
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator:
            raise UserError(f"{argument} is not of the form KEY=VALUE; usage: {usage}.")
        if key in known:
            own[key] = value
        elif key in valid:
            overrides.append(argument)
        else:
            raise UserError(f"{key} is not a key of this command{nearest(key, {*valid, *known})}; usage: {usage}.")
    return own, overrides


def read_settings(arguments: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The KEY=VALUE arguments of a script that composes no configuration, over its defaults.

    Raises UserError for any other key.
    """
    settings = dict(defaults)
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in defaults:
            raise UserError(f"{argument} is not one of {', '.join(f'{key}=VALUE' for key in defaults)}.")
        settings[key] = value
    return settings


def read_flag(arguments: dict[str, str], key: str, default: bool) -> bool:
    """A command's own key that is true or false. Raises UserError for anything else."""
    value = arguments.get(key, str(default)).lower()
    if value not in ("true", "false"):
        raise UserError(f"{key}={arguments[key]} must be true or false.")
    return value == "true"


def composed_config(overrides: list[str]) -> Config:
    """The configuration that `python -m htc.run` would compose from these arguments.

    Raises UserError for values that are refused, and Hydra's errors for what cannot be composed.
    """
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return finalize(compose("config", overrides))


def eval_settings(name: str) -> Any:
    """What `eval=NAME` sets, below `eval`. Raises UserError where conf/eval has no such file."""
    path = CONFIG_FOLDER / "eval" / f"{name}.yaml"
    if not path.is_file():
        options = group_options("eval")
        raise UserError(f"eval={name} is not one of {', '.join(options)}{nearest(name, options)}.")
    return OmegaConf.load(path)


def recorded_config(recorded: Any, overrides: list[str]) -> Config:
    """The configuration that a run recorded, with KEY=VALUE overrides; `eval=NAME` takes a file of conf/eval.

    Raises UserError for values of a wrong type, for overrides that cannot be read, and for references in what was
    recorded: runs record plain values, and a file of somebody else's must not read this user's environment.
    """
    refuse_references(recorded)
    merged = OmegaConf.merge(OmegaConf.structured(Config), recorded)
    files = [{"eval": eval_settings(text[5:])} for text in overrides if text.startswith("eval=")]
    plain = [read_override(text) for text in overrides if not text.startswith("eval=")]
    return finalize(OmegaConf.merge(merged, *files, *plain))  # type: ignore[arg-type]


def refuse_references(recorded: Any) -> None:
    """Raise UserError where a key or value of a recorded configuration holds `${`."""
    try:
        found = next((text for text in texts(recorded) if "${" in text), None)
    except RecursionError:
        raise UserError("the recorded configuration is nested without end: it is damaged.") from None
    if found is not None:
        raise UserError(
            f"the recorded configuration holds {found!r}, but runs record values and no references: it was not written "
            "by a run, or was changed; replace the reference by its value."
        )


def texts(value: Any) -> Iterator[str]:
    """Every string in nested lists and dicts, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


def read_override(override: str) -> DictConfig:
    """The configuration of one KEY=VALUE. Raises UserError where the value is not valid YAML."""
    try:
        return OmegaConf.from_dotlist([override])
    except OmegaConfBaseException:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the reader of YAML makes of a value
        reason = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"{override} cannot be read ({reason}): close its brackets and quotes.") from None
