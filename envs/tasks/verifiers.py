"""Verifiers for answers from a file: ``env.options.verify`` of ``env=rows`` names one of the classes registered here.

A verifier class is built from its options, turns a cell of the answer column into the gold's text, grades responses,
and writes a gold response. Another module adds a class with ``@VERIFIERS.register("mine", options=MyOptions)``; a
function with the signature of ``TaskSet.verify`` needs no registration: ``verify=package.module:function``.
"""

import ast
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
from envs.tasks.own_verifier import FunctionAnswers
from rewards import Lookup, Score, Verdict
from rewards.answers import answer_forms, boxed, candidates, in_form
from rewards.asserting import pieces
from rewards.code import ScriptTests
from rewards.comparison import Tolerance
from rewards.math import DEADLINE_S
from rewards.parsing import parse
from rewards.wording import counted

_FORM_PROMPTS = {"boxed": "math-v1", "tagged": "short-v1", "answer_line": "line-v1"}
"""The prompts that ask for each answer form; other forms get ``plain-v1``, and the question must ask for the form."""


class UnfitError(ValueError):
    """An answer is of a kind that the verifier does not grade; if all are, another verifier is meant."""


class RowVerifier(Protocol):
    """Interface of verifiers for a file's answers; ``prompts`` names the prompts that ask for the form that is read."""

    prompts: str

    def gold(self, cell: Any) -> str:
        """The gold of a task from a cell of the answer column; raises ValueError, with a remedy, for unusable cells."""
        ...

    def verify(self, task: Task, response: str) -> Score:
        """See :class:`envs.TaskSet`."""
        ...

    def gold_response(self, task: Task) -> str:
        """See :class:`envs.TaskSet`."""
        ...


VERIFIERS: Lookup[Any] = Lookup("env.options.verify")
"""Classes of type :class:`RowVerifier`; ``slow=True`` skips the grading of a file's own answers when it is loaded."""


@dataclass(frozen=True)
class FormOptions:
    """Options of verifiers that read the answer in a given form.

    Args:
        answer_form: Form of the answer in a response, a name in :data:`rewards.answers.ANSWER_FORMS`, or several names
            in order of preference.
    """

    answer_form: str | Sequence[str] = "boxed"


class _InForm:
    """Base class of verifiers that read a response's only answer in a given form."""

    def __init__(self, answer_form: str | Sequence[str]) -> None:
        answer_forms(answer_form)
        self._form = answer_form
        self.prompts = _FORM_PROMPTS.get(answer_form if isinstance(answer_form, str) else answer_form[0], "plain-v1")

    def gold(self, cell: Any) -> str:
        return text_of(cell)

    def gold_response(self, task: Task) -> str:
        return in_form(task.gold, self._form)

    def verify(self, task: Task, response: str) -> Score:
        # A repeated answer counts once. Two different answers are a hedge and earn 0, even if one of them is right;
        # otherwise a policy could earn rewards by listing several answers.
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
        deadline_s: Limit in processor seconds after which the comparison of an answer with the gold is killed.
    """

    deadline_s: float = DEADLINE_S


@VERIFIERS.register("math", options=MathOptions)
class MathAnswers(MathGrading):
    """Mathematical equality with the gold, decided exactly: ``1/2`` equals ``\\frac12`` and 0.5."""

    def __init__(self, *, answer_form: str | Sequence[str], deadline_s: float) -> None:
        self._grade_by(deadline_s, answer_form)
        self.prompts = _InForm(answer_form).prompts

    def gold(self, cell: Any) -> str:
        """The answer in the cell; of a whole solution the text after ``####``, or the content of its only box."""
        text = text_of(cell)
        refuse_other_notation(text)
        if "####" in text:
            return text.rpartition("####")[2].strip()
        found = boxed(text)
        if len(found) > 1:
            raise ValueError(f"the answer holds {len(found)} boxes; leave only the one that counts")
        return found[0] if found else text


@dataclass(frozen=True)
class ExactOptions(FormOptions):
    """Options of ``exact``.

    Args:
        ignore_case: Whether upper and lower case count as equal.
        ignore_space: Whether white space at the ends is ignored and white space within counts as a single space.
    """

    answer_form: str | Sequence[str] = "tagged"
    ignore_case: bool = False
    ignore_space: bool = True


