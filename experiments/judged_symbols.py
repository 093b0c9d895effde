"""Responses that consist of a few symbols: one small network writes them, and compares them in pairs as their judge.

The actor writes ``A c1 d2 : x3 x1 ... <end>``. The judge reads ``J c1 d2 : x3 x1 ... _ | x2 ... _ ?`` and answers
``first`` or ``second``. A prompt combines one of four contexts ``c`` with one of four contexts ``d``; the two contexts
determine the quality of every symbol, and so that of a response.
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
    """The quality of every symbol for every prompt, and the split of prompts into training and test.

    Prompts are numbers from 0 to 15; responses are rows of symbol indices, filled up with -1.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        by_c, by_d = rng.normal(size=(CONTEXTS, 1, SYMBOLS)), rng.normal(size=(1, CONTEXTS, SYMBOLS))
        self.quality = ((by_c + by_d) / np.sqrt(2)).reshape(-1, SYMBOLS)
        orders = [rng.permutation(SYMBOLS) for _ in range(300)]
        self.scrambled = orders[int(np.argmin([max(self.alike(one)) for one in orders]))]
        """A permutation of the symbols: the quality of a symbol says almost nothing about that of its replacement."""
        self.test = np.arange(CONTEXTS) * CONTEXTS + rng.permutation(CONTEXTS)
        """Held-out prompts, one for each c and each d; only the base learns from them, and only random responses."""
        self.train = np.setdiff1d(np.arange(CONTEXTS**2), self.test)

    def alike(self, order: np.ndarray) -> tuple[float, float]:
        """How much of the quality survives a permutation of the symbols.

        Returns the absolute correlation between the qualities before and after it: over all prompts and symbols, and
        for the mean over prompts. The mean matters because an actor first learns which symbols are good for most
        prompts, so a judge that sees permuted symbols of the same mean quality could still teach it that.
        """
        every = np.corrcoef(self.quality.ravel(), self.quality[:, order].ravel())[0, 1]
        means = np.corrcoef(self.quality.mean(0), self.quality[:, order].mean(0))[0, 1]
        return float(abs(every)), float(abs(means))

    def worth(self, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Mean quality of the symbols of each response, where -1 marks an empty place; 0 for an empty response."""
        there = responses >= 0
        quality = np.take_along_axis(self.quality[prompts], np.maximum(responses, 0), 1)
        return (quality * there).sum(1) / np.maximum(there.sum(1), 1)


def lengths(responses: np.ndarray) -> np.ndarray:
    """Number of symbols of each response; 0 for malformed ones."""
    return (responses >= 0).sum(-1)


def random_responses(rng: np.random.Generator, n: int) -> np.ndarray:
    """``n`` responses of random symbols and lengths, ``[n, LONGEST]``."""
    responses = rng.integers(0, SYMBOLS, (n, LONGEST))
    return np.where(np.arange(LONGEST) < rng.integers(SHORTEST, LONGEST + 1, (n, 1)), responses, -1)


def opening(prompts: np.ndarray, role: str) -> np.ndarray:
    """The tokens with which the input of a role begins, ``[n, 4]``: role, both contexts and a colon."""
    n = len(prompts)
    columns = (np.full(n, ID[role]), C0 + prompts // CONTEXTS, D0 + prompts % CONTEXTS, np.full(n, ID[":"]))
    return np.stack(columns, 1)


def question(prompts: np.ndarray, one: np.ndarray, other: np.ndarray, seen_as: np.ndarray | None) -> torch.Tensor:
    """The judge's input; if ``seen_as`` is given, each symbol is replaced by ``seen_as[symbol]``."""
    if seen_as is not None:
        one, other = (np.where(r >= 0, seen_as[np.maximum(r, 0)], -1) for r in (one, other))
    shown, n = [np.where(r >= 0, r + X0, ID["_"]) for r in (one, other)], len(prompts)
    bar, mark = np.full((n, 1), ID["|"]), np.full((n, 1), ID["?"])
    return torch.from_numpy(np.concatenate([opening(prompts, "J"), shown[0], bar, shown[1], mark], 1))


def respond(model: Any, prompts: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, torch.Tensor]:
    """Samples a response to each prompt; returns the responses, all -1 if malformed, and the sampled tokens."""
    tokens = sample(model, torch.from_numpy(opening(prompts, "A")), LONGEST + 1, 1.0, generator, END)
    ids = tokens.numpy()
    symbols = np.cumprod((ids >= X0) & (ids < X0 + SYMBOLS), 1).astype(bool)
    n = symbols.sum(1)
    formed = (n > 0) & (n <= LONGEST) & (ids[np.arange(len(ids)), np.minimum(n, LONGEST)] == END)
    return np.where(symbols & formed[:, None], ids - X0, -1)[:, :LONGEST], tokens


@torch.no_grad()
def says_first(model: Any, prompts: np.ndarray, one: np.ndarray, other: np.ndarray, seen_as: Any = None) -> np.ndarray:
    """Probability that the judge answers ``first`` rather than ``second``."""
    logprobs = next_logprobs(model, question(prompts, one, other, seen_as))
    return torch.sigmoid(logprobs[:, FIRST] - logprobs[:, SECOND]).numpy()
