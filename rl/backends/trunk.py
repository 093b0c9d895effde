"""Calls decoders of any architecture, and computes only the hidden states that the trainer needs.

The trainer needs logits only at the N positions that predict response tokens. The trunk (the decoder without its head)
reads the rows, and the model's own head reads N hidden states instead of ``B x T``. Episodes of a group have the same
first prompt, whose keys and values are computed for one row and shared by all (prefix caching, with a gradient).
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
"""Prompts are shared if this saves at least this fraction of a batch's tokens, because sharing needs a second pass
through the layers."""


def key_width(text: Any) -> int:
    """Total width of the keys of all heads in a layer, from a language model's config; values have the same width."""
    heads = getattr(text, "num_attention_heads", 1) or 1
    return (getattr(text, "num_key_value_heads", None) or heads) * (
        getattr(text, "head_dim", None) or text.hidden_size // heads
    )


@lru_cache(maxsize=64)
def known_parameters(kind: type) -> frozenset[str]:
    """Names of the arguments that a class of decoders accepts."""
    return frozenset(inspect.signature(kind.forward).parameters)


def call_decoder(decoder: Any, cache: DynamicCache | None = None, **arguments: Any) -> Any:
    """Calls a decoder with those arguments that it accepts.

    Recurrent models take no positions and name their cache ``cache_params``; models with ALiBi count positions
    themselves. Whether results are right without the omitted arguments is checked in :mod:`rl.backends.model_check`.

    Args:
        decoder: A causal language model, or its trunk.
        cache: Cache of the tokens read before, which grows by the columns of this call; ``None`` for no cache.
        **arguments: ``input_ids`` and ``position_ids`` ``[B, T]``; ``attention_mask`` ``[B, C + T]`` for the C columns
            of the cache and the T new columns; ``logits_to_keep``.
    """
    known = known_parameters(type(decoder))
    if cache is not None and "past_key_values" in known:
        arguments["past_key_values"] = cache
    elif cache is not None:
        arguments["cache_params"] = cache
        # A recurrent state has no columns: these models multiply the mask with the tokens of this call, whose shape a
        # mask of all columns does not have. Single tokens need no mask, since none of them is padding.
        if arguments["input_ids"].shape[1] == 1:
            arguments["attention_mask"] = None
    return decoder(**{name: value for name, value in arguments.items() if name in known}, use_cache=cache is not None)


_TRUNKS: dict[type, tuple[str, type]] = {}
"""For each class of models: the trunk's name in the model, and the class of the trunk's output."""


def trunk_of(causal: Any) -> Any:
    """The module whose hidden states the head of a causal language model reads.

    Usually this is ``base_model``, but some models call a decoder inside it, or use this name for another module. The
    trunk is found as the last module that returns hidden states when the model reads one token, once for each class of
    models.
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
        # A hook runs when its module returns, so the outermost module that returns hidden states comes last.
        with torch.no_grad():
            causal(input_ids=torch.zeros(1, 1, dtype=torch.long, device=causal.device))
        for hook in hooks:
            hook.remove()
        _TRUNKS[kind] = returned[-1]
    return causal.get_submodule(_TRUNKS[kind][0])


def keeps_everything(trunk: Any) -> bool:
    """Whether every layer of a model keeps the keys and values of all tokens, so that they can be reused.

    Layers with a sliding window drop old tokens, and recurrent layers keep only the state after the last token.
    :mod:`rl.backends.model_check` sets ``lends_cache`` to false if a model's cache cannot be reused for another reason.
    """
    if not getattr(trunk, "lends_cache", True) or "past_key_values" not in known_parameters(type(trunk)):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=trunk.config).layers)


class _Answer:
    """Stand-in for a trunk: returns a given output when called, and passes all attribute access on to the trunk."""

    trunk: Any = None
    output: Any = None

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trunk, name)


class Head:
    """The head of a causal language model, including operations other than the matrix product.

    Soft caps, scales and heads of several parts are written in each model's ``forward``. Therefore the model's own
    ``forward`` runs, with a stand-in for the trunk that returns given hidden states. The trunk is replaced only during
    the call; at all other times the model is complete, to be sampled from, saved or moved to a device.

    Args:
        causal: The model. The head only refers to it; the head is not a module and owns no parameters.
    """

    def __init__(self, causal: Any) -> None:
        self._causal, self._answer = causal, _Answer()
        self._answer.trunk = trunk_of(causal)
        # ``_modules`` is changed directly, because torch refuses to assign the stand-in, which is not a module, as an
        # attribute.
        path, self._output = _TRUNKS[type(causal)]
        parent, _, self._name = path.rpartition(".")
        self._children = causal.get_submodule(parent)._modules

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits ``[N, V]`` of N hidden states of width D."""
        self._answer.output = self._output(last_hidden_state=hidden_ND[None])
        self._children[self._name] = self._answer
        try:
            # The ids only give the shape, one sequence of N tokens. The ``forward`` of the class is called, because a
            # fused head replaces the instance's, and in a copy of the instance that would call the original model.
            ids = torch.zeros(1, hidden_ND.shape[0], dtype=torch.long, device=hidden_ND.device)
            return type(self._causal).forward(self._causal, input_ids=ids).logits[0]
        finally:
            self._children[self._name] = self._answer.trunk
            self._answer.output = None  # otherwise the reference would keep the autograd graph in memory


