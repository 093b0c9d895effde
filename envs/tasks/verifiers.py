"""Verifiers for answers from a file: ``env.options.verify`` of ``env=rows`` names one of the classes registered here.

A verifier class is built from its options, turns a cell of the answer column into the gold's text, grades responses,
and writes a gold response. Another module adds a class with ``@VERIFIERS.register("mine", options=MyOptions)``; a
function with the signature of ``TaskSet.verify`` needs no registration: ``verify=package.module:function``.
"""

import ast
import json
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Protocol

from envs.base import Task
from envs.rows import Row
from envs.tasks.choices import ANSWERS_AS, choice_said, choices_of, clash, letter_of, refuse_other_count
from envs.tasks.code import CodeTasks
from envs.tasks.columns import UnfitError, cell_at, refuse_joined_digits, refuse_other_notation, text_of
from envs.tasks.decimal_commas import refuse_decimal_comma
from envs.tasks.grading import MathGrading
from envs.tasks.mbpp import tests_of
from envs.tasks.own_verifier import FunctionAnswers
from envs.tasks.text_verifiers import JsonAnswers, JsonOptions, RegexAnswers, RegexOptions
from rewards import Lookup, Score, Verdict
from rewards.answers import answer_forms, boxed, candidates, in_form
from rewards.asserting import pieces
from rewards.code import ScriptTests
from rewards.math import DEADLINE_S
from rewards.numbers import stated_number, within_rounding
from rewards.parsing import parse
from rewards.wording import counted

_FORM_PROMPTS = {"boxed": "math-v1", "tagged": "short-v1", "answer_line": "line-v1"}
"""The prompts that ask for each answer form; other forms get ``plain-v1``, and the question must ask for the form."""


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

    has_answer_form = True

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
        read = [self._read(task, one) for one in candidates(response, self._form)]
        offered = {self._key(one): one for one in read}
        if not offered or read == [""]:
            return Score(0.0, Verdict.NO_ANSWER)
        if len(offered) > 1:
            return Score(0.0, Verdict.AMBIGUOUS, read[-1])
        (key, answer), *_ = offered.items()
        return replace(Score.of(self._equal(answer, task), answer), key=key)

    def _key(self, answer: str) -> str:
        """The key that equal answers share."""
        return answer

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
        found = boxed(text)
        if "####" in text:
            text = text.rpartition("####")[2].strip()
        elif len(found) > 1:
            raise ValueError(f"the answer holds {len(found)} boxes; leave only the one that counts")
        elif found:
            text = found[0]
        refuse_joined_digits(text)
        # In a file 5e-05 and 6.02e+23 are numbers; in a formula a small e would be Euler's number.
        return re.sub(r"^([-+]?\d+\.?\d*)e([-+]?\d+)$", r"\1E\2", text)


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
        # Letters with marks have two encodings, as one character or as several, which look the same.
        text = unicodedata.normalize("NFC", " ".join(offered.split()) if self._ignore_space else offered)
        # JSON writes true where Python and prose write True.
        is_truth = task.gold in ("true", "false")
        return text.casefold() if self._ignore_case or (is_truth and text.casefold() in ("true", "false")) else text


@dataclass(frozen=True)
class NumberOptions(FormOptions):
    """Options of ``number``. Without a tolerance, only rounding is forgiven: see :func:`within_rounding`.

    Args:
        absolute: Largest difference allowed.
        relative: Largest difference allowed, as a share of the gold; it is enough to be within one of the two.
    """

    absolute: float | None = None
    relative: float | None = None

    def __post_init__(self) -> None:
        for name in ("absolute", "relative"):
            if (given := getattr(self, name)) is not None and not 0 <= given < float("inf"):
                raise ValueError(f"env.options.verify_options.{name}={given}: a number from 0 on is needed")


