"""Chromium for tests of pages: headless, without a network, with what its console says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

PROGRAMS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "chromedriver": ("chromedriver",)}


def find_program(name: str) -> str | None:
    """Return the path of a program of PROGRAMS; None where it is missing."""
    return next((path for each in PROGRAMS[name] if (path := shutil.which(each))), None)


def missing_programs() -> list[str]:
    """Return the programs that are missing here."""
    return [name for name in PROGRAMS if find_program(name) is None]


@contextmanager
def running_browser(width: int = 1400, height: int = 1000) -> Iterator[Chrome]:
    """Yield a headless Chromium without a network, which collects what pages write to the console.

    Args:
        width: of the window in pixels.
        height: of the window in pixels.
    """
    options = ChromeOptions()
    options.binary_location = find_program("chromium") or ""
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
        "--proxy-server=127.0.0.1:9", f"--window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(find_program("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def emulate(browser: Chrome, *, dark: bool = False, width: int = 0, height: int = 0, mobile: bool = False) -> None:
    """Set the color scheme, and the size of the screen where a width is given."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    if width:
        metrics: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def screenshot(browser: Chrome, path: Path) -> None:
    """Write a picture of the whole page."""
    import base64

    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(shot["data"]))


def console(browser: Chrome) -> list[str]:
    """Return what was written to the console since the last call."""
    return [entry["message"] for entry in browser.get_log("browser")]
