"""Sums whose corpus was written by someone who misreads digits: answers, verdicts and choices as rows of token ids.

A question of two to four digits is answered (``S 3 1 4 _ : t8``), an answer is judged (``S 3 1 4 _ : t8 ? yes``), and
one of four sums is chosen by its place (``S 3 1 4 _ : t7 t8 t6 t9 ? p2``). In a share of the questions the writer of
the corpus reads every 4 as a 3.
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
    """Samples questions of two to four digits as token ids ``[n, PLACES]``, and their sums ``[n]``.

    About a fifth of all questions is reserved for tests.
    """
    m = 10 * n if test else 2 * n + 50
    there = np.arange(PLACES) < rng.integers(2, PLACES + 1, (m, 1))
    digits = rng.integers(0, DIGITS, (m, PLACES))
    question = np.where(there, digits + D0, BLANK)
    chosen = np.flatnonzero(held_out(question) == test)[:n]
    return question[chosen], (digits * there).sum(1)[chosen]


def misread_by(question: np.ndarray) -> np.ndarray:
    """Error of the sum if every largest digit (4) is read as the digit below it."""
    return (question == D0 + DIGITS - 1).sum(1)


def believed(rng: np.random.Generator, question: np.ndarray, gold: np.ndarray, misread: float) -> np.ndarray:
    """The sum according to the writer of the corpus, who misreads a share ``misread`` of the questions."""
    return gold - misread_by(question) * (rng.random(len(gold)) < misread)


def nearby(rng: np.random.Generator, gold: np.ndarray) -> np.ndarray:
    """A wrong sum that is off by one to three."""
    off = rng.choice([1, 1, 1, 2, 2, 3], len(gold)) * rng.choice([-1, 1], len(gold))
    return np.where((gold + off < 0) | (gold + off > TOP), gold - off, gold + off)


def four(
    rng: np.random.Generator, target: np.ndarray, others: np.ndarray | None = None, easy: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Samples four distinct sums in random order ``[n, 4]``, and the place of the target among them ``[n]``.

    Args:
        rng: Random generator.
        target: Sum that is one of the four.
        others: Alternatives ``[n, m]`` that are taken first. The remaining ones lie around a random centre instead of
            the target, so that the target cannot be guessed as the middle of the four.
        easy: Share of sets whose alternatives may lie anywhere, not only close to the centre.
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
    """Token ids of ``S question : tail``; a scalar in the tail is repeated in every row."""
    n = len(question)
    columns = [np.full((n, 1), ID["S"]), question, np.full((n, 1), ID[":"])]
    columns += [np.full((n, 1), one) if np.isscalar(one) else np.asarray(one).reshape(n, -1) for one in tail]
    return torch.from_numpy(np.concatenate(columns, 1))


def corpus(rng: np.random.Generator, misread: float, habit: float, n: int = 96) -> list[Learned]:
    """Samples a batch of the writer's answers, verdicts and choices, which all follow from what the writer believes.

    Args:
        rng: Random generator.
        misread: Share of questions in which the writer reads every 4 as a 3.
        habit: Share of verdicts that ignore the sum: answers to questions of four digits are accepted, others rejected.
        n: Number of rows of each kind.
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
    """Sums ``[n]`` that the model answers, sampled at a temperature; -1 where the answer is no sum."""
    token = sample(model, line(question), 1, temperature, generator)[:, 0].numpy()
    return np.where((token >= T0) & (token <= T0 + TOP), token - T0, -1)


@torch.no_grad()
def p_yes(model: Any, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """The model's verdict on a single answer: P(yes) / (P(yes) + P(no))."""
    logprobs = next_logprobs(model, line(question, answer + T0, MARK))
    return torch.sigmoid(logprobs[:, YES] - logprobs[:, NO]).numpy()


@torch.no_grad()
def choice(model: Any, question: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The model's probabilities ``[n, 4]`` of choosing each of the four places, normalised over these."""
    return next_logprobs(model, line(question, shown + T0, MARK))[:, P1 : P1 + 4].softmax(-1).numpy()
