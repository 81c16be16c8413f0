"""One comparison per file of the reference's outputs, and a table of the largest deviations at the end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.deviations import PROPERTY, table
from tests.parity.reference import FOLDER, Comparison, is_big, variant_files


def parameters() -> list[object]:
    """Return one parameter per file; those with large networks are slow. Without files, the tests are skipped."""
    files = [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if is_big(path) else []) for path in variant_files()
    ]
    missing = pytest.mark.skip(reason=f"no outputs of the reference in {FOLDER}; HTC_GOLDEN_DIR names the folder")
    return [*files] or [pytest.param(FOLDER, marks=missing)]


@pytest.fixture(scope="module", params=parameters())
def comparison(request: pytest.FixtureRequest) -> Iterator[Comparison]:
    path: Path = request.param
    yield Comparison.load(path)
    # A network takes hundreds of megabytes, and reference cycles keep it in memory until the collector runs.
    gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    records = [value for report in reports for name, value in report.user_properties if name == PROPERTY]
    if records:
        terminalreporter.section("largest deviation from the reference, relative to the largest value")
        terminalreporter.write_line(table(records))
