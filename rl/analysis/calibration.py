"""How well a model's scores of its own answers tell right from wrong: AUROC, Brier score, calibration error."""

from collections.abc import Sequence

import numpy as np


def auroc(scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> float:
    """Probability that a right answer is scored above a wrong one, ties counting half (Mann-Whitney).

    Returns:
        In [0, 1]; ``nan`` if all answers are right, or none is.
    """
    from scipy.stats import rankdata

    label = np.asarray(right, bool).ravel()
    n_right, n_wrong = int(label.sum()), int((~label).sum())
    if not n_right or not n_wrong:
        return float("nan")
    # The sum of the right ones' ranks less what they take up among themselves counts the pairs that they win; tied
    # scores have the mean of their ranks, which is half a win.
    ranks = rankdata(np.asarray(scores, float).ravel())
    return float((ranks[label].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def brier(probabilities: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> float:
    """Mean squared distance of a probability from what came true (Brier 1950); 0.25 for always saying 1/2."""
    p, label = np.asarray(probabilities, float), np.asarray(right, float)
    return float(np.mean((p - label) ** 2))


def ece(probabilities: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error over equal bins (Guo et al., arXiv 1706.04599): mean |accuracy - confidence|."""
    p, label = np.asarray(probabilities, float).ravel(), np.asarray(right, float).ravel()
    # Means of a bin times its share of the answers: the division by the bin's size cancels. 1.0 is in the last bin.
    bins = np.minimum((p * n_bins).astype(int), n_bins - 1)
    gaps = [abs((label[bins == b] - p[bins == b]).sum()) for b in range(n_bins)]
    return float(np.sum(gaps) / len(p))
