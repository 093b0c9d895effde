"""Losses as pure functions of tensors. Scalars are keywords; numbers for the log come back beside the loss.

Every loss is a weighted sum over tokens. The weights come from :func:`token_weights`, which counts over the whole
optimiser step and all processes, so that splitting the step into micro-batches cannot change the gradient. Masks go in
before ``exp``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl.analysis.metrics import Ratio


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A scalar to differentiate, and what the log wants to know."""

    loss: Tensor
    metrics: dict[str, Ratio]


@dataclass(frozen=True, slots=True)
class StepSize:
    """What one optimiser step holds, over all its micro-batches and processes.

    Args:
        episodes: Number of episodes.
        turns: Number of turns.
        tokens: Number of response tokens.
        token_budget: Tokens that an episode might have had.
    """

    episodes: float
    turns: float
    tokens: float
    token_budget: float


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``x`` where the mask is True; garbage elsewhere reaches neither value nor gradient."""
    return torch.where(mask, x, 0.0).sum()


def token_weights(turn_ids: Tensor, normaliser: str, size: StepSize) -> Tensor:
    """Each token's weight in the loss, ``[B, T]``, 0 off the response.

    ========================  =====================================  ==============================================
    ``normaliser``            weight of a token                      source
    ========================  =====================================  ==============================================
    ``episodes``              1 / episodes                           REINFORCE, RLOO (arXiv 2402.14740)
    ``tokens``                1 / tokens                             DAPO (arXiv 2503.14476, section 3.3)
    ``episode_mean``          1 / (episodes * its episode's tokens)  GRPO (arXiv 2402.03300, equation 3)
    ``turn_mean``             1 / (turns * its turn's tokens)        GSPO (arXiv 2507.18071), a turn as the sequence
    ``token_budget``          1 / (episodes * token_budget)          Dr. GRPO (arXiv 2503.20783, section 3.2)
    ========================  =====================================  ==============================================

    Args:
        turn_ids: ``[B, T]``, -1 off the response.
        normaliser: One of the above.
        size: Of the whole optimiser step.

    Raises:
        ValueError: For any other normaliser.
    """
    mask = turn_ids >= 0
    if normaliser == "episodes":
        weights = torch.full(turn_ids.shape, 1.0 / size.episodes, device=turn_ids.device)
    elif normaliser == "tokens":
        weights = torch.full(turn_ids.shape, 1.0 / size.tokens, device=turn_ids.device)
    elif normaliser == "token_budget":
        weights = torch.full(turn_ids.shape, 1.0 / (size.episodes * size.token_budget), device=turn_ids.device)
    elif normaliser == "episode_mean":
        weights = 1.0 / (size.episodes * mask.sum(1, keepdim=True).clamp(min=1).expand_as(mask))
    elif normaliser == "turn_mean":
        weights = 1.0 / (size.turns * _per_turn(mask.float(), turn_ids).clamp(min=1))
    else:
        raise ValueError(f"unknown normaliser {normaliser!r}")
    return torch.where(mask, weights, 0.0)


def _per_turn(x: Tensor, turn_ids: Tensor) -> Tensor:
    """The sum of ``x`` over the token's turn, at every token; ``[B, T]``, 0 off the response."""
    mask = turn_ids >= 0
    n_columns = int(turn_ids.max()) + 1 if turn_ids.numel() else 0
    if n_columns <= 0:
        return torch.zeros_like(x)
    column = turn_ids.clamp(min=0)
    sums = torch.zeros(len(x), n_columns, dtype=x.dtype, device=x.device)
    sums = sums.scatter_add(1, column, torch.where(mask, x, 0.0))
    return torch.where(mask, sums.gather(1, column), 0.0)


def clipped_pg_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> LossOutput:
    """PPO's clipped surrogate: ``-sum(w min(rho A, clip(rho, 1 - low, 1 + high) A))``.

    ``rho = exp(logprobs - old_logprobs)`` (Schulman et al., arXiv 1707.06347, equation 7; asymmetric bounds as in
    DAPO, arXiv 2503.14476, section 3.1). At the first update on a batch rho is 1 and the gradient is REINFORCE's.

    Args:
        logprobs: ``[B, T]`` under the current parameters.
        old_logprobs: ``[B, T]`` before the update.
        advantages: ``[B, T]``.
        mask: ``[B, T]`` bool, True = train on this token.
        weights: ``[B, T]`` from :func:`token_weights`.
        clip_low: Lower clip distance.
        clip_high: Upper clip distance.
    """
    rho = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
    return _clipped(rho, advantages, mask, weights, clip_low, clip_high)


def gspo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    turn_ids: Tensor,
    mask: Tensor,
    weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> LossOutput:
    """GSPO: the clipped surrogate with one ratio per turn, the geometric mean of its tokens' ratios.

    ``s = exp(mean_t(logprobs - old_logprobs))`` (Zheng et al., arXiv 2507.18071, equation 7), a turn being the
    sequence. Its clip distances are far smaller than a token's: 3e-4 and 4e-4 in the paper.

    Args:
        logprobs: ``[B, T]`` under the current parameters.
        old_logprobs: ``[B, T]`` before the update.
        advantages: ``[B, T]``, the same for all tokens of a turn.
        turn_ids: ``[B, T]``, -1 off the response.
        mask: ``[B, T]`` bool, True = train on this token.
        weights: ``[B, T]`` from :func:`token_weights`.
        clip_low: Lower clip distance.
        clip_high: Upper clip distance.
    """
    responses = turn_ids >= 0
    log_rho = torch.where(responses, logprobs - old_logprobs, 0.0)
    counts = _per_turn(responses.to(log_rho.dtype), turn_ids).clamp(min=1)
    ratio = (_per_turn(log_rho, turn_ids) / counts).exp()
    return _clipped(ratio, advantages, mask, weights, clip_low, clip_high)


def _clipped(
    rho: Tensor, advantages: Tensor, mask: Tensor, weights: Tensor, clip_low: float, clip_high: float
) -> LossOutput:
    clipped = rho.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(rho * advantages, clipped * advantages)
    with torch.no_grad():
        is_clipped = mask & (clipped * advantages < rho * advantages)
        metrics = _ratio_metrics(rho, is_clipped, mask)
    return LossOutput(-masked_sum(weights * surrogate, mask), metrics)


def cispo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> LossOutput:
    """CISPO: ``-sum(w stopgrad(clip(rho, 1 - low, 1 + high)) A logprobs)``.

    The ratio is clipped as a weight, so no token loses its gradient (MiniMax, arXiv 2506.13585, equation 4).

    Args:
        logprobs: ``[B, T]`` under the current parameters.
        old_logprobs: ``[B, T]`` before the update.
        advantages: ``[B, T]``.
        mask: ``[B, T]`` bool, True = train on this token.
        weights: ``[B, T]`` from :func:`token_weights`.
        clip_low: Lower clip distance; 1 for none, as in the paper.
        clip_high: Upper clip distance.
    """
    with torch.no_grad():
        rho = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
        clipped = rho.clamp(1 - clip_low, 1 + clip_high)
        metrics = _ratio_metrics(rho, mask & (clipped != rho), mask)
    return LossOutput(-masked_sum(weights * clipped * advantages * logprobs, mask), metrics)


def _ratio_metrics(rho: Tensor, is_clipped: Tensor, mask: Tensor) -> dict[str, Ratio]:
    n_tokens = float(mask.sum())
    return {
        "policy/clip_fraction": Ratio(float(is_clipped.sum()), n_tokens),
        "policy/ratio": Ratio(float(masked_sum(rho.detach(), mask)), n_tokens),
    }


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, weights: Tensor, *, clip: float
) -> LossOutput:
    """``sum(w max((V - R)^2, (V_clipped - R)^2)) / 2``, V_clipped within ``clip`` of the old value.

    Clipping as in PPO's reference implementation (Huang et al., "The 37 implementation details of PPO", 2022, detail
    9); with ``clip=0`` it is half the squared error.

    Args:
        values: ``[B, T]`` under the current parameters.
        old_values: ``[B, T]`` before the update.
        returns: ``[B, T]`` what the value should be.
        mask: ``[B, T]`` bool, True where there is a value to learn.
        weights: ``[B, T]``.
        clip: Largest change of a value that still earns; 0 for no limit.
    """
    error = torch.where(mask, values - returns, 0.0).square()
    if clip:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, torch.where(mask, near - returns, 0.0).square())
    with torch.no_grad():
        n = float(mask.sum())
        metrics = {
            "critic/error": Ratio(float(masked_sum((values - returns).square(), mask)), n),
            "critic/value": Ratio(float(masked_sum(values, mask)), n),
            "critic/return": Ratio(float(masked_sum(returns, mask)), n),
            "critic/return_square": Ratio(float(masked_sum(returns.square(), mask)), n),
        }
    return LossOutput(0.5 * masked_sum(weights * error, mask), metrics)


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


