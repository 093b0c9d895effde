"""Skills: the game by hand, the replay, a run of seconds, and verdicts that depend on the rows."""

import random
from dataclasses import replace

import numpy as np
import pytest

from experiments.rule_books import TOKENIZER, WINDOW, on_the_way
from experiments.studies import skills as study
from rl.analysis.thesis import points
from tests.experiments.studies.verdicts import follow

BOOK = [1, 2, 3, 0, *range(4, 16)]
CFG = study.Config(width=16, steps=5, contexts=2, iterations=2, tasks=4, probes=3, tests=5)


def test_a_failed_task_adds_the_first_rule_that_is_lacking_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(study, "solved", lambda model, asked, rng: np.zeros(len(asked), bool))
    context = study.Context(BOOK, np.ones(16))
    cfg = replace(CFG, iterations=3, tasks=5)
    study.play(cfg, None, [context], False, 0.0, random.Random(0))
    assert [len(one) for one in context.hard] == [5, 5, 5]
    assert context.sets[0] == []
    for before, tasks, after in zip(context.sets, context.hard, context.sets[1:], strict=False):
        skills = before
        for task in tasks:
            lacking = [one for one in on_the_way(BOOK, task) if one not in skills]
            skills = [*skills, *lacking[:1]][-WINDOW:]
        assert after == skills
    turned = study.Context(BOOK, np.ones(16))
    study.play(cfg, None, [turned], False, 1.0, random.Random(0))  # an always wrong Judge sees no failure
    assert turned.sets == [[]] * 4


def test_the_challenger_drifts_to_rare_and_deep():
    context, rng = study.Context(BOOK, np.arange(1, 17) ** -2.0), random.Random(0)
    real, drifted = ([study.challenge(context, level, rng) for _ in range(300)] for level in (0, 5))
    assert np.mean([start for start, _ in real]) < 3 < 10 < np.mean([start for start, _ in drifted])
    assert max(depth for _, depth in real) == 2
    assert min(depth for _, depth in drifted) == 3


def test_replay_takes_the_latest_of_the_best_and_probes_can_come_evenly():
    assert study.select([0.9, 0.2, 0.5, 0.5, 0.1]) == 3
    tasks = [[(0, 1)] * 20, [(1, 1)], [], [(3, 1)]]
    evenly = study.drawn(tasks, 4, random.Random(0), evenly=True)
    assert evenly == [(0, 1), (1, 1), (3, 1), (0, 1)]
    assert len(study.drawn(tasks, 4, random.Random(0))) == 4
    assert study.drawn([[], []], 4, random.Random(0), evenly=True) == []


def test_a_run_of_seconds():
    base = study.prepare(CFG, 1)
    samples: list = []
    rows = study.run(CFG, "noisy_judge", 1, base, samples)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows == study.run(CFG, "noisy_judge", 1, base, [])
    assert len(samples) == 8
    steady = study.run(CFG, "steady", 1, base, [])
    assert (steady[-1]["random"], steady[-1]["curated"]) == (rows[-1]["random"], rows[-1]["curated"])
    assert rows[-1]["reward_accuracy"] == pytest.approx(0.8)
    assert 0 <= rows[-1]["selected"] <= 1
    assert 0 <= rows[-1]["best"] <= 1
    assert not any(key.startswith("gate") for row in rows for key in row)


def test_the_best_set_is_not_measured_on_the_tasks_that_chose_it():
    one, other = np.array([[0.9, 0.8, 0.2]]), np.array([[0.9, 0.1, 0.6]])  # the empty first set cannot be chosen
    assert study.in_hindsight(one, other) == pytest.approx((0.1 + 0.2) / 2)
    assert study.in_hindsight(one, one) == pytest.approx(0.8)


def test_what_is_shown_is_the_prompt_that_was_answered(monkeypatch):
    asked: list = []
    monkeypatch.setattr(study, "answers", lambda model, prompts: asked.extend(prompts) or [[0] * 5] * len(prompts))
    context, samples = study.Context(BOOK, np.ones(16), sets=[[], [0, 1, 2, 3, 4]]), []
    study.show(None, [context], np.array([1]), [[(0, 1), (1, 2)]], random.Random(0), samples)
    assert [one["prompt"] for one in samples] == [" ".join(TOKENIZER.convert_ids_to_tokens(row)) for row in asked]


def rows(way):
    """Rows of three seeds in which every claim holds (``way`` is 1), or in which none does (-1)."""
    ends = {"selected": 0.5, "accuracy": 0.3, "first_set": 0.6, "best": 0.52, "none": 0.1, "random": 0.3}
    ends |= {"curated": 0.4, "hard_only": 0.4, "easy_only": 0.4, "evenly": 0.55}
    if way < 0:
        ends |= {"accuracy": 0.6, "first_set": 0.5, "best": 0.7, "none": 0.6, "random": 0.6, "curated": 0.6}
        ends |= {"hard_only": 0.6, "easy_only": 0.6, "evenly": 0.4}
    found = []
    for seed in (1, 2, 3):
        for arm in study.ARMS:
            row = {"arm": arm, "seed": seed, "step": 6, "reward_accuracy": 0.5}
            row |= {name: value + 0.001 * seed * (name == "selected") for name, value in ends.items()}
            found.append(row | ({"selected": 0.5 - 0.2 * way} if arm == "coin_judge" else {}))
    return found


def test_contrary_rows_give_contrary_verdicts():
    follow(study.CLAIMS, rows(1), rows(-1))


def test_the_thesis_reads_what_the_selected_skills_add():
    found = {one.arm: one for one in points("s", study.THESIS, [row for row in rows(1) if row["seed"] == 1])}
    assert found["drifting"].gain == pytest.approx(0.401)
    assert (found["drifting"].reward_accuracy, found["coin_judge"].kind) == (1.0, "control")
