"""Losses as pure functions of tensors; each returns the loss together with metrics for the log.

A loss of :data:`LOSSES` is a *term*: ``(stats, batch, weights, **options) -> LossOutput``, a weighted sum over tokens.
The weights come from :data:`NORMALISERS`, which divide by counts over the whole optimiser step and all processes, so
that splitting the step into micro-batches does not change the gradient. Masks are applied before ``exp``, so that
values off the response cannot overflow. A term may also be supervised: it gets the rows' token ids, rewards and
log-probs.

``stats`` holds the current policy's log-probs, entropies and values (:class:`rl.types.SampledStats`), ``batch`` the
rows as scored before the update (:class:`rl.types.TrainBatch`), and ``weights`` is ``[B, T]``, 0 off the response.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rewards import Lookup
from rl.advantages import Estimator
from rl.analysis.metrics import Ratio, declare
from rl.config import EnvConfig, OptimConfig, StageConfig
from rl.config.checks import check_numbers
from rl.kl import MAX_LOG_RATIO, log_ratio
from rl.types import SampledStats, TrainBatch

LOSSES: Lookup[Callable[..., "LossOutput"]] = Lookup("algorithm.loss")
"""Terms of the loss. ``entropy=True`` declares that a term differentiates ``stats.entropy``, ``marked=True`` that it
uses the tokens that a token mask marks."""
NORMALISERS: Lookup[Callable[..., Tensor]] = Lookup("algorithm.normaliser")
"""``(turn_ids [B, T], StepSize, **options) -> [B, T]``: each token's weight in the loss. The learner sets weights to 0
off the response, where ``turn_ids`` is -1."""
IMPORTANCE: Lookup[Callable[..., tuple[Tensor, dict[str, Ratio]]]] = Lookup("algorithm.importance")
"""``(gap [B, T], mask [B, T], **options) -> (weights [B, T], metrics)``: importance weight of each token, from ``gap``,
the trainer's log-prob minus the sampler's, which is 0 off the response."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A scalar loss to differentiate, and metrics for the log."""

    loss: Tensor
    metrics: dict[str, Ratio]


@dataclass(frozen=True, slots=True)
class StepSize:
    """Size of one optimiser step, over all its micro-batches and processes.

    Args:
        episodes: Number of rows: one per conversation, or several if a prompt was rendered from scratch.
        turns: Number of trained turns.
        tokens: Number of response tokens.
        token_budget: Largest number of tokens that the policy may sample in an episode.
    """

    episodes: float
    turns: float
    tokens: float
    token_budget: float


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``x`` where the mask is True; values elsewhere, even ``nan``, do not affect the sum or its gradient."""
    return torch.where(mask, x, 0.0).sum()


# Normalisers: what the loss is divided by


@NORMALISERS.register("episodes")
def by_episodes(turn_ids: Tensor, size: StepSize) -> Tensor:
    """1 / episodes: the original policy gradient (REINFORCE; RLOO, arXiv 2402.14740), independent of lengths."""
    return torch.full(turn_ids.shape, 1.0 / size.episodes, device=turn_ids.device)


@NORMALISERS.register("tokens")
def by_tokens(turn_ids: Tensor, size: StepSize) -> Tensor:
    """1 / response tokens of the optimiser step (DAPO, arXiv 2503.14476, section 3.3)."""
    return torch.full(turn_ids.shape, 1.0 / size.tokens, device=turn_ids.device)


@NORMALISERS.register("token_budget")
def by_token_budget(turn_ids: Tensor, size: StepSize) -> Tensor:
    """1 / (episodes * largest number of tokens of an episode) (Dr. GRPO, arXiv 2503.20783, section 3.2)."""
    return torch.full(turn_ids.shape, 1.0 / (size.episodes * size.token_budget), device=turn_ids.device)


@NORMALISERS.register("episode_mean")
def by_episode_mean(turn_ids: Tensor, size: StepSize) -> Tensor:
    """Mean over an episode's tokens, then over episodes (GRPO, arXiv 2402.03300, equation 3)."""
    mask = turn_ids >= 0
    return 1.0 / (size.episodes * mask.sum(1, keepdim=True).clamp(min=1).expand_as(mask))


@NORMALISERS.register("turn_mean")
def by_turn_mean(turn_ids: Tensor, size: StepSize) -> Tensor:
    """Mean over a turn's tokens, then over turns (GSPO, arXiv 2507.18071, with a turn as the sequence)."""
    return 1.0 / (size.turns * per_turn((turn_ids >= 0).float(), turn_ids).clamp(min=1))


