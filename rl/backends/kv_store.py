"""Keys and values of finished turns, held so that an episode's next turn does not read the earlier ones again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from rl.backends.trunk import keeps_everything, trunk_of
from rl.types import Request

MAX_BYTES = 2 * 2**30
"""Keys and values held at most, without the room behind them; turns beyond it are read again. What is held changes no
result, only work."""


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer, with room for further columns behind them.

    Transformers' own layer copies all of them at every step, to make room for one more column. What :attr:`keys` and
    :attr:`values` show is never written to again: new columns go behind it.
    """

    _buffers: Sequence[Tensor | None] = (None, None)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends columns ``[B, H, T, D]``; returns all that there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None  # initialised above
        assert self.values is not None
        rooms, shown = [], []
        for buffer, held, new in zip(self._buffers, (self.keys, self.values), (key_states, value_states), strict=True):
            n_held = held.shape[-2] if held.numel() else 0
            total, room = n_held + new.shape[-2], buffer
            # Rows that were dropped or selected have left the buffer: what is held then lies somewhere else. It is told
            # by its address, since a view of a buffer's first columns begins where the buffer does.
            if room is None or room.data_ptr() != held.data_ptr() or total > room.shape[-2]:
                # A quarter more each time, so that in T steps all is copied about log T times.
                room = new.new_empty(*new.shape[:-2], total + total // 4 + 16, new.shape[-1])
                if n_held:
                    room[..., :n_held, :] = held
            room[..., n_held:total, :] = new
            rooms.append(room)
            shown.append(room[..., :total, :])
        self._buffers = rooms
        self.keys, self.values = keys, values = shown
        return keys, values


@dataclass(frozen=True, slots=True)
class _Kept:
    """One turn: the tokens whose keys and values are held, and where they lie in the cache of the batch it was in.

    Args:
        token_ids: Prompt and answer, without the last sampled token.
        layers: Keys and values ``[B, H, C, D]`` of the whole batch by layer, shared by all turns that ended together.
        row: In the batch.
        columns: Of each token, ``len(token_ids)`` of them.
    """

    token_ids: tuple[int, ...]
    layers: list[tuple[Tensor, Tensor]]
    row: int
    columns: np.ndarray


class KVStore:
    """Keys and values of finished turns, so that the next turn of an episode does not read the earlier ones again.

    A request whose prompt begins with what an earlier request of the same id read and sampled gets that request's keys
    and values; only what is new is computed. The newest turn of every id is held, as far as :data:`MAX_BYTES` goes. A
    batch's cache is held whole, and freed with the last of its rows.

    Args:
        causal: Whose cache it is; one with windowed or recurrent layers has nothing to keep.

    Attributes:
        enabled: Whether every layer keeps all keys and values.
    """

    def __init__(self, causal: Any) -> None:
        self._config, self.enabled = causal.config, keeps_everything(trunk_of(causal))
        self.kept: dict[int, _Kept] = {}

    def put(self, cache: Any, rows: Any) -> None:
        """Keeps the rows of a batch's cache that are done, before they are dropped from it.

        What is in the cache is never written to again, so it is held and not copied.

        Args:
            cache: Of a batch that is being decoded.
            rows: The engine's record of its rows: which are alive, their requests, masks and tokens.
        """
        done = np.flatnonzero(~rows.alive.numpy())
        if not self.enabled or not len(done):
            return
        # The tensors are counted once for all rows that refer to them; what does not fit is read again next turn.
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        held = {id(kept.layers): kept.layers for kept in self.kept.values()} | {id(layers): layers}
        if sum(x.nbytes for one in held.values() for pair in one for x in pair) > MAX_BYTES:
            return
        masks = rows.attention_mask.cpu().numpy()
        for row in done:
            i = rows.index[row]
            # The last sampled token was never read, so it has no key. The row may have been read on after its end,
            # until half of the batch was done: what lies behind in the cache is not the row's.
            token_ids = rows.batch[i].prompt_ids + tuple(rows.tokens[i, : rows.n_sampled[i] - 1].tolist())
            columns = np.flatnonzero(masks[row])[: len(token_ids)]
            self.kept[rows.batch[i].id] = _Kept(token_ids, layers, int(row), columns)

    def take(self, requests: Sequence[Request]) -> tuple[Any, list[int]]:
        """A cache for the requests, padded on the left, and how many tokens of each prompt it holds."""
        cache = DynamicCache(config=self._config)
        # Layers that forget, or keep a state only, stay as they are.
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        found: dict[int, _Kept] = {}
        for i, request in enumerate(requests):
            kept = self.kept.pop(request.id, None)  # the batch's cache is freed with the last row that refers to it
            n = len(kept.token_ids) if kept else 0
            # At least one token must be left to be read: its logits are what comes next.
            if kept and n < len(request.prompt_ids) and request.prompt_ids[:n] == kept.token_ids:
                found[i] = kept
        lengths = [len(found[i].token_ids) if i in found else 0 for i in range(len(requests))]
        if not found:
            return cache, lengths
        # Columns are gathered to the right edge, so that what is read next stands behind the last one of every row.
        # Rows of which nothing is held stay zeros, which the mask hides.
        width = max(lengths)
        for index, pair in enumerate(next(iter(found.values())).layers):
            gathered = []
            for part, like in enumerate(pair):
                out = like.new_zeros(len(requests), like.shape[1], width, like.shape[3])
                for i, kept in found.items():
                    out[i, :, width - len(kept.columns) :] = kept.layers[index][part][kept.row][:, kept.columns]
                gathered.append(out)
            cache.update(gathered[0], gathered[1], index)
        return cache, lengths
