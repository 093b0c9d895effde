"""Books of rules ``3>7`` that lead from symbol to symbol, of which six fit into a prompt, and tasks that apply them.

A row is six rules (or empty places), ``? s3 d2 A`` and the chain of symbols: from symbol 3, two rules deep.
"""

import random
from collections.abc import Sequence

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
