"""The connection to wandb's server, with one sentence for each way in which it can fail; and the runs of a project."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from htc.errors import UserError
from htc.runs.json_values import mapping

if TYPE_CHECKING:
    import wandb

TIMEOUT = 20
"""Seconds that one request to the server may take; WANDB_HTTP_TIMEOUT replaces it."""
PAGE = 50
"""Runs per request."""


def read_project(project: str) -> list[tuple[str, str, str, dict[str, Any], dict[str, Any]]]:
    """Return place, id, state, configuration and summary of all runs of a project, oldest first.

    Args:
        project: `ENTITY/PROJECT`.

    Raises:
        UserError: where wandb is not installed, the user is not logged in, there is no such project, or the server does
            not answer in time.
    """
    given = f"from=wandb:{project}"
    check_project(project, given)
    with connection(given) as api:
        # Whole pages: by default, wandb asks for each run again when its configuration is read.
        runs = list(api.runs(project, per_page=PAGE, lazy=False))
        return [
            (f"wandb:{project}/{run.id}", run.id, str(run.state), dict(run.config), mapping(run.summary_metrics))
            for run in runs
        ]


def check_project(project: str, given: str) -> None:
    """Raise UserError for a project that is not of the form ENTITY/PROJECT; `given` is the argument that names it."""
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", project):
        raise UserError(f"{given} does not name a project: write ENTITY/PROJECT, as in lab/htc.")


@contextlib.contextmanager
def connection(given: str) -> Iterator[wandb.Api]:
    """Yield a connection to wandb's server, which never asks for a login.

    Args:
        given: the argument that names the project, for messages.

    Raises:
        UserError: for everything that fails in the block because of the server or the connection.
    """
    try:
        import wandb
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError
    except ImportError:
        raise UserError(f"{given} needs wandb, which is not installed: pip install wandb.") from None
    seconds = _timeout()
    wandb.setup(settings=wandb.Settings(mode="online", silent=True, quiet=True))
    try:
        if not wandb.login(prompt=False, verify=False):
            raise UserError(f"{given}: you are not logged in at wandb: run `wandb login`, or set WANDB_API_KEY.")
        yield wandb.Api(timeout=seconds)
    except (OSError, ValueError, wandb.errors.Error, WandbApiFailedError) as error:
        if (explained := _explained(error, given, seconds)) is None:
            raise
        raise explained from error
    finally:
        wandb.teardown()


def _timeout() -> int:
    given = os.environ.get("WANDB_HTTP_TIMEOUT", "")
    return int(given) if given.isdecimal() and int(given) > 0 else TIMEOUT


def _explained(error: Exception, given: str, seconds: int) -> UserError | None:
    """Return the sentence for an error of wandb's SDK; None for a bug, or a file's error."""
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines()
    words = lines[0] if lines else type(error).__name__
    failed = next((each for each in chain if isinstance(each, WandbApiFailedError)), None)
    status = 0 if failed is None or failed.response is None else failed.response.http_status
    if status == HTTPStatus.NOT_FOUND or "could not find project" in words.lower() or "not found" in words.lower():
        return UserError(f"{given}: wandb has no such project, or does not show it to you; check its name and entity.")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or "invalid credentials" in words.lower():
        return UserError(f"{given}: wandb refuses your key: run `wandb login --relogin`, or check WANDB_API_KEY.")
    timed_out = isinstance(error, TimeoutError) or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT)
    if timed_out or (failed is not None and not status):
        return UserError(
            f"{given}: wandb's server does not answer within {seconds} s: check the network and WANDB_BASE_URL, or set "
            "a longer WANDB_HTTP_TIMEOUT."
        )
    if isinstance(error, ValueError) or (isinstance(error, OSError) and error.filename is not None):
        return None
    return UserError(f"{given}: wandb cannot be used ({words}).")
