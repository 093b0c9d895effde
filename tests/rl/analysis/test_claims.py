"""Claims, calibration and the gate against numbers that were worked out by hand."""

import math

import numpy as np
import pytest

from rl.analysis.calibration import auroc, brier, ece
from rl.analysis.claims import Claim, first, judge, last, minus, resampled, student_t
from rl.analysis.gate import Gate, gaps, record, signal_accuracy, with_outcome


def rows(**by_arm):
    """Rows from a list of [value at step 0, value at step 9] per arm, one pair per seed; step 9 comes before step 0."""
    return [
        {"arm": arm, "seed": seed, "step": step, "accuracy": value}
        for arm, seeds in by_arm.items()
        for seed, pair in enumerate(seeds)
        for step, value in zip((9, 0), reversed(pair), strict=True)
    ]


def test_readers_take_the_first_and_the_last_step_whatever_the_order():
    data = rows(a=[[0.1, 0.4], [0.2, 0.6]], b=[[0.0, 0.1]])
    assert first("a", "accuracy")(data) == {0: 0.1, 1: 0.2}
    assert last("a", "accuracy")(data) == {0: 0.4, 1: 0.6}
    assert minus(last("a", "accuracy"), last("b", "accuracy"))(data) == pytest.approx({0: 0.3})
    assert last("a", "nothing")(data) == {}


@pytest.mark.parametrize(
    ("expect", "than", "margin", "values", "verdict"),
    [
        ("above", 0.0, 0.0, [0.1, 0.11, 0.12], "holds"),
        ("above", 0.0, 0.0, [-0.1, -0.11, -0.12], "does not hold"),
        ("above", 0.0, 0.0, [0.1, -0.1, 0.2], "cannot tell"),
        ("above", 0.0, 0.0, [0.5], "cannot tell"),
        ("above", 0.0, 0.0, [], "not measured"),
        ("below", 0.5, 0.0, [0.1, 0.11, 0.12], "holds"),
        ("below", 0.5, 0.0, [0.9, 0.91, 0.92], "does not hold"),
        ("above", 0.0, 0.0, [0.0, 0.0], "cannot tell"),
        ("below", 0.5, 0.0, [0.5, 0.5, 0.5], "cannot tell"),
        ("above", 0.0, 0.0, [-0.2, -0.2], "does not hold"),
        ("near", 0.5, 0.1, [0.49, 0.5, 0.51], "holds"),
        ("near", 0.5, 0.1, [0.9, 0.91, 0.92], "does not hold"),
        ("near", 0.5, 0.01, [0.49, 0.5, 0.51], "cannot tell"),
        ("above", 0.0, 0.0, [[0.1] * 30 + [0.3] * 30], "holds"),
        ("above", 0.0, 0.0, [[-1.0, 1.0] * 30], "cannot tell"),
    ],
)
def test_the_interval_decides(expect, than, margin, values, verdict):
    claim = Claim("x", "It is so.", lambda _: dict(enumerate(values)), expect=expect, than=than, margin=margin)
    found = judge(claim, [])
    assert found.verdict == verdict
    assert found.line.startswith(f"{verdict}: It is so. Expected {expect} {than:g}")
    assert found.over == ("questions" if values and isinstance(values[0], list) else "seeds")


