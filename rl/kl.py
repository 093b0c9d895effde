"""The KL to the reference: estimators of KL(policy || reference) per token, and how strong the penalty is.

With r = ref / policy at the sampled token: k1 = -log r (unbiased, may be negative), k2 = (log r)^2 / 2, k3 = r - 1 -
log r (unbiased, never negative; J. Schulman, "Approximating KL divergence", 2020). ``full`` sums over the vocabulary:
no sampling noise, at the price of both distributions in memory.

A penalty is differentiated, and the tokens were sampled by the policy of before the update: what is averaged must carry
the differentiable weight w = policy / old policy, or the gradient is that of something else. Without it k1 penalises
nothing at all (its gradient has mean 0) and k3 has the gradient of the reverse KL(ref || policy).

In the reward it is the other way round: nothing is differentiated but the log-probs that the reward weighs, and of all
estimators k1 alone then has the KL's gradient. ``E[f(r) dlog policy]`` is that of KL(policy || ref) - KL(ref || policy)
for k3, and of second order in log r for k2 and k3: near the reference they hold the policy to nothing.

An estimator of :data:`KLS` gets what policy and reference think of the sampled tokens, the policy's log-probs before
the update ``[B, T]`` and the response mask ``[B, T]``, and returns nats ``[B, T]``, 0 where the mask is False. The mask
goes in before ``exp``, so that garbage off the response can reach neither value nor gradient.
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
"""``(stats, reference, old_logprobs, mask, **options) -> [B, T]``. ``distribution=True`` declares that both
distributions are needed whole, as ``stats.distribution`` and ``reference.distribution`` (``[N, V]``);
``reward_only=True`` that an estimator is right in value and not in gradient, so that it is no penalty;
``penalty_only=True`` that it is one to be differentiated, and as a reward has another gradient than the KL."""

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut to this before ``exp``: beyond it nothing is learned but overflow (e^20 is 5e8)."""


