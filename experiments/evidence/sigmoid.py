"""A saturating curve through accuracy over sampled episodes."""

from dataclasses import dataclass

import numpy as np

MIN_POINTS = 6
MIN_RISE = 5.0
"""Points of accuracy; flatter curves have no ceiling to be fitted."""
MAX_STEEPNESS = 20.0


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """``floor + (ceiling - floor) / (1 + (middle / n) ** steepness)`` (ScaleRL, arXiv 2510.13786, equation 1)."""

    floor: float
    ceiling: float
    steepness: float
    middle: float

    def __call__(self, n: np.ndarray) -> np.ndarray:
        """Value after ``n`` > 0 episodes."""
        return self.floor + (self.ceiling - self.floor) / (1 + (self.middle / n) ** self.steepness)


def fit_sigmoid(n: np.ndarray, accuracy: np.ndarray) -> Sigmoid | None:
    """Least squares; ``None`` for a curve that is too short or too flat, or where no fit is found.

    Args:
        n: Sampled episodes; the first is 0, whose accuracy is the floor.
        accuracy: In percent.
    """
    from scipy.optimize import curve_fit

    if len(n) < MIN_POINTS or accuracy.max() - accuracy[0] < MIN_RISE:
        return None
    floor = float(accuracy[0])

    # The middle by its logarithm: it may lie anywhere between the first and far beyond the last number of episodes.
    def curve(x: np.ndarray, ceiling: float, steepness: float, log_middle: float) -> np.ndarray:
        return Sigmoid(floor, ceiling, steepness, float(np.exp(log_middle)))(x)

    # Before any episode the curve is its floor by definition, and 0 has no logarithm.
    x, y = n[n > 0], accuracy[n > 0]
    start = (float(y.max()), 2.0, float(np.log(np.median(x))))
    bounds = ([0.0, 0.1, float(np.log(x.min())) - 3], [100.0, MAX_STEEPNESS, float(np.log(x.max())) + 3])
    try:
        found, _ = curve_fit(curve, x, y, start, bounds=bounds, maxfev=5000)
    except (RuntimeError, ValueError):
        return None
    return Sigmoid(floor, float(found[0]), float(found[1]), float(np.exp(found[2])))
