"""From raw rewards to token advantages: the algorithm is data over pure functions."""

import torch
from torch import Tensor

from rewards.shaping import shape_rewards
from rl.advantages import ADVANTAGES, SumOver, whiten_turns
from rl.config import StageConfig
from rl.types import Episode, RolloutBatch


def shaped_rewards(batch: RolloutBatch, stage: StageConfig) -> Tensor:
    """``[B, K]`` rewards after per-turn weights and progress bonus; 0 past the last turn."""
    n_columns = batch.rewards.shape[1]
    columns = shape_rewards(batch.rewards.unbind(1), stage.reward_weights, stage.progress_alpha)
    played = torch.arange(n_columns, device=batch.n_turns.device) < batch.n_turns[:, None]
    return torch.where(played, torch.stack(columns, dim=1), 0.0)


def advantages(
    batch: RolloutBatch, values: Tensor, stage: StageConfig, whiten: bool, sum_over: SumOver
) -> tuple[Tensor, Tensor]:
    """Token advantages of a whole rollout batch and the returns that values should have predicted; both ``[B, T]``.

    Shaping, then discounting over turns, then the baseline or the critic. Turns are compared with the *same* turn of
    other episodes only, so a turn that is not paid (stage I's first attempt) has advantage 0 exactly.

    Args:
        batch: The whole rollout batch of this process.
        values: ``[B, T]`` of the critic; 0 without one.
        stage: Which rewards and which estimator, resolved.
        whiten: Scale the advantages of each turn.
        sum_over: Adds tensors up over processes.
    """
    rewards_BK = shaped_rewards(batch, stage)
    estimate = ADVANTAGES.bind(stage.advantage, stage.advantage_options)
    advantages_BT = estimate(rewards_BK, values, batch, sum_over)
    returns_BT = torch.where(batch.response_mask, advantages_BT + values, 0.0)
    if whiten:
        advantages_BT = whiten_turns(advantages_BT, batch.turn_ids, rewards_BK.shape[1], sum_over)
    return advantages_BT, returns_BT


def has_gradient(group: list[Episode], stage: StageConfig) -> bool:
    """Whether a group's episodes are paid differently at *any* turn, so that comparing them teaches something.

    Looking at the last turn only would throw away groups that differ at the first one, and the other way round.
    """
    paid = set()
    for episode in group:
        rewards = [turn.reward for turn in episode.turns]
        paid.add(tuple(shape_rewards(rewards, stage.reward_weights, stage.progress_alpha)))
    return len(paid) > 1
