"""What decoding token by token needs of a cache and of attention, so that a step copies no keys and values.

A step reads one token per row, and every key and value that the rows have. Transformers' own cache copies them all to
make room for one more column, and where several heads share keys (grouped queries) its attention copies them once for
every head. Both cost more than the step itself once answers are long.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer, with room for further columns behind them.

    What :attr:`keys` and :attr:`values` show is never written to again: new columns go behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor | None] = [None, None]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends columns ``[B, H, T, D]``; returns all that there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = self._append(0, self.keys, key_states), self._append(1, self.values, value_states)
        return self.keys, self.values

    def _append(self, part: int, held: Tensor | None, new: Tensor) -> Tensor:
        assert held is not None  # initialised above
        n_held = held.shape[-2] if held.numel() else 0
        total, buffer = n_held + new.shape[-2], self._buffers[part]
        # Rows that were dropped or selected have left the buffer: what is held then lies somewhere else.
        if buffer is None or buffer.data_ptr() != held.data_ptr() or total > buffer.shape[-2]:
            buffer = self._buffers[part] = new.new_empty(*new.shape[:-2], total + total // 4 + 16, new.shape[-1])
            if n_held:
                buffer[..., :n_held, :] = held
        buffer[..., n_held:total, :] = new
        return buffer[..., :total, :]


def roomy_cache(config: Any) -> DynamicCache:
    """An empty cache for a model; layers that forget or keep a state only are transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@contextmanager
def grouped_attention() -> Iterator[None]:
    """Lets models whose attention is ``sdpa`` decode with :func:`attend_grouped`."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend_grouped
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]  # an entry of ours hides transformers', which is seen again


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
    """Attention of one new token per row, where G heads read the same keys; everything else is left to transformers.

    Args:
        module: The attention layer.
        query: ``[B, H * G, 1, D]``.
        key: ``[B, H, T, D]``.
        value: ``[B, H, T, D]``.
        attention_mask: ``[B, 1, 1, T]``, true where a key may be read.
        dropout: Of probabilities.
        scaling: Of products; ``None`` for ``D ** -0.5``.
        **others: What some models ask for beside it.

    Returns:
        ``[B, 1, H * G, D]``, and nothing.
    """
    (n_rows, n_queries, n_new, width), n_keys = query.shape, key.shape[1]
    mine = n_new == 1 and n_queries > n_keys and query.device.type == "cpu" and not dropout
    mine = mine and (attention_mask is None or attention_mask.dtype is torch.bool)
    if not mine or any(others.get(name) is not None for name in ("position_bias", "softcap", "s_aux")):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
    # A buffer's rows and heads can be seen as one dimension without copying.
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    grouped = (query * (width**-0.5 if scaling is None else scaling)).reshape(n_rows * n_keys, -1, width)
    scores = torch.bmm(grouped, keys.transpose(1, 2)).view(n_rows, n_queries, 1, -1)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[..., -scores.shape[-1] :], -torch.inf)
    weights = scores.softmax(-1).view(n_rows * n_keys, -1, scores.shape[-1])
    return torch.bmm(weights, values).view(n_rows, 1, n_queries, -1), None
