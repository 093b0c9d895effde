"""What task sets with mathematical answers share: the form of the answer, and golds that are checked when they load."""

import logging
from collections.abc import Sequence

from envs.base import Task
from rewards import Score
from rewards.answers import REASONING, answer_forms, in_form
from rewards.math import DEADLINE_S, score_math, unreadable

log = logging.getLogger(__name__)


class MathGrading:
    """Verification by :func:`rewards.math.score_math`, for task sets to inherit.

    ``answer_form`` is a name of :data:`rewards.answers.ANSWER_FORMS` (``boxed``, ``sentence``, ``hash``,
    ``answer_line``, ``last_number``, ...), or a list of them in order of preference: for base models and few-shot
    prompts ``[boxed,hash,sentence,answer_line]``. ``reasoning`` holds pairs of marks; what stands between is a draft.
    """

    verifies_elsewhere = True

    def _grade_by(
        self,
        deadline_s: float = DEADLINE_S,
        answer_form: str | Sequence[str] = "boxed",
        reasoning: Sequence[Sequence[str]] = REASONING,
    ) -> None:
        """Takes the options; an unknown form or a mark without its partner is refused here, not in the middle."""
        answer_forms(answer_form)
        for marks in reasoning:
            if isinstance(marks, str) or len(marks) != 2 or not all(isinstance(mark, str) and mark for mark in marks):
                raise ValueError(
                    f"env.options.reasoning: {marks!r} is no pair of an opening and a closing mark; "
                    "write [['<think>', '</think>']]"
                )
        self._deadline_s, self._form = deadline_s, answer_form
        self._reasoning = [(opening, closing) for opening, closing in reasoning]

    def verify(self, task: Task, response: str) -> Score:
        """1 if the answer equals the gold; see :mod:`rewards.math`."""
        return score_math(response, task.gold, self._form, self._deadline_s, self._reasoning)

    def gold_response(self, task: Task) -> str:
        """The answer in the form that is accepted."""
        return in_form(task.gold, self._form)

    def _checked(self, tasks: list[Task]) -> list[Task]:
        """The same tasks; counts and names golds that nothing reads: only the very same text is right for them."""
        unread = set(unreadable([task.gold for task in tasks], self._deadline_s))
        if unread:
            where = [f"{task.id} ({task.gold})" for task in tasks if task.gold in unread]
            shown = "; ".join(where[:5]) + ("; ..." if len(where) > 5 else "")
            log.warning("%d of %d golds cannot be read and give verdict error: %s", len(where), len(tasks), shown)
        return tasks


def gold_text(gold: object, where: str) -> str:
    """A gold as text: an integer by its digits; raises ``ValueError`` for anything else that is no text."""
    if isinstance(gold, int) and not isinstance(gold, bool):
        return str(gold)
    if not isinstance(gold, str):
        raise ValueError(f"{where}: the answer must be text, got {gold!r}")
    return gold
