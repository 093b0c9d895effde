"""A reward that is measured again and again: how much of it is the sample's, and does it order as the truth does?"""

from math import ceil

import numpy as np


def ordered_alike(reward_NK: np.ndarray, truth_NK: np.ndarray) -> float:
    """Share of pairs of a question's K samples that both order alike; a tie of the reward counts half.

    Returns:
        In [0, 1]; ``nan`` if the truth tells no two samples of a question apart.
    """
    right, pairs = 0.0, 0
    for reward, truth in zip(reward_NK, truth_NK, strict=True):
        above = truth[:, None] > truth[None]  # every pair once, the better sample first
        same = np.sign(reward[:, None] - reward[None])
        pairs += int(above.sum())
        right += float(((same > 0) + 0.5 * (same == 0))[above].sum())
    return right / pairs if pairs else float("nan")


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
