"""Token masks: which response tokens the surrogate trains on.

A mask removes tokens from the surrogate: they lose their policy gradient, while the KL penalty, further terms and the
normaliser still count every token. Masks that compare tokens with each other (by entropy or covariance) are computed
once per rollout batch, over all processes and with the policy before the update, so that the choice of tokens does not
depend on micro-batches or the number of processes.
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
    """What a mask needs to treat the whole rollout batch alike on all processes.

    Args:
        noise: ``[B, T]`` uniform in [0, 1); a token's value does not depend on which process has its row.
        everywhere: Gathers the values of this process's tokens and those of all others into one 1-D tensor.
    """

    noise: Tensor
    everywhere: Callable[[Tensor], Tensor]


TOKEN_MASKS: Lookup[Callable[..., Tensor]] = Lookup("algorithm.token_mask")
"""``(stats, train, whole, **options) -> [B, T]`` bool, True where the surrogate trains. ``whole=True`` declares that a
mask is computed once per rollout batch, from the old policy's stats; otherwise it is computed at every forward pass,
and ``whole`` is ``None``. ``marks=True`` declares that the surrogate trains on all tokens, and a term of the loss uses
the marked ones, where ``batch.kept`` is False; ``reuses=True`` that the mask has no effect with one update per batch.
"""


@dataclass(frozen=True)
class Share:
    """Options of ``entropy``: how many of the tokens with the highest entropy are trained on.

    Args:
        share: Fraction of the response tokens to train on.
        by_turn: Rank each turn's tokens separately. Second attempts repeat much of the first, so in a common ranking
            nearly all high-entropy tokens would be those of first attempts.
    """

    share: float = 0.2
    by_turn: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.token_mask_options", fraction="share")
        if not self.share:
            raise ValueError("algorithm.token_mask_options.share=0: no token would be trained on")


@dataclass(frozen=True)
class DualClip:
    """Options of ``dual_clip``: PPO's second limit.

    Args:
        limit: Tokens with negative advantage and a ratio above this limit have no gradient.
    """

    limit: float = 3.0

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.token_mask_options", positive="limit")
        if self.limit <= 1:
            raise ValueError(
                f"algorithm.token_mask_options.limit={self.limit}: must be above 1, the ratio before an update"
            )


@dataclass(frozen=True)
class CovarianceBand:
    """Options of ``clip_cov``: how many tokens of large covariance are left out.

    Args:
        share: Fraction of all response tokens that are left out, at most.
        low: Smallest covariance of a token that may be left out.
        high: Largest covariance of a token that may be left out.
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
    """Options of ``kl_cov``: how many of the tokens with the largest covariance are marked.

    Args:
        share: Fraction of all response tokens that are marked.
    """

    share: float = 2e-3

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.token_mask_options", fraction=" ".join(item.name for item in fields(self)))


@TOKEN_MASKS.register("none")
def every_token(stats: SampledStats, train: TrainBatch, whole: Whole | None) -> Tensor:
    """Trains on every response token."""
    return train.rollout.response_mask


@TOKEN_MASKS.register("entropy", options=Share, whole=True)
def high_entropy(stats: SampledStats, train: TrainBatch, whole: Whole, *, share: float, by_turn: bool) -> Tensor:
    """Trains only on the response tokens at which the policy's entropy was highest.

    From "Beyond the 80/20 rule" (Wang et al., arXiv 2506.01939), which trains DAPO only on the 20 % of tokens with the
    highest entropy; the abstract reports +11.0 points on AIME'25 and +7.7 on AIME'24 for Qwen3-32B, +4.8 and +5.2 for
    14B, and no loss for 8B. The paper ranks entropies within a batch, as here; its response is a turn here. Tokens that
    tie with the last kept one are kept too.
    """
    mask, turn_ids = train.rollout.response_mask, train.rollout.turn_ids
    kept = torch.zeros_like(mask)
    for k in range(train.rollout.rewards.shape[1] if by_turn else 1):
        among = turn_ids == k if by_turn else mask
        # ``everywhere`` is a collective, so each process calls it even if it has no token of the turn. All processes
        # then find the same threshold.
        everywhere = whole.everywhere(stats.entropy[among])
        if len(everywhere):
            n = math.ceil(share * len(everywhere))
            kept |= among & (stats.entropy >= everywhere.topk(n).values[-1])
    return kept


