"""The KL to the reference: estimators of KL(policy || reference) per token, and the coefficients of the penalty.

With r = ref / policy at the sampled token: k1 = -log r (unbiased, may be negative), k2 = (log r)^2 / 2, k3 = r - 1 -
log r (unbiased, never negative; J. Schulman, "Approximating KL divergence", 2020). ``full`` sums over the vocabulary:
it has no sampling noise, but needs both distributions in memory.

A penalty in the loss is differentiated, but the tokens were sampled by the policy before the update. The estimate must
therefore carry the differentiable importance weight w = policy / old policy, or its gradient is not that of the KL.
Without w, k1 penalises nothing (its gradient has mean 0) and k3 has the gradient of the reverse KL(ref || policy).

In the reward the estimate is not differentiated; it only multiplies the gradient of the log-probs, and among the
estimators only k1 then gives the KL's gradient. ``E[f(r) dlog policy]`` is the gradient of KL(policy || ref) -
KL(ref || policy) for k3, and it is of second order in log r for k2 and k3, so that near the reference they hardly hold
the policy.

An estimator of :data:`KLS` gets the :class:`rl.types.SampledStats` of policy and reference, the policy's log-probs
before the update ``[B, T]`` and the response mask ``[B, T]``. It returns nats ``[B, T]``, 0 where the mask is False.
The mask is applied before ``exp``, so that values off the response affect neither the result nor its gradient.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewards import Lookup
from rl.config import StageConfig
from rl.types import SampledStats

KLS: Lookup[Callable[..., Tensor]] = Lookup("algorithm.kl")
"""``(stats, reference, old_logprobs, mask, **options) -> [B, T]``. ``distribution=True`` declares that the estimator
needs both whole distributions, as ``stats.distribution`` and ``reference.distribution`` (``[N, V]``).
``reward_only=True`` declares that its value is right but its gradient is not, so that it must not be a penalty in the
loss; ``penalty_only=True`` that it must not be used in the reward, where it would not give the KL's gradient."""

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before ``exp`` to avoid overflow; a ratio of e^20 (5e8) is meaningless anyway."""


def log_ratio(logprobs: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """``log(p / q)`` of two log-probs at the sampled tokens, ``[B, T]``; 0 off the response."""
    return torch.where(mask, logprobs - others, 0.0)


@KLS.register("k1")
def k1(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """k1, the log-ratio with importance weight: unbiased in value and gradient, may be negative."""
    # The weight is differentiated. The gradient of w log(policy / ref) is w (log(policy / ref) + 1) d logprob: the
    # first summand is the KL's gradient, the second has mean 0. With a detached weight only the second would be left.
    weight = log_ratio(stats.logprobs, old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return weight * -log_ratio(reference.logprobs, stats.logprobs, mask)


@KLS.register("k2", penalty_only=True)
def k2(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """k2, half the squared log-ratio with importance weight: biased in value, unbiased in gradient."""
    # The gradient of (log r)^2 / 2, log(policy / ref) d logprob, already is the KL's. The weight is detached, since its
    # gradient would be added to that.
    weight = log_ratio(stats.logprobs, old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return weight.detach() * 0.5 * log_ratio(reference.logprobs, stats.logprobs, mask).square()


@KLS.register("k3", penalty_only=True)
def k3(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """k3, ``r - 1 - log r`` with importance weight: unbiased in value and gradient, never negative."""
    # The gradient of w (r - 1 - log r) is w log(policy / ref) d logprob, the same as k2's. Autograd would compute it
    # from terms that cancel only in exact arithmetic. So the value of k3 is detached, and the gradient comes from k2,
    # whose own value is subtracted again.
    log_r = log_ratio(reference.logprobs, stats.logprobs, mask)
    weight = log_ratio(stats.logprobs, old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().detach()
    cut = log_r.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    slope = 0.5 * weight * log_r.square()
    return weight * (torch.expm1(cut) - cut) + (slope - slope.detach())


@KLS.register("k3_published", penalty_only=True)
def k3_published(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """k3 without importance weight, as GRPO was published: its gradient is that of KL(reference || policy)."""
    log_r = log_ratio(reference.logprobs, stats.logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(log_r) - log_r


@KLS.register("k1_published", reward_only=True)
def k1_published(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """k1 without importance weight, for a KL in the reward; as a penalty its gradient would only be noise."""
    return -log_ratio(reference.logprobs, stats.logprobs, mask)


@KLS.register("full", distribution=True, penalty_only=True)
def full(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The exact KL, a sum over the vocabulary; needs both whole distributions in memory."""
    # ``distribution`` has one row per response token, in the row-major order in which masked_scatter fills the mask.
    return torch.zeros_like(stats.logprobs).masked_scatter(mask, full_kl(stats.distribution, reference.distribution))


