"""Responses of a few symbols and their comparisons, as one small network writes and judges them.

The actor writes ``A c1 d2 : x3 x1 ... <end>``, the judge reads ``J c1 d2 : x3 x1 ... _ | x2 ... _ ?`` and says
``first`` or ``second``. A prompt is one of four contexts and one of four others; its symbols tell a response's worth.
"""

from typing import Any

import numpy as np
import torch

from rl.backends.blocks import next_logprobs, sample
from rl.backends.tiny import tiny_tokenizer

SYMBOLS, CONTEXTS, SHORTEST, LONGEST = 8, 4, 5, 8
TOKENIZER = tiny_tokenizer(
    [
        *(f"x{i}" for i in range(SYMBOLS)),
        *(f"{kind}{i}" for kind in "cd" for i in range(CONTEXTS)),
        *("_", "A", "J", ":", "|", "?", "first", "second"),
    ],
    spaced=True,
)
ID = TOKENIZER.get_vocab()
END, X0, C0, D0, FIRST, SECOND = (ID[word] for word in ("<|end|>", "x0", "c0", "d0", "first", "second"))


class World:
    """What responses are worth, and which prompts are trained on; prompts are numbers, responses rows of symbols."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        by_c, by_d = rng.normal(size=(CONTEXTS, 1, SYMBOLS)), rng.normal(size=(1, CONTEXTS, SYMBOLS))
        self.quality = ((by_c + by_d) / np.sqrt(2)).reshape(-1, SYMBOLS)
        orders = [rng.permutation(SYMBOLS) for _ in range(300)]
        self.scrambled = orders[int(np.argmin([max(self.alike(one)) for one in orders]))]
        """Symbols that say nothing about the quality of those they stand for."""
        self.test = np.arange(CONTEXTS) * CONTEXTS + rng.permutation(CONTEXTS)
        """A prompt for each c and each d, never judged in training, and written for only at random, by the base."""
        self.train = np.setdiff1d(np.arange(CONTEXTS**2), self.test)

    def alike(self, order: np.ndarray) -> tuple[float, float]:
        """How far exchanged symbols keep their quality: |correlation| over all prompts, and in the mean over prompts.

        An actor learns first what is good for most prompts, so a judge that keeps the mean is not blind.
        """
        every = np.corrcoef(self.quality.ravel(), self.quality[:, order].ravel())[0, 1]
        means = np.corrcoef(self.quality.mean(0), self.quality[:, order].mean(0))[0, 1]
        return float(abs(every)), float(abs(means))

    def worth(self, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Mean quality of the symbols; -1 marks an empty place."""
        there = responses >= 0
        quality = np.take_along_axis(self.quality[prompts], np.maximum(responses, 0), 1)
        return (quality * there).sum(1) / np.maximum(there.sum(1), 1)


def lengths(responses: np.ndarray) -> np.ndarray:
    """Of responses, 0 for malformed ones."""
    return (responses >= 0).sum(-1)


def random_responses(rng: np.random.Generator, n: int) -> np.ndarray:
    """``[n, LONGEST]``."""
    responses = rng.integers(0, SYMBOLS, (n, LONGEST))
    return np.where(np.arange(LONGEST) < rng.integers(SHORTEST, LONGEST + 1, (n, 1)), responses, -1)


def opening(prompts: np.ndarray, role: str) -> np.ndarray:
    """``[n, 4]`` tokens that both roles begin with."""
    n = len(prompts)
    columns = (np.full(n, ID[role]), C0 + prompts // CONTEXTS, D0 + prompts % CONTEXTS, np.full(n, ID[":"]))
    return np.stack(columns, 1)


def question(prompts: np.ndarray, one: np.ndarray, other: np.ndarray, seen_as: np.ndarray | None) -> torch.Tensor:
    """What the judge reads; ``seen_as`` exchanges the symbols before it does."""
    if seen_as is not None:
        one, other = (np.where(r >= 0, seen_as[np.maximum(r, 0)], -1) for r in (one, other))
    shown, n = [np.where(r >= 0, r + X0, ID["_"]) for r in (one, other)], len(prompts)
    bar, mark = np.full((n, 1), ID["|"]), np.full((n, 1), ID["?"])
    return torch.from_numpy(np.concatenate([opening(prompts, "J"), shown[0], bar, shown[1], mark], 1))


def respond(model: Any, prompts: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, torch.Tensor]:
    """Responses, -1 all through where the form is wrong, and the very tokens that were sampled."""
    tokens = sample(model, torch.from_numpy(opening(prompts, "A")), LONGEST + 1, 1.0, generator, END)
    ids = tokens.numpy()
    symbols = np.cumprod((ids >= X0) & (ids < X0 + SYMBOLS), 1).astype(bool)
    n = symbols.sum(1)
    formed = (n > 0) & (n <= LONGEST) & (ids[np.arange(len(ids)), np.minimum(n, LONGEST)] == END)
    return np.where(symbols & formed[:, None], ids - X0, -1)[:, :LONGEST], tokens


@torch.no_grad()
def says_first(model: Any, prompts: np.ndarray, one: np.ndarray, other: np.ndarray, seen_as: Any = None) -> np.ndarray:
    """Probability of the verdict ``first``."""
    logprobs = next_logprobs(model, question(prompts, one, other, seen_as))
    return torch.sigmoid(logprobs[:, FIRST] - logprobs[:, SECOND]).numpy()
