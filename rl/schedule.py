"""The learning rate over a stage."""

import math


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
