"""Copies of a small model that are trained beside each other, each on rows of its own: an inner loop in one pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

Copies = dict[str, Tensor]
"""Weights of M copies of a model, ``[M, ...]`` each."""


def copies(model: Any, n: int) -> Copies:
    """``n`` times a model's present weights, which stay as they are."""
    return {name: one.detach()[None].repeat(n, *[1] * one.dim()) for name, one in model.named_parameters()}


def logits_of(model: Any, weights: dict[str, Tensor], ids_BT: Tensor) -> Tensor:
    """``[B, T, V]`` of one copy; ``vmap`` maps it over all."""
    return functional_call(model, weights, (), {"input_ids": ids_BT, "use_cache": False}).logits


def fit_copies(model: Any, start: Copies, batches: Callable[[int], Tensor], steps: int, lr: float) -> Copies:
    """What becomes of each copy after some steps of Adam (betas .9 and .99) on the mean loss of its rows.

    Args:
        model: With eager attention; the fused kernel cannot be mapped over copies.
        start: Weights of M copies; not changed.
        batches: The step's number, from 1, to rows ``[M, B, T]`` of token ids; 0 is padding.
        steps: Of each copy.
        lr: Learning rate.
    """

    def loss(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
        logits, target = logits_of(model, weights, ids[:, :-1]), ids[:, 1:]
        nats = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        return (nats * (target != 0).flatten()).sum() / (target != 0).sum().clamp(min=1)

    # The gradient of M losses with M sets of weights in one pass: a loop over copies would make M small ones.
    weights, gradient = dict(start), vmap(grad(loss))
    mean, square = ({name: torch.zeros_like(one) for name, one in start.items()} for _ in range(2))
    for step in range(1, steps + 1):
        for name, g in gradient(weights, batches(step)).items():
            mean[name].mul_(0.9).add_(g, alpha=0.1)
            square[name].mul_(0.99).addcmul_(g, g, value=0.01)
            scale = (square[name] / (1 - 0.99**step)).sqrt() + 1e-8
            # Not in place: at the first step these are still the caller's tensors.
            weights[name] = weights[name] - lr * mean[name] / (1 - 0.9**step) / scale
    return weights
