"""From a config and a batch of raw rewards to token advantages: the algorithm is data over pure functions."""

import torch
from torch import Tensor

from rewards.shaping import shape_rewards
from rl.advantages import batch_mean, leave_one_out, returns_to_go, to_tokens
from rl.config import AlgorithmConfig, Baseline, StageConfig
from rl.types import RolloutBatch


def shaped_rewards(batch: RolloutBatch, stage: StageConfig) -> Tensor:
    """``[B, K]`` rewards after per-turn weights and progress bonus; 0 past the last turn."""
    n_columns = batch.rewards.shape[1]
    columns = shape_rewards(batch.rewards.unbind(1), stage.reward_weights, stage.progress_alpha)
    played = torch.arange(n_columns, device=batch.n_turns.device) < batch.n_turns[:, None]
    return torch.where(played, torch.stack(columns, dim=1), 0.0)


def advantages(batch: RolloutBatch, algorithm: AlgorithmConfig, stage: StageConfig) -> tuple[Tensor, Tensor]:
    """Token advantages and returns of a whole rollout batch, both ``[B, T]``, 0 off the response.

    Shaping, then discounting over turns, then the baseline: each turn's return is compared with returns *at the same
    turn* only, so a turn that is not paid (stage I's first attempt) has advantage 0 exactly.
    """
    returns_BK = returns_to_go(shaped_rewards(batch, stage), algorithm.turn_gamma)
    if algorithm.baseline is Baseline.LEAVE_ONE_OUT:
        advantages_BK = leave_one_out(returns_BK, batch.group_ids)
    else:
        advantages_BK = batch_mean(returns_BK)
    return to_tokens(advantages_BK, batch.turn_ids), to_tokens(returns_BK, batch.turn_ids)


def stage_at(algorithm: AlgorithmConfig, step: int, n_steps: int) -> tuple[int, int, int]:
    """Which stage a step belongs to.

    Args:
        algorithm: Its stages' ``share``s divide the run.
        step: Optimisation step, from 0.
        n_steps: Steps of the whole run.

    Returns:
        Index of the stage, first step of the stage, first step after it.
    """
    total = sum(stage.share for stage in algorithm.stages)
    start, passed = 0, 0.0
    for index, stage in enumerate(algorithm.stages):
        passed += stage.share
        end = n_steps if index == len(algorithm.stages) - 1 else round(n_steps * passed / total)
        if step < end:
            return index, start, end
        start = end
    raise ValueError(f"step {step} is not in a run of {n_steps} steps")
