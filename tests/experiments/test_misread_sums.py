"""Misread sums: questions and beliefs by hand, sets of four options, and questions that are reserved for tests."""

import numpy as np

from experiments.misread_sums import D0, TOKENIZER, TOP, believed, draw, four, line, misread_by, nearby


def test_a_fifth_of_all_questions_is_for_tests_alone():
    rng = np.random.default_rng(0)
    train, test = ({tuple(row) for row in draw(rng, 6000, held_out)[0].tolist()} for held_out in (False, True))
    assert not train & test
    assert 0.15 < len(test) / len(train | test) < 0.25
    assert len(train | test) > 0.98 * (25 + 125 + 625)
    question, gold = draw(rng, 300, test=True)
    assert len(question) == len(gold) == 300
    digits = [[int(word) for word in TOKENIZER.decode(row).split() if word.isdigit()] for row in question]
    assert gold.tolist() == [sum(row) for row in digits]


def test_a_belief_is_too_small_by_one_for_every_four():
    question = np.array([[D0 + 3, D0 + 4, D0 + 4, D0]])
    assert misread_by(question).tolist() == [2]
    assert TOKENIZER.decode(line(question)[0]) == "S 3 4 4 0 :"
    rng, gold = np.random.default_rng(0), np.array([11])
    assert believed(rng, question, gold, 0.0).tolist() == [11]
    assert believed(rng, question, gold, 1.0).tolist() == [9]


def test_wrong_sums_are_near_and_inside():
    rng = np.random.default_rng(1)
    _, gold = draw(rng, 2000)
    wrong = nearby(rng, gold)
    assert (np.abs(wrong - gold) <= 3).all()
    assert (wrong != gold).all()
    assert (wrong >= 0).all()
    assert (wrong <= TOP).all()


def test_a_set_of_four_holds_the_target_and_distinct_others():
    rng = np.random.default_rng(2)
    _, gold = draw(rng, 500)
    shown, place = four(rng, gold)
    assert (shown[np.arange(500), place] == gold).all()
    assert all(len(set(row)) == 4 for row in shown.tolist())
    assert set(place.tolist()) == {0, 1, 2, 3}
    others = np.repeat((gold[:, None] + 5) % (TOP + 1), 2, 1)
    shown, _ = four(rng, gold, others)
    assert (shown == others[:, :1]).any(1).all()
