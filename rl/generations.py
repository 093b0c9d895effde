"""Data policies for training over generations, where each model is trained on the output of earlier models.

A data policy is a function ``(real, pool, new, rng, **options) -> rows`` that returns the next generation's training
data. Items are rows of arrays: ``real`` is the data of generation 0, ``pool`` everything so far with the newest last,
and ``new`` the output of the current model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rewards.lookup import Lookup
from rl.config.checks import check_numbers

DATA_POLICIES: Lookup[Callable[..., np.ndarray]] = Lookup("data_policy")
"""Data policies, named as in Gerstgrasser et al. (arXiv 2404.01413) and Kazdan et al. (arXiv 2410.16713)."""


@DATA_POLICIES.register("replace")
def replace(real: np.ndarray, pool: np.ndarray, new: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Only the output of the current model (Shumailov et al., arXiv 2305.17493)."""
    return new


@DATA_POLICIES.register("accumulate")
def accumulate(real: np.ndarray, pool: np.ndarray, new: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The real data and the output of all models so far (arXiv 2404.01413)."""
    return pool


@DATA_POLICIES.register("accumulate_subsample")
def accumulate_subsample(real: np.ndarray, pool: np.ndarray, new: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many items as the real data has, sampled from everything so far: accumulation at a fixed cost."""
    return pool[rng.choice(len(pool), len(real), replace=False)]


@dataclass(frozen=True)
class MixOptions:
    """Options of ``mix``.

    Args:
        share: Fraction of real items in every generation.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, "data_policy_options", fraction="share")


@DATA_POLICIES.register("mix", options=MixOptions)
def mix(real: np.ndarray, pool: np.ndarray, new: np.ndarray, rng: np.random.Generator, *, share: float) -> np.ndarray:
    """New items, a fraction of them replaced by real items sampled anew each time (arXiv 2305.17493 keeps 10 %)."""
    n_real = round(share * len(new))
    return np.concatenate([new[: len(new) - n_real], real[rng.choice(len(real), n_real, replace=False)]])
