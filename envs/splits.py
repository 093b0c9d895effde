"""Splits that cannot meet: a question belongs to the split that its own text hashes to."""

import bisect
import hashlib
import math
import re
from collections.abc import Callable, Sequence

from envs.base import Split, Task
from rewards.wording import counted


def normalise_question(question: str) -> str:
    """The question in lower case with white space collapsed: tasks that agree here are the same task."""
    return re.sub(r"\s+", " ", question).strip().lower()


def split_of(question: str, validation: float = 0.1, test: float = 0.2) -> Split:
    """The split that a generated question belongs to, by content, so that seeds cannot leak test into train.

    Args:
        question: The text shown to the policy.
        validation: Share of questions for validation.
        test: Share of questions for test.
    """
    # Test comes first: more validation then takes from training alone.
    share = _place_of(question)
    if share < test:
        return Split.TEST
    return Split.VALIDATION if share < test + validation else Split.TRAIN


def splits_of(questions: Sequence[str], validation: float, test: float) -> list[Split]:
    """The split of each of some questions, as :func:`split_of`, with no split far from its share.

    Of 30 questions with a tenth for validation one in twenty sets would have none by chance. So the edge between two
    splits moves, to the next questions in the order of their hashes, where a split would be more than a fifth off its
    share, or empty. A single question more then moves none of the others, or one over each edge; sets of thousands
    never come so far off, and keep every question where it is however many are added.

    Args:
        questions: The texts; the same one twice counts once.
        validation: Share of them for validation.
        test: Share of them for test.
    """
    places = [_place_of(question) for question in questions]
    order = sorted(set(places))
    edges, until = [0], 0.0
    for share in (test, validation):
        until += share
        size = bisect.bisect_left(order, until) - edges[-1]
        least = max(math.floor(0.8 * share * len(order)), 1 if share else 0)
        most = math.ceil(1.2 * share * len(order))
        # A question stays for training, however few there are.
        edges.append(max(min(edges[-1] + min(max(size, least), most), len(order) - 1), 0))
    ranks = {place: rank for rank, place in enumerate(order)}
    cut = [Split.TEST, Split.VALIDATION, Split.TRAIN]
    return [cut[bisect.bisect_right(edges[1:], ranks[place])] for place in places]


def _place_of(question: str) -> float:
    """A uniform number in [0, 1) of the text."""
    digest = hashlib.blake2b(normalise_question(question).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_sizes(n_train: int, n_validation: int, n_test: int) -> dict[Split, int]:
    """How many tasks each split of a generated task set has; raises ValueError if that is no number of tasks."""
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
    """``n`` different tasks of one split from a generator of tasks.

    Args:
        draw: Task number i of an endless stream; may repeat itself.
        split: Which split to keep.
        n: How many tasks to return.
        patience: Give up after ``patience * n`` draws.
        content: What makes two tasks the same one and decides on their split.

    Raises:
        ValueError: If the generator does not hold ``n`` different questions of this split.
    """
    tasks: dict[str, Task] = {}
    for i in range(patience * n):
        if len(tasks) == n:
            break
        task = draw(i)
        if split_of(content(task)) == split:  # the first of several tasks with the same content stays
            tasks.setdefault(normalise_question(content(task)), task)
    if len(tasks) < n:
        raise ValueError(
            f"only {counted(len(tasks), 'different question')} of split {str(split)!r} found, {n} wanted: ask for fewer"
        )
    return list(tasks.values())
