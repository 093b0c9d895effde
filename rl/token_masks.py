"""Which response tokens the surrogate trains on, within the turns that are trained.

A mask takes tokens out of the surrogate: they lose their policy gradient, while the KL penalty, further terms and the
normaliser still count every token. Masks that compare tokens with each other (by entropy, by covariance) are taken once
per rollout batch, over all processes and with the policy as it was before the update, so that neither micro-batches nor
processes change what is trained on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from rewards import Lookup
from rl.analysis.metrics import declare
from rl.config.checks import check_numbers
from rl.kl import log_ratio
from rl.types import RolloutBatch, SampledStats, TrainBatch, derive_seed


class Whole(NamedTuple):
    """What a mask may know about the whole rollout batch.

    Args:
        noise: ``[B, T]`` uniform in [0, 1), the same for a token however rows are shared out.
        everywhere: From the values of this process's tokens to those of all processes; one-dimensional.
    """

    noise: Tensor
    everywhere: Callable[[Tensor], Tensor]


TOKEN_MASKS: Lookup[Callable[..., Tensor]] = Lookup("algorithm.token_mask")
"""``(stats, train, whole, **options) -> [B, T]`` bool, True where the surrogate trains. ``whole=True`` declares that a
mask is taken once per rollout batch, from the old policy's stats; otherwise it is taken at every forward pass, and
``whole`` is ``None``. ``marks=True`` declares that the surrogate trains on all tokens, and what is not kept is what a
term of the loss reads as ``batch.kept``; ``reuses=True`` that it does nothing without several updates per batch."""


@dataclass(frozen=True)
class Share:
    """The tokens with the highest entropy.

    Args:
        share: How many of the response tokens are trained on.
        by_turn: Rank the tokens of each turn by themselves. Second attempts repeat much of the first, so that in one
            ranking nearly all tokens of high entropy would be first attempts'.
    """

    share: float = 0.2
    by_turn: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.token_mask_options", fraction="share")
        if not self.share:
            raise ValueError("algorithm.token_mask_options.share=0: no token would be trained on")


@dataclass(frozen=True)
class DualClip:
    """PPO's second limit.

    Args:
        limit: A token of negative advantage whose ratio is above this has no gradient.
    """

    limit: float = 3.0

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.token_mask_options", positive="limit")
        if self.limit <= 1:
            raise ValueError(
                f"algorithm.token_mask_options.limit={self.limit}: must be above 1, where the ratio starts"
            )


@dataclass(frozen=True)
class CovarianceBand:
    """Tokens whose covariance is large, some of which are left out.

    Args:
        share: How many of all response tokens are left out, at most.
        low: Smallest covariance of a token that may be left out.
        high: Largest one.
    """

    share: float = 2e-4
    low: float = 1.0
    high: float = 5.0

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.token_mask_options", fraction="share", not_negative="low high")
        if self.low > self.high:
            raise ValueError(f"algorithm.token_mask_options: low={self.low} lies above high={self.high}")


@dataclass(frozen=True)
class TopCovariance:
    """Tokens with the largest covariance.

    Args:
        share: How many of all response tokens are marked.
    """

    share: float = 2e-3

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.token_mask_options", fraction=" ".join(item.name for item in fields(self)))


@TOKEN_MASKS.register("none")
def every_token(stats: SampledStats, train: TrainBatch, whole: Whole | None) -> Tensor:
    """Every response token."""
    return train.rollout.response_mask


@TOKEN_MASKS.register("entropy", options=Share, whole=True)
def high_entropy(stats: SampledStats, train: TrainBatch, whole: Whole, *, share: float, by_turn: bool) -> Tensor:
    """The share of response tokens at which the policy was least sure.

    "Beyond the 80/20 rule" (Wang et al., arXiv 2506.01939): of DAPO's tokens only the 20 % of highest entropy are
    trained on; the abstract reports +11.0 points on AIME'25 and +7.7 on AIME'24 for Qwen3-32B, +4.8 and +5.2 for 14B,
    and no loss for 8B. There entropies are ranked within a batch, as here; a turn is what it calls a response. Tokens
    that tie with the last one are kept too.
    """
    mask, turn_ids = train.rollout.response_mask, train.rollout.turn_ids
    kept = torch.zeros_like(mask)
    for k in range(train.rollout.rewards.shape[1] if by_turn else 1):
        among = turn_ids == k if by_turn else mask
        # Every process takes part in every gathering, also with no token of the turn; the threshold is then the same
        # on all of them.
        everywhere = whole.everywhere(stats.entropy[among])
        if len(everywhere):
            n = math.ceil(share * len(everywhere))
            kept |= among & (stats.entropy >= everywhere.topk(n).values[-1])
    return kept


@TOKEN_MASKS.register("dual_clip", options=DualClip, reuses=True)
def dual_clip(stats: SampledStats, train: TrainBatch, whole: Whole | None, *, limit: float) -> Tensor:
    """All but tokens of negative advantage whose ratio to the old policy is above a limit.

    PPO's clip lets the ratio of a bad token grow without bound, and its gradient with it (Ye et al., arXiv 1912.09729,
    with the limit 3). Their surrogate is constant there; here the token is left out: the same gradient.
    """
    mask = train.rollout.response_mask
    ratio = log_ratio(stats.logprobs.detach(), train.old_logprobs, mask)  # compared in logs: nothing overflows
    return mask & ~((train.advantages < 0) & (ratio > math.log(limit)))


@TOKEN_MASKS.register("clip_cov", options=CovarianceBand, whole=True)
def clip_covariance(
    stats: SampledStats, train: TrainBatch, whole: Whole, *, share: float, low: float, high: float
) -> Tensor:
    """All but a few tokens, drawn at random from those whose covariance lies in a band.

    Entropy falls as fast as log-prob and advantage covary (Cui et al., arXiv 2505.22617); Clip-Cov takes a share of
    2e-4 of the tokens, of those whose covariance lies between 1 and 5, out of the gradient.
    """
    covariance, mask = token_covariance(stats.logprobs, train, whole)
    # Random numbers of the tokens order the candidates, and the first n of all processes are left out.
    candidates = mask & (covariance >= low) & (covariance <= high)
    n = math.floor(share * len(whole.everywhere(covariance[mask])))
    return mask & ~_first(whole.noise, candidates, n, whole)


@TOKEN_MASKS.register("kl_cov", options=TopCovariance, whole=True, marks=True, reuses=True)
def mark_covariance(stats: SampledStats, train: TrainBatch, whole: Whole, *, share: float) -> Tensor:
    """Marks the tokens of largest covariance, for the term ``kl_cov`` of the loss.

    KL-Cov of arXiv 2505.22617: they keep their gradient and pay a KL to the old policy; the share is 2e-3
    for Qwen2.5-7B and 2e-4 for 32B, the weight 1.
    """
    covariance, mask = token_covariance(stats.logprobs, train, whole)
    n = math.floor(share * len(whole.everywhere(covariance[mask])))
    return mask & ~_first(-covariance, mask, n, whole)


def row_noise(batch: RolloutBatch, seed: int) -> Tensor:
    """``[B, T]`` uniform in [0, 1), drawn for each row from a seed that its own tokens give."""
    # From the tokens and not from the row's place, which another number of processes would change.
    noise = torch.empty(batch.input_ids.shape)
    for row, (ids, n) in enumerate(zip(batch.input_ids, batch.lengths.tolist(), strict=True)):
        generator = torch.Generator().manual_seed(derive_seed(seed, "tokens", *ids[:n].tolist()))
        noise[row, :n] = torch.rand(n, generator=generator)
    return noise.masked_fill(~batch.attention_mask, 1.0)


def token_covariance(logprobs: Tensor, train: TrainBatch, whole: Whole) -> tuple[Tensor, Tensor]:
    """``(log pi - mean) (A - mean)`` of every response token, means over all of them; and the mask, both ``[B, T]``."""
    mask = train.rollout.response_mask
    mean_logprob, mean_advantage = (whole.everywhere(x[mask]).double().mean() for x in (logprobs, train.advantages))
    # Means in double precision, so that the order in which rows and processes are added up does not show in them.
    covariance = (logprobs - mean_logprob.float()) * (train.advantages - mean_advantage.float())
    return torch.where(mask, covariance, 0.0), mask


def _first(order: Tensor, among: Tensor, n: int, whole: Whole) -> Tensor:
    """The ``n`` tokens of all processes that come first in an order; ``[B, T]`` bool."""
    # All processes find the same threshold; tokens that tie with the n-th are taken too, whichever process has them.
    everywhere = whole.everywhere(order[among])
    n = min(n, len(everywhere))
    if not n:
        return torch.zeros_like(among)
    return among & (order <= everywhere.topk(n, largest=False).values[-1])


declare({"policy/token_mask": ("fraction", "response tokens that the token mask took out of the surrogate, or marked")})
