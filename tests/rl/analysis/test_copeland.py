"""Tournaments worked out by hand: a cycle, a tie, both orders, the length gate, and judgments against the scores."""

import numpy as np
import pytest

from rl.analysis.copeland import agreement, copeland, ordered_pairs


def votes(winners, pairs):
    """Votes for the first of each pair, ``[1, O, 1]``, from the winners of the ordered pairs; ``None`` is a tie."""
    first = [0.5 if won is None else float(won == pair[0]) for won, pair in zip(winners, pairs, strict=True)]
    return np.array(first)[None, :, None]


def test_pairs_come_in_both_orders():
    assert ordered_pairs(3).tolist() == [[0, 1], [0, 2], [1, 2], [1, 0], [2, 0], [2, 1]]
    assert ordered_pairs(3, both_orders=False).tolist() == [[0, 1], [0, 2], [1, 2]]


def test_a_strict_order_a_cycle_and_a_tie():
    pairs, even = ordered_pairs(3), np.ones((1, 3))
    assert copeland(votes([0, 0, 1, 0, 0, 1], pairs), pairs, even).tolist() == [[1.0, 0.5, 0.0]]
    assert copeland(votes([0, 2, 1, 0, 2, 1], pairs), pairs, even).tolist() == [[0.5, 0.5, 0.5]]
    assert copeland(votes([None] * 6, pairs), pairs, even).tolist() == [[0.5, 0.5, 0.5]]


def test_a_judge_that_always_says_first_tells_nobody_apart():
    pairs = ordered_pairs(4)
    assert copeland(np.ones((1, len(pairs), 2)), pairs, np.ones((1, 4))).tolist() == [[0.5] * 4]
    one_way = ordered_pairs(4, both_orders=False)
    scores = copeland(np.ones((1, len(one_way), 2)), one_way, np.ones((1, 4)))
    assert scores.tolist() == [[1.0, 2 / 3, 1 / 3, 0.0]]


def test_the_gate_pays_no_win_by_length():
    pairs = ordered_pairs(2)
    longer_wins = votes([0, 0], pairs)
    assert copeland(longer_wins, pairs, np.array([[6.0, 3.0]])).tolist() == [[0.0, 0.0]]
    assert copeland(longer_wins, pairs, np.array([[11.0, 10.0]])).ravel() == pytest.approx([10 / 11, 0.0])
    assert copeland(longer_wins, pairs, np.array([[10.0, 11.0]])).ravel() == pytest.approx([11 / 10, 0.0])
    assert copeland(longer_wins, pairs, np.array([[6.0, 5.0]])).tolist() == [[0.0, 0.0]]  # the gate is strict
    assert copeland(longer_wins, pairs, np.array([[6.0, 3.0]]), float("inf")).tolist() == [[1.0, 0.0]]


def test_agreement_is_with_the_aggregate_and_ties_are_worth_nothing():
    pairs = ordered_pairs(2)
    first = np.array([[[1.0, 1.0], [0.0, 1.0]]])  # 0 shown first: it wins both votes; 1 first: one vote each
    scores = copeland(first, pairs, np.ones((1, 2)))
    assert scores.tolist() == [[0.75, 0.25]]
    assert agreement(first, pairs, scores).tolist() == [[[1.0, 1.0], [1.0, -1.0]]]
    assert not agreement(first, pairs, np.zeros((1, 2))).any()
