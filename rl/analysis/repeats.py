"""Reliability of a noisy reward: how much of its variance comes from the samples, not from repeated measurement."""

from math import ceil

import numpy as np


def reliability(reward_NKR: np.ndarray) -> dict[str, float]:
    """Share of the variance over a question's K samples that is due to the samples, and the repeats for a share of .8.

    Args:
        reward_NKR: Rewards of N questions, K samples each, measured R times.

    Returns:
        ``reliability`` of the mean of R repeats, ``reliability_of_one`` for a single measurement, and, if the samples
        differ, ``repeats_needed`` for a reliability of .8. Empty for fewer than two samples or two repeats.
    """
    repeats = reward_NKR.shape[2]
    if min(reward_NKR.shape[1:]) < 2:
        return {}
    # One-way analysis of variance: the variance of means over R repeats is the samples' own plus noise / R.
    noise = float(reward_NKR.var(2, ddof=1).mean())
    total = float(reward_NKR.mean(2).var(1, ddof=1).mean())
    samples = max(total - noise / repeats, 0.0)
    if not samples > 0:
        return {"reliability": 0.0, "reliability_of_one": 0.0}
    # Reliability of R repeats is s / (s + noise / R) (Spearman-Brown); it reaches .8 at R = 4 noise / s.
    found = {"reliability": samples / total, "reliability_of_one": samples / (samples + noise)}
    return found | {"repeats_needed": float(max(1, ceil(4 * noise / samples)))}
