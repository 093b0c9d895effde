"""The thesis: points and lines of invented studies, their rank correlation, and the sentence that sums them up."""

import math
from dataclasses import replace

import pytest

from rl.analysis.claims import Verdict, first, grown
from rl.analysis.thesis import Point, Thesis, Trained, Within, line, points, pooled, sentence, within_studies


def study(anchored, gain, reward_accuracy=0.7, name="made up"):
    """Description of an invented system, and rows of three seeds in which its accuracy rises by about ``gain``."""
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


def test_the_pooled_rank_correlation_follows_the_points_and_draws_whole_studies():
    rho, low, high = pooled(scattered(1.0))
    assert rho == pytest.approx(1.0)
    assert 0.9 < low <= high <= 1
    assert pooled(scattered(-1.0))[2] < 0
    assert math.isnan(pooled(scattered(1.0, 2))[1])
    flat = [Point(f"s{i}", "own", "self", 0, 0.5, 0.1 * i) for i in range(4)]
    for nothing in ([], scattered(0.0, 1)[:1], flat):
        assert all(math.isnan(value) for value in pooled(nothing))


def of_study(name, gains, accuracies=(0.5, 0.6, 0.7)):
    return [
        Point(name, "own", "self", i, told, gain) for i, (told, gain) in enumerate(zip(accuracies, gains, strict=True))
    ]


def test_within_studies_the_scale_of_a_study_does_not_count():
    rising = of_study("a", (-0.9, -0.8, -0.7), (0.8, 0.9, 1.0))  # rank correlation 1, lowest gains of all studies
    mostly = of_study("b", (0.1, 0.3, 0.2))  # ranks 1 3 2: 1 - 6 * 2 / (3 * 8) = 0.5
    falling_at_first = of_study("c", (0.5, 0.4, 0.6))  # ranks 2 1 3: 0.5
    flat, one_place = of_study("d", (0.1, 0.1, 0.1)), of_study("e", (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    found = within_studies([*rising, *mostly, *falling_at_first, *flat, *one_place])
    assert found.by_study == pytest.approx({"a": 1.0, "b": 0.5, "c": 0.5})
    assert found.mean == pytest.approx(2 / 3)
    # 1, .5, .5 have standard deviation sqrt(1/12) and standard error 1/6; the 97.5 % quantile of t(2) is 4.3027.
    assert (found.low, found.high) == pytest.approx((2 / 3 - 4.3027 / 6, 2 / 3 + 4.3027 / 6), abs=1e-4)
    assert pooled([*rising, *mostly, *falling_at_first])[0] < 0
    two = within_studies([*rising, *mostly])
    assert two.mean == pytest.approx(0.75)
    assert math.isnan(two.low)
    assert within_studies(flat).by_study == {}


def test_seeds_that_do_not_move_say_nothing():
    thesis, rows = study(True, 0.2)
    still = [row | {"accuracy": 0.4} for row in rows]
    for anchored in (True, False):
        found = line("s", replace(thesis, anchored=anchored), still, {})
        assert (found.low, found.high) == (0, 0)
        assert found.verdict is Verdict.CANNOT_TELL
    lost = [row | {"accuracy": 0.3 if row["step"] else 0.4} for row in rows]
    assert line("s", thesis, lost, {}).verdict is Verdict.DOES_NOT_HOLD


def test_other_readings_and_the_arm_without_what_is_studied_stand_beside_the_verdict():
    thesis, rows = study(True, 0.2)
    beside = replace(thesis, without="truth", also={"the coin's": grown("coin", "accuracy")})
    found = line("s", beside, rows, {})
    assert found.verdict is Verdict.HOLDS
    assert found.remarks[0].startswith("the coin's: -0.098 [")
    assert found.remarks[0].endswith("contradicts")
    assert "(truth): +0.302" in found.remarks[1]
    assert "-0.100" in found.remarks[1]
    assert "not told apart" not in found.remarks[1]  # every seed differs by the same 0.1
    nothing = Within(math.nan, math.nan, math.nan, {})
    assert "Counted by the coin's (-0.098 [" in sentence([found], nothing, nothing, (math.nan, math.nan, math.nan), 0)
    same = line("s", replace(thesis, without="own"), rows, {})
    assert same.remarks == [f"without what is studied (own): {same.remarks[0].split(': ')[1]}"]
    assert same.remarks[0].endswith("not told apart")


def test_the_sentence_follows_the_rows():
    fits = [line(f"s{i}", *study(i % 2 == 0, 0.2 if i % 2 == 0 else -0.2), {}) for i in range(4)]
    contrary = line("s", *study(False, 0.2, name="SQLM"), {})
    dark = line("s", *study(True, -0.002, name="SEAL"), {})
    rises, unclear, falls = (
        Within(*interval, {"a": 0.1, "b": -0.2, "c": 0.3})
        for interval in ((0.8, 0.5, 0.9), (0.1, -0.5, 0.6), (-0.8, -0.9, -0.5))
    )
    heap, nowhere = (0.02, -0.2, 0.3), (math.nan, math.nan, math.nan)

    def said(lines, within, of_own):
        return sentence(lines, within, of_own, heap, 12)

    assert said(fits, rises, rises).startswith("It holds: of 4 systems 4 fit it, 0 contradict it, and 0")
    told = said(fits, rises, unclear)
    assert "Within a study the gain rises" in told
    assert "mean over 3 studies +0.80 [+0.50, +0.90], above 0 in 2" in told
    assert "alone it cannot be told to rise or fall (mean over 3 studies +0.10 [-0.50, +0.60]" in told
    assert "All 12 arms and seeds in one heap give +0.02 [-0.20, +0.30], which is not the one to read" in told
    assert said([*fits, contrary], rises, rises).startswith("It does not hold as worded: of 5 systems 4 fit")
    assert "1 contradicts it (SQLM)" in said([*fits, contrary], rises, rises)
    for open_ in (said([*fits, dark], rises, rises), said(fits, rises, unclear)):
        assert open_.startswith("It cannot be told")
    assert "alone it falls" in said(fits, rises, falls)
    nothing = Within(*nowhere, {})
    alone = Within(0.3, math.nan, math.nan, {"a": 0.3})
    assert "alone nothing can be said." in said(fits, rises, nothing)
    assert "(rank correlation, one study +0.30, no interval;" in said(fits, alone, nothing)
    assert "no rank correlation" in sentence([], nothing, nothing, nowhere, 0)
    for text in (said(fits, alone, nothing), sentence(fits, alone, alone, (0.3, math.nan, math.nan), 3)):
        assert "nan" not in text


def test_what_is_described_wrongly_is_said():
    with pytest.raises(ValueError, match="arm own: kind=mine; use self"):
        Trained("own", "mine", grown("own", "accuracy"))
    with pytest.raises(ValueError, match="headline=nobody"):
        Thesis("x", "", "", True, "nobody", ())
    arms = (Trained("own", "self", grown("own", "accuracy")),)
    with pytest.raises(ValueError, match="without=nobody"):
        Thesis("x", "", "", True, "own", arms, without="nobody")
