"""The page in a real browser: filters, episodes, figures, keyboard, both themes; nothing on its console."""

import shutil
import time

import pytest

from experiments.report import write_report
from tests.experiments.test_evidence import stored  # noqa: F401

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]


@pytest.fixture(scope="module")
def page(stored, tmp_path_factory):  # noqa: F811
    """The report of the stored run."""
    folder = tmp_path_factory.mktemp("page") / "run"
    shutil.copytree(stored, folder)
    write_report(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "force-prefers-reduced-motion", "window-size=1500,1100"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(page.as_uri())
    wait(lambda: driver.find_element("tag name", "body").get_attribute("data-ready"))
    yield driver
    driver.quit()


def wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def choose(browser, name, text):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("name", name)).select_by_visible_text(text)


def click(browser, element):
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", element)
    element.click()


def items(browser):
    return browser.execute_script("return [...document.getElementsByClassName('item')].map((one) => one.textContent)")


def keys(browser, *pressed):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*pressed).perform()


def test_filtering_by_transition_and_reading_an_episode(browser):
    choose(browser, "transition", "i->c")
    choose(browser, "arm", "SCoRe")
    found = items(browser)
    assert found
    assert all(text.startswith("i->cSCoRe ") for text in found)
    click(browser, browser.find_elements("class name", "item")[0])
    attempts = browser.find_elements("class name", "attempt")
    assert "wrong" in attempts[0].get_attribute("class")
    assert "right" in attempts[1].get_attribute("class")
    assert browser.find_elements("css selector", "#detail del")
    assert browser.find_elements("css selector", "#detail ins")
    # The two attempts can be read back from the marks: nothing is lost in the difference.
    link = browser.find_element("css selector", "#detail a")
    assert "rows.jsonl, line " in link.text
    choose(browser, "transition", "any")
    choose(browser, "arm", "any")


def test_the_difference_keeps_both_texts(browser):
    rebuild = """
        const cases = [["the cat sat", "the dog sat down"], ["", "new"], ["same", "same"]];
        return cases.every(([a, b]) => {
            const diff = wordDiff(a, b);
            const join = (drop) => diff.map(([kind, text]) => kind === drop ? "" : text).join("");
            return join("+") === a && join("-") === b;
        });"""
    assert browser.execute_script(rebuild)
    assert browser.execute_script('return wordDiff("the cat sat", "the dog sat")') == [
        [" ", "the "],
        ["-", "cat"],
        ["+", "dog"],
        [" ", " sat"],
    ]


def test_training_episodes_show_tokens_mask_and_advantages(browser):
    choose(browser, "mode", "training")
    choose(browser, "arm", "SCoRe")
    for item in range(len(browser.find_elements("class name", "item"))):
        click(browser, browser.find_elements("class name", "item")[item])
        if browser.find_elements("css selector", ".tokens [style*=rgba]"):
            break
    assert browser.find_elements("css selector", ".tokens .context"), "what was read is set apart"
    titles = [one.get_attribute("title") for one in browser.find_elements("css selector", ".tokens span:not(.context)")]
    assert any("advantage" in title and "log-prob" in title for title in titles)
    choose(browser, "mode", "any")
    choose(browser, "arm", "any")


def test_searching_finds_text_in_tasks_and_attempts(browser):
    box = browser.find_element("name", "text")
    box.send_keys("# ")
    wait(lambda: "of" in browser.find_element("id", "found").text and items(browser))
    time.sleep(0.3)
    n_found = int(browser.find_element("id", "found").text.split()[0].replace(",", ""))
    assert 0 < n_found < browser.execute_script("return state.all.length")
    box.clear()
    box.send_keys("nothing like this anywhere")
    wait(lambda: browser.find_element("id", "found").text.startswith("0 of"))
    assert not items(browser)
    box.clear()
    browser.execute_script("document.activeElement.blur(); byId('filters').reset(); refilter()")


