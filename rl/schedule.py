"""What happens when: which stage, which task, which learning rate. Pure functions of a position in the run."""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from rl.seeding import derive_seed


def stage_spans(shares: Sequence[float], n_steps: int) -> list[tuple[int, int]]:
    """First step of each stage and first step after it, in rollout batches.

    Args:
        shares: Of the stages, which divide the run.
        n_steps: Rollout batches of the whole run.
    """
    total, passed, ends = sum(shares), 0.0, [0]
    for share in shares:
        passed += share
        ends.append(round(n_steps * passed / total))
    ends[-1] = n_steps
    return list(pairwise(ends))


def shuffled_index(seed: int, position: int, n: int) -> int:
    """Index of the task at a position of an endless stream that shuffles ``n`` tasks anew on every pass."""
    epoch, offset = divmod(position, n)
    return _permutation(seed, epoch, n)[offset]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, n: int) -> list[int]:
    order = list(range(n))
    random.Random(derive_seed(seed, "order", epoch)).shuffle(order)
    return order


def lr_factor(schedule: str, warmup_steps: int, n_updates: int, taken: int, position: float) -> float:
    """What the peak learning rate is multiplied by.

    Args:
        schedule: ``constant``, ``linear`` or ``cosine``.
        warmup_steps: Updates of the linear warm-up.
        n_updates: Updates of the whole stage, as planned.
        taken: Updates that the stage has taken.
        position: Where in the plan the budget is, from 0 to ``n_updates``: as many as were taken, or more where
            replaced groups have used some of it up, so that a schedule ends where the budget does.
    """
    if taken < warmup_steps:
        return (taken + 1) / warmup_steps
    progress = min(1.0, (position - warmup_steps) / max(1, n_updates - warmup_steps))
    shapes = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(progress * math.pi))}
    return shapes[schedule]
