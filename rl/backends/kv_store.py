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

from rl.backends.trunk import keeps_everything
from rl.types import Request


@dataclass(frozen=True, slots=True)
class _Kept:
    """One turn: the tokens whose keys and values are held, and where they lie in a batch's cache."""

    token_ids: tuple[int, ...]
    layers: list[tuple[Tensor, Tensor]]
    row: int
    columns: np.ndarray


class KVStore:
    """Holds the newest turn of every request id.

    Args:
        config: Of the model; models with windowed layers keep nothing.
    """

    def __init__(self, config: Any) -> None:
        self._config, self._enabled = config, keeps_everything(config)
        self._kept: dict[int, _Kept] = {}

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()

    def put(self, cache: Any, rows: Sequence[tuple[int, int, tuple[int, ...], np.ndarray]]) -> None:
        """Keeps rows of a batch's cache, before they are dropped from it.

        Args:
            cache: Of the batch; its tensors are never written to again, so they are held and not copied.
            rows: Request id, row, the tokens that the row has read, and their columns.
        """
        if not self._enabled or not rows:
            return
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        for request_id, row, token_ids, columns in rows:
            self._kept[request_id] = _Kept(token_ids, layers, row, columns)

    def take(self, requests: Sequence[Request]) -> tuple[Any, list[int]]:
        """A cache for the requests, padded on the left, and how many tokens of each prompt it holds."""
        cache = DynamicCache(config=self._config)
        found = [self._kept.pop(request.id, None) for request in requests]
        for i, (request, kept) in enumerate(zip(requests, found, strict=True)):
            # At least one token must be left to be read: its logits are what comes next.
            if kept and not (len(kept.token_ids) < len(request.prompt_ids) and _begins(request, kept)):
                found[i] = None
        lengths = [len(kept.token_ids) if kept else 0 for kept in found]
        if width := max(lengths, default=0):
            first = next(kept for kept in found if kept)
            for index, (keys, values) in enumerate(first.layers):
                new = [self._gather(found, index, part, width, like) for part, like in enumerate((keys, values))]
                cache.update(new[0], new[1], index)
        return cache, lengths

    def _gather(self, found: Sequence[_Kept | None], index: int, part: int, width: int, like: Tensor) -> Tensor:
        out = torch.zeros(len(found), like.shape[1], width, like.shape[3], dtype=like.dtype, device=like.device)
        for i, kept in enumerate(found):
            if kept is not None:
                out[i, :, width - len(kept.columns) :] = kept.layers[index][part][kept.row][:, kept.columns]
        return out


def _begins(request: Request, kept: _Kept) -> bool:
    return request.prompt_ids[: len(kept.token_ids)] == kept.token_ids
