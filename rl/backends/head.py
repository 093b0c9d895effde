"""Log-probs and entropies of sampled tokens from logits, without a second copy of the logits in the graph.

``log_softmax`` followed by ``gather`` keeps an ``[N, V]`` result for the backward pass and makes two more on the way
there. Here the logits themselves are all that is kept, and rows are worked on in blocks that stay in a CPU's cache.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK_ENTRIES = 2**22
"""Logits worked on at once: 16 MiB of float32."""


def sampled_logprobs(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """``log softmax(logits)[target]`` and, without gradient, the entropy of every row; both ``[N]`` float32."""
    logprobs, entropy = _SampledLogprobs.apply(logits_NV, targets_N)
    return logprobs, entropy


class _SampledLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        norms, entropies = [], []
        for rows in logits_NV.split(_rows(logits_NV)):
            block = rows.float()
            norm = block.logsumexp(-1)
            probabilities = (block - norm[:, None]).exp_()
            norms.append(norm)
            entropies.append(norm - probabilities.mul_(block).sum(-1))
        empty = logits_NV.new_zeros(0, dtype=torch.float32)
        norm_N = torch.cat([empty, *norms])
        ctx.save_for_backward(logits_NV, targets_N, norm_N)
        entropy_N = torch.cat([empty, *entropies])
        ctx.mark_non_differentiable(entropy_N)
        return logits_NV.gather(1, targets_N[:, None]).squeeze(1).float() - norm_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """``d logprob / d logits = onehot(target) - softmax``."""
        logits_NV, targets_N, norm_N = ctx.saved_tensors
        gradient_N = gradients[0]
        out = torch.empty_like(logits_NV)
        size = _rows(logits_NV)
        parts = zip(*(x.split(size) for x in (out, logits_NV, norm_N, gradient_N)), strict=True)
        for into, block, norm, gradient in parts:
            into.copy_((block.float() - norm[:, None]).exp_().mul_(-gradient[:, None]))
        out.scatter_add_(1, targets_N[:, None], gradient_N[:, None].to(out.dtype))
        return out, None


def _rows(logits_NV: Tensor) -> int:
    return max(1, BLOCK_ENTRIES // max(1, logits_NV.shape[1]))