def log_ratio(logprobs: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """``log(p / q)`` of two log-probs at the sampled tokens, ``[B, T]``; 0 off the response."""
    return torch.where(mask, logprobs - others, 0.0)


@KLS.register("k1")
def k1(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The log-ratio, weighted: unbiased in value and gradient, may be negative."""
    # The weight keeps its gradient here: that of w log(policy / ref) is w (log(policy / ref) + 1) d logprob, of which
    # the first summand is the KL's and the second has mean 0. Without it only the second would be left.
    weight = log_ratio(stats.logprobs, old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return weight * -log_ratio(reference.logprobs, stats.logprobs, mask)


@KLS.register("k2", penalty_only=True)
def k2(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Half the squared log-ratio: biased in value, right in gradient."""
    # The gradient of (log r)^2 / 2 is log(policy / ref) d logprob, the KL's already; one of the weight would add to it.
    weight = log_ratio(stats.logprobs, old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return weight.detach() * 0.5 * log_ratio(reference.logprobs, stats.logprobs, mask).square()


@KLS.register("k3", penalty_only=True)
def k3(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """``r - 1 - log r``, weighted: unbiased in value and gradient, never negative."""
    # The gradient of w (r - 1 - log r) is w log(policy / ref) d logprob, which is k2's. Taken from there, because r - 1
    # and its derivative cancel only in exact arithmetic: the value's part is detached, and k2's part is added with its
    # own value taken off again.
    log_r = log_ratio(reference.logprobs, stats.logprobs, mask)
    weight = log_ratio(stats.logprobs, old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().detach()
    cut = log_r.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    slope = 0.5 * weight * log_r.square()
    return weight * (torch.expm1(cut) - cut) + (slope - slope.detach())


@KLS.register("k3_published", penalty_only=True)
def k3_published(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """``r - 1 - log r`` without a weight, as GRPO was published: its gradient is that of KL(reference || policy)."""
    log_r = log_ratio(reference.logprobs, stats.logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(log_r) - log_r


@KLS.register("k1_published", reward_only=True)
def k1_published(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The log-ratio without a weight: right in value, for a KL in the reward; as a penalty its gradient is noise."""
    return -log_ratio(reference.logprobs, stats.logprobs, mask)


@KLS.register("full", distribution=True, penalty_only=True)
def full(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The sum over the vocabulary: exact, at the price of both distributions in memory."""
    # ``distribution`` has a row for each response token, in the order in which masked_scatter fills the mask.
    return torch.zeros_like(stats.logprobs).masked_scatter(mask, full_kl(stats.distribution, reference.distribution))


def full_kl(logprobs_NV: Tensor, ref_logprobs_NV: Tensor) -> Tensor:
    """``sum_v p(v) * (log p(v) - log ref(v))`` per position, ``[N]``, in nats."""
    return (logprobs_NV.exp() * (logprobs_NV - ref_logprobs_NV)).sum(-1)


# How strong the penalty of each turn is: fixed, held to a target, or in balance with the policy loss

RATE = 0.1
"""How fast a coefficient follows its target: with the largest error, 2 % per step."""
MAX_ERROR = 0.2
"""A step's relative error is cut to this, so that one odd batch cannot change a coefficient much."""
BALANCE_RATE = 0.1
"""Part of the way that a balanced coefficient goes per step."""
MAX_CHANGE = 0.2
"""A balanced coefficient changes by at most this part of itself per step: the KL of the first steps is nearly 0."""
MAX_FACTOR = 100.0
"""An adaptive coefficient stays within this factor of its start."""


@dataclass(slots=True)
class KLControl:
    """The KL coefficients of a stage.

    With ``kl_targets``, ``coef[k] *= 1 + 0.1 clip(KL[k] / target[k] - 1, -0.2, 0.2)`` per step (the proportional
    controller of Ziegler et al., arXiv 1909.08593, section 2.2). With ``kl_balance``, the first turn's coefficient
    moves a tenth of the way towards ``balance * sum_{k>0} |A[k]| / KL[0]``, by a fifth of itself at most. Both are sums
    over the same episodes, as they are in the loss, where a turn that few episodes play weighs little and one that
    nobody plays nothing. SCoRe (arXiv 2409.12917, section 5.1) mentions a beta2 that balances the first attempt's KL
    with the second attempt's policy loss, without a formula. This one is ours; it takes |advantage|, because a loss of
    centred advantages is 0 whatever its gradient.

    Args:
        stage: Where the coefficients start and what they adapt to.
        coefs: Their present values.
    """

    stage: StageConfig
    coefs: list[float]

    def update(self, kl: Sequence[float], balance: float) -> None:
        """Adapts to what a step measured.

        Args:
            kl: Of each turn, in nats per episode that sampled it; ``nan`` where nobody did.
            balance: |advantage| of all tokens of the later turns, in sum over the batch, by the sum of the first turn's
                KL; ``nan`` where nobody sampled that turn.
        """
        # Multiplicative steps keep a coefficient positive and treat one of 0.001 and one of 1 alike.
        if self.stage.kl_targets:
            for k, target in enumerate(self.stage.kl_targets):
                error = kl[k] / target - 1.0
                if math.isnan(error):  # nobody sampled this turn: it was replayed, or episodes ended before
                    continue
                self._set(k, self.coefs[k] * (1.0 + RATE * max(-MAX_ERROR, min(MAX_ERROR, error))))
        elif self.stage.kl_balance and kl[0] > 0:  # at the reference itself there is nothing to balance with yet
            limit = MAX_CHANGE * self.coefs[0]
            change = BALANCE_RATE * (self.stage.kl_balance * balance - self.coefs[0])
            self._set(0, self.coefs[0] + max(-limit, min(limit, change)))

    def _set(self, k: int, value: float) -> None:
        start = self.stage.kl_coefs[k]  # positive where a coefficient adapts; the config refuses 0
        self.coefs[k] = min(max(value, start / MAX_FACTOR), start * MAX_FACTOR)
