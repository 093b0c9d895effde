"""Sums of two-digit numbers as lines ``Q 4 7 + 2 5 = 0 7 2``, of which a model poses the problem and solves it.

Sampling after ``Q`` poses a problem, sampling after ``=`` answers it. Problems are numbers ``100 a + b``; lines are
rows of token ids.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.backends.blocks import Learned, sample
from rl.backends.meters import answer_meters
from rl.backends.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer([*"0123456789", "+", "=", "Q"], True)
ID: dict[str, int] = TOKENIZER.get_vocab()
D0, END = ID["0"], ID["<|end|>"]
N_PROBLEM, N_ANSWER = 6, 4
"""Numbers of tokens that the proposer and the solver write."""
_PAIRS = np.random.default_rng(0).permutation(np.argwhere(np.tri(100, dtype=bool)))  # One pair for a + b and b + a.


def _both_orders(pairs_N2: np.ndarray) -> np.ndarray:
    return np.unique(pairs_N2 @ [[100, 1], [1, 100]])


FOR_STOPPING, FOR_TESTS = _both_orders(_PAIRS[:100]), _both_orders(_PAIRS[100:1010])
"""Problems ``100 a + b`` in both orders, never trained on: one set decides when pretraining stops, one is for tests."""
HELD_OUT = np.isin(np.arange(10_000), [*FOR_STOPPING, *FOR_TESTS])
"""Mask over all problems of the two held-out sets, together a fifth of all problems."""


def digits(numbers: np.ndarray, n: int) -> np.ndarray:
    """Token ids ``[N, n]`` of numbers with n digits."""
    return numbers[:, None] // 10 ** np.arange(n)[::-1] % 10 + D0


def question(problems: np.ndarray) -> Tensor:
    """Token ids ``[N, 7]`` of problems ``100 a + b``."""
    q, plus, equals = (np.full((len(problems), 1), ID[word]) for word in "Q+=")
    return torch.from_numpy(np.hstack([q, digits(problems // 100, 2), plus, digits(problems % 100, 2), equals]))


def answer(sums: np.ndarray) -> Tensor:
    """Token ids ``[N, 4]`` of sums, with the end token."""
    return torch.from_numpy(np.hstack([digits(sums, 3), np.full((len(sums), 1), END)]))


def right_answer(problems: np.ndarray) -> Tensor:
    """Token ids ``[N, 4]`` of the true sums of problems, with the end token."""
    return answer(problems // 100 + problems % 100)


def read(proposed: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Problems in the proposer's tokens ``[N, 6]``, and a mask of those that are well formed and not held out."""
    ids = proposed.numpy() - D0
    numbers = ids[:, [0, 1, 3, 4]]
    formed = ((numbers >= 0) & (numbers < 10)).all(1)
    formed &= (ids[:, 2] + D0 == ID["+"]) & (ids[:, 5] + D0 == ID["="])
    problems = np.where(formed, numbers @ [1000, 100, 10, 1], 0)
    return problems, formed & ~HELD_OUT[problems]


def corpus(rng: np.random.Generator, n: int, noise: float) -> Learned:
    """Samples lines of problems that are not held out, a share ``noise`` of them with a wrong sum.

    Half of the wrong sums forget the carry, where there is one; the others are off by 1 or 10.
    """
    problems = rng.choice(np.flatnonzero(~HELD_OUT), n)
    a, b = problems // 100, problems % 100
    no_carry = (a // 10 + b // 10) * 10 + (a + b) % 10
    off = np.maximum(a + b + rng.choice([-10, -1, 1, 10], n), 0)
    wrong = np.where((rng.random(n) < 0.5) & (no_carry != a + b), no_carry, off)
    ids = torch.cat([question(problems), answer(np.where(rng.random(n) < noise, wrong, a + b))], 1)
    return ids, torch.ones(ids.shape, dtype=torch.bool)


@dataclass
class Answered:
    """K answers of four tokens to each of N problems.

    Args:
        problems: ``[N]`` problems ``100 a + b``.
        answers: ``[N, K, 4]`` token ids.
        right: ``[N, K]`` whether the answer is the true sum.
        formed: ``[N, K]`` whether the answer is three digits and the end token.
        votes: ``[N, K]`` number of answers in the group that are the same; 0 for a malformed answer.
    """

    problems: np.ndarray
    answers: Tensor
    right: Tensor
    formed: Tensor
    votes: Tensor


def ask(model: Any, problems: np.ndarray, k: int, generator: torch.Generator) -> Answered:
    """Samples k answers at temperature 1 to each problem, and counts their votes."""
    answers = sample(model, question(problems).repeat_interleave(k, 0), N_ANSWER, 1.0, generator)
    answers = answers.view(len(problems), k, N_ANSWER)
    number, ended = answers[..., :3], answers[..., 3] == END
    formed = ((number >= D0) & (number < D0 + 10)).all(-1) & ended
    same = (answers[:, :, None] == answers[:, None]).all(-1) & formed[:, None]
    return Answered(
        problems, answers, (answers == right_answer(problems)[:, None]).all(-1), formed, same.sum(-1) * formed
    )


@torch.no_grad()
def measure(model: Any, problems: np.ndarray, k: int, seed: int) -> dict[str, float]:
    """Measures accuracy of greedy answers, of k samples, of their majority vote and of the best of the k.

    The result also has the share of malformed answers and :func:`rl.backends.meters.answer_meters`.
    """
    found = ask(model, problems, k, torch.Generator().manual_seed(seed))
    greedy = sample(model, question(problems), N_ANSWER, 0.0, torch.Generator())
    best = found.votes == found.votes.max(1, keepdim=True).values
    return {
        "n": len(problems),
        "greedy": float((greedy == right_answer(problems)).all(1).float().mean()),
        "accuracy": float(found.right.float().mean()),
        "vote": float(((found.right & best).sum(1) / best.sum(1)).mean()),
        "pass_k": float(found.right.any(1).float().mean()),
        "malformed": 1 - float(found.formed.float().mean()),
    } | answer_meters(model, question(problems).repeat_interleave(k, 0), found.answers.flatten(0, 1), k)


def on_the_set(model: Any, fixed: np.ndarray, start: Answered, generator: torch.Generator) -> dict[str, float]:
    """Accuracy on fixed problems now, accuracy of the initial majority vote, and accuracy where that vote was wrong."""
    now = ask(model, fixed, start.votes.shape[1], generator).right.float().mean(1)
    right = start.right[torch.arange(len(fixed)), start.votes.argmax(1)]
    found = {"set_accuracy": float(now.mean()), "set_initial_vote": float(right.float().mean())}
    return found | ({"set_wrong_votes": float(now[~right].mean())} if (~right).any() else {})


def show(model: Any, problems: np.ndarray, k: int, seed: int, step: int, samples: list[dict[str, Any]]) -> None:
    """Adds the first of k answers to each of the first 60 problems, with its votes, to ``samples`` in readable form."""
    found, words = ask(model, problems[:60], k, torch.Generator().manual_seed(seed)), TOKENIZER.convert_ids_to_tokens
    for i, problem in enumerate(found.problems.tolist()):
        a, b = divmod(problem, 100)
        samples.append({
            "step": step,
            "prompt": f"{a} + {b} =",
            "answer": "".join(words(found.answers[i, 0, :3].tolist())),
            "gold": f"{a + b:03}",
            "right": bool(found.right[i, 0]),
            "votes": f"{int(found.votes[i, 0])} of {k}",
        })  # fmt: skip