@VERIFIERS.register("number", options=NumberOptions)
class NumberAnswers(_InForm):
    """The same number: ``1,234.50`` is 1234.5, ``50%`` is 0.5; a unit may be added, but not replaced by another."""

    def __init__(self, *, answer_form: str | Sequence[str], absolute: float | None, relative: float | None) -> None:
        super().__init__(answer_form)
        self._absolute, self._relative = absolute, relative

    def gold(self, cell: Any) -> str:
        """The text of the cell, unchanged; raises ValueError if it is not a number."""
        text = text_of(cell)
        refuse_other_notation(text)
        if stated_number(text) is None:
            refuse_decimal_comma(text, False)
            raise UnfitError(f"the answer {text[:40]!r} is no number")
        return text

    def _key(self, answer: str) -> str:
        number = stated_number(answer)
        return answer if number is None else f"{number.value}"

    def _equal(self, answer: str, task: Task) -> bool:
        given, wanted = stated_number(answer), stated_number(task.gold)
        if given is None or wanted is None or (given.unit and wanted.unit and given.unit != wanted.unit):
            return False
        if self._absolute is None and self._relative is None:
            return within_rounding(given.value, wanted.value)
        allowed = Fraction(self._absolute or 0), Fraction(self._relative or 0) * abs(wanted.value)
        return abs(given.value - wanted.value) <= max(allowed)


@dataclass(frozen=True)
class ChoiceOptions(FormOptions):
    """Options of ``choice``.

    Args:
        answers_as: What the answer column holds, one of :data:`envs.tasks.choices.ANSWERS_AS`.
    """

    answers_as: str = "any"

    def __post_init__(self) -> None:
        if self.answers_as not in ANSWERS_AS:
            raise ValueError(
                f"env.options.verify_options.answers_as={self.answers_as}: one of {', '.join(ANSWERS_AS)} is needed"
            )


@VERIFIERS.register("choice", options=ChoiceOptions)
class ChoiceAnswers(_InForm):
    """The letter of the right choice; the choices are in their own column, or the question already shows them."""

    def __init__(self, *, answer_form: str | Sequence[str], answers_as: str) -> None:
        super().__init__(answer_form)
        self._answers_as, self._takes_letters = answers_as, False

    def gold(self, cell: Any) -> str:
        """The letter of a cell such as ``(b)`` or ``B.``; else the cell's text, which must be one of the choices."""
        found = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", text_of(cell).strip())
        return found[1].upper() if found else text_of(cell).strip()

    def chosen(self, gold: str, choices: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The letter of the right choice, see :func:`envs.tasks.choices.letter_of`, and the choices as they are shown.

        Raises:
            ValueError: As ``letter_of``, or if a response could mean one choice's letter and another one's text.
        """
        labels = string.ascii_uppercase if self._takes_letters else choices
        letters = dict(zip(choices, labels, strict=False))
        shown = {letters[label]: text for label, text in choices.items()}
        if said := clash(shown):
            raise ValueError(
                f"{said}: a response could mean either. Give the choices other labels, {{text: [...], label: [...]}}"
            )
        return letters[letter_of(gold, choices, self._answers_as)], shown

    def look_at(self, rows: Iterable[Row], columns: Mapping[str, str]) -> None:
        """Looks at all rows before any is used: choices that are numbers as their labels are get letters instead.

        Raises:
            ValueError: If the answers are places that seem to be counted otherwise than ``answers_as`` says.
        """
        if "choices" not in columns:
            if self._answers_as in ("any", "letter"):
                return
            raise ValueError(
                f"env.options.verify_options.answers_as={self._answers_as}: has no effect, because no column of "
                "choices was found; name it by env.options.choices=<column>"
            )
        stated = list(self._stated_in(rows, columns))
        self._takes_letters = max((len(choices) for _, _, choices in stated), default=0) <= 26 and any(
            all(label.isdigit() for label in choices) and clash(choices) for _, _, choices in stated
        )
        if self._answers_as in ("any", "place0"):
            refuse_other_count(stated, self._answers_as)

    def _stated_in(self, rows: Iterable[Row], columns: Mapping[str, str]) -> Iterator[tuple[str, str, dict[str, str]]]:
        for row in rows:
            with suppress(ValueError):  # rows that cannot be used are reported later
                choices = choices_of(cell_at(row.values, columns["choices"]))
                yield row.where, self.gold(cell_at(row.values, columns["answer"])), choices

    def _read(self, task: Task, offered: str) -> str:
        return choice_said(offered, task.info.get("choices") or {})


VERIFIERS.register("regex", options=RegexOptions)(RegexAnswers)
VERIFIERS.register("json", options=JsonOptions)(JsonAnswers)


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
    if other := sorted(options.keys() - {"stated", "partial_credit"}):
        raise ValueError(
            f"env.options.verify_options.{other[0]}: a function such as {name} takes only stated and partial_credit"
        )
    return FunctionAnswers(name, **options)
