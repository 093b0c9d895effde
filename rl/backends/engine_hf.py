"""Sampling with a transformers model in this process: the default on CPUs and the reference for the other engines.

A step takes pending requests of similar prompt length, left-pads them into one batch and decodes until all are done.
Finished rows are dropped from the key-value cache once they are half of it. Equal prompts and a common beginning of all
prompts are read only once, and an episode's second turn does not read the first turn again. On a GPU, a decoding step
is captured and replayed. Each token is sampled by inverting the cumulative distribution at a uniform number that is a
hash of the request's seed and the position, so that a sample does not depend on the other requests of the batch.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from rl.backends.attention import grouped_attention
from rl.backends.flops import release_freed
from rl.backends.lora import bare_model
from rl.backends.products import OneDNNLinear, packed_weights
from rl.backends.replay import FixedStep, Replays
from rl.backends.trunk import RoomyLayer, call_decoder, keeps_everything, key_width, trunk_of
from rl.types import Completion, Finish, Request

MAX_BYTES = 2 * 2**30
"""Largest size of the stored keys and values of finished turns, without spare columns. A turn that does not fit is read
again, which costs time and changes no result."""
BATCH_BYTES = 2**30
"""Largest size of the keys and values of rows that are decoded together on a CPU. A growing cache is copied and needs
two or three times as much, and other processes need the host's memory too. On a GPU there is no such limit."""
SHARED_PREFIX = 16
"""Smallest number of common first tokens of all prompts (a system prompt or worked examples) that are read separately.
For a shorter prefix, the extra forward pass costs as much as it saves."""