@TOKEN_MASKS.register("dual_clip", options=DualClip, reuses=True)
def dual_clip(stats: SampledStats, train: TrainBatch, whole: Whole | None, *, limit: float) -> Tensor:
    """Leaves out tokens of negative advantage whose ratio to the old policy is above a limit.

    With negative advantage, PPO's clip does not bound large ratios, so the gradient grows with the ratio (Ye et al.,
    arXiv 1912.09729, with the limit 3). Their surrogate is constant above the limit; leaving the token out gives the
    same gradient, 0.
    """
    mask = train.rollout.response_mask
    ratio = log_ratio(stats.logprobs.detach(), train.old_logprobs, mask)  # compared as logarithms to avoid overflow
    return mask & ~((train.advantages < 0) & (ratio > math.log(limit)))


@TOKEN_MASKS.register("clip_cov", options=CovarianceBand, whole=True)
def clip_covariance(
    stats: SampledStats, train: TrainBatch, whole: Whole, *, share: float, low: float, high: float
) -> Tensor:
    """Leaves out a few random tokens whose covariance of log-prob and advantage lies in a band.

    The covariance of log-prob and advantage determines how fast entropy falls (Cui et al., arXiv 2505.22617). Their
    Clip-Cov removes the gradient of 2e-4 of all tokens, chosen among tokens with a covariance between 1 and 5.
    """
    covariance, mask = token_covariance(stats.logprobs, train, whole)
    # Candidates are ordered by their random numbers, and the first n over all processes are left out.
    candidates = mask & (covariance >= low) & (covariance <= high)
    n = math.floor(share * len(whole.everywhere(covariance[mask])))
    return mask & ~_first(whole.noise, candidates, n, whole)


@TOKEN_MASKS.register("kl_cov", options=TopCovariance, whole=True, marks=True, reuses=True)
def mark_covariance(stats: SampledStats, train: TrainBatch, whole: Whole, *, share: float) -> Tensor:
    """Marks the tokens of largest covariance, for the term ``kl_cov`` of the loss.

    KL-Cov of arXiv 2505.22617: marked tokens keep their gradient and get a KL penalty to the old policy. The paper
    marks a fraction of 2e-3 for Qwen2.5-7B and 2e-4 for 32B, with a weight of 1.
    """
    covariance, mask = token_covariance(stats.logprobs, train, whole)
    n = math.floor(share * len(whole.everywhere(covariance[mask])))
    return mask & ~_first(-covariance, mask, n, whole)


def row_noise(batch: RolloutBatch, seed: int) -> Tensor:
    """``[B, T]`` random numbers, uniform in [0, 1), from a seed derived from each row's own tokens; 1 on padding."""
    # The seed comes from the tokens, since a row's index would change with the number of processes.
    noise = torch.empty(batch.input_ids.shape)
    for row, (ids, n) in enumerate(zip(batch.input_ids, batch.lengths.tolist(), strict=True)):
        generator = torch.Generator().manual_seed(derive_seed(seed, "tokens", *ids[:n].tolist()))
        noise[row, :n] = torch.rand(n, generator=generator)
    return noise.masked_fill(~batch.attention_mask, 1.0)


def token_covariance(logprobs: Tensor, train: TrainBatch, whole: Whole) -> tuple[Tensor, Tensor]:
    """``(log pi - mean) (A - mean)`` of every response token, and the response mask, both ``[B, T]``.

    The means are taken over the response tokens of all processes.
    """
    mask = train.rollout.response_mask
    mean_logprob, mean_advantage = (whole.everywhere(x[mask]).double().mean() for x in (logprobs, train.advantages))
    # Means in double precision, so that their float32 values do not depend on the order of rows and processes.
    covariance = (logprobs - mean_logprob.float()) * (train.advantages - mean_advantage.float())
    return torch.where(mask, covariance, 0.0), mask


def _first(order: Tensor, among: Tensor, n: int, whole: Whole) -> Tensor:
    """Mask of the ``n`` tokens with the smallest values of ``order``, over all processes; ``[B, T]`` bool."""
    # All processes find the same threshold. Tokens that tie with the n-th are taken too, on whichever process.
    everywhere = whole.everywhere(order[among])
    n = min(n, len(everywhere))
    if not n:
        return torch.zeros_like(among)
    return among & (order <= everywhere.topk(n, largest=False).values[-1])


declare({"policy/token_mask": ("fraction", "response tokens that the token mask left out of the surrogate or marked")})
