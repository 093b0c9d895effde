"""Statistics, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from rl.analysis.metrics import Ratio, total
from rl.analysis.significance import mcnemar
from rl.analysis.statistics import Bootstrap, Cells, by_responses, pass_at_k, summarise, tabulate
from tests.helpers import row


def plain(values):
    """Cells of a rate that is defined for every episode; ``nan`` marks a missing episode."""
    return Cells(values, np.where(np.isnan(values), np.nan, 1.0))


def test_summary_by_hand():
    # Four episodes, i->c, c->i, c->c and i->i, and a failed one that counts only in ``failed_fraction``.
    rows = [row(task_id=str(i), first=f, last=s) for i, (f, s) in enumerate([(0, 1), (1, 0), (1, 1), (0, 0)])]
    got = summarise([*rows, row(task_id="9", failed=True)])
    assert got["accuracy_t1"] == got["accuracy_t2"] == 0.5
    assert got["delta"] == 0.0
    assert got["delta_i_to_c"] == got["delta_c_to_i"] == 0.25
    assert got["fix_rate"] == got["break_rate"] == 0.5
    assert got["edit_rate"] == 0.5
    assert got["same_answer"] == 0.5
    assert (got["n"], got["failed_fraction"]) == (4, 0.2)


def test_delta_is_fixes_minus_breaks_exactly():
    rng = np.random.default_rng(0)
    rows = [row(task_id=str(i), first=bool(a), last=bool(b)) for i, (a, b) in enumerate(rng.integers(0, 2, (200, 2)))]
    got = summarise(rows)
    assert got["delta"] == pytest.approx(got["delta_i_to_c"] - got["delta_c_to_i"], abs=1e-12)


def test_an_empty_summary_is_nan_not_zero():
    assert math.isnan(summarise([])["accuracy_t1"])


def test_no_answer_twice_is_not_the_same_answer():
    assert summarise([row(first=False, last=False, answers=(None, None))])["same_answer"] == 0.0
    assert summarise([row(first=False, last=False, answers=("3", "3"))])["same_answer"] == 1.0


def test_mcnemar_against_the_binomial():
    # 5 fixed, 0 broken: the two-sided p-value is 2 * 0.5^5.
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(29, 7) == pytest.approx(3.2e-4, rel=0.05)  # SCoRe on MATH-500: 5.8 % and 1.4 % of 500


def test_pass_at_k():
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)  # 1 - C(2,2)/C(4,2)
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 2, 5)


def test_bootstrap_interval_has_the_binomial_width():
    rng = np.random.default_rng(1)
    values = (rng.random((1, 1000)) < 0.3).astype(float)
    got = Bootstrap(1, 1000).interval(plain(values))
    expected = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / 1000)
    assert got.mean == pytest.approx(values.mean())
    assert (got.high - got.low) / 2 == pytest.approx(expected, rel=0.05)


def test_pairing_narrows_the_difference():
    rng = np.random.default_rng(2)
    left = (rng.random((2, 500)) < 0.5).astype(float)
    boot = Bootstrap(2, 500)
    same = boot.difference(plain(left), plain(left))
    assert (same.low, same.mean, same.high) == (0.0, 0.0, 0.0)
    better = left.copy()
    better[:, :50] = 1.0
    got = boot.difference(plain(better), plain(left))
    assert got.low > 0
    assert got.high - got.low < 0.06  # an unpaired interval would be about 0.09 wide


def test_seeds_are_resampled_too():
    values = np.zeros((3, 200))
    values[0] = 1.0  # one seed of three learned it
    got = Bootstrap(3, 200).interval(plain(values))
    assert (got.low, got.high) == (0.0, 1.0)
    assert got.mean == pytest.approx(1 / 3)


def test_a_single_base_run_stands_for_every_seed_and_missing_tasks_drop_out():
    boot = Bootstrap(3, 4)
    got = boot.interval(plain(np.array([[1.0, 1.0, np.nan, 1.0]])))
    assert (got.mean, got.low, got.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="expected"):
        boot.draws(plain(np.zeros((2, 4))))


def test_tables_are_paired_by_task():
    rows = [row(arm="a", task_id="x"), row(arm="a", task_id="y"), row(arm="b", task_id="y"), row(arm="b", task_id="x")]
    tables = tabulate(rows, "greedy")
    assert tables["a"].task_ids == tables["b"].task_ids
    with pytest.raises(ValueError, match="nothing is paired"):
        tabulate([*rows, row(arm="c", task_id="x")], "greedy")


def test_samples_of_a_task_are_averaged_first():
    rows = [row(task_id="x", last=i == 0, sample=i, mode="sampled") for i in range(4)]
    assert tabulate(rows, "sampled")["a"].cells["accuracy_t2"].above.tolist() == [[0.25]]


def test_accuracy_over_responses_compares_equal_numbers_of_responses():
    def attempts(first, last, sample):
        return row(task_id="x", first=first, last=last, sample=sample, mode="sampled")

    rows = [attempts(False, True, 0), attempts(False, True, 1), attempts(True, True, 2), attempts(False, True, 3)]
    points = by_responses(rows)
    assert [point["responses"] for point in points] == [1, 2, 3, 4]
    assert points[3]["majority"] == 0.0  # three of four first attempts agree on a wrong answer
    assert points[3]["sequential"] == 1.0  # two episodes of two attempts
    assert math.isnan(points[0]["sequential"])
    assert points[3]["pass"] == 1.0


def test_ratios_add_before_they_divide():
    parts = [{"policy/entropy": Ratio(1.0, 1.0)}, {"policy/entropy": Ratio(0.0, 3.0)}]
    assert total(parts)["policy/entropy"].value == 0.25  # the mean of means would be 0.5
    assert math.isnan(Ratio(0.0, 0.0).value)
