"""Fits a saturating curve to accuracy over sampled episodes."""

from dataclasses import dataclass

import numpy as np

MIN_POINTS = 6
MIN_RISE = 5.0
"""Smallest rise in accuracy, in points, that is fitted; flatter curves do not determine a ceiling."""
MAX_STEEPNESS = 20.0


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """The curve ``floor + (ceiling - floor) / (1 + (middle / n) ** steepness)`` (ScaleRL, arXiv 2510.13786, eq. 1)."""

    floor: float
    ceiling: float
    steepness: float
    middle: float

    def __call__(self, n: np.ndarray) -> np.ndarray:
        """Value of the curve after ``n`` > 0 episodes."""
        return self.floor + (self.ceiling - self.floor) / (1 + (self.middle / n) ** self.steepness)


def fit_sigmoid(n: np.ndarray, accuracy: np.ndarray) -> Sigmoid | None:
    """Least-squares fit; ``None`` if the curve is too short or too flat, or if no fit is found.

    Args:
        n: Number of sampled episodes at each point; the first is 0, and the accuracy there is the floor.
        accuracy: Accuracy at each point, in percent.
    """
    from scipy.optimize import curve_fit

    if len(n) < MIN_POINTS or accuracy.max() - accuracy[0] < MIN_RISE:
        return None
    floor = float(accuracy[0])

    # The logarithm of the middle is fitted, since the middle's possible values span orders of magnitude: from below the
    # first to far beyond the last number of episodes.
    def curve(x: np.ndarray, ceiling: float, steepness: float, log_middle: float) -> np.ndarray:
        return Sigmoid(floor, ceiling, steepness, float(np.exp(log_middle)))(x)

    # The point at n = 0 is left out: the curve equals its floor there by definition, and 0 has no logarithm.
    x, y = n[n > 0], accuracy[n > 0]
    start = (float(y.max()), 2.0, float(np.log(np.median(x))))
    bounds = ([0.0, 0.1, float(np.log(x.min())) - 3], [100.0, MAX_STEEPNESS, float(np.log(x.max())) + 3])
    try:
        found, _ = curve_fit(curve, x, y, start, bounds=bounds, maxfev=5000)
    except (RuntimeError, ValueError):
        return None
    return Sigmoid(floor, float(found[0]), float(found[1]), float(np.exp(found[2])))
