"""From a config and a batch of raw rewards to token advantages: the algorithm is data over pure functions."""

import torch
from torch import Tensor

from rewards.shaping import shape_rewards
from rl.advantages import (
    SumOver,
    batch_mean,
    batch_normalised,
    first_of_turns,
    gae_over_tokens,
    gae_over_turns,
    group_normalised,
    imitation,
    leave_one_out,
    returns_to_go,
    to_tokens,
    whiten_turns,
)
from rl.config import Advantage, AlgorithmConfig, Normaliser, StageConfig
from rl.types import Episode, RolloutBatch


def shaped_rewards(batch: RolloutBatch, stage: StageConfig) -> Tensor:
    """``[B, K]`` rewards after per-turn weights and progress bonus; 0 past the last turn."""
    n_columns = batch.rewards.shape[1]
    columns = shape_rewards(batch.rewards.unbind(1), stage.reward_weights, stage.progress_alpha)
    played = torch.arange(n_columns, device=batch.n_turns.device) < batch.n_turns[:, None]
    return torch.where(played, torch.stack(columns, dim=1), 0.0)


def advantages(
    batch: RolloutBatch, values: Tensor, algorithm: AlgorithmConfig, stage: StageConfig, sum_over: SumOver
) -> tuple[Tensor, Tensor]:
    """Token advantages and returns of a whole rollout batch, both ``[B, T]``, 0 off the response.

    Shaping, then discounting over turns, then the baseline or the critic. Turns are compared with the *same* turn of
    other episodes only, so a turn that is not paid (stage I's first attempt) has advantage 0 exactly.

    Args:
        batch: The whole rollout batch of this process.
        values: ``[B, T]`` of the critic; not read without one.
        algorithm: Which estimator.
        stage: Which rewards.
        sum_over: Adds tensors up over processes.
    """
    rewards_BK = shaped_rewards(batch, stage)
    if stage.imitate:
        learned_BT = to_tokens(imitation(batch.rewards, batch.n_turns), batch.turn_ids)
        return learned_BT, torch.zeros_like(learned_BT)
    if algorithm.advantage is Advantage.GAE:
        advantages_BT = gae_over_tokens(
            rewards_BK,
            values,
            batch.turn_ids,
            gamma=algorithm.gamma,
            lam=algorithm.lam,
            turn_gamma=algorithm.turn_gamma,
            turn_lam=algorithm.turn_lam,
        )
        returns_BT = torch.where(batch.response_mask, advantages_BT + values, 0.0)
    elif algorithm.advantage is Advantage.TURN_GAE:
        values_BK = first_of_turns(values, batch.turn_ids, rewards_BK.shape[1])
        advantages_BK = gae_over_turns(
            rewards_BK, values_BK, batch.n_turns, turn_gamma=algorithm.turn_gamma, turn_lam=algorithm.turn_lam
        )
        advantages_BT = to_tokens(advantages_BK, batch.turn_ids)
        returns_BT = to_tokens(advantages_BK + values_BK, batch.turn_ids)
    else:
        returns_BK = returns_to_go(rewards_BK, algorithm.turn_gamma)
        advantages_BT = to_tokens(_against_baseline(returns_BK, batch, algorithm, sum_over), batch.turn_ids)
        returns_BT = to_tokens(returns_BK, batch.turn_ids)
    if algorithm.whiten:
        advantages_BT = whiten_turns(advantages_BT, batch.turn_ids, rewards_BK.shape[1], sum_over)
    return advantages_BT, returns_BT


def _against_baseline(returns_BK: Tensor, batch: RolloutBatch, algorithm: AlgorithmConfig, sum_over: SumOver) -> Tensor:
    if algorithm.advantage is Advantage.RLOO:
        return leave_one_out(returns_BK, batch.group_ids)
    if algorithm.advantage is Advantage.GRPO:
        scale = algorithm.normaliser is not Normaliser.TOKEN_BUDGET  # Dr. GRPO drops both divisions
        return group_normalised(returns_BK, batch.group_ids, scale)
    if algorithm.advantage is Advantage.REINFORCE_PP:
        return batch_normalised(returns_BK, sum_over)
    return batch_mean(returns_BK, sum_over)


def has_gradient(group: list[Episode], stage: StageConfig) -> bool:
    """Whether a group's episodes are paid differently at *any* turn, so that comparing them teaches something.

    Looking at the last turn only would throw away groups that differ at the first one, and the other way round.
    """
    paid = set()
    for episode in group:
        rewards = [turn.reward for turn in episode.turns]
        paid.add(tuple(shape_rewards(rewards, stage.reward_weights, stage.progress_alpha)))
    return len(paid) > 1
