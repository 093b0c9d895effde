"""Self-judging: the world and the layout of actor and judge, and claims that follow the rows."""

import numpy as np
import pytest
import torch

from experiments.studies import self_judging
from experiments.studies.self_judging import ARMS, CLAIMS, END, ID, LONGEST, World, lengths, opening, question, respond
from rl.analysis.claims import Verdict, judge


def test_worth_is_the_mean_quality_of_the_symbols():
    world = World(1)
    prompts, responses = np.array([0, 4]), np.array([[2, 3, -1, -1], [5, -1, -1, -1]])
    assert world.worth(prompts, responses) == pytest.approx([world.quality[0, 2:4].mean(), world.quality[4, 5]])
    assert lengths(responses).tolist() == [2, 1]
    assert max(world.alike(world.scrambled)) < 0.1  # over all prompts, and in the mean over them
    assert world.alike(np.arange(self_judging.SYMBOLS)) == pytest.approx((1.0, 1.0))
    n = self_judging.CONTEXTS
    assert sorted([*world.train, *world.test]) == list(range(n * n))
    assert sorted(world.test // n) == sorted(world.test % n) == list(range(n))
    assert (World(1).quality == world.quality).all()


def test_the_judge_reads_both_responses_in_their_places():
    one, other = np.full((1, LONGEST), -1), np.full((1, LONGEST), -1)
    one[0, :2], other[0, :1] = (1, 2), 3
    words = self_judging.TOKENIZER.decode(question(np.array([6]), one, other, None)[0]).split()
    blank = ["_"] * (LONGEST - 1)
    assert words == ["J", "c1", "d2", ":", "x1", "x2", *blank[1:], "|", "x3", *blank, "?"]
    swapped = np.roll(np.arange(8), 1)
    seen = self_judging.TOKENIZER.decode(question(np.array([6]), one, other, swapped)[0]).split()
    assert seen[4:6] == ["x0", "x1"]
    assert opening(np.array([6]), "A")[0].tolist() == [ID[word] for word in ("A", "c1", "d2", ":")]


def test_what_is_no_response_has_no_symbols_and_keeps_its_tokens(monkeypatch):
    x = [ID[f"x{i}"] for i in range(8)]
    tokens = torch.tensor([
        [x[0], x[1], END, *[0] * (LONGEST - 2)],
        [END, *[0] * LONGEST],
        [x[0], ID["J"], END, *[0] * (LONGEST - 2)],
        [*x, x[0]],
        [*x, END],
    ])  # fmt: skip
    monkeypatch.setattr(self_judging, "sample", lambda *_: tokens)
    responses, kept = respond(None, np.zeros(5, int), torch.Generator())
    assert lengths(responses).tolist() == [2, 0, 0, 0, LONGEST]
    assert kept is tokens


def rows(way):
    """Three seeds; ``way`` is 1 where everything is as the claims say, -1 where it is the other way round."""
    ends = {"self_judging": 1.0, "oracle": 1.5, "no_judge_reward": 0.5, "one_order": 0.2, "no_gate": 0.7, "blind": 0.1}
    found = []
    for seed in (1, 2, 3):
        noise = 0.001 * seed
        for arm in ARMS:
            end = way * (ends.get(arm, 0.0) + noise)
            base = {"arm": arm, "seed": seed, "step": 0, "worth": 0.0, "judge": 0.6, "judge_both_orders": 0.6}
            last = base | {"step": 9, "worth": end, "judge": 0.6 + 0.1 * end, "place_bias": 0.3 - 0.1 * end}
            found += [base, last | {"length": 6 + way * (arm == "no_gate") + noise}]
    return found


def test_contrary_rows_give_contrary_verdicts():
    for claim in CLAIMS:
        if claim.expect == "near":
            continue
        assert judge(claim, rows(1)).verdict is Verdict.HOLDS, claim.name
        assert judge(claim, rows(-1)).verdict is Verdict.DOES_NOT_HOLD, claim.name
        assert judge(claim, []).verdict is Verdict.NOT_MEASURED
    coin = next(claim for claim in CLAIMS if claim.name == "random_stays")
    assert judge(coin, rows(1)).verdict is Verdict.HOLDS
    moved = [row | {"worth": row["worth"] + row["step"]} for row in rows(1)]
    assert judge(coin, moved).verdict is Verdict.DOES_NOT_HOLD
