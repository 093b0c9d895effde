"""How an answer from a file is graded: ``env.options.verify`` of ``env=rows`` is a name with a class behind it.

A class gets its options, turns a cell of the answer column into the gold's text, grades responses, and writes a
response that must pass. Another module adds one with ``@VERIFIERS.register("mine", options=MyOptions)``; a function
with the signature of ``TaskSet.verify`` needs no registration: ``verify=package.module:function``.
"""

import ast
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from envs.base import Task
from envs.tasks.code import CodeTasks
from envs.tasks.columns import number, refuse_other_notation, text_of
from envs.tasks.grading import MathGrading
from envs.tasks.mbpp import tests_of
from rewards import Lookup, Score, Verdict
from rewards.answers import STATED, answer_forms, boxed, candidates, in_form
from rewards.code import ScriptTests
from rewards.comparison import Tolerance
from rewards.math import DEADLINE_S
from rewards.parsing import parse

_FORM_PROMPTS = {"boxed": "math-v1", "tagged": "short-v1", "answer_line": "line-v1"}
"""The prompts that ask for an answer in a form; others are asked for by the questions themselves, with ``plain-v1``."""


class RowVerifier(Protocol):
    """What grades the answers of a file. ``prompts`` names the texts that ask for the form which it reads."""

    prompts: str

    def gold(self, cell: Any) -> str:
        """A cell of the answer column as the gold of a task; raises ValueError, with what to do, if it is none."""
        ...

    def verify(self, task: Task, response: str) -> Score:
        """See :class:`envs.TaskSet`."""
        ...

    def gold_response(self, task: Task) -> str:
        """See :class:`envs.TaskSet`."""
        ...


VERIFIERS: Lookup[Any] = Lookup("env.options.verify")
"""Classes that build a :class:`RowVerifier` of their options; ``slow=True`` where that takes more than milliseconds."""


@dataclass(frozen=True)
class FormOptions:
    """Where in a response the answer stands.

    Args:
        answer_form: A name of :data:`rewards.answers.ANSWER_FORMS`, or several in order of preference.
    """

    answer_form: str | Sequence[str] = "boxed"


class _InForm:
    """Reads the one answer that a response offers in a form."""

    def __init__(self, answer_form: str | Sequence[str]) -> None:
        answer_forms(answer_form)
        self._form = answer_form
        self.prompts = _FORM_PROMPTS.get(answer_form if isinstance(answer_form, str) else answer_form[0], "plain-v1")

    def gold(self, cell: Any) -> str:
        return text_of(cell)

    def gold_response(self, task: Task) -> str:
        return in_form(task.gold, self._form)

    def verify(self, task: Task, response: str) -> Score:
        # The same answer twice is one answer; two different ones are a hedge and are not paid, whichever is right.
        offered = list(dict.fromkeys(self._read(task, one) for one in candidates(response, self._form)))
        if not offered or offered == [""]:
            return Score(0.0, Verdict.NO_ANSWER)
        if len(offered) > 1:
            return Score(0.0, Verdict.AMBIGUOUS, offered[-1])
        return Score.of(self._equal(offered[0], task), offered[0])

    def _read(self, task: Task, offered: str) -> str:
        return offered

    def _equal(self, answer: str, task: Task) -> bool:
        return answer == self._read(task, task.gold)


@dataclass(frozen=True)
class MathOptions(FormOptions):
    """Options of ``math``.

    Args:
        deadline_s: Processor seconds after which a comparison is killed.
    """

    deadline_s: float = DEADLINE_S


@VERIFIERS.register("math", options=MathOptions)
class MathAnswers(MathGrading):
    """Mathematical equality, exact and of any kind: ``1/2`` is ``\\frac12`` and 0.5."""

    def __init__(self, *, answer_form: str | Sequence[str], deadline_s: float) -> None:
        self._grade_by(deadline_s, answer_form)
        self.prompts = _InForm(answer_form).prompts

    def gold(self, cell: Any) -> str:
        """The answer of a whole solution too: what follows ``####``, or its only box."""
        text = text_of(cell)
        refuse_other_notation(text)
        if "####" in text:
            return text.rpartition("####")[2].strip()
        found = boxed(text)
        if len(found) > 1:
            raise ValueError(f"the answer holds {len(found)} boxes, so it is not known which one counts")
        return found[0] if found else text


