"""Decoders of any architecture: how they are called, what their key-value cache keeps, and how little they must read.

The trainer needs logits only at the N positions that predict response tokens. The trunk (the decoder without its head)
reads the rows, and the model's own head reads N hidden states instead of ``B x T``. The episodes of a group have the
same first prompt: its keys and values are computed for one row and lent to all (prefix caching, with a gradient).
"""

import inspect
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rl.types import RolloutBatch

WORTH = 0.1
"""Sharing pays from this part of a batch's tokens on: it takes a second pass through the layers."""


def key_width(text: Any) -> int:
    """Width of the keys of a layer, all heads together, from the config of a language model; values are as wide."""
    heads = getattr(text, "num_attention_heads", 1) or 1
    return (getattr(text, "num_key_value_heads", None) or heads) * (
        getattr(text, "head_dim", None) or text.hidden_size // heads
    )


@lru_cache(maxsize=64)
def known_parameters(kind: type) -> frozenset[str]:
    """What a class of decoders can be called with."""
    return frozenset(inspect.signature(kind.forward).parameters)


def call_decoder(decoder: Any, cache: DynamicCache | None = None, **arguments: Any) -> Any:
    """Calls a decoder with those of the arguments that it knows.

    Recurrent models take no positions and name their cache ``cache_params``; models with ALiBi count positions
    themselves. What is left out is checked by its effect: see :mod:`rl.backends.model_check`.

    Args:
        decoder: A causal language model, or its trunk.
        cache: What was read before; it grows by the columns of this call. ``None`` for no cache at all.
        **arguments: ``input_ids`` and ``position_ids`` ``[B, T]``; ``attention_mask`` ``[B, C + T]``, of the C columns
            of the cache and the T new ones; ``logits_to_keep``.
    """
    known = known_parameters(type(decoder))
    if cache is not None and "past_key_values" in known:
        arguments["past_key_values"] = cache
    elif cache is not None:
        arguments["cache_params"] = cache
        # A recurrent state has no columns: these models multiply the mask with the tokens that they read now, and a
        # mask of all columns does not have their shape. Of single tokens none is padding.
        if arguments["input_ids"].shape[1] == 1:
            arguments["attention_mask"] = None
    return decoder(**{name: value for name, value in arguments.items() if name in known}, use_cache=cache is not None)


_TRUNKS: dict[type, tuple[str, type]] = {}
"""By class of models: the trunk's name in it, and the class of what the trunk returns."""


def trunk_of(causal: Any) -> Any:
    """The module whose hidden states the head of a causal language model reads.

    Mostly that is ``base_model``, but some models call a decoder inside it or name another module so. It is the last
    module to return hidden states when the model reads one token; looked up once for a class of models.
    """
    kind = type(causal)
    if kind not in _TRUNKS:
        returned: list[tuple[str, type]] = []

        def note(name: str, output: Any) -> None:
            if hasattr(output, "last_hidden_state"):
                returned.append((name, type(output)))

        hooks = [
            module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
            for name, module in causal.named_modules()
            if module is not causal
        ]
        # A hook runs when its module has returned, so the outermost module that returns hidden states comes last.
        with torch.no_grad():
            causal(input_ids=torch.zeros(1, 1, dtype=torch.long, device=causal.device))
        for hook in hooks:
            hook.remove()
        _TRUNKS[kind] = returned[-1]
    return causal.get_submodule(_TRUNKS[kind][0])


def keeps_everything(trunk: Any) -> bool:
    """Whether every layer of a model keeps the keys and values of all tokens, so that they can be used again.

    Layers with a sliding window forget, recurrent ones keep a state of the last token only. ``lends_cache`` is set
    where a comparison showed that a model's cache cannot be lent for another reason.
    """
    if not getattr(trunk, "lends_cache", True) or "past_key_values" not in known_parameters(type(trunk)):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=trunk.config).layers)


class _Answer:
    """Stands for a trunk: answers every call with what it was given, and is the trunk in all else."""

    trunk: Any = None
    output: Any = None

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trunk, name)


