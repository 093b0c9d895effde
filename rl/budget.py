"""Divides a budget into rollout batches of the run and of each stage."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, count, pairwise

from rewards.wording import counted
from rl.config import TrainConfig

TOKEN_STEPS = 1000
"""Number of parts into which a budget of tokens is divided, to share it among the stages."""
TOKEN_CHUNK = 16
"""Groups that an offline method samples between two checks of a budget of tokens; it overruns by less than these."""


def planned_steps(config: TrainConfig) -> int:
    """Number of rollout batches with the algorithm's own group size; :data:`TOKEN_STEPS` for a budget of tokens."""
    budget, unit = config.training, _unit(config)
    return TOKEN_STEPS if budget.tokens else max(1, (budget.updates or budget.episodes) // unit)


def stage_spans(shares: Sequence[float], n_steps: int) -> list[tuple[int, int]]:
    """First step of each stage and first step after it, in rollout batches.

    Args:
        shares: Relative share of each stage in the run.
        n_steps: Rollout batches of the whole run.
    """
    # Round the ends of stages instead of their lengths, so that lengths add up to ``n_steps``.
    ends = [0, *(round(n_steps * passed / sum(shares)) for passed in accumulate(shares))]
    ends[-1] = n_steps
    return list(pairwise(ends))


def steps_of_stages(config: TrainConfig, n_steps: int) -> list[int]:
    """Number of rollout batches that each stage takes if dynamic sampling replaces no groups.

    Args:
        config: Config of the run.
        n_steps: Budget of the run in rollout batches with the algorithm's own group size.
    """
    stages = config.algorithm.resolved(config.env.attempts)
    spans = stage_spans([stage.share for stage in stages], n_steps)
    if config.training.tokens or config.training.updates:
        return [end - start for start, end in spans]
    # Stages with their own group size use the budget of episodes faster or slower, so simulate the run batch by batch;
    # it ends when the next batch does not fit into the rest of the budget.
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
    """Bound on the number of rollout batches that each stage can take from a budget of tokens.

    Args:
        config: Config of the run.
        longest: Whether to return the lower bound, for answers of maximum length; otherwise the upper bound, for one
            token per episode.
    """
    budget, stages, found = config.training, config.algorithm.resolved(config.env.attempts), []
    spans = stage_spans([stage.share for stage in stages], TOKEN_STEPS)
    for stage, (start, end) in zip(stages, spans, strict=True):
        of_one = (config.env.token_budget(stage.attempts) if longest else 0) or 1
        tokens = budget.tokens * (end - start) / TOKEN_STEPS
        found.append(math.ceil(tokens / (budget.tasks_per_step * stage.group_size * of_one)))
    return found


def smallest_budget(config: TrainConfig, enough: Callable[[Iterable[int]], bool]) -> int:
    """The smallest budget of episodes or updates with which the stages' numbers of steps satisfy ``enough``.

    Args:
        config: Config of the run; its budget is not in tokens.
        enough: Condition on the steps of the stages: ``any`` for at least one step, ``all`` for one in every stage.
    """

    def reaches(n_steps: int) -> bool:
        return enough(steps_of_stages(config, n_steps))

    # A stage with a tiny share may need tens of thousands of batches, so double the budget and then bisect.
    top = next(2**i for i in count() if reaches(2**i))
    return _unit(config) * (bisect_left(range(1, top + 1), True, key=reaches) + 1)


def spent(config: TrainConfig) -> tuple[int, int]:
    """Number of episodes and of optimiser steps that a run uses: whole batches within a budget that is not in tokens.

    If dynamic sampling replaces groups, the budget allows fewer batches than computed here.
    """
    algorithm, steps = config.algorithm, steps_of_stages(config, planned_steps(config))
    stages = algorithm.resolved(config.env.attempts)
    groups = sum(n * stage.group_size for n, stage in zip(steps, stages, strict=True))
    return config.training.tasks_per_step * groups, sum(steps) * algorithm.epochs * algorithm.minibatches


def refuse_small_budget(config: TrainConfig) -> None:
    """Raises ValueError for a budget smaller than one batch, which would be exceeded or allow no step at all."""
    n_steps, size, budget = planned_steps(config), config.training.tasks_per_step, config.training
    algorithm, unit = config.algorithm, _unit(config)
    if budget.tokens:
        return
    if 0 < budget.updates < unit:
        raise ValueError(
            f"training.updates={budget.updates}: a batch takes {counted(unit, 'optimiser step')} (algorithm.epochs="
            f"{algorithm.epochs} times algorithm.minibatches={algorithm.minibatches}), which are always all taken; "
            f"give at least training.updates={unit}, or fewer minibatches"
        )
    if not budget.updates and budget.episodes < unit:
        raise ValueError(
            f"training.episodes={budget.episodes}: a batch samples {counted(unit, 'episode')} "
            f"(training.tasks_per_step={size} times algorithm.group_size={algorithm.group_size}), more than that; "
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
    """What one rollout batch consumes of the budget: optimiser steps for a budget of updates, otherwise episodes."""
    algorithm = config.algorithm
    if config.training.updates:
        return algorithm.epochs * algorithm.minibatches
    return config.training.tasks_per_step * algorithm.group_size
