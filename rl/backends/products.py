"""Matrix products of large layers on CPUs: oneDNN's kernels, for forward and backward pass, and packed to decode.

PyTorch gives float32 products on x86 to MKL, which on processors of other makers than Intel leaves AVX-512 unused:
there oneDNN, which is part of PyTorch too, takes half the time. Both compute in float32; only the order of the
summands differs. Small layers keep PyTorch's own product, and so does everything that is not float32 on a CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MIN_WEIGHTS = 2**16
"""Weights of a layer from which on its product is what counts. No layer of this repository's toy models has as many."""
MIN_STEPS = 16
"""Decoding steps from which on it pays to pack the weights first, which takes as long as a few steps do."""


def prefers_onednn() -> bool:
    """Whether PyTorch would ask MKL for products that oneDNN is here for too."""
    backends = torch.backends
    return backends.mkl.is_available() and backends.mkldnn.is_available() and bool(backends.mkldnn.enabled)


def use_onednn(model: nn.Module) -> None:
    """Lets the large linear layers of a model compute with oneDNN, where PyTorch would ask MKL.

    The layers change their class and nothing else: names, parameters, copies and saved files stay what they were.
    ``torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)`` around the call leaves a model as it is.
    """
    if not prefers_onednn():
        return
    for module in model.modules():
        # Quantised layers and adapters are classes of their own and know better.
        if type(module) is nn.Linear and module.weight.numel() >= MIN_WEIGHTS:
            module.__class__ = OneDNNLinear


class OneDNNLinear(nn.Linear):
    """``nn.Linear`` with another kernel; see :func:`use_onednn`."""

    packed: Tensor | None = None
    """The weight in the layout that the kernel likes best, while :func:`packed_weights` holds."""

    def forward(self, input: Tensor) -> Tensor:
        """``input @ weight.T + bias``."""
        weight = self.weight
        # Looked up anew in every call: a model may be moved, cast, sharded or run under autocast after it was loaded.
        # Under autocast the product is to be in bfloat16, and what is not a plain tensor (a shard of FSDP, a quantised
        # weight) has kernels of its own.
        ours = weight.device.type == "cpu" and weight.dtype is input.dtype is torch.float32 and input.numel()
        if not ours or torch.is_autocast_enabled("cpu") or type(weight.data) is not Tensor:
            return super().forward(input)
        if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            return _Product.apply(input, weight, self.bias)
        # The packed copy would miss the gradient of the weight, so it serves only where there is none.
        return _product(input, weight if self.packed is None else self.packed, self.bias)


class _Product(torch.autograd.Function):
    """``[..., I] @ [I, O] + [O]`` with its two gradients, each a product again.

    The operator of the forward pass has no derivative of its own. With ``G = dL/dY`` the gradient of the input is
    ``G W`` and that of the weight ``G^T X``; the operator transposes its second argument, so it is handed ``W^T`` and
    ``X^T``.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight_OI)
        return _product(input, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (input, weight_OI) = gradients, ctx.saved_tensors
        # The weight's gradient sums over all tokens: N of them, whatever dimensions they are in.
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
    """Holds a second copy of the large layers' weights, laid out for products with few rows, as decoding makes them.

    Args:
        model: Its weights must not change inside.
        n_steps: How many tokens will be decoded at most; for few of them nothing is packed.
    """
    layers = [module for module in model.modules() if isinstance(module, OneDNNLinear)] if n_steps >= MIN_STEPS else []
    # Released at the end whatever happens: after an optimiser step the copy would be that of the old weights.
    try:
        for layer in layers:
            if layer.weight.device.type == "cpu" and layer.weight.dtype is torch.float32:
                layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        yield
    finally:
        for layer in layers:
            layer.packed = None
