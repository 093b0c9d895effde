"""Sampling with a transformers model in this process: the CPU default and the reference for the other engines.

A step takes the pending requests of similar prompt length, left-pads them into one batch and decodes until all are
done; rows that finished are dropped from the key-value cache once they are half of it. Tokens are drawn by inverting
the cumulative distribution at one uniform number per row and position, which is a hash of the request's seed: the
sample does not depend on what else is in the batch.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rl.seeding import uniforms
from rl.types import Completion, Finish, Request


class HFEngine:
    """Samples from a causal language model.

    Args:
        model: A transformers causal language model.
        end_id: The end-of-turn token.
        pad_id: Fills the left of shorter prompts; never attended to.
        max_batch_size: Upper limit of rows decoded together.
        shares_weights: The model is the very module that is being trained, so its weights are always the newest.
    """

    streams = False

    def __init__(
        self, model: Any, end_id: int, pad_id: int, max_batch_size: int = 1024, shares_weights: bool = True
    ) -> None:
        self.shares_weights = shares_weights
        self._model, self._end_id, self._pad_id = model, end_id, pad_id
        self._max_batch_size = max_batch_size
        self._pending: list[Request] = []
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
            with torch.inference_mode():
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
        self.policy_version = version

    def sleep(self) -> None:
        """The model is the trainer's: there is nothing to free."""

    def wake(self) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Forgets what is pending."""
        self._pending.clear()

    def _decode(self, batch: list[Request]) -> list[Completion]:
        rows = _Rows(batch, self._pad_id, self._model.device)
        cache = DynamicCache(config=self._model.config)
        input_ids, position = rows.prompt_ids, 0
        while True:
            output = self._model(
                input_ids=input_ids,
                attention_mask=rows.attention_mask,
                position_ids=rows.position_ids(input_ids.shape[1]),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            tokens = rows.sample(output.logits[:, -1], position, self._end_id)
            position += 1
            if not rows.alive.any():
                return rows.completions(self.policy_version)
            if 2 * int(rows.alive.sum()) <= len(rows.alive):
                keep = rows.drop_finished()
                cache.batch_select_indices(keep)
                tokens = tokens[keep]
            input_ids = tokens[:, None]
            rows.extend_mask()


class _Rows:
    """The state of the rows being decoded; ``batch`` indices survive the dropping of finished rows."""

    def __init__(self, batch: list[Request], pad_id: int, device: torch.device) -> None:
        self.batch, self.device = batch, device
        width = max(len(request.prompt_ids) for request in batch)
        padded = [[pad_id] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in batch]
        lengths = torch.tensor([len(request.prompt_ids) for request in batch], device=device)
        self.prompt_ids = torch.tensor(padded, device=device)
        self.attention_mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
        self.alive = torch.ones(len(batch), dtype=torch.bool)
        self._index = np.arange(len(batch))
        self._seeds = np.array([request.seed for request in batch], dtype=np.uint64)
        self._limits = torch.tensor([request.max_new_tokens for request in batch])
        self._temperatures = torch.tensor([request.temperature for request in batch], device=device)
        self._stopped = np.zeros(len(batch), dtype=bool)
        self._ids: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def position_ids(self, n_new: int) -> Tensor:
        """Positions of the last ``n_new`` tokens, counted from the first real token of each row."""
        return (self.attention_mask.cumsum(1) - 1).clamp(min=0)[:, -n_new:]

    def sample(self, logits_BV: Tensor, position: int, end_id: int) -> Tensor:
        """Draws the next token of every row and records it for the rows that are alive."""
        tokens, logprobs = draw(logits_BV, self._temperatures, uniforms(self._seeds, position))
        cpu_tokens = tokens.cpu()
        alive = self.alive.numpy()
        self._ids.append((self._index[alive], cpu_tokens.numpy()[alive], logprobs.cpu().numpy()[alive]))
        ended = (cpu_tokens == end_id) & self.alive
        self._stopped[self._index[ended.numpy()]] = True
        self.alive = self.alive & ~ended & (position + 1 < self._limits)
        return tokens

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
        index, tokens, logprobs = (np.concatenate(column) for column in zip(*self._ids, strict=True))
        order = np.argsort(index, kind="stable")
        ends = np.cumsum(np.bincount(index, minlength=len(self.batch)))
        token_list, logprob_list = tokens[order].tolist(), logprobs[order].tolist()
        result = []
        for i, request in enumerate(self.batch):
            span = slice(int(ends[i - 1]) if i else 0, int(ends[i]))
            finish = Finish.STOP if self._stopped[i] else Finish.LENGTH
            result.append(
                Completion(request.id, tuple(token_list[span]), tuple(logprob_list[span]), finish, policy_version)
            )
        return result


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