def per_turn(x: Tensor, turn_ids: Tensor) -> Tensor:
    """At every token the sum of ``x`` over the token's turn; ``[B, T]``, 0 off the response."""
    mask = turn_ids >= 0
    column = turn_ids.clamp(min=0)
    # T columns are enough, since no row has more turns than tokens; reading the number of turns would wait for the
    # device.
    sums = torch.zeros_like(x).scatter_add(1, column, torch.where(mask, x, 0.0))
    return torch.where(mask, sums.gather(1, column), 0.0)


# Terms of the policy's loss


@dataclass(frozen=True)
class Clip:
    """Bounds of the clipped probability ratio.

    Args:
        clip_low: Ratios are clipped to at least 1 - ``clip_low``.
        clip_high: Ratios are clipped to at most 1 + ``clip_high``.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.loss_options", positive="clip_low clip_high")
        if self.clip_low > 1:
            raise ValueError(f"algorithm.loss_options.clip_low={self.clip_low}: must lie in (0, 1]")


@LOSSES.register("ppo", options=Clip)
def clipped_pg_loss(
    stats: SampledStats,
    batch: TrainBatch,
    weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    log_rho: Tensor | None = None,
) -> LossOutput:
    """PPO's clipped surrogate: ``-sum(w min(rho A, clip(rho, 1 - low, 1 + high) A))``.

    ``rho = exp(logprobs - old_logprobs)`` (Schulman et al., arXiv 1707.06347, equation 7; asymmetric bounds as in
    DAPO, arXiv 2503.14476, section 3.1). At the first update on a batch rho is 1 and the gradient is REINFORCE's.
    ``log_rho`` replaces the tokens' own log-ratios with others, ``[B, T]``, for losses that clip in the same way.
    """
    advantages, mask = batch.advantages, batch.rollout.response_mask
    if log_rho is None:
        # Without this limit an infinite ratio would be multiplied by the clip's gradient of 0, which gives nan.
        log_rho = log_ratio(stats.logprobs, batch.old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    rho = log_rho.exp()
    clipped = rho.clamp(1 - clip_low, 1 + clip_high)
    # The minimum is a lower bound on the gain. A token whose ratio has left the range in the direction that increases
    # the gain has no gradient; a token that has left it in the other direction keeps its gradient and can return.
    surrogate = torch.minimum(rho * advantages, clipped * advantages)
    with torch.no_grad():
        n_tokens, is_clipped = mask.sum(), mask & (clipped * advantages < rho * advantages)
        metrics = {
            "policy/clip_fraction": Ratio(is_clipped.sum(), n_tokens),
            "policy/ratio": Ratio(masked_sum(rho, mask), n_tokens),
        }
    return LossOutput(-masked_sum(weights * surrogate, mask), metrics)


@LOSSES.register("gspo", options=Clip)
def gspo_loss(
    stats: SampledStats, batch: TrainBatch, weights: Tensor, *, clip_low: float, clip_high: float
) -> LossOutput:
    """GSPO: the clipped surrogate with one ratio per turn, the geometric mean of its tokens' ratios.

    ``s = exp(mean_t(logprobs - old_logprobs))`` (Zheng et al., arXiv 2507.18071, equation 7), with a turn as the
    sequence. GSPO needs far smaller clip distances than PPO: 3e-4 and 4e-4 in the paper.
    """
    mask, turn_ids = batch.rollout.response_mask, batch.rollout.turn_ids
    log_rho = log_ratio(stats.logprobs, batch.old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    # Every token gets its turn's mean log-ratio, so each token's term has a gradient for all log-probs of the turn.
    counts = per_turn(mask.to(log_rho.dtype), turn_ids).clamp(min=1)
    of_turn = per_turn(log_rho, turn_ids) / counts
    return clipped_pg_loss(stats, batch, weights, clip_low=clip_low, clip_high=clip_high, log_rho=of_turn)


@LOSSES.register("cispo", options=Clip)
def cispo_loss(
    stats: SampledStats, batch: TrainBatch, weights: Tensor, *, clip_low: float, clip_high: float
) -> LossOutput:
    """CISPO: ``-sum(w stopgrad(clip(rho, 1 - low, 1 + high)) A logprobs)``.

    The clipped ratio is only a weight, so no token loses its gradient (MiniMax, arXiv 2506.13585, equation 4). The
    paper has no lower limit; ``clip_low=1`` gives the same.
    """
    mask = batch.rollout.response_mask
    with torch.no_grad():  # the ratio is only a weight; the gradient comes from the log-probs
        rho = log_ratio(stats.logprobs, batch.old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        clipped = rho.clamp(1 - clip_low, 1 + clip_high)
        n_tokens, is_clipped = mask.sum(), mask & (clipped != rho)
        metrics = {
            "policy/clip_fraction": Ratio(is_clipped.sum(), n_tokens),
            "policy/ratio": Ratio(masked_sum(rho, mask), n_tokens),
        }
    return LossOutput(-masked_sum(weights * clipped * batch.advantages * stats.logprobs, mask), metrics)


@LOSSES.register("entropy", entropy=True)
def entropy_loss(stats: SampledStats, batch: TrainBatch, weights: Tensor) -> LossOutput:
    """Entropy bonus: ``-sum(w H)``, where H is the policy's entropy in nats at each response token."""
    return LossOutput(-masked_sum(weights * stats.entropy, batch.rollout.response_mask), {})


