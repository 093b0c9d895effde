"""The report page works in a real browser: first screen, links, filters, episodes, figures, keyboard and themes."""

import shutil
import time

import pytest

from experiments.evidence import build
from experiments.evidence import page as pages
from experiments.evidence.episodes import Packed
from experiments.evidence.latex import tex
from experiments.evidence.model import Figure, Mark, Panel, Series, Table
from experiments.evidence.page import page as page_of
from experiments.evidence.store import Store
from experiments.report import write_exhibits
from tests.browser import NEEDS_CHROMIUM, chromium, what_keeps_people_out
from tests.experiments.test_evidence import stored  # noqa: F401

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]


@pytest.fixture(scope="module")
def page(stored, tmp_path_factory):  # noqa: F811
    """The report page of the stored run, with the episodes' texts in files beside it."""
    folder = tmp_path_factory.mktemp("page") / "run"
    shutil.copytree(stored, folder)
    store = Store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "INLINE_BYTES", 0)  # as for a large report, no text is in the page
        page_of(store, build(store), 50_000).write(folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    driver = chromium(tmp_path_factory.mktemp("profile"))
    driver.get(page.as_uri())
    wait(lambda: driver.find_element("tag name", "body").get_attribute("data-ready"))
    yield driver
    driver.quit()


def wait(condition, seconds=300):
    """Waits until ``condition()`` is true and returns its value; the limit is generous for busy machines."""
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
    wait(lambda: browser.find_elements("css selector", "#detail .attempt"))
    attempts = browser.find_elements("class name", "attempt")
    assert "wrong" in attempts[0].get_attribute("class")
    assert "right" in attempts[1].get_attribute("class")
    assert browser.find_elements("css selector", "#detail del")
    assert browser.find_elements("css selector", "#detail ins")
    # The episode names the file and line that it was read from.
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
        wait(lambda: browser.find_elements("css selector", "#detail .tokens"))
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
    n_all = browser.execute_script("return state.n")
    n_found = wait(lambda: browser.execute_script(f"return state.found.length < {n_all} && state.found.length"))
    assert 0 < n_found < n_all
    box.clear()
    box.send_keys("nothing like this anywhere")
    wait(lambda: browser.find_element("id", "found").text.startswith("0 of"))
    assert not items(browser)
    box.clear()
    browser.execute_script("document.activeElement.blur(); byId('filters').reset(); refilter()")


def test_panels_fit_their_place(browser):
    """On wide and narrow screens, no plot is wider than its panel and no panel wider than the page."""
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
            assert browser.find_elements("css selector", f"#{kind} {shown}"), tab.text
            assert tab.text in browser.find_element("css selector", f"#{kind} .caption").text
    folded = browser.execute_script("return [...document.querySelectorAll('section li')].map((one) => one.textContent)")
    assert {text.split("(")[1].split(")")[0] for text in folded if " needs " in text} >= {"F14", "C4", "C5"}
    text = browser.execute_script("return byId('figure').textContent + byId('dots').textContent")
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
    """The theme key recolours the page and the plots on it, and pressing it again restores all colours."""

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


def test_texts_are_read_when_they_are_asked_for(browser, page):
    """A page of many episodes stays fast: it loads texts only for an opened episode and renders a part of the list."""
    browser.get(page.as_uri())
    wait(lambda: browser.find_element("tag name", "body").get_attribute("data-ready"))
    assert browser.execute_script("return state.shards.size") == 0
    assert len(list((page.parent / "report_episodes").glob("*.js"))) == browser.execute_script(
        "return state.index.starts.length"
    )
    browser.execute_script("open(0)")
    wait(lambda: browser.find_elements("css selector", "#detail .attempt"))
    assert browser.execute_script("return state.shards.size") == 1
    assert 0 < browser.execute_script("return document.getElementsByClassName('item').length") < 120


def test_the_first_screen_has_a_row_an_arm_with_badges_and_sentences_on_demand(browser):
    rows = browser.find_elements("css selector", "#dots tr[data-arm]")
    assert len(rows) == 8
    top = browser.execute_script("return byId('dots').getBoundingClientRect().top + scrollY")
    assert top < 200, "nothing stands before it"
    assert "answers anew" in browser.execute_script("return byId('dots').textContent")
    assert not any(one.is_displayed() for one in browser.find_elements("css selector", "#dots .said"))
    click(browser, browser.find_elements("css selector", "#dots button.name")[0])
    assert "answers better the second time" in browser.find_element("css selector", "#dots .said:not([hidden])").text
    click(browser, browser.find_elements("css selector", "#dots button.name")[0])


def test_greedy_and_sampled_by_a_switch(browser):
    before = browser.find_element("css selector", "#dots td.number").text
    browser.execute_script("document.activeElement.blur()")
    keys(browser, "g")
    assert browser.find_element("css selector", "#dots td.number").text != before
    assert "view=sampled" in browser.execute_script("return link.address()")
    keys(browser, "g")
    assert browser.find_element("css selector", "#dots td.number").text == before


def test_a_link_shows_a_figure_a_filter_and_an_episode_again(browser):
    choose(browser, "transition", "i->c")
    browser.execute_script("open(2)")
    said = wait(lambda: browser.execute_script("return document.querySelector('#detail h3')?.textContent"))
    link = browser.execute_script("return link.address()")
    assert "transition=i-%3Ec" in link
    browser.execute_script("byId('filters').reset(); refilter()")
    browser.execute_script("location.hash = arguments[0]", link.split("#")[1] + "&figure=F3")
    wait(lambda: browser.execute_script("return document.querySelector('#detail h3')?.textContent") == said)
    assert browser.find_element("name", "transition").get_attribute("value") == "i->c"
    assert "(F3)" in browser.find_element("css selector", "#figure-tabs [aria-selected=true]").text
    browser.execute_script("location.hash = 'T4'")
    wait(lambda: "(T4)" in browser.find_element("css selector", "#table-tabs [aria-selected=true]").text)


def test_episodes_are_found_by_length_and_reward(browser):
    counted = browser.execute_script(
        """
        const fields = byId("filters").elements, c = state.index.columns;
        const longest = Math.max(...c.tokens.filter((_, i) => c.reward[i] === 1));
        fields.tokens.value = `>=${longest}`; fields.reward.value = "1"; refilter();
        const found = state.found.length;
        fields.tokens.value = "no number"; refilter();
        const valid = fields.tokens.checkValidity();
        byId("filters").reset(); refilter();
        return [found, c.tokens.filter((n, i) => n >= longest && c.reward[i] === 1).length, valid];"""
    )
    assert counted[0] == counted[1] > 0
    assert counted[2] is False


def test_numbers_are_copied_in_three_forms(browser):
    click(browser, browser.find_element("id", "tab-T1"))
    copied = {}
    for button in browser.find_elements("css selector", "#table .files button"):
        if button.text in ("Markdown", "CSV", "LaTeX"):
            name = button.text
            click(browser, button)
            copied[name] = wait(lambda: browser.execute_script("const text = copy.last; copy.last = null; return text"))
    assert copied["Markdown"].startswith("| arm | episodes | acc@t1 (%) |")
    assert copied["CSV"].splitlines()[1].startswith("base,greedy,")
    assert "\\begin{tabular}{llrrrrr}" in copied["LaTeX"]
    header, rows = browser.execute_script("return partOf(exhibits.find((one) => one.id === 'T1'), false, true)")
    for row in (header, *rows):
        assert " & ".join(map(tex, row)) + " \\\\" in copied["LaTeX"], "as the export writes it"
    assert all(text.count("SCoRe (alpha 10)") == 1 for text in copied.values()), "each arm once"


def test_kinds_of_episodes_have_names_that_a_reader_knows(browser):
    from selenium.webdriver.support.ui import Select

    offered = [one.text for one in Select(browser.find_element("name", "mode")).options]
    assert "its first attempt at another task (C2)" in offered
    assert not any("_" in text for text in offered)


def test_filters_are_taken_away_together(browser):
    choose(browser, "transition", "i->c")
    n_all = browser.execute_script("return state.n")
    assert browser.execute_script("return state.found.length") < n_all
    click(browser, browser.find_element("xpath", "//form[@id='filters']/button[text()='show all']"))
    assert browser.execute_script("return state.found.length") == n_all


def test_a_wide_table_is_whole_on_paper(browser):
    """A printed table loses no column: it is split into sheets of at most 9 columns, which is what a page holds."""
    sheets = browser.execute_script(
        """const read = (table) => [...table.querySelectorAll("thead th")].map((cell) => cell.textContent);
        return sheetsOf(exhibits.find((item) => item.id === "T1")).map(read)"""
    )
    table = next(item for item in browser.execute_script("return exhibits") if item["id"] == "T1")
    assert len(sheets) > 1
    assert all(len(sheet) <= 9 for sheet in sheets)
    assert all(sheet[:2] == ["arm", "episodes"] for sheet in sheets)
    assert [name for sheet in sheets for name in sheet[2:]] == table["header"][1:]


def test_copied_numbers_are_those_of_the_figure_and_no_aid_of_its_drawing(browser, page):
    """Steps are drawn to the right edge of the last bin, and names stand for the places 0, 1, 2 of an axis."""
    assert browser.execute_script("return data.minor.length + link.all('off').length") == 0, "no curve is hidden"
    made = [one for one in build(Store(page.parent)) if isinstance(one, Figure)]
    named = 0
    for figure in (one for one in made if not any(panel.heat for panel in one.panels)):
        script = "return figureNumbers(exhibits.find((one) => one.id === arguments[0]))"
        header, rows = browser.execute_script(script, figure.id)
        assert header[2] == " / ".join(dict.fromkeys(panel.x_label for panel in figure.panels))
        wanted = [(panel.ticks, x) for panel in figure.panels for one in panel.series for x in one.x]
        assert len(rows) == len(wanted), figure.id
        for row, (ticks, x) in zip(rows, wanted, strict=True):
            assert row[2] == ticks[int(x)] if ticks else float(row[2]) == pytest.approx(float(x), rel=1e-6), figure.id
            named += bool(ticks)
    assert named
    assert Mark.STEPS in {one.mark for figure in made for panel in figure.panels for one in panel.series}


def test_a_page_that_was_sent_alone_prints_every_figure(browser, page, tmp_path):
    write_exhibits(build(Store(page.parent), ["T1", "F1", "F3"]), page.parent)
    pages.assemble("Alone", "", build(Store(page.parent), ["T1", "F1", "F3"]), Packed({})).write(
        page.with_name("a.html")
    )
    shutil.copy(page.with_name("a.html"), tmp_path / "alone.html")
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get((tmp_path / "alone.html").as_uri())
    wait(lambda: browser.find_element("tag name", "body").get_attribute("data-ready"))
    printed = browser.execute_script(
        """dispatchEvent(new Event("beforeprint"));
        const count = (one, what) => one.querySelectorAll(what).length;
        const found = [...document.querySelectorAll("#print > section")].map((one) =>
          [one.textContent.slice(0, 60), count(one, "svg path"), count(one, "img")]);
        dispatchEvent(new Event("afterprint"));
        return found;"""
    )
    figures = [one for one in printed if "(F" in one[0]]
    assert len(figures) == 2
    assert all(n_paths > 20 and n_images == 0 for _, n_paths, n_images in figures)
    assert browser.get_log("browser") == []
    browser.close()
    browser.switch_to.window(first)


def test_the_legend_draws_the_curves_as_the_figure_does(browser):
    click(browser, browser.find_element("id", "tab-F1"))
    keyed, drawn = browser.execute_script(
        """const dashes = (css, of) => [...new Set([...document.querySelectorAll(css)].map(of))].sort();
        return [dashes("#legend .key line", (one) => one.getAttribute("stroke-dasharray") ?? ""),
          dashes("#figure .js-line", (one) => one.style.strokeDasharray.replace(/px|,/g, "") || "")]"""
    )
    assert len(keyed) == 6
    assert set(keyed) <= set(drawn)


def test_who_is_pointed_at_stands_out(browser):
    click(browser, browser.find_element("id", "tab-F1"))
    shown = (
        "return [...document.querySelectorAll('#figure .trace')].filter((one) => one.style.display !== 'none').length"
    )
    before = browser.execute_script(shown)
    browser.execute_script("pointAt('SCoRe')")
    assert browser.execute_script(shown) > before, "its band"
    assert browser.find_elements("css selector", "#dots tr.pointed, #legend .pointed")
    browser.execute_script("pointAt(null)")
    assert browser.execute_script(shown) == before


def test_nobody_is_kept_out(browser):
    """The page is accessible: axe finds no serious violation, and neither wide nor narrow screens scroll sideways."""
    for width, dark in ((1500, False), (420, True)):
        browser.set_window_size(width, 1100)
        browser.execute_script("setTheme(arguments[0])", "dark" if dark else "light")
        assert what_keeps_people_out(browser) == []
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth + 1"), width
    browser.execute_script("setTheme('light')")
    browser.set_window_size(1500, 1100)


def test_nothing_is_complained_about_and_nothing_is_fetched(browser, page):
    assert browser.get_log("browser") == []
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    beside = (page.parent / "report_episodes").as_uri()
    assert [name for name in fetched if not name.startswith(("data:", beside))] == []
    text = page.read_text(encoding="utf-8")
    assert 'src="http' not in text
    assert "@import" not in text


def test_a_page_that_begins_with_a_figure_shows_it_first_and_links_to_nothing_that_is_not_there(browser, page):
    gains = Figure("Points.", [Panel("", "x", "y", [Series("self", [0.5], [0.1], mark=Mark.POINTS)])], id="F1")
    made = [gains, Table("The systems.", ["system", "gain"], [["SQLM", "+0.1"]], id="T1")]
    pages.assemble("The thesis", "", made, Packed({})).write(beside := page.with_name("thesis.html"))
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(beside.as_uri())
    wait(lambda: browser.find_element("tag name", "body").get_attribute("data-ready"))
    links = [one.text for one in browser.find_elements("css selector", "nav a") if one.is_displayed()]
    assert links == ["Answer", "Figures", "Tables"]
    tops = [browser.find_element("id", one).rect["y"] for one in ("verdict", "figures", "tables")]
    assert tops == sorted(tops)
    assert not browser.find_element("id", "episodes").is_displayed()
    browser.close()
    browser.switch_to.window(first)
