"""The built documentation site has no dead link or picture, and its pages are accessible."""

import functools
import os
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import NEEDS_CHROMIUM, chromium, what_keeps_people_out
from tests.conftest import ROOT

pytestmark = pytest.mark.slow(60)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    return folder


class Page(HTMLParser):
    """The targets of a page's links and pictures, and the ids that links to this page may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links = set(), list[str]()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given.get("id"), given.get("name")}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]


def test_no_link_and_no_picture_is_dead(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 200
    dead = []
    for path, page in pages.items():
        for link in map(urlsplit, page.links):
            if link.scheme or link.netloc:
                continue
            place = Path(os.path.normpath(path.parent / unquote(link.path))) if link.path else path
            if link.path.startswith("/"):  # only the 404 page has such links, which begin at the root of the site
                place = site / link.path[1:]
            place = place / "index.html" if place.is_dir() else place
            is_there = not link.fragment or place not in pages or unquote(link.fragment) in pages[place].ids
            if not place.exists() or not is_there:
                dead.append((str(path.relative_to(site)), link.geturl()))
    assert not dead


def test_a_page_names_its_module_once(site):
    for page in (site / "reference").rglob("index.html"):
        text = page.read_text(encoding="utf-8")
        assert text.count("<h1") == text.count("doc-module-name") == 1, page


def test_a_name_in_a_table_breaks_where_its_parts_end(site):
    text = (site / "metrics" / "index.html").read_text(encoding="utf-8")
    assert "<code>critic/<wbr>explained_<wbr>variance</code>" in text


class Quiet(SimpleHTTPRequestHandler):
    """A request handler that logs nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(site):
    """The address of a local server of the site."""
    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = chromium(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


PAGES = (
    *("", "results/", "metrics/", "notebooks/read_a_comparison/"),
    *("reference/rl.config.algorithm/", "reference/rewards.math/", "reference/experiments.compare/"),
)


@NEEDS_CHROMIUM
@pytest.mark.parametrize("page", PAGES)
def test_nobody_is_kept_out(served, browser, page):
    """In a wide light and a narrow dark window, axe finds nothing serious and the page is no wider than the window.

    A violation would keep readers with a disability or a small screen from using the page.
    """
    for width, scheme in ((1280, "light"), (400, "dark")):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
        browser.get(f"{served}/{page}")
        browser.execute_script("localStorage.clear()")  # it holds the colour scheme of the previous page
        browser.refresh()
        shown = browser.execute_script("return document.body.dataset.mdColorScheme")
        assert shown == {"light": "default", "dark": "slate"}[scheme]
        assert what_keeps_people_out(browser) == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []
