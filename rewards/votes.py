"""Majority voting over final answers."""

from collections import Counter
from collections.abc import Sequence


def majority_index(answers: Sequence[str | None]) -> int | None:
    """Index of the first sample that gives the most frequent answer.

    ``None`` entries (no answer) do not vote. Ties go to the answer that comes first, so the result depends only on the
    order of the samples.

    Returns:
        An index into ``answers``, or ``None`` if there is no answer.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return None
    winner = max(votes, key=lambda answer: votes[answer])  # Counter keeps first-seen order, max keeps the first
    return list(answers).index(winner)
