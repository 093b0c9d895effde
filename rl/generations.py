"""What a model of the next generation is trained on, where models train on what models before them wrote.

A policy is a function ``(real, pool, new, generator, **options) -> rows``: items are rows of arrays, ``real`` the data
of generation 0, ``pool`` everything so far with the newest last, ``new`` what the present model has just written.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rewards.lookup import Lookup
from rl.config.checks import check_numbers

DATA_POLICIES: Lookup[Callable[..., np.ndarray]] = Lookup("data_policy")
"""Named as in Gerstgrasser et al. (arXiv 2404.01413) and Kazdan et al. (arXiv 2410.16713)."""


@DATA_POLICIES.register("replace")
def replace(real: np.ndarray, pool: np.ndarray, new: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Only what the model before wrote (Shumailov et al., arXiv 2305.17493)."""
    return new


@DATA_POLICIES.register("accumulate")
def accumulate(real: np.ndarray, pool: np.ndarray, new: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The real data and everything that was ever written (arXiv 2404.01413)."""
    return pool


@DATA_POLICIES.register("accumulate_subsample")
def accumulate_subsample(real: np.ndarray, pool: np.ndarray, new: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many items as the real data has, drawn from everything so far: accumulation at a fixed cost."""
    return pool[rng.choice(len(pool), len(real), replace=False)]


@dataclass(frozen=True)
class MixOptions:
    """Options of ``mix``.

    Args:
        share: Of real items in every generation.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, "data_policy_options", fraction="share")


@DATA_POLICIES.register("mix", options=MixOptions)
def mix(real: np.ndarray, pool: np.ndarray, new: np.ndarray, rng: np.random.Generator, *, share: float) -> np.ndarray:
    """New items, with a share of real ones drawn anew each time (arXiv 2305.17493 keeps 10 %)."""
    n_real = round(share * len(new))
    return np.concatenate([new[: len(new) - n_real], real[rng.choice(len(real), n_real, replace=False)]])
