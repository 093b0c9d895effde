"""How a budget is divided: the rollout batches of a run, and those of each stage."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, count, pairwise

from rewards.wording import counted
from rl.config import TrainConfig

TOKEN_STEPS = 1000
"""Resolution of the stages of a run whose budget is tokens."""
TOKEN_CHUNK = 16
"""Groups that an offline method samples between two looks at a budget of tokens: it is overdrawn by less than these."""


def planned_steps(config: TrainConfig) -> int:
    """Rollout batches of a run with the algorithm's own group size; :data:`TOKEN_STEPS` for a budget of tokens."""
    budget, unit = config.training, _unit(config)
    return TOKEN_STEPS if budget.tokens else max(1, (budget.updates or budget.episodes) // unit)


def stage_spans(shares: Sequence[float], n_steps: int) -> list[tuple[int, int]]:
    """First step of each stage and first step after it, in rollout batches.

    Args:
        shares: Of the stages, which divide the run.
        n_steps: Rollout batches of the whole run.
    """
    # Ends are rounded, not lengths, so that the stages' steps add up to the run's.
    ends = [0, *(round(n_steps * passed / sum(shares)) for passed in accumulate(shares))]
    ends[-1] = n_steps
    return list(pairwise(ends))


def steps_of_stages(config: TrainConfig, n_steps: int) -> list[int]:
    """Rollout batches that each stage takes, if none of its groups are replaced.

    Args:
        config: The run.
        n_steps: Its budget, in rollout batches with the algorithm's own group size.
    """
    stages = config.algorithm.resolved(config.env.attempts)
    spans = stage_spans([stage.share for stage in stages], n_steps)
    if config.training.tokens or config.training.updates:
        return [end - start for start, end in spans]
    # Stages with groups of their own spend the episodes faster or slower, and a batch must fit into what is left.
    size, per_step = config.training.tasks_per_step, _unit(config)
    spent, taken = 0, [0] * len(stages)
    while True:
        place = min(spent // per_step, n_steps - 1)
        index = next(i for i, (_, end) in enumerate(spans) if place < end)
        spent += size * stages[index].group_size
        if spent > n_steps * per_step:
            return taken
        taken[index] += 1


def batches_bought(config: TrainConfig, longest: bool) -> list[int]:
    """Rollout batches that each stage takes of a budget of tokens, of which nothing but bounds is known beforehand.

    Args:
        config: The run.
        longest: The fewest, with answers as long as they may be; otherwise the most, with a token in every episode.
    """
    budget, stages, found = config.training, config.algorithm.resolved(config.env.attempts), []
    spans = stage_spans([stage.share for stage in stages], TOKEN_STEPS)
    for stage, (start, end) in zip(stages, spans, strict=True):
        of_one = (config.env.token_budget(stage.attempts) if longest else 0) or 1
        tokens = budget.tokens * (end - start) / TOKEN_STEPS
        found.append(math.ceil(tokens / (budget.tasks_per_step * stage.group_size * of_one)))
    return found


def smallest_budget(config: TrainConfig, enough: Callable[[Iterable[int]], bool]) -> int:
    """The smallest number of episodes or updates with which the stages' steps are enough.

    Args:
        config: The run; its budget is not one of tokens.
        enough: ``any`` for one step at all, ``all`` for a step of every stage.
    """

    def reaches(n_steps: int) -> bool:
        return enough(steps_of_stages(config, n_steps))

    # A stage with a share of a ten-thousandth needs ten thousand batches: doubled, and halved, not tried one by one.
    top = next(2**i for i in count() if reaches(2**i))
    return _unit(config) * (bisect_left(range(1, top + 1), True, key=reaches) + 1)


def spent(config: TrainConfig) -> tuple[int, int]:
    """Episodes and optimiser steps that a run comes to: whole batches, within its budget, which is not one of tokens.

    Groups that dynamic sampling replaces leave room for fewer batches.
    """
    algorithm, steps = config.algorithm, steps_of_stages(config, planned_steps(config))
    stages = algorithm.resolved(config.env.attempts)
    groups = sum(n * stage.group_size for n, stage in zip(steps, stages, strict=True))
    return config.training.tasks_per_step * groups, sum(steps) * algorithm.epochs * algorithm.minibatches


def refuse_small_budget(config: TrainConfig) -> None:
    """Raises ValueError for a budget that is smaller than a batch: it would be overdrawn, or no step be taken."""
    n_steps, size, budget = planned_steps(config), config.training.tasks_per_step, config.training
    algorithm, unit = config.algorithm, _unit(config)
    if budget.tokens:
        return
    if 0 < budget.updates < unit:
        raise ValueError(
            f"training.updates={budget.updates}: a batch takes {counted(unit, 'optimiser step')} (algorithm.epochs="
            f"{algorithm.epochs} times algorithm.minibatches={algorithm.minibatches}), and is never left half used; "
            f"give at least training.updates={unit}, or fewer minibatches"
        )
    if not budget.updates and budget.episodes < unit:
        raise ValueError(
            f"training.episodes={budget.episodes}: a batch samples {counted(unit, 'episode')} "
            f"(training.tasks_per_step={size} times algorithm.group_size={algorithm.group_size}), which is more; "
            f"give at least training.episodes={smallest_budget(config, any)}, or make a step smaller"
        )
    if any(steps_of_stages(config, n_steps)):
        return
    stages = config.algorithm.resolved(config.env.attempts)
    names = [name for name, stage in (config.algorithm.stages or {"main": stages[0]}).items() if stage.share]
    first = next(i for i, (_, end) in enumerate(stage_spans([stage.share for stage in stages], n_steps)) if end)
    group = stages[first].group_size
    raise ValueError(
        f"training.episodes={config.training.episodes}: the first batch, of algorithm.stages.{names[first]}, samples "
        f"{counted(size * group, 'episode')} (training.tasks_per_step={size} times group_size={group}), so "
        f"no step would be taken; give at least training.episodes={smallest_budget(config, any)}, or make "
        "a step smaller"
    )


def _unit(config: TrainConfig) -> int:
    """What a rollout batch takes from a budget of updates, or from one of episodes."""
    algorithm = config.algorithm
    if config.training.updates:
        return algorithm.epochs * algorithm.minibatches
    return config.training.tasks_per_step * algorithm.group_size
