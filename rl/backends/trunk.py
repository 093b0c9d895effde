"""Last hidden states at the positions that predict response tokens; a prompt that rows share is read once.

The episodes of a group have the same first prompt, so its keys and values are computed for one row and lent to all
(what serving engines call prefix caching, with a gradient). The result is the same; the work is that of the tokens that
differ.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

WORTH = 0.1
"""Sharing pays from this part of a batch's tokens on: it takes a second pass through the layers."""


def predicting_hidden(
    trunk: Any, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, share: bool
) -> Tensor:
    """``[N, D]``: the last hidden state before each of the N response tokens, in row-major order of the mask.

    Args:
        trunk: A transformers decoder without its head.
        input_ids: ``[B, T]``, right-padded.
        attention_mask: ``[B, T]`` bool.
        response_mask: ``[B, T]`` bool, never True at position 0.
        share: Read shared prompts once, where the model can and it pays.
    """
    plan = _shared_prompts(input_ids, attention_mask, response_mask) if share and _can_share(trunk) else None
    if plan is None:
        hidden_BTD = trunk(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False).last_hidden_state
        return hidden_BTD[response_mask.roll(-1, 1)]
    return _with_shared_prompts(trunk, input_ids, attention_mask, response_mask, *plan)


def keeps_everything(config: Any) -> bool:
    """Whether every layer of a model keeps the keys and values of all tokens, so that they can be used again."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    windowed = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return kinds == {"full_attention"} and not windowed


def _can_share(trunk: Any) -> bool:
    # A layer that is computed again in the backward pass cannot lend what it computed.
    return keeps_everything(trunk.config) and not getattr(trunk, "is_gradient_checkpointing", False)


def _shared_prompts(
    input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor
) -> tuple[Tensor, list[int], Tensor] | None:
    """Length of every row's prompt ``[B]``, a row for each distinct prompt, and which of them each row has ``[B]``."""
    if not response_mask.any(1).all():
        return None
    starts = response_mask.int().argmax(1)
    ids, lengths = input_ids.cpu().numpy(), starts.tolist()
    seen: dict[bytes, int] = {}
    which = [seen.setdefault(ids[row, :length].tobytes(), len(seen)) for row, length in enumerate(lengths)]
    owners = [which.index(i) for i in range(len(seen))]
    saved = sum(lengths) - sum(lengths[row] for row in owners)
    if saved < WORTH * float(attention_mask.sum()):
        return None
    return starts, owners, torch.tensor(which, device=input_ids.device)


def _with_shared_prompts(
    trunk: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    starts_B: Tensor,
    owners: list[int],
    which_B: Tensor,
) -> Tensor:
    starts_U = starts_B[owners]
    width = int(starts_U.max())
    # Prompts are padded on the left, so that what follows is next to the prompt's last token in the cache.
    columns = torch.arange(width, device=input_ids.device) - (width - starts_U)[:, None]
    prompt_mask = columns >= 0
    prompt_ids = input_ids[owners].gather(1, columns.clamp(min=0))
    cache = DynamicCache(config=trunk.config)
    prompt = trunk(
        input_ids=prompt_ids,
        attention_mask=prompt_mask.long(),
        position_ids=columns.clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    cache.batch_select_indices(which_B)
    n_rest = int((attention_mask.sum(1) - starts_B).max())
    places = starts_B[:, None] + torch.arange(n_rest, device=input_ids.device)
    inside = places < input_ids.shape[1]
    places = places.clamp(max=input_ids.shape[1] - 1)
    rest_mask = attention_mask.gather(1, places) & inside
    rest = trunk(
        input_ids=input_ids.gather(1, places),
        attention_mask=torch.cat([prompt_mask[which_B], rest_mask], dim=1).long(),
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    # The token at place s + j was predicted from place s + j - 1: the prompt's last token for j = 0.
    before = torch.cat([prompt[which_B, -1:], rest[:, :-1]], dim=1)
    return before[response_mask.gather(1, places) & inside]
