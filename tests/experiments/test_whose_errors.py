"""Figure F14 and its sentences, from made-up runs: one arm makes new errors, another makes those it was trained on."""

import json

import pytest

from experiments.arms import run_offline
from experiments.evidence import build
from experiments.evidence.comparison import compare
from experiments.evidence.errors import MOST_KINDS
from experiments.evidence.store import Store
from experiments.evidence.verdicts import verdicts
from experiments.online import run_online
from rl.config import BudgetConfig, OfflineConfig, SFTConfig
from rl.tracking import read_jsonl
from tests.helpers import modchain_config
from tests.rl.analysis.test_errors import rows_of

VALIDATION = {"eval/validation/n": 10.0}


def write(folder, arm, own, lines):
    """Writes a finished run of ``arm`` whose greedy rows have the errors ``own``, and its metrics ``lines``."""
    place = folder / arm
    place.mkdir()
    (place / "rows.jsonl").write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows_of(**own)))
    result = {"arm": arm, "seed": 0, "totals": {"episodes": 200}, "seconds": 1.0}
    (place / "result.json").write_text(json.dumps(result))
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def line(episodes, errors, **more):
    return {"step": episodes, "rollout/episodes": episodes, "errors": errors, **more}


@pytest.fixture
def store(tmp_path):
    shifted = [
        line(0, {"a": 10}, **VALIDATION),
        line(100, {"a": 90, "b": 10}),
        line(100, {"a": 9, "b": 1}, **VALIDATION),
        line(150, {"a": 50}),
        line(200, {"a": 50}),
        line(200, {"malformed": 5, "a": 5}, **VALIDATION),
    ]
    write(tmp_path, "STaR", {"a": 50, "malformed": 50}, shifted)
    write(tmp_path, "SCoRe", {"a": 60, "b": 40}, [line(200, {"a": 600, "b": 400}), line(200, {"a": 5}, **VALIDATION)])
    write(tmp_path, "silent", {"a": 60}, [{"step": 1, "rollout/episodes": 200, **VALIDATION}])
    return Store(tmp_path)


def test_errors_trained_on_are_those_since_the_validation_before(store):
    first, last = store.errors("STaR", 0)
    assert (first.x, first.own, first.seen) == (100, {"a": 9, "b": 1}, {"a": 90, "b": 10})
    assert (last.x, last.own, last.seen) == (200, {"malformed": 5, "a": 5}, {"a": 100})


def test_the_figure_has_the_distance_over_training_and_both_distributions(store):
    (figure,) = build(store, ["F14"])
    over_training, *ends = figure.panels
    curves = {series.name: (list(series.x), list(series.y)) for series in over_training.series}
    assert curves == {"SCoRe": ([200], [pytest.approx(0.4)]), "STaR": ([100, 200], [0.0, 0.5])}
    shares = {
        panel.title: {one.name: dict(zip(panel.ticks, one.y, strict=True)) for one in panel.series} for panel in ends
    }
    assert shares["STaR"] == {"trained on": {"a": 100, "malformed": 0}, "its own": {"a": 50, "malformed": 50}}
    assert shares["SCoRe"]["its own"] == {"a": 60, "b": 40}
    assert "silent" not in shares


def test_sentences_say_who_makes_errors_that_were_not_trained_on(store):
    line = compare(store, "greedy").arm("STaR")
    assert line.shift.distance.mean == pytest.approx(0.5, abs=0.01)
    about, new = [one for one in verdicts(compare(store, "greedy")) if "first attempt" in one and "acc@" not in one]
    assert "differ from those of the training data for STaR 0.50 [0.4" in about
    assert "cannot be told from those of the training data for SCoRe 0.0" in about
    assert new.startswith("STaR: 50.0 [")
    assert new.endswith("It mends 0.0 % of these and 0.0 % of the others.")


def test_the_rarest_kinds_are_one(tmp_path):
    own = {f"k{i:02d}": 2 + (i == 0) for i in range(20)}
    write(tmp_path, "many", own, [line(200, own), line(200, own, **VALIDATION)])
    (figure,) = build(Store(tmp_path), ["F14"])
    panel = figure.panels[1]
    assert len(panel.ticks) == MOST_KINDS
    assert all(sum(series.y) == pytest.approx(100) for series in panel.series)


def test_a_folder_that_does_not_say_is_told_what_it_lacks(tmp_path):
    write(tmp_path, "silent", {"a": 60}, [])
    (absent,) = build(Store(tmp_path), ["F14"])
    assert "training.validate_every" in absent.reason


@pytest.mark.slow
def test_runs_of_both_kinds_write_down_what_they_were_trained_on(tmp_path):
    online = modchain_config(episodes=128)
    online.training.validate_every = 2
    offline = SFTConfig(
        **{name: getattr(online, name) for name in ("seed", "threads", "name", "model", "env", "engine", "evaluation")},
        offline=OfflineConfig(name="pairs", rule="pair", rule_options={}, iterations=1, group_size=4, batch_size=16),
        training=BudgetConfig(episodes=128),
    )
    folders = [tmp_path / name for name in ("online", "offline")]
    for folder in folders:
        folder.mkdir()
    run_online(online, folders[0], lambda *_: None)
    run_offline(offline, folders[1], lambda *_: None)
    steps = [one for one in read_jsonl(folders[0] / "metrics.jsonl") if "errors" in one and "policy/loss" in one]
    assert len(steps) == 4
    for one in steps:
        assert sum(one["errors"].values()) == round((1 - one["rollout/accuracy_t1"]) * 32)
        assert set(one["errors"]) <= {"wrong: quick", "wrong: worked", "no_answer: malformed"}
    for arm, n in (("test", 2), ("pairs", 1)):
        found = Store(tmp_path).errors(arm, 0)
        assert len(found) == n
        assert all(sum(at.own.values()) <= 10 and sum(at.seen.values()) for at in found)
    (kept,) = read_jsonl(folders[1] / "rounds.jsonl")
    assert sum(kept["errors"].values()) == kept["kept"]  # every pair begins with a wrong attempt
