"""Estimators of KL(policy || reference) per token.

With r = ref / policy at the sampled token: k1 = -log r (unbiased, may be negative), k2 = (log r)^2 / 2, k3 = r - 1 -
log r (unbiased, never negative; J. Schulman, "Approximating KL divergence", 2020). ``FULL`` sums over the vocabulary:
no sampling noise, at the price of both distributions in memory.
"""

from enum import StrEnum

import torch
from torch import Tensor


class KLEstimator(StrEnum):
    """Which estimator the penalty uses."""

    K1 = "k1"
    K2 = "k2"
    K3 = "k3"
    FULL = "full"


def sampled_kl(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, estimator: KLEstimator) -> Tensor:
    """KL estimate at the sampled tokens, 0 where the mask is False; any shape, in nats.

    The mask goes in before ``exp``, so that garbage off the response can reach neither value nor gradient.

    Raises:
        ValueError: For ``FULL``, which needs whole distributions: use :func:`full_kl`.
    """
    log_r = torch.where(mask, ref_logprobs - logprobs, 0.0)
    if estimator is KLEstimator.K1:
        return -log_r
    if estimator is KLEstimator.K2:
        return 0.5 * log_r.square()
    if estimator is KLEstimator.K3:
        return torch.expm1(log_r) - log_r
    raise ValueError("the full KL needs distributions, not log-probs of samples")


def full_kl(logprobs_NV: Tensor, ref_logprobs_NV: Tensor) -> Tensor:
    """``sum_v p(v) * (log p(v) - log ref(v))`` per position, ``[N]``, in nats."""
    return (logprobs_NV.exp() * (logprobs_NV - ref_logprobs_NV)).sum(-1)
