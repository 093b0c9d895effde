"""Books of rules ``3>7`` that lead from symbol to symbol, of which six fit into a prompt, and tasks that apply them.

A row is six rules (or empty places), ``? s3 d2 A`` and the chain of symbols: from symbol 3, two rules deep.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rl.backends.tiny import tiny_tokenizer

SYMBOLS, WINDOW, DEEPEST = 16, 6, 4
WORDS = [*(f"s{i}" for i in range(SYMBOLS)), *(f"{i}>{j}" for i in range(SYMBOLS) for j in range(SYMBOLS))]
TOKENIZER = tiny_tokenizer([*WORDS, *(f"d{i + 1}" for i in range(DEEPEST)), "-", "?", "A"], True)
ID: dict[str, int] = TOKENIZER.get_vocab()
END, S0, R0, D1, EMPTY, ASK, ANSWER = (ID[word] for word in ("<|end|>", "s0", "0>0", "d1", "-", "?", "A"))

Task = tuple[int, int]
"""Start symbol and depth."""
Skills = list[int]
"""Symbols whose rules are in the prompt, the oldest first."""


def chain(book: Sequence[int], task: Task) -> list[int]:
    """The right answer."""
    found, at = [], task[0]
    for _ in range(task[1]):
        at = book[at]
        found.append(at)
    return found


def on_the_way(book: Sequence[int], task: Task) -> list[int]:
    """Symbols whose rules the chain applies, in order, each once."""
    return list(dict.fromkeys([task[0], *chain(book, task)[:-1]]))


def prompt(book: Sequence[int], skills: Skills, task: Task, rng: random.Random) -> list[int]:
    """The skills in random order, empty places filled, and the task."""
    shown = [R0 + SYMBOLS * a + book[a] for a in skills] + [EMPTY] * (WINDOW - len(skills))
    rng.shuffle(shown)
    return [*shown, ASK, S0 + task[0], D1 + task[1] - 1, ANSWER]


@dataclass
class Context:
    """A book, how often its symbols start a real task, and what the game has made of it.

    Args:
        book: Where each symbol leads.
        weights: Of start symbols.
        sets: Skills after each iteration; the first is empty.
        hard: Tasks that the Judge called failed, by iteration.
        easy: Tasks that it called solved.
    """

    book: list[int]
    weights: np.ndarray
    sets: list[Skills] = field(default_factory=lambda: [[]])
    hard: list[list[Task]] = field(default_factory=list)
    easy: list[list[Task]] = field(default_factory=list)


def challenge(context: Context, level: int, rng: random.Random) -> Task:
    """A real task at level 0; above it, start symbols become alike, then the rare ones the likely ones; depth grows."""
    weights = context.weights ** (1 - level / 2)
    (start,) = rng.choices(range(SYMBOLS), list(weights))
    shallow = min(DEEPEST, 1 + level // 2)
    return start, rng.randint(shallow, max(shallow, 2))


def drawn(tasks: Sequence[Sequence[Task]], n: int, rng: random.Random, evenly: bool = False) -> list[Task]:
    """Probes from all iterations together, or in turn from each."""
    if not evenly:
        every = [task for some in tasks for task in some]
        return rng.sample(every, min(n, len(every)))
    mixed = [rng.sample(some, len(some)) for some in tasks]
    turns = [some[i] for i in range(max(map(len, mixed), default=0)) for some in mixed if i < len(some)]
    return turns[:n]
