"""The thesis: points and lines of made-up studies, the rank correlation, and a sentence that follows them."""

import math

import pytest

from rl.analysis.claims import Verdict, first, grown
from rl.analysis.thesis import Point, Thesis, Trained, line, points, rank_correlation, sentence


def study(anchored, gain, reward_accuracy=0.7, name="made up"):
    """A system's description, and rows of three seeds that gain about as much as is said."""
    arms = (
        Trained("own", "self", grown("own", "accuracy"), first("own", "reward_accuracy")),
        Trained("truth", "oracle", grown("truth", "accuracy")),
        Trained("coin", "control", grown("coin", "accuracy"), 0.5),
        Trained("unmeasured", "self", grown("own", "accuracy")),
    )
    rows = []
    for seed in (1, 2, 3):
        for arm, brings in (("own", gain), ("truth", 0.3), ("coin", -0.1)):
            row = {"arm": arm, "seed": seed, "step": 0, "accuracy": 0.4, "reward_accuracy": reward_accuracy}
            rows += [row, row | {"step": 5, "accuracy": 0.4 + brings + 0.001 * seed, "reward_accuracy": 0.1}]
    return Thesis(name, "signal", "anchor", anchored, "own", arms), rows


def test_points_are_read_at_the_start_and_an_oracle_is_right():
    found = points("s", *study(False, 0.2))
    assert [(one.arm, one.seed) for one in found] == [(a, s) for a in ("own", "truth", "coin") for s in (1, 2, 3)]
    assert {one.arm: one.reward_accuracy for one in found} == {"own": 0.7, "truth": 1.0, "coin": 0.5}
    assert found[0].gain == pytest.approx(0.201)


def test_a_system_fits_if_it_works_anchored_or_fails_without():
    for anchored, gain, verdict in (
        (True, 0.2, Verdict.HOLDS),
        (True, -0.2, Verdict.DOES_NOT_HOLD),
        (False, 0.2, Verdict.DOES_NOT_HOLD),
        (False, -0.2, Verdict.HOLDS),
        (False, -0.002, Verdict.CANNOT_TELL),
    ):
        assert line("s", *study(anchored, gain), {}).verdict is verdict
    found = line("s", *study(True, 0.2), {"a claim": "does not hold", "another": "holds"})
    assert found.oracle == pytest.approx(0.302)
    assert found.standing == "1 of 2 hold; not: a claim"
    empty = line("s", study(True, 0.2)[0], [], {})
    assert math.isnan(empty.mean)
    assert empty.verdict is Verdict.CANNOT_TELL


def scattered(slope, n_studies=6):
    return [
        Point(f"s{i}", "own", "self", seed, 0.1 * i + 0.01 * seed, slope * (0.1 * i) + 0.002 * seed)
        for i in range(n_studies)
        for seed in range(3)
    ]


def test_the_rank_correlation_follows_the_points_and_draws_whole_studies():
    rho, low, high = rank_correlation(scattered(1.0))
    assert rho == pytest.approx(1.0)
    assert 0.9 < low <= high <= 1
    assert rank_correlation(scattered(-1.0))[2] < 0
    assert math.isnan(rank_correlation(scattered(1.0, 2))[1])
    assert all(math.isnan(value) for value in rank_correlation([]))
    assert math.isnan(rank_correlation(scattered(0.0, 1)[:1])[0])


def test_the_sentence_follows_the_rows():
    fits = [line(f"s{i}", *study(i % 2 == 0, 0.2 if i % 2 == 0 else -0.2), {}) for i in range(4)]
    contrary = line("s", *study(False, 0.2, name="SQLM"), {})
    dark = line("s", *study(True, -0.002, name="SEAL"), {})
    rises, unclear, falls = (0.8, 0.5, 0.9), (0.1, -0.5, 0.6), (-0.8, -0.9, -0.5)
    assert sentence(fits, rises, rises, 12).startswith("It holds: of 4 systems 4 fit it, 0 contradict it, and 0")
    assert "the gain rises" in sentence(fits, rises, unclear, 12)
    assert "alone it cannot be told to rise or fall (+0.10 [-0.50, +0.60])" in sentence(fits, rises, unclear, 12)
    assert sentence([*fits, contrary], rises, rises, 12).startswith("It does not hold as worded: of 5 systems 4 fit")
    assert "1 contradicts it (SQLM)" in sentence([*fits, contrary], rises, rises, 12)
    for open_ in (sentence([*fits, dark], rises, rises, 12), sentence(fits, rises, unclear, 12)):
        assert open_.startswith("It cannot be told")
    assert "alone it falls" in sentence(fits, rises, falls, 12)
    nothing = (math.nan, math.nan, math.nan)
    assert "undefined" in sentence(fits, rises, nothing, 12)
    assert "no rank correlation" in sentence([], nothing, nothing, 0)


def test_what_is_described_wrongly_is_said():
    with pytest.raises(ValueError, match="arm own: kind=mine; use self"):
        Trained("own", "mine", grown("own", "accuracy"))
    with pytest.raises(ValueError, match="headline=nobody"):
        Thesis("x", "", "", True, "nobody", ())
