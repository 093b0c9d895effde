"""Tests and intervals against scipy where scipy has them, otherwise by hand and by simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest

from rl.analysis.significance import detectable_delta, holm, mcnemar, newcombe_paired, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (263, 500)])
def test_wilson_is_scipys(right, n):
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("fixed", "broken"), [(29, 7), (0, 5), (3, 3), (100, 60)])
def test_mcnemar_is_a_binomial_test_of_the_discordant(fixed, broken):
    assert mcnemar(fixed, broken) == pytest.approx(binomtest(fixed, fixed + broken, 0.5).pvalue)


def test_holm_by_hand():
    # The sorted p-values 0.005 0.01 0.03 0.04 0.04 0.9 are multiplied by 6 5 4 3 2 1, and never fall.
    p_values = [0.01, 0.04, 0.03, 0.005, 0.9, 0.04]
    assert holm(p_values) == pytest.approx([0.05, 0.12, 0.12, 0.03, 0.9, 0.12])
    assert holm([]) == []


def test_newcombe_covers_and_its_ends_make_sense():
    """In simulations about 95 % of the intervals contain the true difference, even if hardly any task changes."""
    rng = np.random.default_rng(0)
    for shares in ([0.4, 0.05, 0.15, 0.4], [0.6, 0.01, 0.02, 0.37], [0.95, 0.0, 0.03, 0.02]):
        truth, covered = shares[2] - shares[1], 0
        for counts in rng.multinomial(100, shares, size=1000):
            low, high = newcombe_paired(*map(int, counts))
            covered += low <= truth <= high
        assert covered / 1000 > 0.93
    low, high = newcombe_paired(50, 0, 0, 50)
    assert low < 0 < high  # no change on 100 tasks does not prove a difference of 0
    assert low == pytest.approx(-high)
    assert newcombe_paired(0, 0, 0, 0) == (-1.0, 1.0)
    mirrored = newcombe_paired(40, 15, 5, 40)
    assert newcombe_paired(40, 5, 15, 40) == pytest.approx((-mirrored[1], -mirrored[0]))


def test_power():
    """1,366 tasks of which 7 % change can show a delta of 2 points; a simulation finds it in 80 % of the trials."""
    n = 1366
    assert detectable_delta(0.07, n) == pytest.approx(0.02, abs=1e-4)
    assert detectable_delta(0.0, n) == 0.0
    rng = np.random.default_rng(0)
    fixed, broken, _ = rng.multinomial(n, [0.045, 0.025, 0.93], size=2000).T
    z = (fixed - broken) / np.sqrt(fixed + broken - (fixed - broken) ** 2 / n)
    assert abs((np.abs(z) > 1.96).mean() - 0.8) < 0.03