@dataclass(frozen=True)
class ExactOptions(FormOptions):
    """Options of ``exact``.

    Args:
        ignore_case: Capitals do not count.
        ignore_space: Nor does white space at the ends, and any within is a single space.
    """

    answer_form: str | Sequence[str] = "tagged"
    ignore_case: bool = False
    ignore_space: bool = True


@VERIFIERS.register("exact", options=ExactOptions)
class ExactAnswers(_InForm):
    """The same text."""

    def __init__(self, *, answer_form: str | Sequence[str], ignore_case: bool, ignore_space: bool) -> None:
        super().__init__(answer_form)
        self._ignore_case, self._ignore_space = ignore_case, ignore_space

    def _read(self, task: Task, offered: str) -> str:
        text = " ".join(offered.split()) if self._ignore_space else offered
        return text.casefold() if self._ignore_case else text


@dataclass(frozen=True)
class NumberOptions(FormOptions, Tolerance):
    """Options of ``number``: how far it may lie off, and where it stands."""


@VERIFIERS.register("number", options=NumberOptions)
class NumberAnswers(_InForm):
    """A number, within a tolerance: ``1,234.50`` is 1234.5, ``50%`` is 0.5."""

    def __init__(self, *, answer_form: str | Sequence[str], absolute: float, relative: float) -> None:
        super().__init__(answer_form)
        self._absolute, self._relative = absolute, relative

    def gold(self, cell: Any) -> str:
        """A number as it is written."""
        text = text_of(cell)
        refuse_other_notation(text)
        if number(text) is None:
            raise ValueError(f"the answer {text[:40]!r} is no number")
        return text

    def _equal(self, answer: str, task: Task) -> bool:
        given, wanted = number(answer), number(task.gold)
        if given is None or wanted is None:
            return False
        return abs(given - wanted) <= max(self._absolute, self._relative * abs(wanted))


@VERIFIERS.register("choice", options=FormOptions)
class ChoiceAnswers(_InForm):
    """The letter of the right choice. The choices are in a column of their own, or the question shows them."""

    def gold(self, cell: Any) -> str:
        """A letter in whatever marks it stands; else the cell, which the choices must know."""
        found = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", text_of(cell).strip())
        return found[1].upper() if found else text_of(cell).strip()

    def _read(self, task: Task, offered: str) -> str:
        """``B`` of ``(b)``, ``B.``, ``B) text``, or of the choice's own text."""
        choices: Mapping[str, str] = task.info.get("choices") or {}
        said = " ".join(re.sub(r"\\text\{(.*)\}", r"\1", offered).split())
        # The text of a choice goes before a letter: a choice may be called "B".
        for letter, text in choices.items():
            if said.casefold() == " ".join(text.split()).casefold():
                return letter
        found = re.fullmatch(r"\(?\s*(\w)\s*(?:[).:].*)?", said)
        return found[1].upper() if found else said


