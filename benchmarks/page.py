"""Measures how long a large report takes to open: ``python -m benchmarks.page``, with Chromium and its driver.

The benchmark enlarges the tests' stored comparison: tasks are copied under other names until there are at least
``--episodes`` evaluated episodes, and every attempt gets ``--words`` more words. It writes the report, and Chromium
opens the file without a server. Seconds are measured by the browser from the start of the navigation: until the first
screen shows the arms, until the list shows episodes, and until the whole page, figures included, is ready.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from experiments.arms import write_jsonl
from experiments.evidence import build
from experiments.evidence.page import page
from experiments.evidence.store import Store
from rl.tracking import read_jsonl

STORED = Path(__file__).resolve().parent.parent / "tests" / "data" / "small_comparison.tar.gz"
SHARE_OF_WORDS = 2000
"""Number of different words in the added text, chosen so that it compresses about as well as prose."""
WATCH = """
const seen = {}, note = (name, there) => { if (there && !(name in seen)) seen[name] = performance.now() / 1000; };
const look = () => {
  note("first screen", document.querySelector("#dots tr[data-arm]"));
  note("episode list", document.querySelector("#list .item"));
  note("all of it", document.body?.dataset.ready);
  if (!("all of it" in seen)) requestAnimationFrame(look);
};
look();
window.seen = seen;
"""


def enlarge(folder: Path, n_episodes: int, n_words: int) -> None:
    """Copies the tasks of a stored comparison until it has enough episodes, and makes its attempts longer.

    Args:
        folder: Folder of the comparison; its rows are overwritten.
        n_episodes: Minimum number of episodes afterwards.
        n_words: Number of words added in front of every attempt.
    """
    paths, draw = sorted(folder.glob("arms/*/*/rows.jsonl")), random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrst", k=draw.randint(2, 9))) for _ in range(SHARE_OF_WORDS)]
    stored = {path: read_jsonl(path) for path in paths}
    copies = -(-n_episodes // sum(map(len, stored.values())))
    for path, rows in stored.items():
        more = [row | {"task_id": f"{row['task_id']} ({i})"} for i in range(copies) for row in rows]
        for row in more:
            row["texts"] = [" ".join([*draw.choices(words, k=n_words), text]) for text in row["texts"]]
        write_jsonl(path, more)


def open_page(path: Path, times: int) -> list[dict[str, float]]:
    """Opens a page several times, each in a fresh Chromium, and returns what each time measured.

    Keys are the parts of the page with the seconds until each was there, ``heap_mib`` (memory of the page's
    JavaScript), ``episodes`` (number in the page) and ``texts_read`` (number of shards of texts that the page loaded).
    """
    from selenium import webdriver
    from selenium.webdriver.support.wait import WebDriverWait

    found = []
    for _ in range(times):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1280,1000"):
            options.add_argument(f"--{argument}")
        driver: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
            driver.get(path.as_uri())
            WebDriverWait(driver, 120, 0.2).until(lambda it: "all of it" in it.execute_script("return window.seen"))
            seen = driver.execute_script("return window.seen")
            heap = driver.execute_script("return performance.memory.usedJSHeapSize")
            n = driver.execute_script("return [state.n, state.shards.size]")
            found.append(seen | {"heap_mib": heap / 2**20, "episodes": n[0], "texts_read": n[1]})
        finally:
            driver.quit()
    return found


def main() -> None:
    """Writes the enlarged page, opens it repeatedly, and prints every measurement and the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=50_000, help="evaluated episodes of the page")
    parser.add_argument("--words", type=int, default=60, help="words that are added to every attempt")
    parser.add_argument("--times", type=int, default=5, help="how often it is opened")
    asked = parser.parse_args()
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        parser.error("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(STORED) as archive:
            archive.extractall(place, filter="data")
        folder = Path(place) / "small"
        enlarge(folder, asked.episodes, asked.words)
        store = Store(folder)
        page(store, build(store), asked.episodes).write(folder / "report.html")
        beside = list((folder / "report_episodes").glob("*.js"))
        sizes = [sum(one.stat().st_size for one in paths) / 2**20 for paths in ([folder / "report.html"], beside)]
        print(f"page {sizes[0]:.1f} MiB, {len(beside)} files of texts beside it with {sizes[1]:.1f} MiB")
        found = open_page(folder / "report.html", asked.times)
    for one in found:
        print(json.dumps({name: round(value, 2) for name, value in one.items()}))
    medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
    print("median", json.dumps({name: round(value, 2) for name, value in medians.items()}))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