@VERIFIERS.register("exact", options=ExactOptions)
class ExactAnswers(_InForm):
    """The same text as the gold."""

    def __init__(self, *, answer_form: str | Sequence[str], ignore_case: bool, ignore_space: bool) -> None:
        super().__init__(answer_form)
        self._ignore_case, self._ignore_space = ignore_case, ignore_space

    def _read(self, task: Task, offered: str) -> str:
        text = " ".join(offered.split()) if self._ignore_space else offered
        return text.casefold() if self._ignore_case else text


@dataclass(frozen=True)
class NumberOptions(FormOptions, Tolerance):
    """Options of ``number``: the tolerance, and the form of the answer in a response."""


@VERIFIERS.register("number", options=NumberOptions)
class NumberAnswers(_InForm):
    """A number within a tolerance of the gold: ``1,234.50`` is read as 1234.5, ``50%`` as 0.5."""

    def __init__(self, *, answer_form: str | Sequence[str], absolute: float, relative: float) -> None:
        super().__init__(answer_form)
        self._absolute, self._relative = absolute, relative

    def gold(self, cell: Any) -> str:
        """The text of the cell, unchanged; raises ValueError if it is not a number."""
        text = text_of(cell)
        refuse_other_notation(text)
        if number(text) is None:
            raise UnfitError(f"the answer {text[:40]!r} is no number")
        return text

    def _equal(self, answer: str, task: Task) -> bool:
        given, wanted = number(answer), number(task.gold)
        if given is None or wanted is None:
            return False
        return abs(given - wanted) <= max(self._absolute, self._relative * abs(wanted))


@VERIFIERS.register("choice", options=FormOptions)
class ChoiceAnswers(_InForm):
    """The letter of the right choice; the choices are in their own column, or the question already shows them."""

    def gold(self, cell: Any) -> str:
        """The letter of a cell such as ``(b)`` or ``B.``; else the cell's text, which must be one of the choices."""
        found = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", text_of(cell).strip())
        return found[1].upper() if found else text_of(cell).strip()

    def _read(self, task: Task, offered: str) -> str:
        """The letter of an answer: ``B`` for ``(b)``, ``B.``, ``B) text``, or the text of choice B."""
        choices: Mapping[str, str] = task.info.get("choices") or {}
        said = " ".join(re.sub(r"\\text\{(.*)\}", r"\1", offered).split())
        # Texts of choices are compared before letters, because the text of another choice may be "B".
        for letter, text in choices.items():
            if said.casefold() == " ".join(text.split()).casefold():
                return letter
        found = re.fullmatch(r"\(?\s*(\w)\s*(?:[).:].*)?", said)
        return found[1].upper() if found else said


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


@VERIFIERS.register("regex", options=RegexOptions)
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
        found = self._pattern.findall(response)
        if not found:
            return Score(0.0, Verdict.NO_ANSWER)
        answer = found[-1].strip()
        return Score.of(self._fold(answer) == self._fold(task.gold), answer)

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


