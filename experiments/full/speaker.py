"""A chat model as the full-size studies use it: it samples answers, gives probabilities of words, and is trained.

Texts are rendered by the model's own chat template and sampled by the in-process engine of the trainer
(``engine=hf``). Only adapters are trained, so that all arms share one copy of the weights and each begins with fresh
adapters. One training step covers supervised learning and policy gradients: it lowers a weighted sum of the answers'
negative log-probabilities, with weights ``1 / n`` for the former and advantages for the latter.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from envs import Message
from experiments.full import Setting
from experiments.full.cost import Work
from rl.backends.engine_hf import HFEngine
from rl.backends.lora import add_lora
from rl.backends.policy import load_policy, make_renderer
from rl.config import LoraConfig, ModelConfig
from rl.types import Request, derive_seed

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Said:
    """An answer: prompt tokens, answer tokens, text, and its negative log-probability when it was sampled, in nats."""

    prompt: Ids
    ids: Ids
    text: str
    nats: float = 0.0


class Speaker:
    """A model with its chat template, its adapters and a count of the computed tokens.

    Args:
        path: Folder or hub id of the model.
        rank: LoRA rank of the adapters.
        lr: Learning rate of the adapters.
        rows_at_once: Rows of one forward pass; larger steps are split into several passes.
    """

    def __init__(self, path: str, rank: int, lr: float, rows_at_once: int = 8) -> None:
        on_gpu = torch.cuda.is_available()
        # Conversations have one question and one answer, so how the template treats earlier thoughts has no influence.
        config = ModelConfig(path=path, dtype="bfloat16" if on_gpu else "float32", thoughts="keep",
                             chat_template_kwargs={"enable_thinking": False})  # fmt: skip
        try:
            self.base, self.tokenizer = load_policy(config)
        except FileNotFoundError as error:
            raise FileNotFoundError(str(error).replace("model.path=", "settings.model=")) from None
        self.base.to("cuda" if on_gpu else "cpu")
        self.renderer = make_renderer(config, self.base, self.tokenizer)
        self.lora, self.lr, self.rows_at_once = LoraConfig(rank=rank, alpha=2 * rank), lr, rows_at_once
        self.model: Any = self.base
        self.optimizer: Any = None
        self.n_steps = 0
        self._spent = Work()

    # ------------------------------------------------------------ adapters

    def adapt(self, seed: int) -> None:
        """Replaces the adapters by fresh ones, which do not change the model's outputs yet."""
        if self.model is not self.base:
            self.base = self.model.unload()
        torch.manual_seed(seed)
        self.model = add_lora(self.base, self.lora).eval()
        if self.model.device.type == "cuda":  # Saves memory, but activations are computed twice.
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self._new_optimizer(self.lr)
        self.n_steps = 0

    def _new_optimizer(self, lr: float) -> None:
        self.optimizer = torch.optim.AdamW(self._adapters().values(), lr=lr, weight_decay=0.0)

    def _adapters(self) -> dict[str, Tensor]:
        return {name: one for name, one in self.model.named_parameters() if one.requires_grad}

    @contextmanager
    def for_a_while(self, lr: float) -> Iterator[None]:
        """Context of an inner loop: training inside uses its own learning rate and is undone at the end."""
        kept, optimizer = {name: one.detach().clone() for name, one in self._adapters().items()}, self.optimizer
        self._new_optimizer(lr)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, one in self._adapters().items():
                    one.copy_(kept[name])
            self.optimizer = optimizer

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Context in which the model is used without its adapters."""
        if self.model is self.base:
            yield
        else:
            with self.model.disable_adapter():
                yield

    # ------------------------------------------------------------ saying

    def prompt(self, said: str | Ids) -> Ids:
        """Renders a user's message up to the place where the answer begins; returns token ids unchanged."""
        return self.renderer.opening([Message("user", said)]) if isinstance(said, str) else said

    def plain(self, text: str) -> Ids:
        """Tokens of a text without chat template or special tokens."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def say(
        self, prompts: Sequence[str | Ids], seed: int, max_new: int, k: int = 1, temperature: float = 1.0
    ) -> list[list[Said]]:
        """Samples k answers to each prompt; the random numbers depend only on the seed and the prompt's position."""
        engine = HFEngine(self.model, self.renderer.end_ids, self.renderer.pad_id, max_batch_size=256)
        ids = [self.prompt(one) for one in prompts]
        engine.submit([
            Request(i * k + j, one, max_new, temperature, derive_seed(seed, i, j))
            for i, one in enumerate(ids) for j in range(k)
        ])  # fmt: skip
        told: dict[int, Said] = {}
        while engine.pending:
            for one in engine.step():
                of = ids[one.request_id // k]
                text, nats = self.renderer.text(one.action_ids), -sum(one.logprobs)
                told[one.request_id] = Said(of, one.action_ids, text, nats)
                self._spent += Work(sampled=len(one.action_ids))
        self._spent += Work(read=sum(map(len, ids)))  # The k copies of a prompt are counted once.
        return [[told[i * k + j] for j in range(k)] for i in range(len(ids))]

    @torch.no_grad()
    def words(self, prompts: Sequence[str | Ids], words: Sequence[str]) -> np.ndarray:
        """Log-probabilities ``[N, W]`` of each word's first token as the answer's first, normalised over the words."""
        first, ids = [self.plain(word)[0] for word in words], [self.prompt(one) for one in prompts]
        found = [np.zeros((0, len(words)))]
        for i in range(0, len(ids), self.rows_at_once):
            some = ids[i : i + self.rows_at_once]
            rows, mask = self._padded(some, left=True)
            logits = self.model(input_ids=rows, attention_mask=mask, logits_to_keep=1).logits[:, -1, first]
            found.append(logits.float().log_softmax(-1).cpu().numpy())
        self._spent += Work(read=sum(map(len, ids)))
        return np.concatenate(found)

    def odds(self, prompts: Sequence[str | Ids], word: str = "Yes", against: str = "No") -> np.ndarray:
        """Log odds ``[N]`` of one word against another as the first token of the answer."""
        two = self.words(prompts, (word, against))
        return two[:, 0] - two[:, 1]

    # ------------------------------------------------------------ learning

    def step(self, rows: Sequence[Said], weights: Sequence[float] | np.ndarray) -> None:
        """Takes an optimiser step on the sum over answers of weight times mean negative log-probability per token.

        Weights ``1 / n`` give supervised learning, weights ``advantage / n`` give REINFORCE on sampled answers. Equal
        rows are computed once, with the sum of their weights. Rows with weight 0 or without tokens are skipped; if no
        row is left, no step is taken.
        """
        together: dict[tuple[Ids, Ids], float] = {}
        for row, weight in zip(rows, weights, strict=True):
            key = row.prompt, row.ids
            together[key] = together.get(key, 0.0) + float(weight)
        counted = [(Said(*key, ""), weight) for key, weight in together.items() if weight and key[1]]
        if not counted:
            return
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()  # Gradient checkpointing works in this mode only; the model has no dropout.
        for i in range(0, len(counted), self.rows_at_once):
            some = counted[i : i + self.rows_at_once]
            nats = self._nats([row for row, _ in some])
            (nats * torch.tensor([weight for _, weight in some], device=nats.device)).sum().backward()
        self.model.eval()
        torch.nn.utils.clip_grad_norm_(self._adapters().values(), 1.0)
        self.optimizer.step()
        self.n_steps += 1
        self._spent += Work(trained=sum(len(row.prompt) + len(row.ids) for row, _ in counted))

    def fit(self, rows: Sequence[Said], steps: int, batch: int, seed: int) -> None:
        """Takes supervised steps, each on a new random batch of rows, sampled with replacement."""
        rng = np.random.default_rng(seed)
        for _ in range(steps if rows else 0):
            some = [rows[i] for i in rng.integers(0, len(rows), batch)]
            self.step(some, [1 / batch] * batch)

    @torch.no_grad()
    def nats(self, rows: Sequence[Said]) -> np.ndarray:
        """Mean negative log-probability ``[N]`` per token of each answer, in nats."""
        found = [np.zeros(0)]
        for i in range(0, len(rows), self.rows_at_once):
            found.append(self._nats(rows[i : i + self.rows_at_once]).cpu().numpy())
        self._spent += Work(read=sum(len(row.prompt) + len(row.ids) for row in rows))
        return np.concatenate(found)

    def _nats(self, rows: Sequence[Said]) -> Tensor:
        ids, mask = self._padded([row.prompt + row.ids for row in rows], left=False)
        # The logits at position t predict the token at t + 1, so targets lose their first column and logits their last.
        learned = mask.bool()
        for i, row in enumerate(rows):
            learned[i, : len(row.prompt)] = False
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][learned[:, 1:]]
        nats = torch.zeros(ids[:, 1:].shape, device=ids.device)
        nats = nats.masked_scatter(learned[:, 1:], cross_entropy(logits.float(), ids[learned], reduction="none"))
        return nats.sum(1) / learned.sum(1).clamp(min=1)

    def _padded(self, rows: Sequence[Ids], left: bool) -> tuple[Tensor, Tensor]:
        n = max(map(len, rows))
        ids = torch.full((len(rows), n), self.renderer.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            at = slice(n - len(row), n) if left else slice(0, len(row))
            ids[i, at], mask[i, at] = torch.tensor(row), 1
        return ids.to(self.model.device), mask.to(self.model.device)

    def gain(self, rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
        """Difference of a column's mean between last and first row; ``None`` if no step was taken since ``adapt``."""
        return float(np.mean(rows[-1][name]) - np.mean(rows[0][name])) if self.n_steps else None

    def spend(self) -> Work:
        """Returns the tokens that were computed since the last call."""
        spent, self._spent = self._spent, Work()
        return spent


def the_model(cfg: Setting, seed: int) -> Speaker:
    """Loads the model: the function ``prepare`` of studies whose arms share nothing else."""
    return Speaker(cfg.model, cfg.rank, cfg.lr)


def advantages(rewards_NK: np.ndarray) -> np.ndarray:
    """GRPO's advantages ``[N * K]``: reward minus group mean, over the group's deviation, divided by ``N * K``.

    Answers in a group with equal rewards get 0. Answers whose reward is ``nan`` get 0 and are left out of the mean.
    """
    counted = ~np.isnan(rewards_NK)
    safe, n = np.where(counted, rewards_NK, 0.0), counted.sum(1, keepdims=True).clip(min=1)
    centred = np.where(counted, safe - safe.sum(1, keepdims=True) / n, 0.0)
    spread = np.sqrt((centred**2).sum(1, keepdims=True) / n)
    return (centred / (spread + 1e-4) / rewards_NK.size).ravel()
