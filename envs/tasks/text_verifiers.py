"""The verifiers ``regex`` and ``json`` for answers from a file; :mod:`envs.tasks.verifiers` registers them."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from envs.base import Task
from envs.tasks.columns import UnfitError, text_of
from rewards import Score, Verdict, nearest
from rewards.answers import REASONING, without_drafts
from rewards.json_values import RepeatedKeyError, json_text, parse_json, same_json, stated_values


@dataclass(frozen=True)
class RegexOptions:
    """Options of ``regex``.

    Args:
        pattern: Regular expression whose last match in a response is the answer: its only group, or else all of it.
        stated: Template of a right response, with ``{}`` for the answer.
        ignore_case: Whether upper and lower case count as equal when the answer is compared.
    """

    pattern: str
    stated: str = "{}"
    ignore_case: bool = False

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(
                f"env.options.verify_options.pattern={self.pattern}: no regular expression ({error})"
            ) from None
        if groups > 1 or "{}" not in self.stated:
            raise ValueError("env.options.verify_options: pattern may have one group at most; stated must contain {}")


class RegexAnswers:
    """The last match of a regular expression is the answer: ``{pattern: 'Answer: (.*)', stated: 'Answer: {}'}``."""

    prompts = "plain-v1"

    def __init__(self, *, pattern: str, stated: str, ignore_case: bool) -> None:
        self._pattern, self._stated, self._fold = re.compile(pattern), stated, str.casefold if ignore_case else str

    def gold(self, cell: Any) -> str:
        """The answer text that the pattern must find in a right response."""
        return text_of(cell).strip()

    def verify(self, task: Task, response: str) -> Score:
        """1 if the last match is the gold."""
        found = self._pattern.findall(self._after_reasoning(response))
        if not found:
            return Score(0.0, Verdict.NO_ANSWER)
        answer = found[-1].strip()
        return Score.of(self._fold(answer) == self._fold(task.gold), answer)

    def _after_reasoning(self, response: str) -> str:
        """The response without marked reasoning, unless the pattern itself has such a mark."""
        if any(mark in self._pattern.pattern for marks in REASONING for mark in marks):
            return response
        final = without_drafts(response)
        return response if final == response else final.lstrip()

    def gold_response(self, task: Task) -> str:
        """The template ``stated`` with the gold filled in."""
        return self._stated.replace("{}", task.gold)


@dataclass(frozen=True)
class JsonOptions:
    """Options of ``json``.

    Args:
        keys: Keys of an object that are compared; empty compares all keys.
    """

    keys: Sequence[str] = field(default_factory=tuple)


class JsonAnswers:
    """The same JSON value as the gold, in any order of keys; it stands alone, in a code block, or in prose."""

    prompts = "json-v1"

    def __init__(self, *, keys: Sequence[str]) -> None:
        self._keys = list(keys)

    def gold(self, cell: Any) -> str:
        """The cell's value as JSON; a text that is itself JSON, as in a CSV file, is parsed first."""
        if cell is None or cell == "":
            raise ValueError("the answer is empty")
        if isinstance(cell, str):
            with suppress(ValueError):
                cell = json.loads(cell)
        if self._keys and not isinstance(cell, Mapping):
            raise UnfitError(f"the answer {str(cell)[:40]} is no object, so that verify_options.keys has no effect")
        for key in self._keys:
            if key not in cell:
                raise UnfitError(f"the answer has no key {key!r}{nearest(key, cell)} It has {', '.join(cell)}")
        return json_text(cell)

    def verify(self, task: Task, response: str) -> Score:
        """1 if the value in the response is that of the gold; see :func:`rewards.json_values.stated_values`."""
        gold = parse_json(task.gold)
        try:
            stated = [self._part(value) for value in stated_values(response, gold)]
        except RepeatedKeyError:
            return Score(0.0, Verdict.AMBIGUOUS)
        if len(stated) != 1:
            return Score(0.0, Verdict.AMBIGUOUS if stated else Verdict.NO_ANSWER)
        return Score.of(same_json(stated[0], self._part(gold)), json_text(stated[0]))

    def gold_response(self, task: Task) -> str:
        """The gold in a code block."""
        return f"```json\n{task.gold}\n```"

    def _part(self, value: Any) -> Any:
        if not self._keys or not isinstance(value, dict):
            return value
        return {key: value[key] for key in self._keys if key in value}