@VERIFIERS.register("json", options=JsonOptions)
class JsonAnswers:
    """The same JSON value as the gold, in any order of keys; the response is JSON alone or has JSON in a code block."""

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
        return json.dumps(cell, ensure_ascii=False, sort_keys=True, default=str)

    def verify(self, task: Task, response: str) -> Score:
        """1 if the last code block, or without code blocks the whole response, is the same JSON value as the gold."""
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
    """Equality of JSON values: 1 equals 1.0, but not true."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


@dataclass(frozen=True)
class CodeOptions:
    """Options of ``code``.

    Args:
        public: Number of tests that the question shows; the others are hidden.
        timeout_s: Limit in processor seconds for one test of a program.
        partial_credit: Whether a wrong program earns the share of tests that it passes.
        isolation: The weakest isolation that is accepted for running programs.
        sandbox: Further options of the sandbox, see :class:`rewards.sandboxes.SandboxOptions`.
    """

    public: int = 1
    timeout_s: float = 5.0
    partial_credit: bool = False
    isolation: str = "strict"
    sandbox: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.public, bool) or self.public < 0:
            raise ValueError(f"env.options.verify_options.public={self.public}: a number of tests from 0 on is needed")


@VERIFIERS.register("code", options=CodeOptions, slow=True)
class CodeAnswers(CodeTasks):
    """A program, run in the sandbox, that passes the row's tests: assertions, or pairs of standard input and output."""

    prompts = "code-v1"

    def __init__(
        self, *, public: int, timeout_s: float, partial_credit: bool, isolation: str, sandbox: Mapping[str, Any]
    ) -> None:
        super().__init__(timeout_s, partial_credit, isolation, sandbox)
        self._public = public

    def gold(self, cell: Any) -> str:
        """The program in the cell; empty if the row has no solution."""
        return cell.replace("\r\n", "\n") if isinstance(cell, str) else ""

    def tests(self, cell: Any, gold: str) -> tuple[Any, str]:
        """The tests in a cell, and the text by which the question shows the public ones.

        Args:
            cell: Assertions, as a list of texts or as Python code; or inputs and outputs of a program.
            gold: The row's own solution; empty if there is none.

        Raises:
            ValueError: If the cell holds neither assertions nor inputs and outputs.
        """
        if isinstance(cell, str) and cell.lstrip()[:1] in ("{", "["):
            try:
                cell = json.loads(cell)
            except ValueError:
                raise ValueError(f"the tests begin like JSON but are not valid JSON: {cell[:60]}") from None
        # The most certain format is tried first: pairs of inputs and outputs are recognised by their names, assertions
        # are a list of texts or Python code, and everything else is refused.
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
        tests = pieces(cell)
        shown = "\n".join(tests[: self._public])
        text = f"\nYour code must pass this test:\n```python\n{shown}\n```" if shown else ""
        return tests_of({"test_list": tests, "test_setup_code": ""}, gold, self._public), text

    def gold_response(self, task: Task) -> str:
        """The row's own solution; raises NotImplementedError if the row has none."""
        if not task.gold:
            raise NotImplementedError(f"{task.id} has no solution of its own")
        return super().gold_response(task)


def _pairs(cell: Any) -> list[tuple[str, str]]:
    """Pairs of standard input and output of ``{inputs: [...], outputs: [...]}`` or ``[{input: ..., output: ...}]``."""
    if isinstance(cell, dict) and {"inputs", "outputs"} <= cell.keys():
        if cell.get("fn_name"):
            raise ValueError("tests of a function in APPS' format: use env=stdin_code env.options.format=apps")
        inputs, outputs = cell["inputs"], cell["outputs"]
        if not isinstance(inputs, list) or not isinstance(outputs, list):
            raise ValueError(f"the inputs and the outputs of the tests must be lists; this is {str(cell)[:60]}")
        if len(inputs) != len(outputs):
            raise ValueError(f"the tests have {counted(len(inputs), 'input')} but {counted(len(outputs), 'output')}")
        cell = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
    if not isinstance(cell, list) or not all(
        isinstance(one, dict) and {"input", "output"} <= one.keys() for one in cell
    ):
        return []
    pairs = [(_stream(one["input"]), _stream(one["output"])) for one in cell]
    if pairs and not any(stdout.strip() for _, stdout in pairs):
        raise ValueError("all expected outputs of the tests are empty, so a program that prints nothing would pass")
    return pairs


def _stream(part: Any) -> str:
    """What stands on standard input or output: a text, a number, or a list of texts, which are its lines."""
    if isinstance(part, list) and part and all(isinstance(line, str) for line in part):
        return "\n".join(line.removesuffix("\n") for line in part) + "\n"
    if isinstance(part, bool) or not isinstance(part, str | int | float):
        raise ValueError(f"an input or output of the tests must be a text or a list of lines; this is {str(part)[:60]}")
    return str(part)


def make_verifier(name: str, options: Mapping[str, Any]) -> RowVerifier:
    """Builds the verifier registered under a name, or one that calls ``package.module:function``.

    Raises:
        ValueError: If there is no such name, option, module or function.
    """
    if ":" not in name:
        return VERIFIERS.bind(name, options)()
    if other := sorted(options.keys() - {"stated"}):
        raise ValueError(f"env.options.verify_options.{other[0]}: a function such as {name} takes only stated")
    return FunctionAnswers(name, **options)
