"""Posed sums: token lines by hand, sums that are held out, and a corpus with a given share of errors."""

import numpy as np

from experiments.posed_sums import (
    FOR_STOPPING,
    FOR_TESTS,
    HELD_OUT,
    ID,
    TOKENIZER,
    corpus,
    question,
    read,
    right_answer,
)


def test_what_is_proposed_is_read_and_a_held_out_sum_cannot_be_used():
    trained, kept = np.flatnonzero(~HELD_OUT)[7], np.flatnonzero(HELD_OUT)[7]
    proposed = question(np.array([trained, kept, trained]))[:, 1:]
    proposed[2, 2] = ID["="]
    problems, usable = read(proposed)
    assert problems.tolist() == [trained, kept, 0]
    assert usable.tolist() == [True, False, False]
    assert TOKENIZER.decode(question(np.array([4725]))[0]) == "Q 4 7 + 2 5 ="
    assert TOKENIZER.decode(right_answer(np.array([4725]))[0, :3]) == "0 7 2"


def test_what_stops_the_pre_training_is_in_no_test_and_a_sum_is_held_out_in_both_orders():
    assert not np.isin(FOR_STOPPING, FOR_TESTS).any()
    assert 0.19 < HELD_OUT.mean() < 0.21
    for some in (FOR_STOPPING, FOR_TESTS, np.flatnonzero(HELD_OUT)):
        assert np.isin(some % 100 * 100 + some // 100, some).all()
    assert np.flatnonzero(HELD_OUT).tolist() == sorted([*FOR_STOPPING, *FOR_TESTS])


def test_the_corpus_errs_as_often_as_it_is_told_and_holds_nothing_that_is_held_out():
    for noise in (0.0, 0.3):
        ids, learned = corpus(np.random.default_rng(0), 2000, noise)
        problems, usable = read(ids[:, 1:7])
        assert usable.all()
        assert learned.all()
        wrong = (ids[:, 7:] != right_answer(problems)).any(1).float().mean()
        assert abs(wrong - noise) < 0.04