@LOSSES.register("kl_cov", marked=True)
def kl_cov_loss(stats: SampledStats, batch: TrainBatch, weights: Tensor) -> LossOutput:
    """KL-Cov: ``sum(w |log pi - log pi_old|)`` over the tokens that ``token_mask=kl_cov`` marks.

    From arXiv 2505.22617, with the absolute log-ratio as the estimate of the KL, as in the authors' code.
    """
    marked = batch.rollout.response_mask & ~batch.kept
    return LossOutput(masked_sum(weights * log_ratio(stats.logprobs, batch.old_logprobs, marked).abs(), marked), {})


# The critic's loss


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, weights: Tensor, *, clip: float
) -> LossOutput:
    """The critic's clipped loss ``sum(w max((V - R)^2, (V_clipped - R)^2)) / 2``.

    V_clipped is V limited to within ``clip`` of the old value, as in PPO's reference implementation (Huang et al., "The
    37 implementation details of PPO", 2022, detail 9). With ``clip=0`` the loss is half the squared error.

    Args:
        values: ``[B, T]`` values under the current parameters.
        old_values: ``[B, T]`` values before the update.
        returns: ``[B, T]`` targets of the values.
        mask: ``[B, T]`` bool, True where a value is learned.
        weights: ``[B, T]`` weight of each token in the loss.
        clip: Change of a value beyond which it is clipped; 0 for no limit.
    """
    # Take the larger error, as PPO takes the smaller gain. A value that has moved further than the clip has no gradient
    # unless its own error is the larger one: it has then moved away from the target or beyond it.
    error = torch.where(mask, values - returns, 0.0).square()
    if clip:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, torch.where(mask, near - returns, 0.0).square())
    with torch.no_grad():
        n = mask.sum()
        metrics = {
            "critic/error": Ratio(masked_sum((values - returns).square(), mask), n),
            "critic/value": Ratio(masked_sum(values, mask), n),
            "critic/return": Ratio(masked_sum(returns, mask), n),
            "critic/return_square": Ratio(masked_sum(returns.square(), mask), n),
        }
    return LossOutput(0.5 * masked_sum(weights * error, mask), metrics)


# Corrections for an engine whose policy differs slightly from the trainer's