def test_intervals():
    mean, low, high = student_t([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert resampled([0.5] * 10) == (0.5, 0.5, 0.5)
    mean, low, high = resampled([0.0, 1.0] * 200)
    assert mean == 0.5
    assert low == pytest.approx(0.45, abs=0.01)
    assert high == pytest.approx(0.55, abs=0.01)


def test_a_claim_that_cannot_be_decided_is_refused():
    for wrong in ({"expect": "over"}, {"expect": "near"}, {"margin": 0.1}):
        with pytest.raises(ValueError, match="claim x"):
            Claim("x", "It is so.", lambda _: {}, **wrong)


def test_auroc_counts_ties_half():
    assert auroc([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0]) == (1 + 0.5 + 1 + 1) / 4
    assert auroc([1, 2, 3], [1, 0, 0]) == 0.0
    assert math.isnan(auroc([1, 2], [1, 1]))


def test_brier_and_calibration_error():
    assert brier([1.0, 0.5], [1, 0]) == 0.125
    # Bin 5: two answers at 0.5, one right; bin 9: one at 0.95 and one at 1, both wrong.
    assert ece([0.5, 0.5, 0.95, 1.0], [1, 0, 0, 0]) == pytest.approx((0 + 1.95) / 4)


def test_a_signal_is_held_against_the_truth_pair_by_pair():
    truth = np.array([[0, 1, 2], [1, 1, 1]])
    assert signal_accuracy(np.array([[0.0, 0.5, 1.0], [0, 1, 2]]), truth) == 1.0
    assert signal_accuracy(np.array([[1.0, 0.5, 0.0], [0, 1, 2]]), truth) == 0.0
    assert signal_accuracy(np.array([[0.5, 0.5, 1.0], [0, 1, 2]]), truth) == pytest.approx(2.5 / 3)
    assert signal_accuracy(np.ones((2, 3)), truth) == 0.5  # a signal that is always equal tells nothing
    assert np.isnan(signal_accuracy(truth[1:], truth[1:]))
    assert signal_accuracy(np.array([[0.0, 1.0, 9.0]]), np.array([[0.0, 1.0, np.nan]])) == 1.0


def test_texts_that_are_filtered_or_labelled_are_held_against_what_the_model_writes_now():
    own = np.arange(400) % 2 == 0
    gate = Gate.of_texts(np.ones(300), own)
    assert gate.expects
    assert (gate.gap, gate.n) == (0.5, 300)
    assert gate.low == pytest.approx(0.5 - 1.96 * 0.5 / 20)
    assert not Gate.of_texts(own, own).expects
    assert not Gate.of_texts(np.zeros(0), own).expects


def test_the_gap_is_what_picking_gains():
    right = np.array([[1, 0, 0, 0], [1, 1, 0, 0]])
    scores = np.array([[2.0, 1.0, 0.0, 0.0], [0.0, 5.0, 5.0, 0.0]])
    assert gaps(right, scores).tolist() == [0.75, 0.0]


def test_the_gate_announces_and_is_checked():
    rng = np.random.default_rng(0)
    right = rng.random((200, 8)) < 0.4
    opened, shut = Gate.read(right, right.astype(float)), Gate.read(right, rng.random((200, 8)))
    assert opened.expects
    assert not shut.expects
    assert "expect improvement" in str(opened)
    assert "do not expect improvement" in str(shut)
    outcomes = [{"seed": 0} | gate.outcome(gain, "x") for gate in (opened, shut) for gain in (0.1, 0.0)]
    assert [row["gate_hit"] for row in outcomes] == [True, False, False, True]
    _, cells, said = record([*outcomes, {"seed": 0, "accuracy": 1.0}])
    assert len(cells) == 4
    constant = "A gate that is always open would have been right in 2 of 4, one that never opens in 2."
    assert said == f"The gate was right in 2 of 4 trainings. {constant}"
    untrained = {"seed": 0} | shut.outcome(None, "y")
    _, cells, said = record([*outcomes, untrained])
    assert cells[-1][-2:] == ["-", "not tested"]
    assert said == (
        "The gate was right in 2 of 4 trainings. 1 more of its readings was not tested: nothing was trained, or the "
        f"gate had nothing to measure. {constant}"
    )
    both = [*outcomes, {"seed": 0} | shut.outcome(0.0, "y", "control")]
    assert record(both)[2].endswith("By kind of signal: self 2 of 4, control 1 of 1.")
    unread = {"seed": 0} | Gate.of_texts(np.zeros(0), right[:, 0]).outcome(0.1, "z") | {"gate_gap": None}  # as stored
    assert record([unread | {"gate_low": None, "gate_high": None}])[1][0][3:5] == ["-", "-, -"]
    assert unread["gate_hit"] is None
    assert record([untrained])[2].startswith("No prediction was tested. 1 more")
    assert with_outcome([*outcomes, untrained, {"seed": 0}]) == outcomes
