"""A real browser for the tests of pages: Chromium without a screen, and what keeps people out of a page."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDS_CHROMIUM = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)


def chromium(profile: Path) -> Any:
    """A driver of Chromium that fetches nothing of its own; skips where selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "force-prefers-reduced-motion", "window-size=1500,1100"),
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(300)
    return driver


def what_keeps_people_out(browser: Any) -> list[tuple[str, list[str]]]:
    """What axe calls serious on the page that is open, with some of its elements; skips where axe is missing."""
    if (found := importlib.util.find_spec("axe_core_python")) is None:
        pytest.skip("needs axe-core-python")
    browser.execute_script(Path(str(found.origin)).with_name("axe.min.js").read_text(encoding="utf-8"))
    result = browser.execute_async_script(
        "axe.run(document, { resultTypes: ['violations'] }).then(arguments[arguments.length - 1])"
    )
    serious = [one for one in result["violations"] if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in serious]
