"""Disjoint splits: the hash of a question's text decides which split the question belongs to."""

import bisect
import hashlib
import math
import re
from collections.abc import Callable, Sequence

from envs.base import Split, Task
from rewards.wording import counted


def normalise_question(question: str) -> str:
    """The question in lower case with white space collapsed; equal normalised questions count as the same task."""
    return re.sub(r"\s+", " ", question).strip().lower()


def split_of(question: str, validation: float = 0.1, test: float = 0.2) -> Split:
    """The split that the hash of a question assigns it to, so that no seed of a generator puts it into another split.

    Args:
        question: The text shown to the policy.
        validation: Share of questions for validation.
        test: Share of questions for test.
    """
    # Test takes the lowest hashes, so that a larger validation share takes questions from training only.
    share = _place_of(question)
    if share < test:
        return Split.TEST
    return Split.VALIDATION if share < test + validation else Split.TRAIN


def splits_of(questions: Sequence[str], validation: float, test: float) -> list[Split]:
    """The split of every question by its hash as in :func:`split_of`, corrected so that no split is far from its share.

    With 30 questions and a tenth for validation, one data set in twenty would have no validation question by chance.
    Therefore, if a split would be empty or more than a fifth off its share, the boundary between two splits moves along
    the questions in the order of their hashes. Adding a single question then moves at most one other question into or
    out of the test split, and two into or out of the training split. With thousands of questions no boundary has to
    move, so added questions never move the others.

    Args:
        questions: Texts of the questions; a repeated question counts once.
        validation: Share of the questions for validation.
        test: Share of the questions for test.
    """
    places = [_place_of(question) for question in questions]
    order = sorted(set(places))
    edges, until = [0], 0.0
    for share in (test, validation):
        until += share
        size, wanted = bisect.bisect_left(order, until) - edges[-1], share * len(order)
        # With few questions no whole number may lie within a fifth of the share; then the nearest number is taken.
        # Rounding to nine digits keeps 4.000000000000001, an error of floating point, from being rounded up to 5.
        least = max(min(math.ceil(round(0.8 * wanted, 9)), round(wanted)), 1 if share else 0)
        most = max(math.floor(round(1.2 * wanted, 9)), round(wanted), least)
        # Capped so that at least one question remains for training.
        edges.append(max(min(edges[-1] + min(max(size, least), most), len(order) - 1), 0))
    ranks = {place: rank for rank, place in enumerate(order)}
    cut = [Split.TEST, Split.VALIDATION, Split.TRAIN]
    return [cut[bisect.bisect_right(edges[1:], ranks[place])] for place in places]


def _place_of(question: str) -> float:
    """The hash of a normalised question as a number that is uniform in [0, 1)."""
    digest = hashlib.blake2b(normalise_question(question).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_sizes(n_train: int, n_validation: int, n_test: int) -> dict[Split, int]:
    """The number of tasks by split of a generated task set; raises ValueError unless each is an integer from 0 on."""
    for name, n in (("n_train", n_train), ("n_validation", n_validation), ("n_test", n_test)):
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"env.options.{name}={n}: a number of tasks is needed here, 0 or more")
    return {Split.TRAIN: n_train, Split.VALIDATION: n_validation, Split.TEST: n_test}


def draw_tasks(
    draw: Callable[[int], Task],
    split: Split,
    n: int,
    patience: int = 200,
    content: Callable[[Task], str] = lambda task: task.question,
) -> list[Task]:
    """Returns ``n`` different tasks of one split from a generator of tasks.

    Args:
        draw: Returns task number i of an endless stream; tasks may repeat.
        split: Split whose tasks are kept.
        n: Number of tasks to return.
        patience: The search ends after ``patience * n`` tasks of the stream.
        content: Text of a task whose hash decides its split; two tasks with equal texts count as the same task.

    Raises:
        ValueError: If the search finds fewer than ``n`` different tasks of this split.
    """
    tasks: dict[str, Task] = {}
    for i in range(patience * n):
        if len(tasks) == n:
            break
        task = draw(i)
        if split_of(content(task)) == split:  # of several tasks with the same content the first one is kept
            tasks.setdefault(normalise_question(content(task)), task)
    if len(tasks) < n:
        raise ValueError(
            f"only {counted(len(tasks), 'different question')} of split {str(split)!r} found, {n} wanted: ask for fewer"
        )
    return list(tasks.values())
