"""Books of rules such as ``3>7`` that map symbols to symbols, and tasks that apply the rules; a prompt holds six rules.

A row consists of six rules (or empty places), ``? s3 d2 A`` and the answer: the chain of symbols that two rules (depth
2) lead to from symbol 3.
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
    """The right answer: the symbols that the rules lead to, one after the other."""
    found, at = [], task[0]
    for _ in range(task[1]):
        at = book[at]
        found.append(at)
    return found


def on_the_way(book: Sequence[int], task: Task) -> list[int]:
    """Symbols whose rules the task applies, in order and without repetition."""
    return list(dict.fromkeys([task[0], *chain(book, task)[:-1]]))


def prompt(book: Sequence[int], skills: Skills, task: Task, rng: random.Random) -> list[int]:
    """Token ids of a prompt: the skills' rules and empty places in random order, then the task."""
    shown = [R0 + SYMBOLS * a + book[a] for a in skills] + [EMPTY] * (WINDOW - len(skills))
    rng.shuffle(shown)
    return [*shown, ASK, S0 + task[0], D1 + task[1] - 1, ANSWER]


@dataclass
class Context:
    """A book with the distribution of its real tasks and the results of the game on it.

    Args:
        book: Symbol that each symbol leads to.
        weights: Weight with which each symbol starts a real task.
        sets: Skills after each iteration; the first set is empty.
        hard: Tasks that the Judge called failed, by iteration.
        easy: Tasks that the Judge called solved, by iteration.
    """

    book: list[int]
    weights: np.ndarray
    sets: list[Skills] = field(default_factory=lambda: [[]])
    hard: list[list[Task]] = field(default_factory=list)
    easy: list[list[Task]] = field(default_factory=list)


def challenge(context: Context, level: int, rng: random.Random) -> Task:
    """Samples a task: a real one at level 0; higher levels are deeper and start with ever rarer symbols.

    At level 2 all start symbols are equally likely; above it the rare symbols are the likely ones.
    """
    weights = context.weights ** (1 - level / 2)
    (start,) = rng.choices(range(SYMBOLS), list(weights))
    shallow = min(DEEPEST, 1 + level // 2)
    return start, rng.randint(shallow, max(shallow, 2))


def drawn(tasks: Sequence[Sequence[Task]], n: int, rng: random.Random, evenly: bool = False) -> list[Task]:
    """Samples up to ``n`` tasks as probes: from all iterations together, or ``evenly``, in turn from each iteration."""
    if not evenly:
        every = [task for some in tasks for task in some]
        return rng.sample(every, min(n, len(every)))
    mixed = [rng.sample(some, len(some)) for some in tasks]
    turns = [some[i] for i in range(max(map(len, mixed), default=0)) for some in mixed if i < len(some)]
    return turns[:n]
