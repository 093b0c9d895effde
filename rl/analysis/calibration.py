"""How well a model's scores of its own answers tell right from wrong: AUROC, Brier score, calibration error."""

from collections.abc import Sequence

import numpy as np


def auroc(scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> float:
    """Probability that a right answer is scored above a wrong one, ties counting half (Mann-Whitney).

    Returns:
        A value in [0, 1]; ``nan`` if all answers are right or all are wrong.
    """
    from scipy.stats import rankdata

    label = np.asarray(right, bool).ravel()
    n_right, n_wrong = int(label.sum()), int((~label).sum())
    if not n_right or not n_wrong:
        return float("nan")
    # The rank sum of the right answers, minus its smallest possible value, is the number of (right, wrong) pairs in
    # which the right answer is scored higher. Tied scores get the mean of their ranks, so a tie counts as half a pair.
    ranks = rankdata(np.asarray(scores, float).ravel())
    return float((ranks[label].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def brier(probabilities: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> float:
    """Mean squared distance between probability and outcome (Brier 1950); a constant prediction of 1/2 scores 0.25."""
    p, label = np.asarray(probabilities, float), np.asarray(right, float)
    return float(np.mean((p - label) ** 2))


def ece(probabilities: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Guo et al., arXiv 1706.04599): mean |accuracy - confidence|."""
    p, label = np.asarray(probabilities, float).ravel(), np.asarray(right, float).ravel()
    # Each bin's gap of means is weighted by the bin's share of the answers, so the bin's size cancels and sums are
    # enough. A probability of 1.0 belongs to the last bin.
    bins = np.minimum((p * n_bins).astype(int), n_bins - 1)
    gaps = [abs((label[bins == b] - p[bins == b]).sum()) for b in range(n_bins)]
    return float(np.sum(gaps) / len(p))