class Head:
    """The head of a causal language model, with all that it does beside a matrix product.

    Soft caps, scales and heads of two parts are written in every model's ``forward``, so that is what runs, with
    something in the trunk's place that hands back given hidden states. The swap lasts for one call: in between, the
    model that is sampled from, saved and moved to a device is whole.

    Args:
        causal: The model. The head keeps a reference to it and is no module itself: it owns no parameters.
    """

    def __init__(self, causal: Any) -> None:
        self._causal, self._answer = causal, _Answer()
        self._answer.trunk = trunk_of(causal)
        # ``_modules`` is written to directly: what stands in the trunk's place is no module, and assigning it as an
        # attribute would be refused.
        path, self._output = _TRUNKS[type(causal)]
        parent, _, self._name = path.rpartition(".")
        self._children = causal.get_submodule(parent)._modules

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """``[N, V]`` logits of N hidden states of width D."""
        self._answer.output = self._output(last_hidden_state=hidden_ND[None])
        self._children[self._name] = self._answer
        try:
            # The ids are not read; their shape is that of one sequence of N tokens. ``forward`` is that of the class: a
            # fused head replaces it in the instance, and in a copy of the instance it would call the original.
            ids = torch.zeros(1, hidden_ND.shape[0], dtype=torch.long, device=hidden_ND.device)
            return type(self._causal).forward(self._causal, input_ids=ids).logits[0]
        finally:
            self._children[self._name] = self._answer.trunk
            self._answer.output = None  # or the graph would live on