class Trunk:
    """A decoder without its head, read at the positions that predict response tokens.

    Args:
        module: A transformers decoder, which is kept by reference.
        share: Whether to compute prompts that several rows share only once, if the model allows it and it saves time.
        merge: Whether to compute identical rows only once.
    """

    def __init__(self, module: Any, share: bool, merge: bool = False) -> None:
        self.module, self._merges = module, merge
        # With gradient checkpointing, layers are recomputed in the backward pass, so keys and values cannot be shared.
        self.shares = share and keeps_everything(module) and not getattr(module, "is_gradient_checkpointing", False)

    def hidden(self, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """The hidden states that predict the N response tokens, and these tokens, in row-major order.

        The logits that predict the token at position t come from the hidden state at position t - 1, so the state at
        t - 1 is returned for the token at t.

        Indices are computed on the host, from one copy of the rows: on the device, each such computation would wait for
        all queued work.

        Args:
            batch: Rows, right-padded, on the model's device; no response token is at position 0.

        Returns:
            Hidden states ``[N, D]`` of the last layer, where D is the model's width, and token ids ``[N]``.
        """
        if not self._merges:
            return self._read(batch)
        # Rows are identical only if tokens and response masks are: equal tokens may belong to different trained turns.
        host = torch.stack([batch.input_ids, batch.attention_mask.long(), batch.response_mask.long()], dim=1).cpu()
        seen: dict[bytes, int] = {}
        which = [seen.setdefault(row.numpy().tobytes(), len(seen)) for row in host]
        if len(seen) == len(which):
            return self._read(batch)
        owners = [which.index(i) for i in range(len(seen))]
        # The index is copied to the device once; a list would be copied again for every field of the batch.
        read = self._read(batch.rows(torch.tensor(owners).to(batch.input_ids.device, non_blocking=True)))
        # Each row takes the result of its identical row, so that the gradients of equal rows add up.
        sizes = host[owners, 2].sum(1).tolist()
        hidden_ND, targets_N = (torch.cat([of_row[i] for i in which]) for of_row in (x.split(sizes) for x in read))
        return hidden_ND, targets_N

    def _read(self, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """The result of :meth:`hidden` without merging identical rows."""
        ids, mask, device = batch.input_ids, batch.attention_mask, batch.input_ids.device
        host = torch.stack([ids, mask.long(), batch.response_mask.long()]).cpu()
        # Positions in the flattened rows ``[B * T]``. No response token is at position 0, so ``places - 1`` is in the
        # same row.
        places = host[2].flatten().nonzero().squeeze(1).to(device, non_blocking=True)
        targets_N = ids.flatten()[places]
        # A prompt ends at the first response token, so sharing needs a response token in every row. Rows with equal
        # prompts are found by token ids, not by group. ``owners`` are the first rows of the distinct prompts, and
        # ``which`` is the index of each row's prompt among them.
        ids_BT, attention_BT, response_BT = host.numpy()
        if self.shares and response_BT.any(1).all():
            lengths, seen = response_BT.argmax(1).tolist(), dict[bytes, int]()
            prompts = [ids_BT[row, :length].tobytes() for row, length in enumerate(lengths)]
            which = [seen.setdefault(prompt, len(seen)) for prompt in prompts]
            owners = [which.index(i) for i in range(len(seen))]
            if sum(lengths) - sum(lengths[row] for row in owners) >= WORTH * attention_BT.sum():
                return _with_shared_prompts(self.module, host, owners, which, device), targets_N
        # Rows are padded on the right, so the model's default positions are correct.
        output = call_decoder(self.module, input_ids=ids, attention_mask=mask.long())
        return output.last_hidden_state.flatten(0, 1)[places - 1], targets_N


def _with_shared_prompts(trunk: Any, host: Tensor, owners: list[int], which: list[int], device: torch.device) -> Tensor:
    """The hidden states that predict the response tokens, with each distinct prompt computed only once.

    The first pass reads the U distinct prompts, ``[U, P]``; the second pass reads the rests of the B rows, ``[B, R]``,
    with the prompts' keys and values in the cache. P is the longest prompt and R the longest rest. A prompt of length p
    is in the last p columns of the first pass; its row's rest, the tokens from position p on, is in the first columns
    of the second pass, which follow the P prompt columns in the cache.

    Prompts are padded on the left, so that in the cache the rest of every row directly follows its prompt's last token.
    Positions count each row's own tokens, so the padding changes no result. Selecting the cache's rows by ``which``
    copies keys and values within the autograd graph: the gradient of a prompt is the sum over the rows that use it.
    """
    ids, attention, response = host
    # 1. Read the prompts, aligned at the right edge. ``columns`` is the position of each column in its row; negative in
    # the padding.
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
    # 2. Copy each prompt's keys and values to all of its rows: from here on, the cache is [B, H, P, D] in every layer.
    which_B = torch.tensor(which).to(device, non_blocking=True)
    cache.batch_select_indices(which_B)
    # 3. Read the rests of the rows. Positions beyond the end of a row are clamped, and masked by ``inside``.
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
    # 4. The token at position p + j is predicted at position p + j - 1. For j = 0 that is the prompt's last token, in
    # column -1 of the first pass, since prompts are padded on the left. Only response tokens are picked, in row-major
    # order.
    before = torch.cat([prompt[which_B, -1:], rest[:, :-1]], dim=1)
    picked = (response.gather(1, places) * inside).flatten().nonzero().squeeze(1)
    return before.flatten(0, 1)[picked.to(device, non_blocking=True)]


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer, with spare columns behind them.

    Transformers' own layer copies all keys and values at every step to append one column. Here new columns are written
    to spare space, and the columns that :attr:`keys` and :attr:`values` show are never overwritten.
    """

    _buffers: Sequence[Tensor | None] = (None, None)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends columns ``[B, H, T, D]``; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None  # initialised above
        assert self.values is not None
        rooms, shown = [], []
        for buffer, held, new in zip(self._buffers, (self.keys, self.values), (key_states, value_states), strict=True):
            n_held = held.shape[-2] if held.numel() else 0
            total, room = n_held + new.shape[-2], buffer
            # Dropping or selecting rows copies keys and values out of the buffer. The address shows whether they are
            # still in it, since a view of a buffer's first columns begins where the buffer does.
            if room is None or room.data_ptr() != held.data_ptr() or total > room.shape[-2]:
                # Grow by a quarter, so that everything is copied only about log T times in T steps.
                room = new.new_empty(*new.shape[:-2], total + total // 4 + 16, new.shape[-1])
                if n_held:
                    room[..., :n_held, :] = held
            room[..., n_held:total, :] = new
            rooms.append(room)
            shown.append(room[..., :total, :])
        self._buffers = rooms
        self.keys, self.values = keys, values = shown
        return keys, values