class HFEngine:
    """Samples from a causal language model.

    Args:
        model: A transformers causal language model.
        end_ids: A row ends at the first of these tokens.
        pad_id: Token that pads shorter prompts on the left; never attended to.
        max_batch_size: Maximum number of rows decoded together.
        shares_weights: Whether the model is the module that is being trained, so that its weights are always current.
        precision: Context manager for forward passes, the same as the trainer's.
        stops: Function that says whether the sampled tokens end a row because they contain a stop string.
        replays: Whether to replay captured decoding steps if the model allows it; ``None`` replays on a GPU only.
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
        replays: bool | None = None,
    ) -> None:
        self.shares_weights, self._precision = shares_weights, precision
        self._model, self._pad_id, self._stops = model, pad_id, stops
        self._causal, modules = bare_model(model), list(model.modules())
        # The modules are inspected once here and not at every step.
        self._packs = any(isinstance(module, OneDNNLinear) for module in modules)
        self._groups = any(getattr(module, "num_key_value_groups", 1) > 1 for module in modules)
        self._end_ids = torch.tensor(sorted(end_ids))
        text: Any = self._causal.config.get_text_config()
        self._token_bytes = 2 * text.num_hidden_layers * key_width(text) * model.dtype.itemsize  # in all layers
        self._max_batch_size = max_batch_size
        self._pending: list[Request] = []
        self._store = KVStore(self._causal)
        replays = model.device.type == "cuda" if replays is None else replays
        self._replays = Replays(self._causal) if replays and Replays.suit(self._causal) else None
        self.policy_version = 0

    @property
    def pending(self) -> int:
        """Number of requests without an answer."""
        return len(self._pending)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests."""
        self._pending.extend(requests)

    def step(self) -> list[Completion]:
        """Decodes one batch to its end."""
        if not self._pending:
            return []
        # Rows are padded to the batch's longest prompt and decoded up to its highest limit, so batch similar requests.
        self._pending.sort(key=lambda request: (len(request.prompt_ids), request.max_new_tokens, request.id))
        n_rows = len(first := self._pending[: self._max_batch_size])
        if self._model.device.type == "cpu":
            # The first n rows take n times the length of their longest row, to which all are padded.
            longest = np.maximum.accumulate([len(request.prompt_ids) + request.max_new_tokens for request in first])
            fit = np.arange(1, n_rows + 1) * longest * self._token_bytes <= BATCH_BYTES
            n_rows = max(1, int(fit.sum()))
        batch, self._pending = self._pending[:n_rows], self._pending[n_rows:]
        # The model may be the trainer's own module, so its mode is restored afterwards.
        training = self._model.training
        self._model.eval()
        try:
            n_steps = max(request.max_new_tokens for request in batch)
            packed = packed_weights(self._model, n_steps) if self._packs else nullcontext()
            grouped = grouped_attention() if self._groups else nullcontext()
            with torch.inference_mode(), self._precision(), packed, grouped:
                rows = self._decode(batch)
        finally:
            self._model.train(training)
        completions = []
        for i, request in enumerate(batch):
            n, finish = rows.n_sampled[i], Finish.STOP if rows.stopped[i] else Finish.LENGTH
            action_ids, logprobs = tuple(rows.tokens[i, :n].tolist()), tuple(rows.logprobs[i, :n].tolist())
            completions.append(Completion(request.id, action_ids, logprobs, finish, self.policy_version))
        return completions

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copies weights into the model and sets the version; no weights are needed if it is the trained model."""
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, tensor in named:
                if name not in own:
                    raise KeyError(f"weights for an unknown parameter: {name}")
                own[name].copy_(tensor)
        self.sleep()
        self.policy_version = version

    def sleep(self) -> None:
        """Frees the stored keys and values of earlier turns; the model stays in memory."""
        self._store.kept.clear()
        release_freed()

    def wake(self) -> None:
        """Does nothing, since there is nothing to restore."""

    def close(self) -> None:
        """Drops all pending requests."""
        self._pending.clear()

    def _decode(self, batch: list[Request]) -> "_Rows":
        """Reads the prompts and samples until every row has ended.

        If nothing is cached yet, the first pass reads the common beginning of all prompts, ``[1, L]``. The next pass
        reads the new tokens of the prompts, ``[U, P]``: if nothing is cached of any episode, only the U distinct
        prompts of the B rows are read, and their keys and values are copied to the rows that share them. Each further
        pass reads the tokens just sampled, ``[B, 1]``. B shrinks whenever half of the rows are done, since the cost of
        a step grows with B. Dropping rows earlier would not pay, because it copies the cache of the remaining rows.

        Pass ``position`` after the prompts finds ``cached + P + position - 1`` columns in the cache; the mask has a
        column for each of them and one for the token that the pass reads.
        """
        cache, lengths = self._store.take(batch)
        # Episodes of a group have the same first prompt, so each distinct prompt is read in one row. Later turns differ
        # between episodes, and their cached tokens are in separate rows already.
        distinct: dict[tuple[int, ...], int] = {}
        which = [distinct.setdefault(request.prompt_ids, len(distinct)) for request in batch]
        shared = len(distinct) < len(batch) and not any(lengths)
        if len(distinct) > 1 and not any(lengths):
            lengths = [self._read_prefix(cache, list(distinct), len(distinct) if shared else len(batch))] * len(batch)
        rows = _Rows(batch, lengths, self._pad_id, self._model.device)
        input_ids, mask = rows.prompt_ids, rows.attention_mask
        if shared:
            owners = np.unique(which, return_index=True)[1]  # the first row of each prompt
            input_ids, mask = input_ids[owners], mask[owners]
        replay: FixedStep | None = None
        for position in count():
            # 1. Read the prompts, or the tokens that were sampled last.
            if replay is not None:
                logits = replay(input_ids[:, 0])
            else:
                # Positions count the real tokens of each row, so padding on the left does not move them.
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
                if position:  # finished rows that are not dropped yet must not grow beyond the context
                    positions = torch.minimum(positions, rows.last_positions)
                logits = call_decoder(
                    self._causal,
                    cache,
                    input_ids=input_ids,
                    attention_mask=mask,
                    position_ids=positions,
                    logits_to_keep=1,
                ).logits[:, -1]
            # 2. Expand shared prompts to one row for every request.
            if shared and position == 0:
                index = torch.tensor(which, device=logits.device)
                cache.reorder_cache(index)
                logits = logits[index]
            # 3. Sample, and drop finished rows once they are half of the batch.
            tokens = rows.sample(logits, position, self._end_ids, self._stops)
            n_alive = int(rows.alive.sum())
            if shrinks := 2 * n_alive <= len(rows.alive):
                self._store.put(cache, rows)
                if not n_alive:
                    break
                keep = rows.drop_finished()
                cache.reorder_cache(keep)
                tokens = tokens[keep]
            # 4. A captured step is only valid for the rows with which it was captured, so capture a new one when rows
            # were dropped. At this point the mask covers the columns of the cache, without the next token.
            if self._replays is not None and (shrinks or position == 0):
                replay = self._replays.start(
                    cache, rows.attention_mask, rows.last_positions, tokens, rows.steps_left(position)
                )
            # Finished rows still write their sampled tokens to the cache, but these columns are never used.
            rows.attention_mask = torch.nn.functional.pad(rows.attention_mask, (0, 1), value=1)
            input_ids, mask = tokens[:, None], rows.attention_mask
        return rows

    def _read_prefix(self, cache: Any, prompts: list[tuple[int, ...]], n_rows: int) -> int:
        """Reads the common beginning of all prompts into ``n_rows`` rows of the cache; returns its number of tokens."""
        # The common prefix of the smallest and the largest prompt is that of all. At least one token of each prompt
        # must be left to be read afterwards.
        low, high = min(prompts), max(prompts)
        n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
        n = min(n, min(map(len, prompts)) - 1)
        if n < SHARED_PREFIX or not self._store.enabled:
            return 0
        ids = torch.tensor([low[:n]], device=self._model.device)
        positions = torch.arange(n, device=ids.device)[None]
        call_decoder(
            self._causal,
            cache,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions,
            logits_to_keep=1,
        )
        cache.reorder_cache(ids.new_zeros(n_rows))
        return n


class _Rows:
    """The rows of a batch during decoding. Samples are stored by request, so that they remain when rows are dropped.

    Args:
        batch: The R requests.
        cached: Number of tokens of each prompt that are in the cache already, padded on the left.
        pad_id: Token that pads shorter prompts on the left.
        device: Device of the model.

    Attributes:
        prompt_ids: ``[R, P]`` prompt tokens that are not in the cache yet, padded on the left.
        attention_mask: ``[B, C]`` mask of the cache's columns for the B remaining rows.
        last_positions: ``[B, 1]`` position of the last token that each row may sample.
        alive: ``[B]`` bool on the host; False on finished rows that are not dropped yet.
        index: ``[B]`` index of each row's request.
        tokens: ``[R, A]`` sampled tokens, of which ``n_sampled`` are valid; ``logprobs`` holds their log-probs.
        stopped: ``[R]`` bool, whether the policy ended the turn itself.
    """

    def __init__(self, batch: list[Request], cached: list[int], pad_id: int, device: torch.device) -> None:
        self.batch, self._device = batch, device
        new = [request.prompt_ids[n:] for request, n in zip(batch, cached, strict=True)]
        width, cached_width = max(map(len, new)), max(cached)
        self.prompt_ids = torch.tensor([[pad_id] * (width - len(ids)) + list(ids) for ids in new], device=device)
        # Two blocks of columns, each padded on its left: the cached tokens, then the tokens still to be read. A row's
        # tokens stay in order; the padding between the blocks is masked and does not count in positions.
        real = [[0] * (cached_width - n) + [1] * n for n in cached]
        real = [row + [0] * (width - len(ids)) + [1] * len(ids) for row, ids in zip(real, new, strict=True)]
        self.attention_mask = torch.tensor(real, device=device)
        n_rows, longest = len(batch), max(request.max_new_tokens for request in batch)
        self.alive = torch.ones(n_rows, dtype=torch.bool)
        self.index = np.arange(n_rows)
        self._seeds = np.array([request.seed for request in batch], dtype=np.uint64)
        self._limits = torch.tensor([request.max_new_tokens for request in batch])
        self._temperatures = torch.tensor([request.temperature for request in batch], device=device)
        last = [[len(request.prompt_ids) + request.max_new_tokens - 1] for request in batch]
        self.last_positions = torch.tensor(last, device=device)
        self.stopped = np.zeros(n_rows, dtype=bool)
        self.n_sampled = np.zeros(n_rows, dtype=np.int64)
        self.tokens = np.zeros((n_rows, longest), dtype=np.int64)
        self.logprobs = np.zeros((n_rows, longest), dtype=np.float32)

    def sample(
        self,
        logits_BV: Tensor,
        position: int,
        end_ids: Tensor,
        stops: Callable[[Sequence[int]], bool] | None,
    ) -> Tensor:
        """Samples the next token of every row, ``[B]``, and records it for the rows that are alive."""
        tokens, logprobs = draw(logits_BV, self._temperatures, uniforms(self._seeds, position))
        # The host decides whether a row has ended, so each step waits for the device here.
        cpu_tokens = tokens.cpu()
        alive = self.alive.numpy()
        living = self.index[alive]
        self.tokens[living, position] = cpu_tokens.numpy()[alive]
        self.logprobs[living, position] = logprobs.cpu().numpy()[alive]
        self.n_sampled[living] = position + 1
        # A row that reaches its token limit is finished too, but does not count as stopped.
        ended = torch.isin(cpu_tokens, end_ids) & self.alive
        if stops is not None:
            spelt = [i for i in living if stops(self.tokens[i, : position + 1].tolist())]
            ended |= torch.from_numpy(np.isin(self.index, spelt))
        self.stopped[self.index[ended.numpy()]] = True
        self.alive = self.alive & ~ended & (position + 1 < self._limits)
        return tokens

    def steps_left(self, position: int) -> int:
        """Maximum number of tokens that any row may still sample after the token at ``position``."""
        return int(self._limits[self.alive].max()) - position - 1

    def drop_finished(self) -> Tensor:
        """Drops the finished rows; returns the indices of the remaining rows."""
        keep = self.alive.nonzero().squeeze(1)
        self.index, self._seeds = self.index[keep.numpy()], self._seeds[keep.numpy()]
        self._limits, self.alive = self._limits[keep], self.alive[keep]
        keep = keep.to(self._device)
        self.attention_mask, self._temperatures = self.attention_mask[keep], self._temperatures[keep]
        self.last_positions = self.last_positions[keep]
        return keep


@dataclass(frozen=True, slots=True)
class _Kept:
    """A finished turn: its tokens, and where their keys and values are in the stored cache of its batch.

    Args:
        token_ids: Prompt and answer, without the last sampled token.
        layers: Keys and values ``[B, H, C, D]`` of the whole batch by layer, shared by all turns stored with them.
        row: Row of the turn in the batch.
        columns: Column of each of the ``len(token_ids)`` tokens.
    """

    token_ids: tuple[int, ...]
    layers: list[tuple[Tensor, Tensor]]
    row: int
    columns: np.ndarray


class KVStore:
    """Keys and values of finished turns, so that the next turn of an episode does not read the earlier ones again.

    If a request's prompt begins with all tokens that an earlier request of the same id read and sampled, it gets that
    request's keys and values, and only the new tokens are computed. The newest turn of every id is stored, up to
    :data:`MAX_BYTES` in total. The cache of a batch is stored whole and freed with the last of its rows.

    Args:
        causal: The model. Nothing is stored if it has windowed or recurrent layers.

    Attributes:
        enabled: Whether every layer keeps all keys and values, so that they can be stored.
    """

    def __init__(self, causal: Any) -> None:
        self._config, self.enabled = causal.config, keeps_everything(trunk_of(causal))
        self.kept: dict[int, _Kept] = {}

    def put(self, cache: Any, rows: _Rows) -> None:
        """Stores the finished rows of a batch's cache, before they are dropped from it.

        Columns of the cache are never overwritten, so the tensors are referenced and not copied.
        """
        done = np.flatnonzero(~rows.alive.numpy())
        if not self.enabled or not len(done):
            return
        # Count tensors once, however many rows refer to them. Rows that do not fit are read again in their next turn.
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        held = {id(kept.layers): kept.layers for kept in self.kept.values()} | {id(layers): layers}
        if sum(x.nbytes for one in held.values() for pair in one for x in pair) > MAX_BYTES:
            return
        masks = rows.attention_mask.cpu().numpy()
        for row in done:
            i = rows.index[row]
            # The last sampled token was never read, so it has no key. Columns after the row's end are ignored: they
            # were written while the row waited for half of the batch to finish.
            token_ids = rows.batch[i].prompt_ids + tuple(rows.tokens[i, : rows.n_sampled[i] - 1].tolist())
            columns = np.flatnonzero(masks[row])[: len(token_ids)]
            self.kept[rows.batch[i].id] = _Kept(token_ids, layers, int(row), columns)

    def take(self, requests: Sequence[Request]) -> tuple[Any, list[int]]:
        """A cache for the requests, padded on the left, and the number of tokens of each prompt that it holds."""
        cache = DynamicCache(config=self._config)
        # Windowed and recurrent layers keep their own class.
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        found: dict[int, _Kept] = {}
        for i, request in enumerate(requests):
            kept = self.kept.pop(request.id, None)  # the old batch's cache is freed with the last row that refers to it
            n = len(kept.token_ids) if kept else 0
            # At least one token must be left to be read, because its logits predict the next token.
            if kept and n < len(request.prompt_ids) and request.prompt_ids[:n] == kept.token_ids:
                found[i] = kept
        lengths = [len(found[i].token_ids) if i in found else 0 for i in range(len(requests))]
        if not found:
            return cache, lengths
        # Columns are aligned at the right edge, so that the next tokens directly follow the last column of every row.
        # Rows without stored columns stay zero and are masked.
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


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """One uniform number in [0, 1) per seed: a hash of seed and position, so that no generator state is needed.

    The hash ends with the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).

    Args:
        seeds: ``[B]`` uint64.
        position: Index of the sampled token within its turn.
    """
    # Python integers do not wrap around at 64 bits, so the product is cut by hand; NumPy arrays wrap without a warning.
    x = seeds + np.uint64((position + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    # A float64 holds 53 bits exactly; with more bits the result could round up to 1.
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(logits_BV: Tensor, temperatures_B: Tensor, uniforms_B: np.ndarray) -> tuple[Tensor, Tensor]:
    """Samples one token per row by inverse transform sampling; returns it with its log-prob at the temperature.

    Rows with temperature 0 take the most likely token, with its log-prob at temperature 1.

    Args:
        logits_BV: ``[B, V]``.
        temperatures_B: ``[B]``, not negative.
        uniforms_B: ``[B]`` float64 in [0, 1).

    Returns:
        Token ids ``[B]`` int64 and log-probs ``[B]`` float32.
    """
    greedy = temperatures_B == 0
    logprobs_BV = torch.log_softmax(logits_BV.float() / torch.where(greedy, 1.0, temperatures_B)[:, None], dim=-1)
    # In float64, so that rounding in the sum over a large vocabulary does not change which token is chosen.
    cumulative = logprobs_BV.double().exp().cumsum(-1)
    # The target is scaled by the sum, which is not exactly 1 because of rounding. ``right`` skips tokens of probability
    # 0 even if the uniform number is 0. The clamp is for a target that rounds up to the sum itself.
    targets = torch.as_tensor(uniforms_B, device=logits_BV.device)[:, None] * cumulative[:, -1:]
    sampled = torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
    tokens = torch.where(greedy, logprobs_BV.argmax(-1), sampled)
    return tokens, logprobs_BV.gather(1, tokens[:, None]).squeeze(1)
