"""Splits that cannot meet: a question belongs to the split that its own text hashes to."""

import hashlib
import re
from collections.abc import Callable

from envs.base import Split, Task


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
    digest = hashlib.blake2b(normalise_question(question).encode(), digest_size=8).digest()
    # A uniform number in [0, 1) of the text. Test comes first: more validation then takes from training alone.
    share = int.from_bytes(digest, "big") / 2**64
    if share < test:
        return Split.TEST
    return Split.VALIDATION if share < test + validation else Split.TRAIN


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
            f"only {len(tasks)} different questions of split {str(split)!r} found, {n} wanted: ask for fewer"
        )
    return list(tasks.values())
