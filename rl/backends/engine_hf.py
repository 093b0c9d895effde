"""Sampling with a transformers model in this process: the CPU default and the reference for the other engines.

A step takes the pending requests of similar prompt length, left-pads them into one batch and decodes until all are
done; rows that finished are dropped from the key-value cache once they are half of it. Equal prompts are read once, and
an episode's second turn does not read its first one again. Tokens are drawn by inverting the cumulative distribution at
one uniform number per row and position, which is a hash of the request's seed: the sample does not depend on what else
is in the batch.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rl.backends.kv_store import KVStore
from rl.backends.lora import bare_model
from rl.backends.trunk import call_decoder
from rl.seeding import uniforms
from rl.types import Completion, Finish, Request


class HFEngine:
    """Samples from a causal language model.

    Args:
        model: A transformers causal language model.
        end_ids: A row ends with the first of these tokens.
        pad_id: Fills the left of shorter prompts; never attended to.
        max_batch_size: Upper limit of rows decoded together.
        shares_weights: The model is the very module that is being trained, so its weights are always the newest.
        precision: The context of forward passes, as the trainer's.
        stops: Whether the tokens so far end a row although none of them is an end token: they spell a stop string.
    """

    streams = False

    def __init__(
        self,
        model: Any,
        end_ids: Collection[int],
        pad_id: int,
        max_batch_size: int = 1024,
        shares_weights: bool = True,
        precision: Callable[[], AbstractContextManager] = nullcontext,
        stops: Callable[[Sequence[int]], bool] | None = None,
    ) -> None:
        self.shares_weights, self._precision = shares_weights, precision
        self._model, self._pad_id, self._stops = model, pad_id, stops
        self._end_ids = torch.tensor(sorted(end_ids))
        self._max_batch_size = max_batch_size
        self._pending: list[Request] = []
        self._store = KVStore(model)
        self.policy_version = 0

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests."""
        self._pending.extend(requests)

    def step(self) -> list[Completion]:
        """Decodes one batch to its end."""
        if not self._pending:
            return []
        self._pending.sort(key=lambda request: (len(request.prompt_ids), request.max_new_tokens, request.id))
        batch, self._pending = self._pending[: self._max_batch_size], self._pending[self._max_batch_size :]
        training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode(), self._precision():
                return self._decode(batch)
        finally:
            self._model.train(training)

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copies weights in and notes the version; an engine that samples with the trained model itself needs none."""
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, tensor in named:
                if name not in own:
                    raise KeyError(f"weights for an unknown parameter: {name}")
                own[name].copy_(tensor)
        self._store.clear()
        self.policy_version = version

    def sleep(self) -> None:
        """Forgets the keys and values of earlier turns; the model is the trainer's and stays."""
        self._store.clear()

    def wake(self) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Forgets what is pending."""
        self._pending.clear()

    def _decode(self, batch: list[Request]) -> list[Completion]:
        cache, lengths = self._store.take(batch)
        rows = _Rows(batch, lengths, self._pad_id, self._model.device)
        logits = self._prefill(rows, cache, fresh=not any(lengths))
        position = 0
        while True:
            tokens = rows.sample(logits, position, self._end_ids, self._stops)
            position += 1
            if not rows.alive.any():
                self._store.put(cache, rows.finished())
                return rows.completions(self.policy_version)
            if 2 * int(rows.alive.sum()) <= len(rows.alive):
                self._store.put(cache, rows.finished())
                keep = rows.drop_finished()
                cache.reorder_cache(keep)
                tokens = tokens[keep]
            rows.extend_mask()
            logits = self._forward(tokens[:, None], rows.attention_mask, cache)

    def _prefill(self, rows: "_Rows", cache: DynamicCache, fresh: bool) -> Tensor:
        """Reads what is new in every prompt, equal prompts once; returns the logits behind them, ``[B, V]``."""
        owners, which = rows.distinct_prompts()
        if len(owners) == len(which) or not fresh:
            return self._forward(rows.prompt_ids, rows.attention_mask, cache)
        logits = self._forward(rows.prompt_ids[owners], rows.attention_mask[owners], cache)
        index = torch.tensor(which, device=self._model.device)
        cache.reorder_cache(index)
        return logits[index]

    def _forward(self, input_ids: Tensor, attention_mask: Tensor, cache: DynamicCache) -> Tensor:
        # Positions count the real tokens of each row.
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output = call_decoder(
            bare_model(self._model),
            cache,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


class _Rows:
    """The state of the rows being decoded; ``batch`` indices survive the dropping of finished rows.

    Args:
        batch: The requests.
        cached: How many tokens of each prompt are in the cache already, padded on the left.
        pad_id: Fills what is left of shorter prompts.
        device: Of the model.
    """

    def __init__(self, batch: list[Request], cached: list[int], pad_id: int, device: torch.device) -> None:
        self.batch, self.device = batch, device
        new = [request.prompt_ids[n:] for request, n in zip(batch, cached, strict=True)]
        width = max(map(len, new))
        self.prompt_ids = torch.tensor([[pad_id] * (width - len(ids)) + list(ids) for ids in new], device=device)
        masks = [_right_aligned(cached, max(cached)), _right_aligned(list(map(len, new)), width)]
        self.attention_mask = torch.cat(masks, dim=1).to(device)
        n_rows, longest = len(batch), max(request.max_new_tokens for request in batch)
        self.alive = torch.ones(n_rows, dtype=torch.bool)
        self._index = np.arange(n_rows)
        self._seeds = np.array([request.seed for request in batch], dtype=np.uint64)
        self._limits = torch.tensor([request.max_new_tokens for request in batch])
        self._temperatures = torch.tensor([request.temperature for request in batch], device=device)
        self._stopped = np.zeros(n_rows, dtype=bool)
        self._n_sampled = np.zeros(n_rows, dtype=np.int64)
        self._tokens = np.zeros((n_rows, longest), dtype=np.int64)
        self._logprobs = np.zeros((n_rows, longest), dtype=np.float32)

    def distinct_prompts(self) -> tuple[list[int], list[int]]:
        """A row for each distinct prompt, and which of them each row has."""
        seen: dict[tuple[int, ...], int] = {}
        which = [seen.setdefault(request.prompt_ids, len(seen)) for request in self.batch]
        owners = [0] * len(seen)
        for row in reversed(range(len(which))):
            owners[which[row]] = row
        return owners, which

    def sample(
        self,
        logits_BV: Tensor,
        position: int,
        end_ids: Tensor,
        stops: Callable[[Sequence[int]], bool] | None,
    ) -> Tensor:
        """Draws the next token of every row, ``[B]``, and records it for the rows that are alive."""
        tokens, logprobs = draw(logits_BV, self._temperatures, uniforms(self._seeds, position))
        cpu_tokens = tokens.cpu()
        alive = self.alive.numpy()
        living = self._index[alive]
        self._tokens[living, position] = cpu_tokens.numpy()[alive]
        self._logprobs[living, position] = logprobs.cpu().numpy()[alive]
        self._n_sampled[living] = position + 1
        ended = torch.isin(cpu_tokens, end_ids) & self.alive
        if stops is not None:
            spelt = [i for i in living if stops(self._tokens[i, : position + 1].tolist())]
            ended |= torch.from_numpy(np.isin(self._index, spelt))
        self._stopped[self._index[ended.numpy()]] = True
        self.alive = self.alive & ~ended & (position + 1 < self._limits)
        return tokens

    def finished(self) -> list[tuple[int, int, tuple[int, ...], np.ndarray]]:
        """Of every finished row in the cache: request id, row, the tokens that it has read, and their columns.

        The last sampled token was never read; what lies behind it in the cache is not the row's.
        """
        masks = self.attention_mask.cpu().numpy()
        rows = []
        for row in np.flatnonzero(~self.alive.numpy()):
            i = self._index[row]
            request, sampled = self.batch[i], self._tokens[i, : self._n_sampled[i] - 1]
            token_ids = request.prompt_ids + tuple(sampled.tolist())
            rows.append((request.id, int(row), token_ids, np.flatnonzero(masks[row])[: len(token_ids)]))
        return rows

    def drop_finished(self) -> Tensor:
        """Forgets the rows that are done; returns the indices of those that stay."""
        keep = self.alive.nonzero().squeeze(1)
        self._index, self._seeds = self._index[keep.numpy()], self._seeds[keep.numpy()]
        self._limits, self.alive = self._limits[keep], self.alive[keep]
        keep = keep.to(self.device)
        self.attention_mask, self._temperatures = self.attention_mask[keep], self._temperatures[keep]
        return keep

    def extend_mask(self) -> None:
        """One more attended position per row."""
        self.attention_mask = torch.nn.functional.pad(self.attention_mask, (0, 1), value=1)

    def completions(self, policy_version: int) -> list[Completion]:
        """What every request of the batch got."""
        result = []
        for request, n, stopped, tokens, logprobs in zip(
            self.batch, self._n_sampled, self._stopped, self._tokens, self._logprobs, strict=True
        ):
            finish = Finish.STOP if stopped else Finish.LENGTH
            ids, values = tuple(tokens[:n].tolist()), tuple(logprobs[:n].tolist())
            result.append(Completion(request.id, ids, values, finish, policy_version))
        return result


def _right_aligned(lengths: list[int], width: int) -> Tensor:
    """``[B, width]`` int64: 1 on the last ``length`` columns of each row."""
    return (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()


def draw(logits_BV: Tensor, temperatures_B: Tensor, uniforms_B: np.ndarray) -> tuple[Tensor, Tensor]:
    """One token per row by inverse transform sampling, and its log-prob at the sampling temperature.

    Rows of temperature 0 take the most likely token, with its log-prob at temperature 1.

    Args:
        logits_BV: ``[B, V]``.
        temperatures_B: ``[B]``, not negative.
        uniforms_B: ``[B]`` float64 in [0, 1).

    Returns:
        Token ids ``[B]`` int64 and log-probs ``[B]`` float32.
    """
    greedy = temperatures_B == 0
    logprobs_BV = torch.log_softmax(logits_BV.float() / torch.where(greedy, 1.0, temperatures_B)[:, None], dim=-1)
    # In float64, so that the sum over a large vocabulary does not move the inverse.
    cumulative = logprobs_BV.double().exp().cumsum(-1)
    targets = torch.as_tensor(uniforms_B, device=logits_BV.device)[:, None] * cumulative[:, -1:]
    sampled = torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
    tokens = torch.where(greedy, logprobs_BV.argmax(-1), sampled)
    return tokens, logprobs_BV.gather(1, tokens[:, None]).squeeze(1)
