"""Attention for decoding: one new token per row, where several query heads share keys and values (grouped queries).

Transformers copies keys and values once for every query head. For long answers, these copies cost more than the rest of
the decoding step. The attention here reads keys and values in place and makes no copies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@contextmanager
def grouped_attention() -> Iterator[None]:
    """Inside this context, models with ``sdpa`` attention decode with :func:`attend_grouped`."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend_grouped
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]  # our entry only hid the default one, which takes effect again


def attend_grouped(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token per row where G query heads share a key head; transformers computes all other cases.

    Args:
        module: The attention layer.
        query: ``[B, H * G, 1, D]``.
        key: ``[B, H, T, D]``.
        value: ``[B, H, T, D]``.
        attention_mask: ``[B, 1, 1, T]``, true where a key may be read.
        dropout: Dropout rate of the attention probabilities.
        scaling: Factor of the query-key products; ``None`` for ``D ** -0.5``.
        **others: Further arguments of some models.

    Returns:
        The output ``[B, 1, H * G, D]``, and ``None`` in place of attention weights.
    """
    (n_rows, n_queries, n_new, width), n_keys = query.shape, key.shape[1]
    device = query.device.type
    # Prompts (several new tokens) are faster with the fused kernels; masks that are not boolean are added to the
    # scores, which only transformers' function does.
    mine = n_new == 1 and n_queries > n_keys and device in ("cpu", "cuda") and not dropout
    mine = mine and (attention_mask is None or attention_mask.dtype is torch.bool)
    if not mine or any(others.get(name) is not None for name in ("position_bias", "softcap", "s_aux")):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
    # Flattening the rows and heads of a buffer makes a view and copies nothing.
    # The G queries that share a key head become G rows of one product: [B * H, G, D] times [B * H, D, T].
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    grouped = (query * (width**-0.5 if scaling is None else scaling)).reshape(n_rows * n_keys, -1, width)
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    # Autocast is off, because it would turn the scores into bfloat16 again.
    with torch.autocast(device, enabled=False):
        # As in a fused kernel, products are in half precision, and their sums and the softmax in float32.
        wide: Any = {"out_dtype": torch.float32} if device == "cuda" and kind in (torch.float16, torch.bfloat16) else {}
        scores = torch.bmm(grouped.to(kind), keys.to(kind).transpose(1, 2), **wide).view(n_rows, n_queries, 1, -1)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask[..., -scores.shape[-1] :], -torch.inf)
        weights = scores.softmax(-1).to(kind).view(n_rows * n_keys, -1, scores.shape[-1])
        return torch.bmm(weights, values.to(kind)).view(n_rows, 1, n_queries, -1), None