def full_kl(logprobs_NV: Tensor, ref_logprobs_NV: Tensor) -> Tensor:
    """``sum_v p(v) * (log p(v) - log ref(v))`` per position, ``[N]``, in nats."""
    return (logprobs_NV.exp() * (logprobs_NV - ref_logprobs_NV)).sum(-1)


# Coefficient of each turn's penalty: fixed, adapted to a target KL, or balanced with the policy loss

RATE = 0.1
"""Gain of a coefficient with a target KL: at the largest error the coefficient changes by 2 % per step."""
MAX_ERROR = 0.2
"""Limit of a step's relative error, so that a single unusual batch cannot change a coefficient much."""
BALANCE_RATE = 0.1
"""Fraction of the distance to its target that a balanced coefficient moves per step."""
MAX_CHANGE = 0.2
"""Largest relative change of a balanced coefficient per step, since dividing by a KL near 0, as in the first steps,
gives huge targets."""
MAX_FACTOR = 100.0
"""An adaptive coefficient stays within this factor of its initial value."""


@dataclass(slots=True)
class KLControl:
    """The KL coefficients of a stage.

    With ``kl_targets``, ``coef[k] *= 1 + 0.1 clip(KL[k] / target[k] - 1, -0.2, 0.2)`` per step (the proportional
    controller of Ziegler et al., arXiv 1909.08593, section 2.2). With ``kl_balance``, the first turn's coefficient
    moves a tenth of the way towards ``kl_balance * sum_{k>0} |A[k]| / KL[0]``, by a fifth of itself at most. Numerator
    and denominator are sums over the whole batch, so turns weigh as in the loss: a turn that few episodes sampled
    counts little. SCoRe (arXiv 2409.12917, section 5.1) mentions a beta2 that balances the first attempt's KL with the
    second attempt's policy loss, but gives no formula. The formula here is our own; it uses |advantage|, because the
    loss of centred advantages is 0 whatever its gradient.

    Args:
        stage: Stage with the initial coefficients and their targets.
        coefs: Current coefficient of each turn.
    """

    stage: StageConfig
    coefs: list[float]

    def update(self, kl: Sequence[float], balance: float) -> None:
        """Adapts the coefficients to the measurements of a training step.

        Args:
            kl: KL of each turn in nats per episode that sampled the turn; ``nan`` if no episode did.
            balance: |advantage| summed over all tokens of the later turns, divided by the sum of the first turn's KL;
                ``nan`` if that sum is 0.
        """
        # Multiplicative steps keep coefficients positive and treat small and large ones alike.
        if self.stage.kl_targets:
            for k, target in enumerate(self.stage.kl_targets):
                error = kl[k] / target - 1.0
                if math.isnan(error):  # no episode sampled this turn: it was given, or episodes ended before it
                    continue
                self._set(k, self.coefs[k] * (1.0 + RATE * max(-MAX_ERROR, min(MAX_ERROR, error))))
        elif self.stage.kl_balance and kl[0] > 0:  # no target can be computed from a KL of 0, as at the start
            limit = MAX_CHANGE * self.coefs[0]
            change = BALANCE_RATE * (self.stage.kl_balance * balance - self.coefs[0])
            self._set(0, self.coefs[0] + max(-limit, min(limit, change)))

    def _set(self, k: int, value: float) -> None:
        start = self.stage.kl_coefs[k]  # positive: the config refuses adaptive coefficients that start at 0
        self.coefs[k] = min(max(value, start / MAX_FACTOR), start * MAX_FACTOR)
