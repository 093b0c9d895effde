"""Trains many copies of a small model in parallel, each on its own rows, as one batched inner training loop."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

Copies = dict[str, Tensor]
"""Weights of M copies of a model by name, each a tensor ``[M, ...]``."""


def copies(model: Any, n: int) -> Copies:
    """Stacks ``n`` copies of a model's current weights; the model itself is not changed."""
    return {name: one.detach()[None].repeat(n, *[1] * one.dim()) for name, one in model.named_parameters()}


def logits_of(model: Any, weights: dict[str, Tensor], ids_BT: Tensor) -> Tensor:
    """Logits ``[B, T, V]`` of one copy; use ``vmap`` to map this function over all copies."""
    return functional_call(model, weights, (), {"input_ids": ids_BT, "use_cache": False}).logits


def fit_copies(model: Any, start: Copies, batches: Callable[[int], Tensor], steps: int, lr: float) -> Copies:
    """Trains each copy with Adam (betas .9 and .99) on the mean loss of its own rows; returns the new weights.

    Args:
        model: The model, with eager attention, because the fused kernel cannot be mapped over copies.
        start: Weights of M copies; not changed.
        batches: Function from the step's number, counted from 1, to rows ``[M, B, T]`` of token ids; 0 is padding.
        steps: Number of optimiser steps of each copy.
        lr: Learning rate.
    """

    def loss(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
        logits, target = logits_of(model, weights, ids[:, :-1]), ids[:, 1:]
        nats = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        return (nats * (target != 0).flatten()).sum() / (target != 0).sum().clamp(min=1)

    # vmap computes the gradients of all M copies in one pass; a loop over the copies would make M small passes.
    weights, gradient = dict(start), vmap(grad(loss))
    mean, square = ({name: torch.zeros_like(one) for name, one in start.items()} for _ in range(2))
    for step in range(1, steps + 1):
        for name, g in gradient(weights, batches(step)).items():
            mean[name].mul_(0.9).add_(g, alpha=0.1)
            square[name].mul_(0.99).addcmul_(g, g, value=0.01)
            scale = (square[name] / (1 - 0.99**step)).sqrt() + 1e-8
            # Not in place: at the first step the tensors are still the caller's.
            weights[name] = weights[name] - lr * mean[name] / (1 - 0.9**step) / scale
    return weights
