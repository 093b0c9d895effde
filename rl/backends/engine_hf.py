"""Sampling with a transformers model in this process: the CPU default and the reference for the other engines.

A step takes the pending requests of similar prompt length, left-pads them into one batch and decodes until all are
done; rows that finished are dropped from the key-value cache once they are half of it. Equal prompts are read once, so
is what all prompts of a batch begin with, and an episode's second turn does not read its first one again. On a GPU a
step is recorded and replayed. Tokens are drawn by inverting the cumulative distribution at one uniform number per row
and position, which is a hash of the request's seed: the sample does not depend on what else is in the batch.
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
from rl.backends.lora import bare_model
from rl.backends.products import OneDNNLinear, packed_weights
from rl.backends.replay import FixedStep, Replays
from rl.backends.trunk import RoomyLayer, call_decoder, keeps_everything, key_width, trunk_of
from rl.types import Completion, Finish, Request

MAX_BYTES = 2 * 2**30
"""Keys and values held at most, without the room behind them; turns beyond it are read again. What is held changes no
result, only work."""
BATCH_BYTES = 2**30
"""Keys and values of the rows that are decoded together on a CPU: a cache that grows is copied, so that two or three
times as much is needed, and the host's memory belongs to other processes too. A GPU's belongs to the run."""
SHARED_PREFIX = 16
"""Tokens that all prompts of a batch must begin with to be read for themselves: a system prompt or worked examples. For
fewer, a forward pass more costs what it saves."""


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
        replays: Decode with recorded steps where the model can; ``None`` does so on a GPU.
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
        # Asked of the modules once and not in every step; only what a model has is prepared for in a batch.
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
        """Requests without an answer."""
        return len(self._pending)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests."""
        self._pending.extend(requests)

    def step(self) -> list[Completion]:
        """Decodes one batch to its end."""
        if not self._pending:
            return []
        # Rows of a batch are padded to the longest prompt and decoded to the highest limit, so like goes with like.
        self._pending.sort(key=lambda request: (len(request.prompt_ids), request.max_new_tokens, request.id))
        n_rows = len(first := self._pending[: self._max_batch_size])
        if self._model.device.type == "cpu":
            # The first n rows take n times their longest row, to which all of them are padded.
            longest = np.maximum.accumulate([len(request.prompt_ids) + request.max_new_tokens for request in first])
            fit = np.arange(1, n_rows + 1) * longest * self._token_bytes <= BATCH_BYTES
            n_rows = max(1, int(fit.sum()))
        batch, self._pending = self._pending[:n_rows], self._pending[n_rows:]
        # The trainer's own module is sampled with, and is left in the mode that it was in.
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
        """Copies weights in and notes the version; an engine that samples with the trained model itself needs none."""
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, tensor in named:
                if name not in own:
                    raise KeyError(f"weights for an unknown parameter: {name}")
                own[name].copy_(tensor)
        self._store.kept.clear()
        self.policy_version = version

    def sleep(self) -> None:
        """Forgets the keys and values of earlier turns; the model is the trainer's and stays."""
        self._store.kept.clear()

    def wake(self) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Forgets what is pending."""
        self._pending.clear()

    def _decode(self, batch: list[Request]) -> "_Rows":
        """Reads the prompts and samples until every row has ended.

        Where nothing is cached yet, a pass reads ``[1, L]``, what all prompts begin with. The next one reads ``[U, P]``
        new tokens of the prompts, U distinct ones of B where nothing is cached of an episode, and copies their keys and
        values to the rows that share them. Each further pass reads ``[B, 1]``: the tokens just sampled. B shrinks
        whenever half of the rows are done, since a decoding step costs what its batch costs; earlier would not pay,
        since dropping rows copies the cache of those that stay.

        Pass ``position`` of these finds ``cached + P + position - 1`` columns in the cache; the mask has one for each
        of them and one for the token that the pass reads.
        """
        cache, lengths = self._store.take(batch)
        # The episodes of a group begin alike: each distinct first prompt is read in one row. Later turns differ, and
        # what is cached of them is in rows of their own already.
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
                if position:  # rows that are done and not dropped yet are read on, and may not leave the context
                    positions = torch.minimum(positions, rows.last_positions)
                logits = call_decoder(
                    self._causal,
                    cache,
                    input_ids=input_ids,
                    attention_mask=mask,
                    position_ids=positions,
                    logits_to_keep=1,
                ).logits[:, -1]
            # 2. A row for every request, whether it shared its prompt or not.
            if shared and position == 0:
                index = torch.tensor(which, device=logits.device)
                cache.reorder_cache(index)
                logits = logits[index]
            # 3. Sample, and drop what is done once it is half of the batch.
            tokens = rows.sample(logits, position, self._end_ids, self._stops)
            n_alive = int(rows.alive.sum())
            if shrinks := 2 * n_alive <= len(rows.alive):
                self._store.put(cache, rows)
                if not n_alive:
                    break
                keep = rows.drop_finished()
                cache.reorder_cache(keep)
                tokens = tokens[keep]
            # 4. A recorded step holds for the rows that it was recorded with. The mask has not grown yet: it is that
            # of the columns that the cache has.
            if self._replays is not None and (shrinks or position == 0):
                replay = self._replays.start(
                    cache, rows.attention_mask, rows.last_positions, tokens, rows.steps_left(position)
                )
            # What rows that are done sample goes into the cache with the others' tokens, and nobody reads it.
            rows.attention_mask = torch.nn.functional.pad(rows.attention_mask, (0, 1), value=1)
            input_ids, mask = tokens[:, None], rows.attention_mask
        return rows

    def _read_prefix(self, cache: Any, prompts: list[tuple[int, ...]], n_rows: int) -> int:
        """Reads what all these different prompts begin with into ``n_rows`` rows; returns how many tokens that are."""
        # The smallest and the largest differ first where any two do. A token of each prompt is left to be read.
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
    """The rows that are decoded. What is sampled is by request, and outlives the dropping of rows that are done.

    Args:
        batch: The requests, R of them.
        cached: How many tokens of each prompt are in the cache already, padded on the left.
        pad_id: Fills what is left of shorter prompts.
        device: Of the model.

    Attributes:
        prompt_ids: ``[R, P]`` what is still to be read of the prompts, padded on the left.
        attention_mask: ``[B, C]`` of the cache's columns, for the B rows that are left.
        last_positions: ``[B, 1]`` of the last token that each row may sample.
        alive: ``[B]`` bool on the host; False on rows that are done and not dropped yet.
        index: ``[B]`` the request of each row.
        tokens: ``[R, A]`` sampled, ``n_sampled`` of each; ``logprobs`` beside them.
        stopped: ``[R]`` bool, whether the policy ended the turn itself.
    """

    def __init__(self, batch: list[Request], cached: list[int], pad_id: int, device: torch.device) -> None:
        self.batch, self._device = batch, device
        new = [request.prompt_ids[n:] for request, n in zip(batch, cached, strict=True)]
        width, cached_width = max(map(len, new)), max(cached)
        self.prompt_ids = torch.tensor([[pad_id] * (width - len(ids)) + list(ids) for ids in new], device=device)
        # Two blocks, each padded on its left: cached columns, then those of what is still to be read. A row's tokens
        # are in order all the same, with padding between them that no query sees and no position counts.
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
        """Draws the next token of every row, ``[B]``, and records it for the rows that are alive."""
        tokens, logprobs = draw(logits_BV, self._temperatures, uniforms(self._seeds, position))
        # Whether a row has ended is decided on the host: here each step waits for the device.
        cpu_tokens = tokens.cpu()
        alive = self.alive.numpy()
        living = self.index[alive]
        self.tokens[living, position] = cpu_tokens.numpy()[alive]
        self.logprobs[living, position] = logprobs.cpu().numpy()[alive]
        self.n_sampled[living] = position + 1
        # A row that its limit cuts off is done too, but it has not stopped.
        ended = torch.isin(cpu_tokens, end_ids) & self.alive
        if stops is not None:
            spelt = [i for i in living if stops(self.tokens[i, : position + 1].tolist())]
            ended |= torch.from_numpy(np.isin(self.index, spelt))
        self.stopped[self.index[ended.numpy()]] = True
        self.alive = self.alive & ~ended & (position + 1 < self._limits)
        return tokens

    def steps_left(self, position: int) -> int:
        """Tokens that a row may still sample, after the one at ``position``."""
        return int(self._limits[self.alive].max()) - position - 1

    def drop_finished(self) -> Tensor:
        """Forgets the rows that are done; returns the indices of those that stay."""
        keep = self.alive.nonzero().squeeze(1)
        self.index, self._seeds = self.index[keep.numpy()], self._seeds[keep.numpy()]
        self._limits, self.alive = self._limits[keep], self.alive[keep]
        keep = keep.to(self._device)
        self.attention_mask, self._temperatures = self.attention_mask[keep], self._temperatures[keep]
        self.last_positions = self.last_positions[keep]
        return keep


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

    def put(self, cache: Any, rows: _Rows) -> None:
        """Keeps the rows of a batch's cache that are done, before they are dropped from it.

        What is in the cache is never written to again, so it is held and not copied.
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


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """One uniform number in [0, 1) per seed: a hash of (seed, position), so that no generator state is needed.

    The finaliser is splitmix64's (Steele, Lea, Flood, OOPSLA 2014).

    Args:
        seeds: ``[B]`` uint64.
        position: Index of the sampled token within its turn.
    """
    # Python's integers do not wrap around at 64 bits, NumPy's arrays do, without a warning.
    x = seeds + np.uint64((position + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    # 53 bits are what a float64 holds exactly; more could round up to 1.
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


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
    # The target is scaled by the sum, which rounding keeps from being 1. ``right`` skips tokens of probability 0, also
    # where the uniform number is 0; the clamp is for a target that rounds up to the sum itself.
    targets = torch.as_tensor(uniforms_B, device=logits_BV.device)[:, None] * cumulative[:, -1:]
    sampled = torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
    tokens = torch.where(greedy, logprobs_BV.argmax(-1), sampled)
    return tokens, logprobs_BV.gather(1, tokens[:, None]).squeeze(1)
