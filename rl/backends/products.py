"""Faster matrix products of large layers on CPUs with oneDNN's kernels, with packed weights for decoding.

For float32 products on x86, PyTorch uses MKL, which does not use AVX-512 on processors that are not from Intel. There
oneDNN, which is also part of PyTorch, takes half the time. Both compute in float32 and differ only in the order of the
summands. Small layers, and all products that are not in float32 on a CPU, keep PyTorch's own kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MIN_WEIGHTS = 2**16
"""Smallest number of weights for which a layer uses oneDNN. All layers of this repository's toy models are smaller."""
MIN_STEPS = 16
"""Smallest number of decoding steps for which weights are packed, since packing takes as long as a few steps."""


def prefers_onednn() -> bool:
    """Whether PyTorch would use MKL for products although oneDNN is available and enabled too."""
    backends = torch.backends
    return backends.mkl.is_available() and backends.mkldnn.is_available() and bool(backends.mkldnn.enabled)


def use_onednn(model: nn.Module) -> None:
    """Makes the large linear layers of a model compute with oneDNN, where PyTorch would use MKL.

    Only the class of the layers changes: names, parameters, copies and saved files stay the same. Call this function
    under ``torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)`` to leave a model unchanged.
    """
    if not prefers_onednn():
        return
    for module in model.modules():
        # Subclasses, such as quantised layers and adapters, have their own products and are left alone.
        if type(module) is nn.Linear and module.weight.numel() >= MIN_WEIGHTS:
            module.__class__ = OneDNNLinear


class OneDNNLinear(nn.Linear):
    """``nn.Linear`` that computes with oneDNN's kernel; see :func:`use_onednn`."""

    packed: Tensor | None = None
    """The weight in the kernel's preferred layout, set within :func:`packed_weights`."""

    def forward(self, input: Tensor) -> Tensor:
        """``input @ weight.T + bias``."""
        weight = self.weight
        # Checked in every call, because a model may be moved, cast, sharded or run under autocast after loading. Under
        # autocast the product must be in bfloat16, and weights that are not plain tensors (a shard of FSDP, a quantised
        # weight) have their own kernels.
        ours = weight.device.type == "cpu" and weight.dtype is input.dtype is torch.float32 and input.numel()
        if not ours or torch.is_autocast_enabled("cpu") or type(weight.data) is not Tensor:
            return super().forward(input)
        if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            return _Product.apply(input, weight, self.bias)
        # The packed copy is only used without gradients, since the weight would get no gradient through it.
        return _product(input, weight if self.packed is None else self.packed, self.bias)


class _Product(torch.autograd.Function):
    """``[..., I] @ [I, O] + [O]`` with gradients of input and weight, which are products too.

    The operator of the forward pass has no derivative in PyTorch. With ``G = dL/dY`` the gradient of the input is
    ``G W`` and that of the weight ``G^T X``. The operator transposes its second argument, so it is given ``W^T`` and
    ``X^T``.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight_OI)
        return _product(input, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (input, weight_OI) = gradients, ctx.saved_tensors
        # The weight's gradient sums over all N tokens, so all leading dimensions are flattened into one.
        gradient_NO, input_NI = (x.reshape(-1, x.shape[-1]) for x in (gradient, input))
        of_input, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight_OI.t(), None) if of_input else None,
            _product(gradient_NO.t(), input_NI.t(), None) if of_weight else None,
            gradient_NO.sum(0) if of_bias else None,
        )


def _product(input: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight_OI, bias_O, "none", [], "")


@contextmanager
def packed_weights(model: nn.Module, n_steps: int) -> Iterator[None]:
    """Inside this context, large layers hold a second copy of their weights, in a layout that is faster for decoding.

    Args:
        model: The model, whose weights must not change inside the context.
        n_steps: Maximum number of tokens that will be decoded; below :data:`MIN_STEPS` nothing is packed.
    """
    layers = [module for module in model.modules() if isinstance(module, OneDNNLinear)] if n_steps >= MIN_STEPS else []
    # The copies are always removed at the end: after an optimiser step they would hold outdated weights.
    try:
        for layer in layers:
            if layer.weight.device.type == "cpu" and layer.weight.dtype is torch.float32:
                layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        yield
    finally:
        for layer in layers:
            layer.packed = None
