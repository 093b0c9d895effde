"""Sums of two to five digits in the head, and a score after each answer: ``S 3 1 4 _ _ : t8 | s4 <end>``.

An answer and a score are one token each; five scores stand for the probabilities from 0 to 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.analysis.gate import signal_accuracy
from rl.backends.blocks import Learned, held_out, learn_last, sample
from rl.backends.tiny import tiny_tokenizer

PLACES, DIGITS, SCORES = 5, 7, 5
TOP = PLACES * (DIGITS - 1)
WORDS = [*(f"t{i}" for i in range(TOP + 1)), *map(str, range(DIGITS)), "_", "S", ":", "|", *(f"s{i}" for i in range(5))]
TOKENIZER = tiny_tokenizer(WORDS, True)
ID: dict[str, int] = TOKENIZER.get_vocab()
T0, D0, S0, BLANK, SEPARATOR, END = ID["t0"], ID["0"], ID["s0"], ID["_"], ID["|"], ID["<|end|>"]


def draw(rng: np.random.Generator, n: int, test: bool = False) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Prompts ``[n, 7]``, their sums, and how many sixes each has; a fifth of all questions is for tests alone."""
    m = 10 * n if test else 2 * n + 50
    used = np.arange(PLACES) < rng.integers(2, PLACES + 1, (m, 1))
    digits = rng.integers(0, DIGITS, (m, PLACES))
    question = np.where(used, digits + D0, BLANK)
    chosen = np.flatnonzero(held_out(question) == test)[:n]
    question, digits, used = question[chosen], digits[chosen], used[chosen]
    ends = [np.full((n, 1), ID[word]) for word in ("S", ":")]
    prompts = torch.from_numpy(np.concatenate([ends[0], question, ends[1]], 1))
    return prompts, (digits * used).sum(1), ((digits == DIGITS - 1) & used).sum(1)


def column(ids: np.ndarray | Tensor | int, n: int) -> Tensor:
    """``[n, 1]`` token ids."""
    return torch.full((n, 1), ids) if isinstance(ids, int) else torch.as_tensor(ids).reshape(n, 1)


def scored(prompts: Tensor, answers: Tensor, score: Tensor) -> Learned:
    """Rows that tell a score of an answer, and end."""
    n = len(prompts)
    ids = [prompts, answers[:, None], column(SEPARATOR, n), S0 + score[:, None], column(END, n)]
    return learn_last(torch.cat(ids, 1), 2)


@dataclass
class Completed:
    """Groups of K completions ``answer | score`` in a row.

    Args:
        prompts: ``[N * K, 7]``.
        new: ``[N * K, 3]`` sampled tokens.
        correct: ``[N * K]`` 1 for a right answer.
        k: Completions of a question.
    """

    prompts: Tensor
    new: Tensor
    correct: Tensor
    k: int

    @property
    def paid(self) -> Tensor:
        """What answer and separator earn."""
        return self.correct * (self.new[:, 1] == SEPARATOR)

    @property
    def is_score(self) -> Tensor:
        """Whether the third token is a score after a separator."""
        return (self.new[:, 1] == SEPARATOR) & (self.new[:, 2] >= S0) & (self.new[:, 2] < S0 + SCORES)

    @property
    def told(self) -> Tensor:
        """The scores, from 0 to 1; 0 where there is none."""
        return torch.where(self.is_score, (self.new[:, 2] - S0).float() / (SCORES - 1), 0.0)

    def grouped(self, values: Tensor) -> np.ndarray:
        """``[N, K]``."""
        return values.view(-1, self.k).numpy()

    def meters(self) -> dict[str, float]:
        """How right what is paid for the answers is, and their own scores, which pay nothing."""
        truth, scored = self.grouped(self.correct), torch.where(self.is_score, self.correct, torch.nan)
        agrees = ((self.told > 0.5) == (self.correct > 0.5))[self.is_score].float()
        return {
            "reward_accuracy": signal_accuracy(self.grouped(self.paid), truth),
            "score_accuracy": signal_accuracy(self.grouped(self.told), self.grouped(scored)),
            "verdict_accuracy": float(agrees.mean()) if len(agrees) else float("nan"),
        }


def complete(
    model: Any, n: int, k: int, rng: np.random.Generator, generator: torch.Generator, test: bool = False
) -> Completed:
    """Samples k completions of each of n questions."""
    prompts, sums, _ = draw(rng, n, test)
    prompts = prompts.repeat_interleave(k, 0)
    new = sample(model, prompts, 3, 1.0, generator)
    return Completed(prompts, new, (new[:, 0] == torch.from_numpy(np.repeat(sums, k)) + T0).float(), k)
