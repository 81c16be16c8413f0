"""The page in a real browser: light, dark, phone and print; sorting, keyboard, dialogs; many cells; hostile names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from analysis.report.contents import (
    Cell,
    Column,
    Figure,
    Origin,
    Overlay,
    Picture,
    Report,
    ReportTable,
    RunOrigin,
    Shape,
    TableRow,
)
from analysis.report.page import write_report
from tests.helpers.browser import console, emulate, missing_programs, running_browser

HOSTILE = [
    "<script>window.attacked = 1</script>", "</script><script>window.attacked = 1</script>", "<!--", "]]>",
    "<img src=x onerror='window.attacked = 1'>", "\" onfocus=\"window.attacked = 1\" autofocus=\"", "{{ 7 * 7 }}",
    "javascript:window.attacked=1", "\u202egnp.exe", "a\x00b\x1b[31m", "\ud800", "=HYPERLINK(\"http://x\")", "`code`",
]  # fmt: skip
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
VALUES = [10.5, 9.25, None, -3.0, 100.0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    if missing := missing_programs():
        absent = f"no browser here ({', '.join(missing)} missing)"
        if os.environ.get("HTC_REQUIRE_CHROMIUM"):
            pytest.fail(absent)
        pytest.skip(absent)
    with running_browser() as started:
        yield started


def small_report(label: str = "row {}", values: list[float | None] = VALUES) -> Report:
    """Return a report with every kind of section."""
    columns = [Column("label", "row", False), Column("mask_AP", "mask AP", True, "COCO's mask AP."), Column("n", "n")]
    rows = []
    for index, value in enumerate(values):
        name, text = label.format(index), "—" if value is None else f"{value:.1f}"
        cells = [Cell(name, name), Cell(text, value), Cell("1", 1)]
        rows.append(TableRow(cells, None if value is None else index))
    table = ReportTable("rows", "Sweep", columns, rows, ["A note."], ["`run` is missing: `python -m htc.run seed=9`."])
    run_columns = [Column("run", "run", False), Column("mask_AP", "mask AP")]
    runs = [TableRow([Cell(f"run-{index}", f"run-{index}"), Cell("1.0", 1.0)], index) for index in range(len(values))]
    settings = ReportTable(
        "settings", "Settings", [Column("a", "setting", False), Column("b", "row 0", False)],
        [TableRow([Cell("model.mask_flow", "model.mask_flow"), Cell("true", "true")])],
    )  # fmt: skip
    shape = Shape("M10,10 L60,10 L60,60 Z", "disc", 0.9, 3, (10.0, 20.0))
    svg = '<svg viewBox="0 0 10 10"><path d="M0,0 L10,10" stroke="currentColor"/></svg>'
    origins = []
    for index, value in enumerate(values):
        facts = {"command": f"python -m htc.run seed={index}", "trained by code": "0123456"}
        origins.append(Origin(label.format(index), [RunOrigin(f"run-{index}", 0, facts, {"mask_AP": value or 0.0})]))
    return Report(
        title="Sweep",
        summary=["Two rows."],
        tables=[table, ReportTable("runs", "Runs", run_columns, runs)],
        figures=[Figure("Curves", svg, "Over steps.")],
        variants=["ground truth", "row 0", "row 1"],
        pictures=[
            Picture("image 1", PIXEL, 100, 80, [Overlay(variant, [shape] * (variant + 1)) for variant in range(3)])
        ],
        pictures_note="Eight images.",
        settings=settings,
        origins=origins,
        remarks=["Skipped a run."],
        facts={"made": "now"},
    )


@pytest.fixture
def page(tmp_path: Path) -> Path:
    write_report(small_report(), tmp_path / "page.html")
    return tmp_path / "page.html"


def first_column(browser: Chrome, table: str = "rows") -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(`[data-name=${arguments[0]}] tbody tr`)]"
        ".map(row => row.cells[1].textContent)",
        table,
    )


def header(browser: Chrome, text: str) -> WebElement:
    buttons = browser.find_elements(By.CSS_SELECTOR, "table[data-name=rows] thead button")
    return next(each for each in buttons if each.text == text)


def press(browser: Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def active(browser: Chrome) -> dict[str, Any]:
    return browser.execute_script(
        "const e = document.activeElement;"
        "return {tag: e.tagName, text: e.textContent.trim(), id: e.id, cell: e.cellIndex}"
    )


@pytest.mark.parametrize("look", [{}, {"dark": True}, {"width": 390, "height": 844, "mobile": True}])
def test_page_loads_in_every_look_without_a_message_and_fits_the_screen(
    browser: Chrome, page: Path, look: dict[str, Any]
) -> None:
    emulate(browser, **{"width": 1400, "height": 1000, **look})
    browser.get(page.as_uri())
    assert console(browser) == []
    scroll, width, background, color = browser.execute_script(
        "const s = getComputedStyle(document.body);"
        "return [document.documentElement.scrollWidth, innerWidth, s.backgroundColor, s.color]"
    )
    assert scroll <= width, "the page itself does not scroll sideways"
    assert (background, color) == (
        ("rgb(23, 23, 26)", "rgb(233, 233, 238)") if look.get("dark") else ("rgb(255, 255, 255)", "rgb(28, 28, 30)")
    )
    assert (
        browser.execute_script(
            "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
        )
        == []
    )


def test_print_hides_controls_and_shows_whole_tables(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden, overflow, color = browser.execute_script(
        "const style = (selector) => getComputedStyle(document.querySelector(selector));"
        "return [style('nav').display, style('.scroll').overflow, style('body').color]"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (hidden, overflow, color) == ("none", "visible", "rgb(0, 0, 0)")


def test_headers_sort_numbers_with_missing_ones_last_and_say_so(browser: Chrome, page: Path) -> None:
    emulate(browser, width=1400, height=1000)
    browser.get(page.as_uri())
    button = header(browser, "mask AP")
    states = []
    for _ in range(3):
        button.click()
        states.append((button.find_element(By.XPATH, "..").get_attribute("aria-sort"), first_column(browser)))
    assert states == [
        ("descending", ["100.0", "10.5", "9.2", "-3.0", "—"]),
        ("ascending", ["-3.0", "9.2", "10.5", "100.0", "—"]),
        ("none", ["10.5", "9.2", "—", "-3.0", "100.0"]),
    ]
    header(browser, "row").click()
    header(browser, "row").click()
    sorts = [
        each.get_attribute("aria-sort") for each in browser.find_elements(By.CSS_SELECTOR, "[data-name=rows] thead th")
    ]
    assert sorts == ["descending", "none", "none"]
    assert (
        browser.find_element(By.ID, "announcement").get_attribute("textContent")
        == "The table is sorted by row, descending."
    )


def test_keyboard_alone_reaches_headers_and_one_cell_and_opens_its_origin(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    stops = []
    for _ in range(40):
        press(browser, Keys.TAB)
        stops.append(active(browser))
        if stops[-1]["tag"] in ("TD", "TH"):
            break
    assert [each["text"] for each in stops if each["tag"] == "BUTTON"] == ["row", "mask AP", "n"]
    assert stops[-1] == {"tag": "TH", "text": "row 0", "id": "", "cell": 0}
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert active(browser)["text"] == "9.2"
    # The row without runs is passed over; at the end, nothing moves.
    press(browser, Keys.ARROW_DOWN, Keys.END, Keys.ARROW_RIGHT, Keys.HOME)
    assert active(browser)["text"] == "row 3"
    press(browser, Keys.ARROW_RIGHT, Keys.ENTER)
    dialog = browser.find_element(By.ID, "origin")
    assert dialog.is_displayed() and dialog.find_element(By.TAG_NAME, "h2").text == "row 3: mask AP"
    for words in ("run-3 (seed 0)", "python -m htc.run seed=3", "0123456", "-3.0000", "COCO's mask AP."):
        assert words in dialog.text
    press(browser, Keys.ESCAPE)
    assert not dialog.is_displayed() and active(browser)["text"] == "-3.0"
    press(browser, Keys.TAB)
    assert active(browser)["tag"] not in ("TD", "TH"), "the table has one stop"


def test_a_click_opens_the_runs_of_the_sorted_row(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    header(browser, "mask AP").click()
    browser.find_element(By.CSS_SELECTOR, "table[data-name=rows] tbody tr td").click()
    dialog = browser.find_element(By.ID, "origin")
    assert "row 4: mask AP" in dialog.text and "run-4" in dialog.text and "run-0" not in dialog.text
    dialog.find_element(By.CSS_SELECTOR, "button").click()
    browser.find_element(By.CSS_SELECTOR, "table[data-name=runs] tbody tr td").click()
    assert "run-0 (seed 0)" in dialog.text


def test_predictions_switch_between_variants(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())

    def shown() -> list[int]:
        """Return the number of objects of each variant that is visible."""
        variants = browser.find_elements(By.CSS_SELECTOR, ".variant")
        visible = [each for each in variants if each.value_of_css_property("display") != "none"]
        return [len(each.find_elements(By.TAG_NAME, "path")) for each in visible]

    assert shown() == [2], "the first row is shown first"
    browser.find_element(By.CSS_SELECTOR, "label[for=variant-0]").click()
    assert shown() == [1]
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert shown() == [3]
    assert browser.find_element(By.CSS_SELECTOR, ".variant-2 text").is_displayed()
    browser.find_element(By.ID, "labels").click()
    assert not browser.find_element(By.CSS_SELECTOR, ".variant-2 text").is_displayed()


def test_works_without_script(browser: Chrome, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page.as_uri())
        assert "row 3" in browser.page_source and browser.find_element(By.CSS_SELECTOR, ".variant-1").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(browser: Chrome, tmp_path: Path, name: str) -> None:
    def hostile(cell: Cell) -> Cell:
        return Cell(name, name)

    report = small_report()
    report.title = name
    report.summary = report.remarks = [name]
    report.variants = [name] * 3
    report.facts = {name: name}
    columns = [Column("label", name, False, name), Column("mask_AP", name, True, name), Column("n", name)]
    rows = [TableRow([hostile(cell) for cell in row.cells], row.origin) for row in report.tables[0].rows]
    report.tables[0] = ReportTable("rows", name, columns, rows, [name], [name])
    shape = Shape("M0,0", name, 0.5, 0, (0.0, 0.0))
    report.pictures = [Picture(name, PIXEL, 10, 10, [Overlay(0, [shape])])]
    report.origins = [Origin(name, [RunOrigin(name, 0, {name: name, "command": name}, {})])] * len(rows)
    write_report(report, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    browser.find_element(By.CSS_SELECTOR, "table[data-name=rows] tbody tr td").click()
    assert browser.find_element(By.ID, "origin").is_displayed()
    attacked, scripts, images, handlers = browser.execute_script(
        "return [window.attacked ?? null, document.scripts.length, document.images.length,"
        " document.querySelectorAll('[onerror], [onfocus], [onload], [onclick]').length]"
    )
    assert (attacked, scripts, images, handlers) == (None, 2, 0, 0)
    assert console(browser) == []
    if name.isprintable():
        assert (
            browser.find_element(By.CSS_SELECTOR, "table[data-name=rows] tbody td").get_attribute("textContent") == name
        )


def test_policy_of_the_page_stops_a_script_that_gets_in(browser: Chrome, tmp_path: Path) -> None:
    report = small_report()
    report.figures = [Figure("x", "<script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>")]
    write_report(report, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.execute_script("return window.attacked ?? null") is None
    assert any("Content Security Policy" in message for message in console(browser))


def test_ten_thousand_cells_load_and_sort(browser: Chrome, tmp_path: Path) -> None:
    number = 1000
    columns = [Column("label", "row", False), *(Column(f"c{index}", f"c{index}") for index in range(9))]
    rows = []
    for index in range(number):
        value = index * 7919 % 1009
        rows.append(TableRow([Cell(f"row {index}", f"row {index}"), *[Cell(str(value), value)] * 9], 0))
    report = small_report()
    report.tables[0] = ReportTable("rows", "Sweep", columns, rows)
    write_report(report, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    header(browser, "c3").click()
    found = [int(text) for text in first_column(browser)]
    assert len(found) == number and found == sorted(found, reverse=True)
    assert console(browser) == []
