"""Families of questions about three digits, some frequent and some rare, as chats ``USER f4 3 0 2 ? ASSIST 1 END``."""

from dataclasses import dataclass

import numpy as np

from rl.backends.tiny import tiny_tokenizer

FAMILIES, DIGITS = 15, 5
TOKENIZER = tiny_tokenizer([*(f"f{i}" for i in range(FAMILIES)), *map(str, range(DIGITS)), "?", "please"], True)
ID: dict[str, int] = TOKENIZER.get_vocab()
USER, ASSIST, END, F0, D0, MARK, PLEASE = (
    ID[w] for w in ("<|user|>", "<|assistant|>", "<|end|>", "f0", "0", "?", "please")
)
ZIPF = np.arange(1, FAMILIES + 1) ** -1.3 / (np.arange(1, FAMILIES + 1) ** -1.3).sum()
RARE = FAMILIES // 2


def solve(family: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """The true answer: the digit at the family's place, shifted by the family's amount."""
    return (digits[np.arange(len(family)), family % 3] + family // 3) % DIGITS


def held_out(digits: np.ndarray) -> np.ndarray:
    """Whether digits belong to a test question: a fifth of all, with every digit equally frequent at every place."""
    return digits.sum(1) % DIGITS == 0


def draw(rng: np.random.Generator, n: int, test: bool, frequency: np.ndarray = ZIPF, wrong: float = 0.0) -> np.ndarray:
    """Samples n real pairs of question and answer as token ids ``[n, 9]``.

    Args:
        rng: Random generator.
        n: Number of pairs.
        test: Whether to sample test questions instead of training questions.
        frequency: Probability of each family.
        wrong: Share of answers that are replaced by random digits.
    """
    digits = rng.integers(0, DIGITS, (8 * n + 100, 3))
    digits = digits[held_out(digits) == test][:n]
    family = rng.choice(FAMILIES, n, p=frequency)
    answer = np.where(rng.random(n) < wrong, rng.integers(0, DIGITS, n), solve(family, digits))
    short = np.column_stack([family + F0, digits + D0, np.full(n, MARK)])
    polite = np.column_stack([np.full(n, PLEASE), digits + D0, family + F0])
    return pairs_of(np.where(rng.random((n, 1)) < 0.5, short, polite), answer + D0)


def pairs_of(questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Token ids ``[n, 9]`` of pairs: questions of five tokens and answers, with the marks of the turns."""
    n = len(questions)
    return np.column_stack([np.full(n, USER), questions, np.full(n, ASSIST), answers, np.full(n, END)])


@dataclass
class Read:
    """N parsed pairs: whether each question is well formed, its family, its digits and the token of its true answer."""

    formed: np.ndarray
    family: np.ndarray
    digits: np.ndarray
    truth: np.ndarray


def read(pairs: np.ndarray) -> Read:
    """Parses pairs: checks the form of each question and computes its true answer."""
    polite = pairs[:, 1] == PLEASE
    family = np.where(polite, pairs[:, 5], pairs[:, 1]) - F0
    digits = pairs[:, 2:5] - D0
    formed = (polite | (pairs[:, 5] == MARK)) & (family >= 0) & (family < FAMILIES) & (pairs[:, 6] == ASSIST)
    formed &= ((digits >= 0) & (digits < DIGITS)).all(1)
    family, digits = np.clip(family, 0, FAMILIES - 1), np.clip(digits, 0, DIGITS - 1)
    return Read(formed, family, digits, solve(family, digits) + D0)
