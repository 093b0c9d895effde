"""A real browser for the tests of pages: headless Chromium, and a check of a page's accessibility with axe."""

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
    """A driver of headless Chromium without background downloads; skips the test if selenium is missing."""
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
    """The serious and critical accessibility violations that axe finds on the open page; skips the test without axe.

    Each violation is the id of the violated rule, with the HTML of up to three elements that violate the rule.
    """
    if (found := importlib.util.find_spec("axe_core_python")) is None:
        pytest.skip("needs axe-core-python")
    browser.execute_script(Path(str(found.origin)).with_name("axe.min.js").read_text(encoding="utf-8"))
    result = browser.execute_async_script(
        "axe.run(document, { resultTypes: ['violations'] }).then(arguments[arguments.length - 1])"
    )
    serious = [one for one in result["violations"] if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in serious]
