"""One sentence for whatever Hydra or OmegaConf refuses, with the nearest valid name."""

from __future__ import annotations

import re
import traceback

import yaml
from omegaconf.errors import OmegaConfBaseException

from htc.config.folders import CONFIG_FOLDER, SWEEPS_GROUP, config_groups, group_options
from htc.config.grammar import explain_grammar, is_grammar_error
from htc.config.schema import schema_keys
from htc.errors import nearest


def explain(error: Exception, arguments: list[str]) -> str:
    """Return one sentence that explains an error of Hydra or OmegaConf about these command-line arguments."""
    return " ".join(_explanation(error, arguments).split())


def hydra_options(kind: str) -> list[str]:
    """Return the options of all launchers, or of all sweepers: the keys of the files in conf/hydra."""
    files = sorted((CONFIG_FOLDER / "hydra" / kind).glob("*.yaml"))
    keys = dict.fromkeys(key for file in files for key in yaml.safe_load(file.read_text(encoding="utf-8")))
    return [key for key in keys if key not in ("_target_", "defaults")]


def raised_by_hydra(error: Exception) -> bool:
    """Return whether Hydra raised the error over the command line or a configuration.

    Some of these errors have no type of Hydra's: `backbone=null`, and `-m` together with `--cfg`, end in a plain
    ValueError.
    """
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(file.endswith("config_loader_impl.py") for file in files) or files[-1].endswith(
        ("hydra/_internal/utils.py", "hydra/main.py")
    )


def _explanation(error: Exception, arguments: list[str]) -> str:
    message = " ".join(str(error).split())
    if is_grammar_error(message) and (sentence := explain_grammar(message, arguments)):
        return sentence
    if row := re.search(r"Could not override 'hydra\.sweeper\.rows\.([^']+)'", message):
        return (
            f"{row[1]} is not the label of a row: rows=LABEL chooses rows, and +hydra.sweeper.rows.{row[1]}='...' adds "
            "one."
        )
    if group := re.search(r"Could not find '([\w./]+)/([^/']+)'", message):
        options = group_options(group[1])
        name = "+sweep" if group[1] == SWEEPS_GROUP else group[1]
        return f"{name}={group[2]} is not one of {', '.join(options)}{nearest(group[2], options)}."
    if no_key := next((argument for argument in arguments if argument.lstrip("+~").startswith("=")), None):
        return f"{no_key} has no key: write KEY=VALUE, as in seed=1."
    if several := re.search(r"Ambiguous value for argument '([^']+)'", message):
        key, _, value = several[1].partition("=")
        return (
            f"{several[1]} has several values: add -m for a run of each; a list is '{key}=[{value}]', and a text with "
            f"commas is '{key}=\"{value}\"'."
        )
    if found := re.search(r"Sweep parameters '([^']+)' requires --multirun", message):
        return f"{found[1]} has several values: add -m for a run of each, or hydra/sweeper=optuna to search among them."
    if option := re.search(r"Could not override 'hydra\.(launcher|sweeper)\.([^']+)'", message):
        known = hydra_options(option[1])
        return f"{option[1]}.{option[2]} is not an option of the {option[1]}{nearest(option[2], known)}."
    groups = config_groups()
    if twice := re.search(r"(\S+) appears more than once in the final defaults list", message):
        return f"{twice[1]} has a choice already: write {twice[1]}=NAME, without +."
    if package := next((argument for argument in arguments if "@" in argument.partition("=")[0]), None):
        plain = re.sub(r"@[^=]*", "", package.lstrip("+~"))
        return f"{package} cannot be used: a group has one place in the configuration; write {plain}."
    valid = {*schema_keys(), *groups}
    for key in _override_keys(arguments):
        if key not in valid and not key.startswith("hydra"):
            return f"{key} is not a key of the configuration{nearest(key, valid)}; --cfg job shows all of them."
    for argument in arguments:
        key, _, value = argument.partition("=")
        options = group_options(key) if key in groups else []
        wrong = [name for name in value.split(",") if name not in options]
        if options and wrong and not re.search(r"[(\[]", value):
            shown = f"{key}={wrong[0]}" if len(value) > len(wrong[0]) else argument
            return f"{shown} is not one of {', '.join(options)}{nearest(wrong[0], options)}."
    return _named_key(error) or message.removesuffix(".") + "."


def _named_key(error: Exception) -> str | None:
    """Return the key and the reason of the innermost error that names a key; None where no error does.

    Under a debugger or OC_CAUSE=1, OmegaConf adds causes of its own below it, and makes errors causes of each other in
    a circle.
    """
    causes = [error]
    while isinstance(cause := causes[-1].__cause__, Exception) and all(cause is not known for known in causes):
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            reason = str(cause.msg or cause).split("\n")[0].rstrip(".")
            # OmegaConf converts whole numbers to floats, but not in lists of lists.
            if integer := re.match(r"Value (-?\d+) \(int\) is incompatible with type hint 'float'", reason):
                reason += f": write {integer[1]}.0"
            return f"{cause.full_key}: {reason}."
    return None


def _override_keys(arguments: list[str]) -> list[str]:
    """Return the keys of KEY=VALUE arguments, without Hydra's prefixes."""
    keys = [argument.split("=", 1)[0] for argument in arguments if "=" in argument and not argument.startswith("-")]
    return [key.lstrip("+~").split("@")[0] for key in keys]
