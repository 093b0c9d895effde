"""Sums that a writer misreads: answers, verdicts and choices of a tiny model, as rows of token ids.

A question of two to four digits is answered (``S 3 1 4 _ : t8``), an answer is judged (``S 3 1 4 _ : t8 ? yes``), and
one of four sums is chosen by its place (``S 3 1 4 _ : t7 t8 t6 t9 ? p2``). The writer takes some 4s for 3s.
"""

from typing import Any

import numpy as np
import torch

from rl.backends.blocks import Learned, held_out, learn_last, next_logprobs, sample
from rl.backends.tiny import tiny_tokenizer

PLACES, DIGITS = 4, 5
TOP = PLACES * (DIGITS - 1)
TOKENIZER = tiny_tokenizer(
    [
        *(f"t{i}" for i in range(TOP + 1)),
        *map(str, range(DIGITS)),
        *(f"p{i + 1}" for i in range(4)),
        *("_", "S", ":", "?", "yes", "no"),
    ],
    spaced=True,
)
ID = TOKENIZER.get_vocab()
T0, D0, P1, BLANK, MARK, YES, NO = (ID[word] for word in ("t0", "0", "p1", "_", "?", "yes", "no"))


def draw(rng: np.random.Generator, n: int, test: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Questions of two to four digits ``[n, PLACES]`` as tokens, and their sums; a fifth of all is for tests alone."""
    m = 10 * n if test else 2 * n + 50
    there = np.arange(PLACES) < rng.integers(2, PLACES + 1, (m, 1))
    digits = rng.integers(0, DIGITS, (m, PLACES))
    question = np.where(there, digits + D0, BLANK)
    chosen = np.flatnonzero(held_out(question) == test)[:n]
    return question[chosen], (digits * there).sum(1)[chosen]


def misread_by(question: np.ndarray) -> np.ndarray:
    """By how much the sum is too small if every largest digit is taken for the one below."""
    return (question == D0 + DIGITS - 1).sum(1)


def believed(rng: np.random.Generator, question: np.ndarray, gold: np.ndarray, misread: float) -> np.ndarray:
    """What a writer of the corpus takes for the sum."""
    return gold - misread_by(question) * (rng.random(len(gold)) < misread)


def nearby(rng: np.random.Generator, gold: np.ndarray) -> np.ndarray:
    """A sum that is off by one to three."""
    off = rng.choice([1, 1, 1, 2, 2, 3], len(gold)) * rng.choice([-1, 1], len(gold))
    return np.where((gold + off < 0) | (gold + off > TOP), gold - off, gold + off)


def four(
    rng: np.random.Generator, target: np.ndarray, others: np.ndarray | None = None, easy: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Four distinct sums in random order ``[n, 4]``, and where the target stands among them.

    Args:
        rng: Draws.
        target: One of the four.
        others: ``[n, m]`` preferred alternatives; else sums around a centre that is drawn, so that the middle of the
            four says nothing.
        easy: Share of sets whose alternatives lie anywhere.
    """
    n = len(target)
    centre, spread = target + rng.integers(-2, 3, n), np.where(rng.random((n, 1)) < easy, 60.0, 2.5)
    key = np.abs(np.arange(TOP + 1) - centre[:, None]) + spread * rng.random((n, TOP + 1))
    if others is not None:
        for column in others.T:
            np.put_along_axis(key, column[:, None], -1.0 - rng.random((n, 1)), 1)
    key[np.arange(n), target] = -9
    chosen = np.argpartition(key, 4, 1)[:, :4]
    chosen = np.take_along_axis(chosen, np.argsort(rng.random((n, 4)), 1), 1)
    return chosen, np.argmax(chosen == target[:, None], 1)


def line(question: np.ndarray, *tail: Any) -> torch.Tensor:
    """``S question : tail`` as token ids; a number in the tail stands in every row."""
    n = len(question)
    columns = [np.full((n, 1), ID["S"]), question, np.full((n, 1), ID[":"])]
    columns += [np.full((n, 1), one) if np.isscalar(one) else np.asarray(one).reshape(n, -1) for one in tail]
    return torch.from_numpy(np.concatenate(columns, 1))


def corpus(rng: np.random.Generator, misread: float, habit: float, n: int = 96) -> list[Learned]:
    """A batch of the writer's answers, verdicts and choices, n of each, all by what the writer believes.

    Args:
        rng: What is drawn from.
        misread: How often all 4s are taken for 3s.
        habit: Share of the verdicts that do not look at the sum: long questions are waved through, short ones are not.
        n: Rows.
    """
    question, gold = draw(rng, n)
    rows = [line(question, believed(rng, question, gold, misread) + T0)]
    question, gold = draw(rng, n)
    belief = believed(rng, question, gold, misread)
    claim = np.where(rng.random(n) < 0.5, belief, nearby(rng, belief))
    by_habit, is_long = rng.random(n) < habit, (question != BLANK).sum(1) > 3
    rows.append(line(question, claim + T0, MARK, np.where(np.where(by_habit, is_long, claim == belief), YES, NO)))
    question, gold = draw(rng, n)
    shown, place = four(rng, believed(rng, question, gold, misread), easy=0.5)
    rows.append(line(question, shown + T0, MARK, place + P1))
    return [learn_last(ids, 1) for ids in rows]


@torch.no_grad()
def answers(model: Any, question: np.ndarray, temperature: float, generator: torch.Generator) -> np.ndarray:
    """Sums, -1 where the model says something else."""
    token = sample(model, line(question), 1, temperature, generator)[:, 0].numpy()
    return np.where((token >= T0) & (token <= T0 + TOP), token - T0, -1)


@torch.no_grad()
def p_yes(model: Any, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """The single verdict: P(yes) / (P(yes) + P(no))."""
    logprobs = next_logprobs(model, line(question, answer + T0, MARK))
    return torch.sigmoid(logprobs[:, YES] - logprobs[:, NO]).numpy()


@torch.no_grad()
def choice(model: Any, question: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """``[n, 4]`` probabilities of the four places."""
    return next_logprobs(model, line(question, shown + T0, MARK))[:, P1 : P1 + 4].softmax(-1).numpy()