class Trunk:
    """A decoder without its head, read at the positions that predict response tokens.

    Args:
        module: A transformers decoder; a reference to it is kept.
        share: Read prompts that rows share once, where the model can and it pays.
        merge: Read rows that are the same to the last token once.
    """

    def __init__(self, module: Any, share: bool, merge: bool = False) -> None:
        self.module, self._merges = module, merge
        # A layer that is computed again in the backward pass cannot lend what it computed.
        self.shares = share and keeps_everything(module) and not getattr(module, "is_gradient_checkpointing", False)

    def hidden(self, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """What stands before each of the N response tokens, in row-major order.

        The logits that predict the token at place t come from the hidden state at place t - 1, so that one is returned
        for the token at t.

        Which tokens are read, gathered and scored is decided on the host: on the device, every question of that kind
        would wait for all work that is queued there. So the rows are fetched from it once.

        Args:
            batch: Rows, right-padded, on the model's device; no response token is at position 0.

        Returns:
            ``[N, D]``, the last hidden states before the tokens, D the width of the model; and ``[N]``, the tokens.
        """
        if not self._merges:
            return self._read(batch)
        # Rows are the same if tokens and trained tokens are: the text alone does not say which turns are trained.
        host = torch.stack([batch.input_ids, batch.attention_mask.long(), batch.response_mask.long()], dim=1).cpu()
        seen: dict[bytes, int] = {}
        which = [seen.setdefault(row.numpy().tobytes(), len(seen)) for row in host]
        if len(seen) == len(which):
            return self._read(batch)
        owners = [which.index(i) for i in range(len(seen))]
        # The index goes to the device once: of a list, every field of the batch would wait for a copy of its own.
        read = self._read(batch.rows(torch.tensor(owners).to(batch.input_ids.device, non_blocking=True)))
        # Every row takes what was read for it, so that in the backward pass its gradients add up there.
        sizes = host[owners, 2].sum(1).tolist()
        hidden_ND, targets_N = (torch.cat([of_row[i] for i in which]) for of_row in (x.split(sizes) for x in read))
        return hidden_ND, targets_N

    def _read(self, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """What :meth:`hidden` returns, of rows as they are."""
        ids, mask, device = batch.input_ids, batch.attention_mask, batch.input_ids.device
        host = torch.stack([ids, mask.long(), batch.response_mask.long()]).cpu()
        # Places in the flattened ``[B * T]`` rows. ``places - 1`` is in the same row, as no response is at position 0.
        places = host[2].flatten().nonzero().squeeze(1).to(device, non_blocking=True)
        targets_N = ids.flatten()[places]
        # A prompt is what lies before the first response token, so sharing takes one in every row. Rows with the same
        # prompt are found by its token ids, whichever group they are of: ``which`` of the ``owners`` each row reads.
        ids_BT, attention_BT, response_BT = host.numpy()
        if self.shares and response_BT.any(1).all():
            lengths, seen = response_BT.argmax(1).tolist(), dict[bytes, int]()
            prompts = [ids_BT[row, :length].tobytes() for row, length in enumerate(lengths)]
            which = [seen.setdefault(prompt, len(seen)) for prompt in prompts]
            owners = [which.index(i) for i in range(len(seen))]
            if sum(lengths) - sum(lengths[row] for row in owners) >= WORTH * attention_BT.sum():
                return _with_shared_prompts(self.module, host, owners, which, device), targets_N
        # Rows are padded on the right, so the default positions are right, and no token sees what is behind it.
        output = call_decoder(self.module, input_ids=ids, attention_mask=mask.long())
        return output.last_hidden_state.flatten(0, 1)[places - 1], targets_N


def _with_shared_prompts(trunk: Any, host: Tensor, owners: list[int], which: list[int], device: torch.device) -> Tensor:
    """Two passes: ``[U, P]`` distinct prompts, then ``[B, R]`` of what follows, over the prompts' keys and values.

    The longest of the U prompts has P tokens, and the longest rest of the B rows has R. A prompt of length p lies in
    the last p of the P columns that the first pass reads; the rest of its row, the tokens from place p on, lies in the
    first columns of the second pass, which the cache puts behind the P of the prompts.

    Prompts are padded on the left, so that in the cache the rest of every row stands right behind its prompt's last
    token, as if they had been read together; positions count each row's own tokens, so the padding between rows of
    different length changes nothing. Selecting the cache's rows by ``which`` copies keys and values in the graph: the
    gradient of a prompt is the sum over the rows that read it.
    """
    ids, attention, response = host
    # 1. The prompts, moved to the right edge. ``columns`` is each column's place in its row, negative in the padding.
    starts_B = response.argmax(1)
    starts_U = starts_B[owners]
    width = int(starts_U.max())
    columns = torch.arange(width) - (width - starts_U)[:, None]
    prompt_mask = columns >= 0
    cache = DynamicCache(config=trunk.config)
    prompt = call_decoder(
        trunk,
        cache,
        input_ids=ids[owners].gather(1, columns.clamp(min=0)).to(device, non_blocking=True),
        attention_mask=prompt_mask.long().to(device, non_blocking=True),
        position_ids=columns.clamp(min=0).to(device, non_blocking=True),
    ).last_hidden_state
    # 2. Every row gets its prompt's keys and values: the cache is [B, H, P, D] in every layer from here on.
    which_B = torch.tensor(which).to(device, non_blocking=True)
    cache.batch_select_indices(which_B)
    # 3. The rests, cut out of the rows. Shorter ones run over the row's end: clamped, and masked by ``inside``.
    n_rest = int((attention.sum(1) - starts_B).max())
    places = starts_B[:, None] + torch.arange(n_rest)
    inside = places < ids.shape[1]
    places = places.clamp(max=ids.shape[1] - 1)
    rest_mask = attention.gather(1, places) * inside
    rest = call_decoder(
        trunk,
        cache,
        input_ids=ids.gather(1, places).to(device, non_blocking=True),
        attention_mask=torch.cat([prompt_mask[which].long(), rest_mask], dim=1).to(device, non_blocking=True),
        position_ids=places.to(device, non_blocking=True),
    ).last_hidden_state
    # 4. The token at place p + j was predicted from place p + j - 1: the prompt's last token for j = 0, in column -1 of
    # the first pass since prompts are padded on the left. In row-major order, as the tokens are, only the response.
    before = torch.cat([prompt[which_B, -1:], rest[:, :-1]], dim=1)
    picked = (response.gather(1, places) * inside).flatten().nonzero().squeeze(1)
    return before.flatten(0, 1)[picked.to(device, non_blocking=True)]


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
