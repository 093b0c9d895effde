"""Repeated rewards: pairs and variances by hand."""

import numpy as np
import pytest

from rl.analysis.repeats import ordered_alike, reliability


def test_the_reward_is_held_against_the_truth_pair_by_pair():
    truth = np.array([[0, 1, 2], [1, 1, 1]])
    assert ordered_alike(np.array([[0.0, 0.5, 1.0], [0, 1, 2]]), truth) == 1.0
    assert ordered_alike(np.array([[1.0, 0.5, 0.0], [0, 1, 2]]), truth) == 0.0
    assert ordered_alike(np.array([[0.5, 0.5, 1.0], [0, 1, 2]]), truth) == pytest.approx(2.5 / 3)
    assert np.isnan(ordered_alike(truth[1:].astype(float), truth[1:]))


def test_reliability_is_the_samples_share_of_the_variance():
    rng = np.random.default_rng(0)
    runs = rng.normal(0, 2.0, (4000, 5, 1)) + rng.normal(0, 4.0, (4000, 5, 3))
    found = reliability(runs)
    assert found["reliability_of_one"] == pytest.approx(4 / 20, abs=0.02)
    assert found["reliability"] == pytest.approx(4 / (4 + 16 / 3), abs=0.02)
    assert 15 <= found["repeats_needed"] <= 18  # 4 repeats of noise / edits = 4
    assert reliability(np.zeros((3, 2, 3))) == {"reliability": 0.0, "reliability_of_one": 0.0}
