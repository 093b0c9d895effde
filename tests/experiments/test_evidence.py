"""Tables and figures of a stored run equal stored numbers, and some of them numbers that are computed here."""

import gzip
import json
import math
import re
import shutil
import tarfile

import numpy as np
import pytest

from experiments.evidence import build, ids
from experiments.evidence.comparison import compare
from experiments.evidence.draw import write
from experiments.evidence.episodes import choose, pack
from experiments.evidence.model import Absent, Figure, Table
from experiments.evidence.sigmoid import Sigmoid, fit_sigmoid
from experiments.evidence.store import Store
from experiments.evidence.verdicts import verdicts
from tests.conftest import ROOT

DATA = ROOT / "tests" / "data"
GOLDEN = DATA / "small_comparison.json.gz"
"""Made from the stored run by ``python -m tests.experiments.make_golden``; review the changes after making it anew."""
_NUMBER = re.compile(r"[+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?")


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Folder of a real run without its weights: seven arms, two seeds, 40 test tasks, 18,432 episodes."""
    place = tmp_path_factory.mktemp("stored")
    with tarfile.open(DATA / "small_comparison.tar.gz") as archive:
        archive.extractall(place, filter="data")
    return place / "small"


@pytest.fixture(scope="session")
def exhibits(stored):
    return {one.id: one for one in build(Store(stored))}


def _float(text):
    return float(text.replace(",", ""))


def assert_same(found, expected, where):
    """Asserts equality up to rounding: floats within 1e-4, numbers in texts within about one unit of the last digit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    elif isinstance(expected, str):
        assert _NUMBER.sub("#", found) == _NUMBER.sub("#", expected), where
        for one, other in zip(_NUMBER.findall(found), _NUMBER.findall(expected), strict=True):
            assert float(one.replace(",", "")) == pytest.approx(float(other.replace(",", "")), rel=0.02, abs=0.11), (
                where
            )
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4), where
    else:
        assert found == expected, where


def test_every_id_is_there_with_the_numbers_of_the_stored_run(exhibits):
    expected = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    assert list(exhibits) == ids() == list(expected)
    # T6 needs two folders, C4 and C5 an environment whose feedback contains an error, F14 errors counted by kind.
    assert [one.id for one in exhibits.values() if isinstance(one, Absent)] == ["T6", "F14", "C4", "C5"]
    for name, exhibit in exhibits.items():
        assert_same(exhibit.to_json(), expected[name], name)


def test_captions_say_n_and_what_the_spread_is(exhibits):
    for exhibit in exhibits.values():
        if isinstance(exhibit, Absent):
            continue
        text = exhibit.caption.lower()
        assert exhibit.id == "T4" or "n = " in text, exhibit.id
        assert re.search(r"interval|seed|point per validation|each run", text), exhibit.id
        if isinstance(exhibit, Figure):
            assert all(panel.x_label and panel.y_label for panel in exhibit.panels)


def test_figures_are_written_as_vector_and_pixels_tables_as_csv_and_markdown(exhibits, tmp_path):
    assert [path.suffix for path in write(exhibits["F12"], tmp_path)] == [".svg", ".png"]
    assert [path.suffix for path in write(exhibits["T2"], tmp_path)] == [".csv", ".md"]
    assert "<text" in (tmp_path / "F12.svg").read_text(), "text stays text"
    before = (tmp_path / "F12.svg").read_bytes()
    write(exhibits["F12"], tmp_path)
    assert (tmp_path / "F12.svg").read_bytes() == before, "the same numbers give the same file"
    assert write(Absent("not there", "F12"), tmp_path) == []
    assert not (tmp_path / "F12.svg").exists(), "what a folder no longer shows does not lie about"


def test_the_main_table_is_made_of_plain_means(stored, exhibits):
    """The main table reports plain means: three rates of SCoRe equal those computed here from the raw rows."""
    rows = [
        row
        for seed in (0, 1)
        for line in (stored / "arms" / "score" / f"seed_{seed}" / "rows.jsonl").open()
        if (row := json.loads(line))["mode"] == "greedy"
    ]
    wrong = [row for row in rows if not row["correct"][0]]
    values = exhibits["T1"].values["SCoRe"]
    assert values["accuracy_t1"][0] == pytest.approx(np.mean([row["correct"][0] for row in rows]))
    assert values["fix_rate"][0] == pytest.approx(np.mean([row["correct"][-1] for row in wrong]))
    assert values["response_tokens"][0] == pytest.approx(np.mean([sum(row["n_tokens"]) for row in rows]))
    assert exhibits["T1"].values["SCoRe, sampled"]["accuracy_t1"] != values["accuracy_t1"]
    mean, low, high = values["fix_rate"]
    assert low <= mean <= high


