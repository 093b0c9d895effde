"""Sums of two to five digits, answered without working and followed by a score: ``S 3 1 4 _ _ : t8 | s4 <end>``.

An answer and a score are one token each. The score is the model's own confidence in its answer: five values from 0 to
1.
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
    """Samples prompts ``[n, 7]``, their sums ``[n]``, and the number of sixes in each ``[n]``.

    About a fifth of all questions is reserved for tests.
    """
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
    """Token ids as a column ``[n, 1]``; a single id is repeated n times."""
    return torch.full((n, 1), ids) if isinstance(ids, int) else torch.as_tensor(ids).reshape(n, 1)


def scored(prompts: Tensor, answers: Tensor, score: Tensor) -> Learned:
    """Rows of prompt, answer, separator and score, of which the score and the end token are learned."""
    n = len(prompts)
    ids = [prompts, answers[:, None], column(SEPARATOR, n), S0 + score[:, None], column(END, n)]
    return learn_last(torch.cat(ids, 1), 2)


@dataclass
class Completed:
    """Sampled completions ``answer | score``, K for each question and adjacent to each other.

    Args:
        prompts: ``[N * K, 7]`` token ids.
        new: ``[N * K, 3]`` sampled tokens.
        correct: ``[N * K]`` 1 for a right answer, else 0.
        k: Number of completions per question.
    """

    prompts: Tensor
    new: Tensor
    correct: Tensor
    k: int

    @property
    def paid(self) -> Tensor:
        """Reward of answer and separator: 1 for a right answer that is followed by the separator, else 0."""
        return self.correct * (self.new[:, 1] == SEPARATOR)

    @property
    def is_score(self) -> Tensor:
        """Whether the third token is a score after a separator."""
        return (self.new[:, 1] == SEPARATOR) & (self.new[:, 2] >= S0) & (self.new[:, 2] < S0 + SCORES)

    @property
    def told(self) -> Tensor:
        """The scores, from 0 to 1; 0 where there is no score."""
        return torch.where(self.is_score, (self.new[:, 2] - S0).float() / (SCORES - 1), 0.0)

    def grouped(self, values: Tensor) -> np.ndarray:
        """Values ``[N * K]`` as an array ``[N, K]``."""
        return values.view(-1, self.k).numpy()

    def meters(self) -> dict[str, float]:
        """Accuracy of the reward, of the model's scores (which reward no answer), and of verdicts, scores above 0.5."""
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
