"""Families of questions: real pairs are well-formed and right; the form and the right answer of one pair by hand."""

import numpy as np

from experiments import question_families as families


def test_real_pairs_are_well_formed_right_and_never_of_the_test():
    rng = np.random.default_rng(0)
    train, test = families.draw(rng, 400, False), families.draw(rng, 400, True)
    for pairs in (train, test):
        seen = families.read(pairs)
        assert seen.formed.all()
        assert (pairs[:, 7] == seen.truth).all()
    assert not {tuple(row[2:5]) for row in train} & {tuple(row[2:5]) for row in test}
    by_hand = families.pairs_of(
        np.array([[families.F0 + 4, families.D0 + 1, families.D0 + 3, families.D0, families.MARK]]), np.array([0])
    )
    assert families.read(by_hand).truth[0] == families.D0 + 4  # family 4 asks for the second digit, shifted by one
    assert not families.read(np.where(by_hand == families.MARK, families.D0, by_hand)).formed[0]
