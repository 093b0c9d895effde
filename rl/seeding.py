"""Random numbers without the state of a generator."""

import numpy as np


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """One uniform number in [0, 1) per seed: a hash of (seed, position), so that no generator state is needed.

    The finaliser is splitmix64's (Steele, Lea, Flood, OOPSLA 2014).

    Args:
        seeds: ``[B]`` uint64.
        position: Index of the sampled token within its turn.
    """
    offset = (position + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    x = seeds + np.uint64(offset)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