def test_panels_fit_their_place(browser):
    """Wide and narrow: no plot is wider than its panel, no panel wider than the page."""
    for width in (1500, 420):
        browser.set_window_size(width, 1100)
        click(browser, browser.find_elements("css selector", "#figure-tabs button")[0])
        widths = browser.execute_script(
            "return [...document.querySelectorAll('#figure .panel')].map((one) => [one.querySelector('.main-svg')."
            "getBoundingClientRect().width, one.getBoundingClientRect().width, document.body.clientWidth])"
        )
        assert widths
        assert all(plot <= panel + 1 <= page + 2 for plot, panel, page in widths), widths
    browser.set_window_size(1500, 1100)


def test_every_figure_and_table_can_be_shown(browser):
    for kind, shown in (("figure", "svg"), ("table", "table")):
        for tab in browser.find_elements("css selector", f"#{kind}-tabs button"):
            click(browser, tab)
            is_absent = tab.get_attribute("class") == "absent"  # it says what is missing, and nothing is drawn
            assert bool(browser.find_elements("css selector", f"#{kind} {shown}")) != is_absent, tab.text
            assert tab.text in browser.find_element("css selector", f"#{kind} .caption").text
    text = browser.execute_script("return byId('figure').textContent")
    assert "NaN" not in text
    assert "undefined" not in text


def test_a_curve_is_hidden_by_its_legend(browser):
    click(browser, browser.find_elements("css selector", "#figure-tabs button")[0])
    before = len(browser.find_elements("css selector", "#figure .trace"))
    click(browser, browser.find_elements("css selector", "#legend button")[0])
    assert 0 < len(browser.find_elements("css selector", "#figure .trace")) < before
    click(browser, browser.find_elements("css selector", "#legend button")[0])


def test_the_keyboard_is_enough(browser):
    browser.find_element("tag name", "h1").click()
    keys(browser, "j", "j")
    assert browser.execute_script("return state.selected") == 1
    keys(browser, "k")
    assert browser.execute_script("return state.selected") == 0
    first = browser.find_element("css selector", "#figure-tabs [aria-selected=true]").text
    keys(browser, "]")
    assert browser.find_element("css selector", "#figure-tabs [aria-selected=true]").text != first
    keys(browser, "[", "/")
    assert browser.execute_script("return document.activeElement.name") == "text"
    browser.execute_script("document.activeElement.blur()")


def test_light_and_dark(browser):
    """The page and what plotly draws on it."""

    def colours():
        return browser.execute_script(
            "const plot = document.querySelector('#figure .main-svg'), text = document.querySelector('#figure text');"
            "const page = getComputedStyle(document.body).backgroundColor;"
            "return [page, plot.style.background, getComputedStyle(text).fill]"
        )

    before = colours()
    keys(browser, "t")
    assert all(one != other for one, other in zip(colours(), before, strict=True))
    keys(browser, "t")
    assert colours() == before


def test_fifty_thousand_episodes_are_fast(browser):
    """Filtering all of them twice takes less than a second, and the list holds a screenful of elements."""
    seconds = browser.execute_script(
        """
        const all = state.all; state.all = Array.from({ length: 50000 }, (_, i) => all[i % all.length]);
        const began = performance.now();
        byId("filters").elements.transition.value = "i->c"; refilter();
        byId("filters").elements.text.value = "7"; refilter();
        open(100);
        const took = (performance.now() - began) / 1000;
        byId("filters").reset(); refilter();
        const shown = document.getElementsByClassName("item").length;
        state.all = all; refilter();
        return [took, shown];"""
    )
    assert seconds[0] < 1.0
    assert seconds[1] < 120


def test_nothing_is_complained_about_and_nothing_is_fetched(browser, page):
    assert browser.get_log("browser") == []
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    text = page.read_text(encoding="utf-8")
    assert 'src="http' not in text
    assert "@import" not in text
