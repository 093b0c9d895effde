"""Base class of task sets with mathematical answers: the answer form, and a check of the golds when tasks are read."""

import logging
from collections.abc import Sequence

from envs.base import Task
from rewards import Score
from rewards.answers import REASONING, answer_forms, in_form
from rewards.math import DEADLINE_S, score_math, unreadable

log = logging.getLogger(__name__)


class MathGrading:
    """Base class of task sets that verify with :func:`rewards.math.score_math`.

    ``answer_form`` is a name in :data:`rewards.answers.ANSWER_FORMS` (``boxed``, ``sentence``, ``hash``,
    ``answer_line``, ``last_number``, ...), or a list of names in order of preference, such as
    ``[boxed,hash,sentence,answer_line]`` for base models and few-shot prompts. ``reasoning`` holds pairs of an opening
    and a closing mark; text between the two marks is a draft, in which no answer is read.
    """

    verifies_elsewhere = has_answer_form = True

    def _grade_by(
        self,
        deadline_s: float = DEADLINE_S,
        answer_form: str | Sequence[str] = "boxed",
        reasoning: Sequence[Sequence[str]] = REASONING,
    ) -> None:
        """Sets the options; raises here, not during a run, for an unknown form or a mark without its partner."""
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
        """The gold in the accepted answer form."""
        return in_form(task.gold, self._form)

    def _checked(self, tasks: list[Task]) -> list[Task]:
        """Returns the tasks unchanged and logs a warning with the golds that cannot be parsed as mathematics."""
        unread = set(unreadable([task.gold for task in tasks], self._deadline_s))
        if unread:
            where = [f"{task.id} ({task.gold})" for task in tasks if task.gold in unread]
            shown = "; ".join(where[:5]) + ("; ..." if len(where) > 5 else "")
            log.warning("%d of %d golds cannot be read and give verdict error: %s", len(where), len(tasks), shown)
        return tasks


def gold_text(gold: object, where: str) -> str:
    """A gold as text, an integer by its digits; raises ``ValueError`` for other values that are not text."""
    if isinstance(gold, int) and not isinstance(gold, bool):
        return str(gold)
    if not isinstance(gold, str):
        raise ValueError(f"{where}: the answer must be text, got {gold!r}")
    return gold
