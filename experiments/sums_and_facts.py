"""Two toy families of questions for a tiny model: subset sums, and a table of facts.

Subset sums are hard to solve and easy to check: a question has few solutions, but any number of checks can be generated
for training. Checking a fact takes the same knowledge as answering it. Both families are rows of token ids of one small
vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rl.backends.blocks import Learned, held_out, learn_last, next_logprobs, sample
from rl.backends.meters import answer_meters
from rl.backends.tiny import tiny_tokenizer
from rl.types import derive_seed

PLACES, LARGEST, KEYS, VALUES = 6, 5, 16, 16
WORDS = [*(f"n{i}" for i in range(LARGEST + 1)), *(f"t{i}" for i in range(PLACES * LARGEST + 1))]
WORDS += [*(f"k{i}" for i in range(KEYS)), *(f"v{i}" for i in range(VALUES)), *"SVFG", ":", "?", "yes", "no"]
TOKENIZER = tiny_tokenizer(WORDS, True)
ID: dict[str, int] = TOKENIZER.get_vocab()
N0, T0, K0, V0, YES, NO, END = (ID[word] for word in ("n0", "t0", "k0", "v0", "yes", "no", "<|end|>"))


def line(*parts: np.ndarray | str) -> np.ndarray:
    """Token ids of rows, from arrays ``[n, ...]`` and words that are repeated in every row."""
    n = next(len(part) for part in parts if not isinstance(part, str))
    columns = [np.full((n, 1), ID[part]) if isinstance(part, str) else part.reshape(n, -1) for part in parts]
    return np.concatenate(columns, 1)


class Sums:
    """Subset sums: which of the numbers add up to the target?

    The question ``S t17 n3 n5 n2 n4 n0 n0 :`` is answered with six tokens: each number that is taken, else n0. The
    check of an answer is ``V ... : answer ? yes|no``.
    """

    n_answer = PLACES

    def draw(self, rng: np.random.Generator, n: int, test: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples questions ``[n, 7]`` (target, list), a solution of each ``[n, 6]``, and the length of each list."""
        # More questions than needed are sampled, because the split depends on the question itself: about a fifth of
        # all questions is held out for tests.
        m = n * (10 if test else 2) + 50
        level = rng.integers(3, PLACES + 1, m)
        numbers = rng.integers(1, LARGEST + 1, (m, PLACES)) * (np.arange(PLACES) < level[:, None])
        taken = rng.random((m, PLACES)) < 0.5
        # At least one number is taken: otherwise the target is 0, and the empty subset solves the question.
        taken[:, 0] |= ~(taken & (numbers > 0)).any(1)
        subset = numbers * taken
        questions = np.concatenate([subset.sum(1, keepdims=True), numbers], 1)
        chosen = np.flatnonzero(held_out(questions) == test)[:n]
        return questions[chosen], subset[chosen], level[chosen]

    def prompt(self, questions: np.ndarray, head: str = "S") -> np.ndarray:
        """Token ids of questions."""
        return line(head, questions[:, :1] + T0, questions[:, 1:] + N0, ":")

    def check(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Token ids of the prompt that asks whether an answer is right."""
        return line(self.prompt(questions, "V"), answers, "?")

    def right(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Whether answers are right, by the oracle: every place holds its number or 0, and the sum is the target."""
        numbers = answers - N0
        fits = ((numbers == 0) | (numbers == questions[:, 1:])).all(1)
        return fits & (numbers.sum(1) == questions[:, 0])

    def is_answer(self, answers: np.ndarray) -> np.ndarray:
        """Whether all tokens of an answer are numbers."""
        return np.all((answers >= N0) & (answers <= N0 + LARGEST), axis=1)

    def wrong(self, rng: np.random.Generator, questions: np.ndarray, subset: np.ndarray) -> np.ndarray:
        """Mostly wrong answers: the subset with one or two random places flipped (two with probability 0.7)."""
        numbers, taken, rows = questions[:, 1:], subset > 0, np.arange(len(questions))
        places = (rng.random((2, len(rows))) * (numbers > 0).sum(1)).astype(int)
        taken[rows, places[0]] ^= True
        two = rng.random(len(rows)) < 0.7
        taken[rows[two], places[1][two]] ^= True
        return numbers * taken

    def check_rows(self, rng: np.random.Generator, n: int) -> Learned:
        """Samples checks with their verdicts: 45 % of solutions, the rest of changed ones, few of which are right."""
        questions, subset, _ = self.draw(rng, n, test=False)
        kept = rng.random(len(questions)) < 0.45
        answers = np.where(kept[:, None], subset, self.wrong(rng, questions, subset)) + N0
        verdict = np.where(self.right(questions, answers), YES, NO)
        return learn_last(line(self.check(questions, answers), verdict), 1)


class Facts:
    """A table of facts: which value belongs to a pair of keys?

    The question ``F k1 k2 :`` is answered with a value; the check is ``G k1 k2 : value ? yes|no``. In training some
    pairs of keys are frequent, some rare, and some never seen.
    """

    n_answer = 1

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(derive_seed(seed, "facts"))
        self.value = rng.integers(0, VALUES, KEYS * KEYS)
        self.band = rng.permutation(np.arange(KEYS * KEYS) % 4)
        self.often = np.array([0.0, 1.0, 3.0, 12.0])[self.band]
        self.held_out = rng.permutation(KEYS * KEYS) % 2 == 0

    def draw(self, rng: np.random.Generator, n: int, test: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples keys ``[n]`` from one half of the table, their values, and their frequency band, 0 (never seen) to 3.

        Test keys are never repeated, so at most 128 are returned.
        """
        half = np.flatnonzero(self.held_out == test)
        keys = rng.permutation(half)[:n] if test or n <= len(half) else rng.choice(half, n)
        return keys, self.value[keys], self.band[keys]

    def prompt(self, keys: np.ndarray, head: str = "F") -> np.ndarray:
        """Token ids of questions."""
        return line(head, K0 + keys // KEYS, K0 + keys % KEYS, ":")

    def check(self, keys: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Token ids of the prompt that asks whether an answer is right."""
        return line(self.prompt(keys, "G"), answers, "?")

    def right(self, keys: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Whether answers are right, by the oracle."""
        return answers[:, 0] - V0 == self.value[keys]

    def is_answer(self, answers: np.ndarray) -> np.ndarray:
        """Whether the token is a value."""
        return (answers[:, 0] >= V0) & (answers[:, 0] < V0 + VALUES)

    def rows(self, rng: np.random.Generator, n: int) -> list[Learned]:
        """Samples n facts and n checks, by frequency; half of the checks get the true value, half a random one."""
        share = self.often / self.often.sum()
        stated, asked = rng.choice(KEYS * KEYS, (2, n), p=share)
        told = np.where(rng.random(n) < 0.5, self.value[asked], rng.integers(0, VALUES, n))
        verdict = np.where(told == self.value[asked], YES, NO)
        facts = line(self.prompt(stated), self.value[stated] + V0, "<|end|>")
        return [learn_last(facts, 2), learn_last(line(self.check(asked, told + V0), verdict), 1)]


@dataclass
class Sampled:
    """K answers of A tokens to each of N questions.

    Args:
        questions: ``[N, ...]`` questions.
        level: ``[N]`` difficulty: length of the list, or frequency band of the fact.
        answers: ``[N, K, A]`` token ids.
        right: ``[N, K]`` whether each answer is right, by the oracle.
        odds: ``[N, K]`` log odds of yes when the model verifies its own answer; ``-inf`` for a malformed answer.
        meters: Entropy, distinct answers and length (:func:`rl.backends.meters.answer_meters`).
    """

    questions: np.ndarray
    level: np.ndarray
    answers: np.ndarray
    right: np.ndarray
    odds: np.ndarray
    meters: dict[str, float]


@torch.no_grad()
def ask(model: Any, family: Any, drawn: Sequence[np.ndarray], k: int, generator: torch.Generator) -> Sampled:
    """Samples k answers per question at temperature 1 and lets the model verify each; malformed ones are rejected."""
    questions, n = np.repeat(drawn[0], k, axis=0), len(drawn[0])
    prompts = torch.from_numpy(family.prompt(questions))
    tokens = sample(model, prompts, family.n_answer, 1.0, generator)
    answers, meters = tokens.numpy(), answer_meters(model, prompts, tokens, k)
    readable = family.is_answer(answers)
    logprobs = next_logprobs(model, torch.from_numpy(family.check(questions, answers)))
    odds = np.where(readable, (logprobs[:, YES] - logprobs[:, NO]).numpy(), -np.inf)
    right = family.right(questions, answers) & readable
    return Sampled(drawn[0], drawn[2], answers.reshape(n, k, -1), right.reshape(n, k), odds.reshape(n, k), meters)


def show(found: Sampled, family: Any, step: int, samples: list[dict[str, Any]]) -> None:
    """Adds two answers to each of the first 50 questions to ``samples``, in readable form."""
    words = TOKENIZER.convert_ids_to_tokens
    for i, prompt in enumerate(family.prompt(found.questions[:50]).tolist()):
        for j in range(2):
            odds = float(found.odds[i, j])
            samples.append({
                "step": step,
                "prompt": " ".join(words(prompt)),
                "answer": " ".join(words(found.answers[i, j].tolist())),
                "right": bool(found.right[i, j]),
                "own probability of yes": f"{1 / (1 + np.exp(-odds)):.3f}",
            })  # fmt: skip