def off_policy_mask(
    logprobs: Tensor, sampler_logprobs: Tensor, advantages: Tensor, turn_ids: Tensor, *, threshold: float
) -> Tensor:
    """Which response tokens to train on, ``[B, T]`` bool: bad turns that the policy has left behind are dropped.

    A turn goes where its advantage is negative and ``mean_t(sampler[t] - logprobs[t]) > threshold``: pushing down
    what the current policy hardly ever says teaches nothing and destabilises (DeepSeek-V3.2, arXiv 2512.02556, section
    3.1, with a turn as the sequence).

    Args:
        logprobs: ``[B, T]`` of the current parameters; no gradient is taken.
        sampler_logprobs: ``[B, T]`` of the engine.
        advantages: ``[B, T]``.
        turn_ids: ``[B, T]``, -1 off the response.
        threshold: In nats per token.
    """
    mask = turn_ids >= 0
    counts = _per_turn(mask.float(), turn_ids).clamp(min=1)
    drift = _per_turn(torch.where(mask, sampler_logprobs - logprobs.detach(), 0.0), turn_ids) / counts
    return mask & ~((advantages < 0) & (drift > threshold))


def kl_penalty(kl: Tensor, turn_ids: Tensor, weights: Tensor, *, coefs: tuple[float, ...]) -> LossOutput:
    """``sum(w coef[turn] kl)``: a coefficient of its own for every turn (SCoRe's beta2 and beta1).

    Args:
        kl: ``[B, T]`` in nats, from :mod:`rl.kl`.
        turn_ids: ``[B, T]``, -1 off the response.
        weights: ``[B, T]`` from :func:`token_weights`.
        coefs: Coefficient per turn.
    """
    mask = turn_ids >= 0
    of_token = torch.tensor(coefs, dtype=kl.dtype, device=kl.device)[turn_ids.clamp(min=0)]
    metrics = {}
    for k in range(len(coefs)):
        of_turn = mask & (turn_ids == k)
        n_episodes = float(of_turn.any(1).sum())
        metrics[f"policy/kl_ref_t{k + 1}"] = Ratio(float(masked_sum(kl.detach(), of_turn)), n_episodes)
    return LossOutput(masked_sum(weights * of_token * kl, mask), metrics)
