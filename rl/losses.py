"""Losses as pure functions of tensors. Scalars are keywords; numbers for the log come back beside the loss.

The normaliser is always an argument, counted over the whole optimiser step, so that splitting the step into
micro-batches cannot change the gradient. Masks go in before ``exp``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl.metrics import Ratio


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A scalar to differentiate, and what the log wants to know."""

    loss: Tensor
    metrics: dict[str, Ratio]


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``x`` where the mask is True; garbage elsewhere reaches neither value nor gradient."""
    return torch.where(mask, x, 0.0).sum()


def clipped_pg_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    normaliser: float,
) -> LossOutput:
    """PPO's clipped surrogate: ``-sum(min(rho A, clip(rho, 1 - low, 1 + high) A)) / normaliser``.

    ``rho = exp(logprobs - old_logprobs)`` (Schulman et al., arXiv 1707.06347, equation 7; asymmetric bounds as in
    DAPO, arXiv 2503.14476). At the first update on a batch rho is 1 and the gradient is REINFORCE's.

    Args:
        logprobs: ``[B, T]`` under the current parameters.
        old_logprobs: ``[B, T]`` before the update.
        advantages: ``[B, T]``.
        mask: ``[B, T]`` bool, True = train on this token.
        clip_low: Lower clip distance.
        clip_high: Upper clip distance.
        normaliser: Tokens or episodes of the whole optimiser step.
    """
    log_rho = torch.where(mask, logprobs - old_logprobs, 0.0)
    rho = log_rho.exp()
    clipped = rho.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(rho * advantages, clipped * advantages)
    n_tokens = float(mask.sum())
    with torch.no_grad():
        is_clipped = mask & (clipped * advantages < rho * advantages)
        metrics = {
            "policy/clip_fraction": Ratio(float(is_clipped.sum()), n_tokens),
            "policy/ratio": Ratio(float(masked_sum(rho, mask)), n_tokens),
        }
    return LossOutput(-masked_sum(surrogate, mask) / normaliser, metrics)


def importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, *, per_sequence: bool, cap: float
) -> tuple[Tensor, dict[str, Ratio]]:
    """Truncated importance weights for samples of an engine that is not quite the trainer's policy.

    ``w[t] = min(exp(old[t] - sampler[t]), cap)`` per token, or ``min(exp(sum_t (old[t] - sampler[t])), cap)`` for all
    tokens of an episode (truncation as in IMPALA, arXiv 1802.01561, section 4.1). The token level has less variance and
    is biased where the two differ much; the sequence level is unbiased but for the cap.

    Args:
        old_logprobs: ``[B, T]`` of the trainer before the update, no gradient.
        sampler_logprobs: ``[B, T]`` of the engine.
        mask: ``[B, T]`` bool, True = response token.
        per_sequence: One weight per episode.
        cap: Largest weight.

    Returns:
        ``[B, T]`` weights, 1 off the response, and metrics.
    """
    log_w = torch.where(mask, old_logprobs - sampler_logprobs, 0.0)
    if per_sequence:
        log_w = torch.where(mask, log_w.sum(1, keepdim=True), 0.0)
    weights = log_w.exp()
    n_tokens = float(mask.sum())
    metrics = {
        "policy/importance_weight": Ratio(float(masked_sum(weights.clamp(max=cap), mask)), n_tokens),
        "policy/importance_capped": Ratio(float((mask & (weights > cap)).sum()), n_tokens),
    }
    return weights.clamp(max=cap), metrics


def kl_penalty(
    kl: Tensor, turn_ids: Tensor, mask: Tensor, *, coefs: tuple[float, ...], normaliser: float
) -> LossOutput:
    """``sum(coef[turn] * kl) / normaliser``: a weight of its own for every turn (SCoRe's beta2 and beta1).

    Args:
        kl: ``[B, T]`` in nats, from :mod:`rl.kl`.
        turn_ids: ``[B, T]``, -1 off the response.
        mask: ``[B, T]`` bool.
        coefs: Weight per turn.
        normaliser: Tokens or episodes of the whole optimiser step.
    """
    weights = torch.tensor(coefs, dtype=kl.dtype, device=kl.device)[turn_ids.clamp(min=0)]
    metrics = {}
    for k in range(len(coefs)):
        of_turn = mask & (turn_ids == k)
        n_episodes = float(of_turn.any(1).sum())
        metrics[f"policy/kl_ref_t{k + 1}"] = Ratio(float(masked_sum(kl.detach(), of_turn)), n_episodes)
    return LossOutput(masked_sum(weights * kl, mask) / normaliser, metrics)