@dataclass(frozen=True)
class Cap:
    """Truncation of importance weights (as in IMPALA, arXiv 1802.01561, section 4.1).

    Args:
        cap: Largest importance weight.
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.importance_options", positive="cap")
        if self.cap < 1:
            raise ValueError(f"algorithm.importance_options.cap={self.cap}: must be at least 1")


@IMPORTANCE.register("none")
def unweighted(gap: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Ratio]]:
    """No correction: every importance weight is 1."""
    return torch.ones_like(gap), {}


@IMPORTANCE.register("token", options=Cap)
def token_importance(gap: Tensor, mask: Tensor, *, cap: float) -> tuple[Tensor, dict[str, Ratio]]:
    """``min(exp(old[t] - sampler[t]), cap)`` per token: low variance, but biased if trainer and sampler differ much."""
    return _capped(gap.clamp(max=MAX_LOG_RATIO).exp(), mask, cap)


@IMPORTANCE.register("sequence", options=Cap)
def sequence_importance(gap: Tensor, mask: Tensor, *, cap: float) -> tuple[Tensor, dict[str, Ratio]]:
    """``min(exp(sum_t (old[t] - sampler[t])), cap)`` for all tokens of an episode: unbiased apart from the cap."""
    # ``gap`` is 0 off the response, so the sum over a row covers exactly its response tokens.
    return _capped(torch.where(mask, gap.sum(1, keepdim=True), 0.0).clamp(max=MAX_LOG_RATIO).exp(), mask, cap)


def _capped(weights: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, dict[str, Ratio]]:
    n_tokens = mask.sum()
    metrics = {
        "policy/importance_weight": Ratio(masked_sum(weights.clamp(max=cap), mask), n_tokens),
        "policy/importance_capped": Ratio((mask & (weights > cap)).sum(), n_tokens),
    }
    return weights.clamp(max=cap), metrics


def off_policy_mask(
    logprobs: Tensor, sampler_logprobs: Tensor, advantages: Tensor, turn_ids: Tensor, *, threshold: float
) -> Tensor:
    """Mask of response tokens to train on, ``[B, T]`` bool, without bad turns that have become unlikely.

    A turn's tokens are dropped if their advantage is negative and ``mean_t(sampler[t] - logprobs[t]) > threshold``:
    pushing down what the current policy hardly ever samples teaches nothing and destabilises training (DeepSeek-V3.2,
    arXiv 2512.02556, section 3.1, with a turn as the sequence).

    Args:
        logprobs: ``[B, T]`` log-probs under the current parameters; they are detached.
        sampler_logprobs: ``[B, T]`` log-probs of the engine.
        advantages: ``[B, T]`` advantages.
        turn_ids: ``[B, T]`` turn indices, -1 off the response.
        threshold: Largest mean log-prob difference of a turn that is kept, in nats per token.
    """
    # A mean over the turn's tokens: a sum would grow with length and drop nearly all long turns.
    mask = turn_ids >= 0
    counts = per_turn(mask.float(), turn_ids).clamp(min=1)
    drift = per_turn(torch.where(mask, sampler_logprobs - logprobs.detach(), 0.0), turn_ids) / counts
    return mask & ~((advantages < 0) & (drift > threshold))


declare(
    {
        "policy/kl_ref_t<k>": (
            "nats per episode",
            "KL(policy || reference) summed over the turn, mean over episodes that sampled it",
        ),
        "policy/clip_fraction": ("fraction", "tokens whose ratio was clipped"),
        "policy/ratio": ("1", "mean probability ratio of policy and old policy at sampled tokens"),
        "policy/importance_weight": ("1", "mean importance weight for the gap between sampler and trainer, capped"),
        "policy/importance_capped": ("fraction", "tokens whose importance weight was reduced to the cap"),
        "critic/error": ("reward^2", "mean squared difference of value and return"),
        "critic/value": ("reward", "mean value that the critic predicts"),
        "critic/return": ("reward", "mean return, the target of the critic"),
        "critic/return_square": ("reward^2", "mean squared return"),
    }
)


class Objective(NamedTuple):
    """What a stage minimises, with all options looked up once.

    Args:
        stage: The resolved stage.
        optim: Optimiser settings of the stage.
        estimator: Advantage estimator of the stage.
        surrogate: Main term of the loss; token masks and off-policy masking apply to this term only.
        terms: Weights and functions of the further terms.
        entropy_gradient: Whether any term, the surrogate included, differentiates the entropy.
        token_budget: Largest number of tokens that the policy may sample in an episode of the stage.
    """

    stage: StageConfig
    optim: OptimConfig
    estimator: Estimator
    surrogate: Callable[..., LossOutput]
    terms: list[tuple[float, Callable[..., LossOutput]]]
    entropy_gradient: bool
    token_budget: float

    @classmethod
    def of(cls, stage: StageConfig, env: EnvConfig) -> "Objective":
        """The objective of a resolved stage in an environment."""
        terms = [(term.weight, LOSSES.bind(term.loss, term.options)) for term in stage.terms.values()]
        names = [stage.loss, *(term.loss for term in stage.terms.values())]
        surrogate = LOSSES.bind(stage.loss, stage.loss_options)
        budget = float(env.token_budget(stage.attempts))
        entropy = any(LOSSES.fact(name, "entropy") for name in names)
        return cls(stage, OptimConfig(**stage.optim), Estimator.of(stage), surrogate, terms, entropy, budget)
