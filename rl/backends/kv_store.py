"""Keys and values of finished turns, so that the next turn of an episode does not read the earlier ones again.

A request whose prompt begins with what an earlier request of the same id read and sampled gets that request's keys and
values; only what is new is computed. Everything is forgotten when the weights change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rl.backends.lora import bare_model
from rl.backends.trunk import keeps_everything, trunk_of
from rl.types import Request

MAX_BYTES = 2 * 2**30
"""Keys and values held at most; turns beyond it are read again. What is held changes no result, only work."""


@dataclass(slots=True)
class _Batch:
    """The cache of a decoded batch: it is freed when the last of its rows has gone on."""

    layers: list[tuple[Tensor, Tensor]]
    n_rows: int = 0

    @property
    def n_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for layer in self.layers for x in layer)


@dataclass(frozen=True, slots=True)
class _Kept:
    """One turn: the tokens whose keys and values are held, and where they lie in a batch's cache."""

    token_ids: tuple[int, ...]
    batch: _Batch
    row: int
    columns: np.ndarray


class KVStore:
    """Holds the newest turn of every request id, as far as :data:`MAX_BYTES` goes.

    Args:
        model: Whose cache it is; one with windowed or recurrent layers has nothing to keep.
    """

    def __init__(self, model: Any) -> None:
        self._config, self._enabled = model.config, keeps_everything(trunk_of(bare_model(model)))
        self._kept: dict[int, _Kept] = {}
        self.n_bytes = 0

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()
        self.n_bytes = 0

    def put(self, cache: Any, rows: Sequence[tuple[int, int, tuple[int, ...], np.ndarray]]) -> None:
        """Keeps rows of a batch's cache, before they are dropped from it.

        Args:
            cache: Of the batch; its tensors are never written to again, so they are held and not copied.
            rows: Request id, row, the tokens that the row has read, and their columns.
        """
        if not self._enabled or not rows:
            return
        batch = _Batch([(layer.keys, layer.values) for layer in cache.layers])
        if self.n_bytes + batch.n_bytes > MAX_BYTES:
            return
        self.n_bytes += batch.n_bytes
        for request_id, row, token_ids, columns in rows:
            self._pop(request_id)
            self._kept[request_id] = _Kept(token_ids, batch, row, columns)
            batch.n_rows += 1

    def _pop(self, request_id: int) -> _Kept | None:
        kept = self._kept.pop(request_id, None)
        if kept is not None:
            kept.batch.n_rows -= 1
            if not kept.batch.n_rows:
                self.n_bytes -= kept.batch.n_bytes
        return kept

    def take(self, requests: Sequence[Request]) -> tuple[Any, list[int]]:
        """A cache for the requests, padded on the left, and how many tokens of each prompt it holds."""
        cache = DynamicCache(config=self._config)
        found = [self._pop(request.id) for request in requests]
        for i, (request, kept) in enumerate(zip(requests, found, strict=True)):
            # At least one token must be left to be read: its logits are what comes next.
            if kept and not (len(kept.token_ids) < len(request.prompt_ids) and _begins(request, kept)):
                found[i] = None
        lengths = [len(kept.token_ids) if kept else 0 for kept in found]
        if width := max(lengths, default=0):
            first = next(kept for kept in found if kept)
            for index, (keys, values) in enumerate(first.batch.layers):
                new = [self._gather(found, index, part, width, like) for part, like in enumerate((keys, values))]
                cache.update(new[0], new[1], index)
        return cache, lengths

    def _gather(self, found: Sequence[_Kept | None], index: int, part: int, width: int, like: Tensor) -> Tensor:
        out = torch.zeros(len(found), like.shape[1], width, like.shape[3], dtype=like.dtype, device=like.device)
        for i, kept in enumerate(found):
            if kept is not None:
                out[i, :, width - len(kept.columns) :] = kept.batch.layers[index][part][kept.row][:, kept.columns]
        return out


def _begins(request: Request, kept: _Kept) -> bool:
    return request.prompt_ids[: len(kept.token_ids)] == kept.token_ids
