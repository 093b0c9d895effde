"""The thesis page: points, a table and a sentence that follow from made-up studies and a made-up comparison."""

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from experiments import thesis
from experiments.cli import UserError
from experiments.schema import ThesisConfig
from rl.analysis.claims import first, grown
from rl.analysis.gate import Gate
from rl.analysis.thesis import Thesis, Trained
from tests.experiments import made_up_study


def rows(gain):
    found = []
    for seed in (1, 2, 3):
        row = {"arm": "own", "seed": seed, "step": 0, "accuracy": 0.4, "reward_accuracy": 0.7}
        after = row | {"step": 1, "accuracy": 0.4 + gain + 0.001 * seed} | Gate(0.2, 0.1, 0.3, 50).outcome(gain, "own")
        untested = {"arm": "own", "seed": seed, "step": 2} | Gate(0.0, -0.1, 0.1, 50).outcome(None, "own, again")
        found += [row, after, untested, row | {"arm": "oracle"}, row | {"arm": "oracle", "step": 1, "accuracy": 0.8}]
    return found


def study(root, name, size, gain, age):
    path = root / f"{size}_{age}" / "study.json"
    path.parent.mkdir(parents=True)
    claims = [{"name": "it helps", "verdict": "holds" if gain > 0 else "does not hold"}]
    path.write_text(json.dumps({"study": name, "size": size, "rows": rows(gain), "claims": claims}))
    os.utime(path, (age, age))


def comparison(root, ends, name="now"):
    path = root / name / "comparison.json"
    path.parent.mkdir(parents=True)
    arms = [{"arm": "base", "trained": False, "rates": {"accuracy_t2": {"mean": 0.5}}, "seeds": []}]
    for arm, end in ends.items():
        seeds = [{"seed": seed, "rates": {"accuracy_t2": end + 0.001 * seed}} for seed in (1, 2)]
        arms.append({"arm": arm, "trained": True, "rates": {}, "seeds": seeds})
    path.write_text(json.dumps({"greedy": {"attempts": 2, "arms": arms}}))


@pytest.fixture
def described(monkeypatch):
    arms = (
        Trained("own", "self", grown("own", "accuracy"), first("own", "reward_accuracy")),
        Trained("oracle", "oracle", grown("oracle", "accuracy")),
    )
    monkeypatch.setattr(
        made_up_study, "THESIS", Thesis("Made up", "itself", "nothing", False, "own", arms), raising=False
    )


def test_the_page_follows_the_folders(tmp_path, described):
    gain, says, word = 0.2, "1 contradicts it (Made up)", "contradicts"
    study(tmp_path / "study", "made_up", "tiny", -gain, 1_000)
    study(tmp_path / "study", "made_up", "tiny", gain, 2_000)  # the newest run of this size counts
    study(tmp_path / "study", "made_up", "smoke", -gain, 3_000)
    comparison(tmp_path / "compare", {"star": 0.45, "score": 0.9})
    cfg = ThesisConfig(
        studies=str(tmp_path / "study"), comparisons=str(tmp_path / "compare"), output=str(tmp_path / "out")
    )
    program: Any = thesis.main
    program.run(cfg)
    stored = json.loads((tmp_path / "out" / "thesis.json").read_text())
    assert says in stored["sentence"]
    systems = {one["study"]: one for one in stored["systems"]}
    assert systems["self_correction"]["mean"] == pytest.approx(0.4015)
    assert systems["self_correction"]["thesis"]["headline"] == "score"
    assert systems["made_up"]["claims"] == {"it helps": "holds"}
    table = (tmp_path / "out" / "exhibits" / "T1.md").read_text()
    assert word in table
    page = (tmp_path / "out" / "report.html").read_text()
    assert stored["sentence"] in page
    assert "Not run: verification_gap" in page
    assert stored["read"]["self_correction"] == str(tmp_path / "compare" / "now")
    assert "The gate was right in 3 of 3 trainings. 3 more of its readings were not tested" in page
    assert "3 trainings; the prediction was right in 100 % of them." in page
    assert {one["study"] for one in stored["points"]} == {"made_up", "self_correction"}

    study(tmp_path / "study", "made_up", "tiny", -gain, 4_000)
    contrary = thesis.read_studies(tmp_path / "study", "tiny")["made_up"]
    assert contrary.claims == {"it helps": "does not hold"}
    assert contrary.thesis is not None
    assert thesis.line("made_up", contrary.thesis, contrary.rows, contrary.claims).verdict == "holds"
    with pytest.raises(UserError, match="no finished study of size full"):
        program.run(replace(cfg, size="full", comparisons=str(tmp_path / "nowhere")))


def test_a_comparison_without_a_base_or_trained_arms_is_no_system(tmp_path):
    assert thesis.read_comparison(tmp_path) is None
    comparison(tmp_path, {})
    assert thesis.read_comparison(tmp_path) is None


def test_the_newest_comparison_is_the_one_that_was_started_last_and_not_the_one_reported_last(tmp_path):
    for name, started, written in (
        ("old", "2026-11-25T08:00:00+00:00", 2e9),
        ("new", "2026-11-26T08:00:00+00:00", 1e9),
    ):
        comparison(tmp_path, {"score": 0.9}, name)
        (tmp_path / name / "run.json").write_text(json.dumps({"started": started}))
        os.utime(tmp_path / name / "comparison.json", (written, written))
    found = thesis.read_comparison(tmp_path)
    assert found is not None
    assert found.folder.name == "new"