@dataclass(frozen=True)
class RegexOptions:
    """Options of ``regex``.

    Args:
        pattern: Finds the answer in a response: its one group, or all of it; the last match counts.
        stated: How a right response looks, with ``{}`` for the answer.
        ignore_case: Capitals do not count.
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
            raise ValueError("env.options.verify_options: pattern has one group at most, and stated holds {} once")


@VERIFIERS.register("regex", options=RegexOptions)
class RegexAnswers:
    """The last match of a pattern is the answer: ``{pattern: 'Answer: (.*)', stated: 'Answer: {}'}``."""

    prompts = "plain-v1"

    def __init__(self, *, pattern: str, stated: str, ignore_case: bool) -> None:
        self._pattern, self._stated, self._fold = re.compile(pattern), stated, str.casefold if ignore_case else str

    def gold(self, cell: Any) -> str:
        """The text that the pattern must find."""
        return text_of(cell).strip()

    def verify(self, task: Task, response: str) -> Score:
        """1 if the last match is the gold."""
        found = self._pattern.findall(response)
        if not found:
            return Score(0.0, Verdict.NO_ANSWER)
        answer = found[-1].strip()
        return Score.of(self._fold(answer) == self._fold(task.gold), answer)

    def gold_response(self, task: Task) -> str:
        """The gold as a right response states it."""
        return self._stated.replace("{}", task.gold)


@dataclass(frozen=True)
class JsonOptions:
    """Options of ``json``.

    Args:
        keys: Only these keys of an object are compared; empty for all.
    """

    keys: Sequence[str] = field(default_factory=tuple)


@VERIFIERS.register("json", options=JsonOptions)
class JsonAnswers:
    """The same JSON value, whatever the order of keys: in a code block, or the response is nothing else."""

    prompts = "json-v1"

    def __init__(self, *, keys: Sequence[str]) -> None:
        self._keys = list(keys)

    def gold(self, cell: Any) -> str:
        """Any value; a text is read as JSON if it is some, as the cells of a CSV file are."""
        if cell is None or cell == "":
            raise ValueError("the answer is empty")
        if isinstance(cell, str):
            with suppress(ValueError):
                cell = json.loads(cell)
        return json.dumps(cell, ensure_ascii=False, sort_keys=True, default=str)

    def verify(self, task: Task, response: str) -> Score:
        """1 if the value of the last code block, or of the whole response, is the gold."""
        blocks = re.findall(r"```(?:json)?\s*\n(.*?)```", response, re.DOTALL)
        try:
            value = json.loads(blocks[-1] if blocks else response)
        except (ValueError, RecursionError):
            return Score(0.0, Verdict.NO_ANSWER)
        given, gold = self._part(value), self._part(json.loads(task.gold))
        return Score.of(_same(given, gold), json.dumps(given, ensure_ascii=False, sort_keys=True))

    def gold_response(self, task: Task) -> str:
        """The gold in a code block."""
        return f"```json\n{task.gold}\n```"

    def _part(self, value: Any) -> Any:
        if not self._keys or not isinstance(value, dict):
            return value
        return {key: value.get(key) for key in self._keys}


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 is 1.0 but not true."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


@dataclass(frozen=True)
class CodeOptions:
    """Options of ``code``.

    Args:
        public: How many of the tests the question shows; the others are hidden.
        timeout_s: Processor seconds for one test of a program.
        partial_credit: Pay a wrong program the share of tests that it passes.
        isolation: The least isolation to run programs in.
        sandbox: See :class:`rewards.sandboxes.SandboxOptions`.
    """

    public: int = 1
    timeout_s: float = 5.0
    partial_credit: bool = False
    isolation: str = "strict"
    sandbox: Mapping[str, Any] = field(default_factory=dict)


@VERIFIERS.register("code", options=CodeOptions, slow=True)
class CodeAnswers(CodeTasks):
    """A program that passes the row's tests: assertions, or pairs of standard input and output; run in the sandbox."""

    prompts = "code-v1"

    def __init__(
        self, *, public: int, timeout_s: float, partial_credit: bool, isolation: str, sandbox: Mapping[str, Any]
    ) -> None:
        super().__init__(timeout_s, partial_credit, isolation, sandbox)
        self._public = public

    def gold(self, cell: Any) -> str:
        """A program; a row without one is taken as it is."""
        return cell.replace("\r\n", "\n") if isinstance(cell, str) else ""

    def tests(self, cell: Any, gold: str) -> tuple[Any, str]:
        """The tests of a cell, and what the question shows of them.

        Args:
            cell: Assertions, as a list or as text, with a line each; or inputs and outputs of a program.
            gold: The row's own solution; empty for none.

        Raises:
            ValueError: If they are neither.
        """
        if isinstance(cell, str) and cell.lstrip()[:1] in ("{", "["):
            try:
                cell = json.loads(cell)
            except ValueError:
                raise ValueError(f"the tests begin like JSON and are none: {cell[:60]}") from None
        # In the order of certainty: pairs have names, assertions are a list or Python, and everything else is refused.
        pairs = _pairs(cell)
        if pairs:
            shown = [f"Input:\n{stdin}\nOutput:\n{stdout}" for stdin, stdout in pairs[: self._public]]
            tests = ScriptTests(tuple(pairs[: self._public]), tuple(pairs[self._public :]), gold=gold)
            return tests, "".join(f"\n\n{one}" for one in shown)
        if isinstance(cell, str):
            try:
                cell = [ast.unparse(one) for one in parse(cell).body]
            except SyntaxError as error:
                raise ValueError(f"the tests are no Python: {error}") from None
        if not isinstance(cell, list) or not cell or not all(isinstance(one, str) for one in cell):
            raise ValueError(f"the tests must be assertions, or inputs and outputs; this is {str(cell)[:60]}")
        shown = "\n".join(cell[: self._public])
        text = f"\nYour code must pass this test:\n```python\n{shown}\n```" if shown else ""
        return tests_of({"test_list": cell, "test_setup_code": ""}, gold), text

    def gold_response(self, task: Task) -> str:
        """The row's own solution; raises NotImplementedError where it has none."""
        if not task.gold:
            raise NotImplementedError(f"{task.id} has no solution of its own")
        return super().gold_response(task)


