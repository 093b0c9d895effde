"""The policy's loss on one micro-batch: which surrogate, on which tokens, with which weights."""

from torch import Tensor

from rl.analysis.metrics import Ratio
from rl.backends.policy import SampledStats
from rl.config import AlgorithmConfig, Importance, Loss
from rl.losses import (
    LossOutput,
    cispo_loss,
    clipped_pg_loss,
    gspo_loss,
    importance_weights,
    masked_sum,
    off_policy_mask,
)
from rl.types import TrainBatch


def policy_loss(
    stats: SampledStats, train: TrainBatch, weights: Tensor, algorithm: AlgorithmConfig, n_columns: int
) -> LossOutput:
    """The surrogate and the numbers that the log wants of every update.

    Args:
        stats: What the current policy thinks of the rows.
        train: The rows.
        weights: ``[B, T]`` from :func:`rl.losses.token_weights`.
        algorithm: Which surrogate.
        n_columns: K, for metrics per turn.
    """
    batch = train.rollout
    # With one update per batch the old policy is the current one, and its log-probs need no pass of their own.
    old = train.old_logprobs if algorithm.reuses_samples else stats.logprobs.detach()
    advantages, metrics = train.advantages, {}
    if algorithm.importance is not Importance.NONE:
        per_sequence = algorithm.importance is Importance.SEQUENCE
        corrections, metrics = importance_weights(
            old, batch.sampler_logprobs, batch.response_mask, per_sequence=per_sequence, cap=algorithm.importance_cap
        )
        advantages = advantages * corrections
    mask, n_tokens = batch.response_mask, float(batch.response_mask.sum())
    if algorithm.off_policy_mask:
        mask = off_policy_mask(
            stats.logprobs, batch.sampler_logprobs, advantages, batch.turn_ids, threshold=algorithm.off_policy_mask
        )
        metrics["policy/off_policy_masked"] = Ratio(n_tokens - float(mask.sum()), n_tokens)
    out = _surrogate(stats.logprobs, old, advantages, batch.turn_ids, mask, weights, algorithm)
    gap = (old - batch.sampler_logprobs).abs()
    metrics |= out.metrics | {
        "policy/entropy": Ratio(float(masked_sum(stats.entropy.detach(), batch.response_mask)), n_tokens),
        "policy/sampler_gap": Ratio(float(masked_sum(gap, batch.response_mask)), n_tokens),
    }
    for k in range(n_columns):
        of_turn = batch.turn_ids == k
        n_episodes = float(of_turn.any(1).sum())
        metrics[f"policy/abs_advantage_t{k + 1}"] = Ratio(float(masked_sum(advantages.abs(), of_turn)), n_episodes)
    return LossOutput(out.loss, metrics)


def _surrogate(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    turn_ids: Tensor,
    mask: Tensor,
    weights: Tensor,
    algorithm: AlgorithmConfig,
) -> LossOutput:
    low, high = algorithm.clip_low, algorithm.clip_high
    if algorithm.loss is Loss.GSPO:
        return gspo_loss(logprobs, old, advantages, turn_ids, mask, weights, clip_low=low, clip_high=high)
    loss = cispo_loss if algorithm.loss is Loss.CISPO else clipped_pg_loss
    return loss(logprobs, old, advantages, mask, weights, clip_low=low, clip_high=high)
