"""Reliability of repeatedly measured rewards, on simulated rewards of known variances."""

import numpy as np
import pytest

from rl.analysis.repeats import reliability


def test_reliability_is_the_samples_share_of_the_variance():
    rng = np.random.default_rng(0)
    runs = rng.normal(0, 2.0, (4000, 5, 1)) + rng.normal(0, 4.0, (4000, 5, 3))
    found = reliability(runs)
    assert found["reliability_of_one"] == pytest.approx(4 / 20, abs=0.02)
    assert found["reliability"] == pytest.approx(4 / (4 + 16 / 3), abs=0.02)
    assert 15 <= found["repeats_needed"] <= 18  # 4 noise / samples = 4 * 16 / 4
    assert reliability(np.zeros((3, 2, 3))) == {"reliability": 0.0, "reliability_of_one": 0.0}