def _pairs(cell: Any) -> list[tuple[str, str]]:
    """Standard inputs and outputs: ``{inputs: [...], outputs: [...]}`` or a list of ``{input: ..., output: ...}``."""
    if isinstance(cell, dict) and {"inputs", "outputs"} <= cell.keys():
        if cell.get("fn_name"):
            raise ValueError("tests of a function in APPS' format: use env=stdin_code env.options.format=apps")
        cell = [{"input": i, "output": o} for i, o in zip(cell["inputs"], cell["outputs"], strict=True)]
    if (
        isinstance(cell, list)
        and cell
        and all(isinstance(one, dict) and {"input", "output"} <= one.keys() for one in cell)
    ):
        return [(str(one["input"]), str(one["output"])) for one in cell]
    return []


class FunctionAnswers:
    """A function of somebody's own: ``(task, response) -> Score``; a row's other columns are in ``task.info``."""

    prompts = "plain-v1"

    def __init__(self, name: str) -> None:
        module, _, function = name.partition(":")
        try:
            self._function = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"env.options.verify={name}: {error}. It names a function as package.module:function, in this folder "
                "or on Python's path"
            ) from None
        self._name = name

    def gold(self, cell: Any) -> str:
        """A text as it is, anything else as JSON."""
        return cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, default=str)

    def verify(self, task: Task, response: str) -> Score:
        """What the function says; raises TypeError if that is no score."""
        score = self._function(task, response)
        if not isinstance(score, Score):
            raise TypeError(f"env.options.verify={self._name} returned {score!r}; it must return a rewards.Score")
        return score

    def gold_response(self, task: Task) -> str:
        """The gold in the form in which the function takes it, found by trying the usual ones."""
        stated = [task.gold, *(form.format(task.gold) for form in STATED.values())]
        return next((one for one in stated if self.verify(task, one).value == 1.0), task.gold)


def make_verifier(name: str, options: Mapping[str, Any]) -> RowVerifier:
    """The verifier of a name, or around ``package.module:function``.

    Raises:
        ValueError: If there is no such name, option, module or function.
    """
    if ":" not in name:
        return VERIFIERS.bind(name, options)()
    if options:
        raise ValueError(f"env.options.verify_options: {name} takes none")
    return FunctionAnswers(name)
