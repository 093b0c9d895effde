"""A verifier that the user has written: ``verify=package.module:function``."""

import importlib
import inspect
import json
from typing import Any

from envs.base import Task
from rewards import Score, Verdict
from rewards.answers import STATED


class FunctionAnswers:
    """A user's function ``(task, response) -> Score``; columns that have no other use are in ``task.info``.

    Args:
        name: The function, ``package.module:function``.
        stated: Template of a right response, with ``{}`` for the answer; empty tries the usual answer forms.
        partial_credit: Whether the function may give a wrong answer more than 0.

    Raises:
        ValueError: If there is no such function, it cannot be called with a task and a response, or the template has
            no place for the answer.
    """

    prompts = "plain-v1"

    def __init__(self, name: str, stated: str = "", partial_credit: bool = False) -> None:
        if stated and (not isinstance(stated, str) or "{}" not in stated):
            raise ValueError(f"env.options.verify_options.stated={stated}: a text with {{}} for the answer is needed")
        if not isinstance(partial_credit, bool):
            raise ValueError(f"env.options.verify_options.partial_credit={partial_credit}: true or false is needed")
        self._stated, self.partial_credit = stated, partial_credit
        module, _, function = name.partition(":")
        try:
            self._function = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"env.options.verify={name}: {error}. It names a function as package.module:function, in this folder "
                "or on Python's path"
            ) from None
        self._name = name
        self._refuse_other_signatures()

    def _refuse_other_signatures(self) -> None:
        if not callable(self._function):
            kind = type(self._function).__name__
            raise ValueError(
                f"env.options.verify={self._name} is of type {kind}: a function (task, response) -> Score is needed"
            )
        try:
            signature = inspect.signature(self._function)
        except ValueError:  # some functions that are written in C have none
            return
        try:
            signature.bind(None, "")
        except TypeError:
            raise ValueError(
                f"env.options.verify={self._name} takes {signature}: a function that is called with (task, response) "
                "is needed"
            ) from None

    def gold(self, cell: Any) -> str:
        """The cell's text unchanged; any other value as JSON."""
        return cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, default=str)

    def verify(self, task: Task, response: str) -> Score:
        """The score that the function returns.

        Raises:
            TypeError: If it returns anything else.
            ValueError: If it gives a wrong answer more than 0, and ``partial_credit`` does not allow this.
        """
        score = self._function(task, response)
        if not isinstance(score, Score):
            raise TypeError(f"{self._name} returned {score!r}; it must return a rewards.Score")
        if score.value and score.verdict is not Verdict.CORRECT and not self.partial_credit:
            raise ValueError(
                f"{self._name} gives a response that is {score.verdict} {score.value:g}: allow this by "
                "env.options.verify_options.partial_credit=true, or return Score.of(whether it is right)"
            )
        return score

    def gold_response(self, task: Task) -> str:
        """The gold in the stated form, or in the first of the usual forms that the function accepts; else alone."""
        if self._stated:
            return self._stated.replace("{}", task.gold)
        stated = [task.gold, *(form.format(task.gold) for form in STATED.values())]
        return next((one for one in stated if self.verify(task, one).value == 1.0), task.gold)
