"""What happens when: which stage, which task, which learning rate. Pure functions of a position in the run."""

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache

from rl.seeding import derive_seed


def stage_at(shares: Sequence[float], step: int, n_steps: int) -> tuple[int, int, int]:
    """Which stage a step belongs to.

    Args:
        shares: Of the stages, which divide the run.
        step: Rollout batch, from 0.
        n_steps: Rollout batches of the whole run.

    Returns:
        Index of the stage, first step of the stage, first step after it.
    """
    total = sum(shares)
    start, passed = 0, 0.0
    for index, share in enumerate(shares):
        passed += share
        end = n_steps if index == len(shares) - 1 else round(n_steps * passed / total)
        if step < end:
            return index, start, end
        start = end
    raise ValueError(f"step {step} is not in a run of {n_steps} steps")


def shuffled_index(seed: int, position: int, n: int) -> int:
    """Index of the task at a position of an endless stream that shuffles ``n`` tasks anew on every pass."""
    epoch, offset = divmod(position, n)
    return _permutation(seed, epoch, n)[offset]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, n: int) -> list[int]:
    order = list(range(n))
    random.Random(derive_seed(seed, "order", epoch)).shuffle(order)
    return order


def lr_factor(schedule: str, warmup_steps: int, n_updates: int) -> Callable[[int], float]:
    """The learning rate's factor as a function of the update index."""

    def factor(update: int) -> float:
        if update < warmup_steps:
            return (update + 1) / warmup_steps
        progress = min(1.0, (update - warmup_steps) / max(1, n_updates - warmup_steps))
        return shapes[schedule](progress)

    shapes: dict[str, Callable[[float], float]] = {
        "constant": lambda progress: 1.0,
        "linear": lambda progress: 1.0 - progress,
        "cosine": lambda progress: 0.5 * (1.0 + math.cos(progress * math.pi)),
    }
    return factor
