"""Subset sums and facts: the oracle on answers by hand, and tasks that training never sees."""

import numpy as np

from experiments import sums_and_facts as made


def test_sums_are_checked_by_the_oracle_and_held_out_ones_are_never_drawn_for_training():
    sums, rng = made.Sums(), np.random.default_rng(0)
    question = np.array([[8, 3, 5, 2, 0, 0, 0]])
    for answer, right in (
        ([3, 5, 0, 0, 0, 0], True),
        ([3, 0, 2, 0, 0, 0], False),
        ([5, 3, 0, 0, 0, 0], False),
        ([0, 5, 2, 1, 0, 0], False),
    ):
        assert sums.right(question, np.array([answer]) + made.N0).tolist() == [right]
    (train, subset, level), (test, _, _) = (sums.draw(rng, 400, test=held_out) for held_out in (False, True))
    assert len(train) == len(test) == 400
    assert not set(map(tuple, train)) & set(map(tuple, test))
    assert sums.right(train, subset + made.N0).all()
    assert (level == (train[:, 1:] > 0).sum(1)).all()
    flipped = sums.wrong(rng, train, subset.copy())
    assert sums.right(train, flipped + made.N0).mean() < 0.3
    assert not sums.is_answer(np.array([[made.N0] * 5 + [made.T0]]))[0]


def test_facts_of_a_seed_are_fixed_and_a_quarter_is_never_stated():
    facts = made.Facts(1)
    assert (facts.value == made.Facts(1).value).all()
    assert np.bincount(facts.band).tolist() == [64, 64, 64, 64]
    in_rounds, in_tests = (set(facts.draw(np.random.default_rng(2), 700, test)[0].tolist()) for test in (False, True))
    assert not in_rounds & in_tests
    assert len(in_tests) == len(facts.draw(np.random.default_rng(3), 700, test=True)[0]) == 128
    stated = facts.rows(np.random.default_rng(0), 500)[0][0].numpy()
    keys = (stated[:, 1] - made.K0) * made.KEYS + stated[:, 2] - made.K0
    assert (facts.band[keys] > 0).all()
    assert facts.right(keys, stated[:, 4:5]).all()
