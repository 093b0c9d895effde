"""The world of judged symbols and the token layout of actor and judge, against values by hand."""

import numpy as np
import pytest
import torch

from experiments import judged_symbols
from experiments.judged_symbols import END, ID, LONGEST, World, lengths, opening, question, respond


def test_worth_is_the_mean_quality_of_the_symbols():
    world = World(1)
    prompts, responses = np.array([0, 4]), np.array([[2, 3, -1, -1], [5, -1, -1, -1]])
    assert world.worth(prompts, responses) == pytest.approx([world.quality[0, 2:4].mean(), world.quality[4, 5]])
    assert lengths(responses).tolist() == [2, 1]
    assert max(world.alike(world.scrambled)) < 0.1  # for single prompts, and for their mean
    assert world.alike(np.arange(judged_symbols.SYMBOLS)) == pytest.approx((1.0, 1.0))
    n = judged_symbols.CONTEXTS
    assert sorted([*world.train, *world.test]) == list(range(n * n))
    assert sorted(world.test // n) == sorted(world.test % n) == list(range(n))
    assert (World(1).quality == world.quality).all()


def test_the_judge_reads_both_responses_in_their_places():
    one, other = np.full((1, LONGEST), -1), np.full((1, LONGEST), -1)
    one[0, :2], other[0, :1] = (1, 2), 3
    words = judged_symbols.TOKENIZER.decode(question(np.array([6]), one, other, None)[0]).split()
    blank = ["_"] * (LONGEST - 1)
    assert words == ["J", "c1", "d2", ":", "x1", "x2", *blank[1:], "|", "x3", *blank, "?"]
    swapped = np.roll(np.arange(8), 1)
    seen = judged_symbols.TOKENIZER.decode(question(np.array([6]), one, other, swapped)[0]).split()
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
    monkeypatch.setattr(judged_symbols, "sample", lambda *_: tokens)
    responses, kept = respond(None, np.zeros(5, int), torch.Generator())
    assert lengths(responses).tolist() == [2, 0, 0, 0, LONGEST]
    assert kept is tokens
