"""Estimators of KL(policy || reference) per token.

With r = ref / policy at the sampled token: k1 = -log r (unbiased, may be negative), k2 = (log r)^2 / 2, k3 = r - 1 -
log r (unbiased, never negative; J. Schulman, "Approximating KL divergence", 2020). ``full`` sums over the vocabulary:
no sampling noise, at the price of both distributions in memory.

An estimator of :data:`KLS` gets what policy and reference think of the sampled tokens, the policy's log-probs before
the update ``[B, T]`` and the response mask ``[B, T]``, and returns nats ``[B, T]``, 0 where the mask is False. The mask
goes in before ``exp``, so that garbage off the response can reach neither value nor gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rewards import Lookup
from rl.types import SampledStats

KLS: Lookup[Callable[..., Tensor]] = Lookup("algorithm.kl")
"""``(stats, reference, old_logprobs, mask, **options) -> [B, T]``. ``distribution=True`` declares that both
distributions are needed whole, as ``stats.distribution`` and ``reference.distribution`` (``[N, V]``)."""


def log_ratio(stats: SampledStats, reference: SampledStats, mask: Tensor) -> Tensor:
    """``log(ref / policy)`` at the sampled tokens, ``[B, T]``, 0 off the response."""
    return torch.where(mask, reference.logprobs - stats.logprobs, 0.0)


@KLS.register("k1")
def k1(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The log-ratio itself: unbiased, may be negative."""
    return -log_ratio(stats, reference, mask)


@KLS.register("k2")
def k2(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Half the squared log-ratio: biased in value, right in gradient."""
    return 0.5 * log_ratio(stats, reference, mask).square()


@KLS.register("k3")
def k3(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """``r - 1 - log r``: unbiased and never negative."""
    log_r = log_ratio(stats, reference, mask)
    return torch.expm1(log_r) - log_r


@KLS.register("full", distribution=True)
def full(stats: SampledStats, reference: SampledStats, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The sum over the vocabulary: exact, at the price of both distributions in memory."""
    return torch.zeros_like(stats.logprobs).masked_scatter(mask, full_kl(stats.distribution, reference.distribution))


def full_kl(logprobs_NV: Tensor, ref_logprobs_NV: Tensor) -> Tensor:
    """``sum_v p(v) * (log p(v) - log ref(v))`` per position, ``[N]``, in nats."""
    return (logprobs_NV.exp() * (logprobs_NV - ref_logprobs_NV)).sum(-1)
