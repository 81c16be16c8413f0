"""A report as one HTML file that needs neither network nor server."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from analysis.report.contents import Report
from htc.errors import UserError

FOLDER = Path(__file__).parent


def render(report: Report) -> str:
    """Return the page.

    Names and messages come from run folders that others may have written: all text is escaped, and the page's policy
    lets no other script run than its own.
    """
    # Imported here, because Jinja compiles templates with modules that tables do not need.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.jinja").render(
        report=report, style=Markup(style), script=Markup(script), script_hash=digest, Markup=Markup
    )


def write_report(report: Report, path: Path) -> None:
    """Write the page to a file. Raises UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names of files need not be valid text.
        path.write_text(render(report), encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"out={path} cannot be written ({error.strerror}): name another file, out=FILE.html."
        ) from error
