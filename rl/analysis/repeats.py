"""A reward that is measured again and again: how much of it is the sample's?"""

from math import ceil

import numpy as np


def reliability(reward_NKR: np.ndarray) -> dict[str, float]:
    """How much of the variance over K samples of a question is the samples', and the repeats that would make it .8.

    Nothing can be said of one sample, or of one repeat.

    Args:
        reward_NKR: N questions, K samples, R repeats.

    Returns:
        ``reliability`` of the mean of R repeats, ``reliability_of_one``, and ``repeats_needed`` where samples differ.
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