def test_correctors_and_the_shift_come_from_the_stored_cells(stored, exhibits):
    cells = [
        cell
        for path in stored.glob("cross/*/cross.json")
        for cell in json.loads(path.read_text())["cells"]
        if (cell["corrector"], cell["author"]) == ("star", "base")
    ]
    expected = np.mean([100 * cell["n_fixed"] / cell["n_wrong"] for cell in cells])
    heat = exhibits["F5"].panels[0].heat
    names = list(heat.rows)
    assert heat.values[names.index("STaR")][names.index("base")] == pytest.approx(expected)


def test_the_two_weights_are_found_by_their_values(exhibits):
    panels = {panel.title: panel for panel in exhibits["F10"].panels}
    assert list(panels["alpha"].series[0].x) == [0.0, 3.0, 10.0]
    assert list(panels["beta2"].series[0].x) == [0.3, 3.0]


def test_densities_of_the_transitions_integrate_to_one(exhibits):
    for panel in exhibits["F3"].panels:
        transitions = [one for one in panel.series if "->" in one.name]
        assert sum(sum(one.y) for one in transitions) * 0.05 == pytest.approx(1.0)


def test_the_fit_finds_a_known_curve_and_refuses_flat_or_short_ones():
    truth = Sigmoid(20.0, 80.0, 2.0, 3000.0)
    n = np.array([0.0, 500, 1000, 2000, 4000, 8000, 16000, 32000])
    found = fit_sigmoid(n, np.concatenate([[20.0], truth(n[1:])]))
    assert found.ceiling == pytest.approx(80, abs=0.5)
    assert found.steepness == pytest.approx(2, abs=0.05)
    assert truth(np.array([3000.0]))[0] == 50.0  # the midpoint between floor and ceiling
    assert fit_sigmoid(n, np.full(8, 20.0)) is None
    assert fit_sigmoid(n[:4], np.array([20.0, 40, 60, 80])) is None


def test_what_is_missing_says_what_to_run(stored, tmp_path):
    folder = tmp_path / "less"
    shutil.copytree(stored, folder)
    shutil.rmtree(folder / "cross")
    for arm in ("score_no_shaping", "single_turn", "score_alpha_10", "score_beta2_3"):
        shutil.rmtree(folder / "arms" / arm)
    made = {one.id: one for one in build(Store(folder), ["T2", "F5", "F10", "T1"])}
    assert "single_turn" in made["T2"].reason
    assert "cross=" in made["F5"].reason
    assert "score_alpha_10" in made["F10"].reason
    assert isinstance(made["T1"], Table)
    with pytest.raises(KeyError, match=r"only=F99: unknown; did you mean 'F\d+'"):
        build(Store(folder), ["F99"])


def test_the_page_carries_as_many_episodes_as_it_is_told_evenly(stored):
    store = Store(stored)
    everything = choose(store, 10**6)
    assert len(everything) == sum(not row.failed for row in store.rows)
    few = choose(store, 700)
    assert len(few) == 700
    assert sum(row.mode == "greedy" for row, _ in few) == 15 * 40  # greedy episodes are chosen first
    assert {row.arm for row, _ in few} == set(store.arms)
    content = pack(store, 700)
    training = [body for body in content.bodies if len(body) > 5]
    assert len(training) == 60  # thirty from each of two online runs
    step, turns, advantages = (training[-1][5][name] for name in ("step", "turns", "advantages"))
    assert step > 0
    assert [len(turn[1]) for turn in turns] == [len(turn) for turn in advantages] or len(advantages) < len(turns)
    assert all(math.isfinite(value) for turn in advantages for value in turn)
    assert "9" in content.tokens.values(), "ids are spelt out"


@pytest.mark.parametrize(
    ("seeds", "said"), [((0, 1), "every episode failed"), ((1,), "every episode of seed 1 failed")]
)
def test_an_arm_whose_episodes_all_failed_has_no_mean_and_the_others_keep_theirs(stored, tmp_path, seeds, said):
    shutil.copytree(stored, tmp_path / "run")
    for seed in seeds:
        path = tmp_path / "run" / "arms" / "score" / f"seed_{seed}" / "rows.jsonl"
        rows = [json.loads(line) | {"failed": True, "values": {}} for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    comparison = compare(Store(tmp_path / "run"), "greedy")
    sentences = [one for one in verdicts(comparison) if one.startswith("SCoRe: ")]
    assert len(sentences) == 1
    assert said in sentences[0]
    assert any(one.startswith("SCoRe w/o shaping: answers better") for one in verdicts(comparison))
    assert ("T5" in sentences[0]) == (len(seeds) == 1)
