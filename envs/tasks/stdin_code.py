"""``stdin_code``: programs that read standard input, for problems in the usual published formats.

Question: the problem's text. Response: a program that reads standard input and writes standard output, or, if the
problem asks for it, a function or ``class Solution`` that is called with arguments in JSON. ``env.options.format`` is a
name in ``FORMATS``; ``generated`` (the default) takes problems from a grammar, :mod:`envs.tasks.stdin_grammar`, and
needs no download. Public tests are the tests that the data set marks as public; in formats without such marks, the
tests whose input and output are both in the question's text.

Version history: v1, first.
"""

import ast
import base64
import io
import json
import logging
import pickle
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.base import Split, Task
from envs.published import HubCopy, Published, PublishedFile
from envs.splits import normalise_question, split_of, split_sizes
from envs.tasks.code import CodeTasks
from envs.tasks.stdin_grammar import draw_problems
from rewards import Lookup
from rewards.asserts import Case
from rewards.code import FunctionTests, ScriptTests
from rewards.comparison import comparison
from rewards.parsing import parse
from rewards.sandbox.codec import Structure

PRELUDE = """
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
"""
"""Names that a function may use without importing them, as on the websites where such problems are published."""
_log = logging.getLogger(__name__)
Test = tuple[Any, Any]
"""Input and expected output: two texts for a program; a list of arguments and a result for a function."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem, independent of the format in which it was published.

    Args:
        id: Id of the problem within its data set.
        question: Text of the problem.
        public: Tests that the question shows.
        hidden: Further tests, which the question does not show.
        function: Name of the function to call, such as ``f`` or ``Solution.f``; empty for a program.
        starter: Code that the problem gives as a start, such as a signature.
        solutions: Python programs that the data set states as solutions.
        difficulty: Difficulty as the data set names it.
    """

    id: str
    question: str
    public: tuple[Test, ...]
    hidden: tuple[Test, ...]
    function: str = ""
    starter: str = ""
    solutions: tuple[str, ...] = ()
    difficulty: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """A published format: where its files are, and how a row is read.

    Args:
        read: Converts a row to a problem; raises ``ValueError`` or ``KeyError`` for a row that cannot be used.
        columns: Columns that every row must have.
        source: Where the data set is published.
        licence: Licence as its publisher states it.
        hub: Id of the data set on the hub.
        parts: By split, the name of its file and of its split on the hub. Without an entry for validation, a share of
            the training problems is used for validation.
    """

    read: Callable[[dict[str, Any]], Problem]
    columns: tuple[str, ...]
    source: str
    licence: str
    hub: str
    parts: Mapping[Split, str]


FORMATS: Lookup[Format | None] = Lookup("env.options.format")
_TRAIN_AND_TEST = {Split.TRAIN: "train", Split.TEST: "test"}
FORMATS.register("generated")(None)


def _apps(row: dict[str, Any]) -> Problem:
    """Reads APPS and TACO: ``input_output`` is JSON with ``inputs``, ``outputs`` and, for a function, ``fn_name``."""
    given = _json(row["input_output"])
    question, starter, function = row["question"], row.get("starter_code") or "", given.get("fn_name") or ""
    outputs = given["outputs"]
    if function and all(isinstance(output, list) and len(output) == 1 for output in outputs):
        outputs = [output[0] for output in outputs]  # the format wraps each result in a list with one element
    tests = list(zip(given["inputs"], outputs, strict=True))
    if not function:
        tests = [(_lines(stdin), _lines(stdout)) for stdin, stdout in tests]
    elif "class Solution" in starter:
        function = f"Solution.{function}"
    # The format does not mark public tests, so the tests whose input and output are in the question count as public.
    shown = [test for test in tests if all(_stands_in(question, part) for part in test)]
    solutions = _json(row.get("solutions") or "[]")
    return Problem(
        str(row.get("problem_id", row.get("id", row.get("name", "")))), question, tuple(shown),
        tuple(test for test in tests if test not in shown), function, starter, tuple(solutions),
        str(row.get("difficulty", "")),
    )  # fmt: skip


_COLUMNS = ("question", "input_output")
FORMATS.register("apps")(
    Format(_apps, _COLUMNS, "github.com/hendrycks/apps", "MIT", "codeparrot/apps", _TRAIN_AND_TEST)
)
FORMATS.register("taco")(
    Format(_apps, _COLUMNS, "github.com/FlagOpen/TACO", "Apache-2.0", "BAAI/TACO", _TRAIN_AND_TEST)
)
_PYTHON_3 = 3


def _code_contests(row: dict[str, Any]) -> Problem:
    """Reads CodeContests: public, private and generated lists of inputs and outputs; solutions with a language code."""
    public, private, generated = (_pairs(row.get(f"{kind}_tests") or {}) for kind in ("public", "private", "generated"))
    found = row.get("solutions") or {"language": [], "solution": []}
    pairs = zip(found["language"], found["solution"], strict=True)
    solutions = tuple(code for language, code in pairs if language in (_PYTHON_3, "PYTHON3"))
    difficulty = str(row.get("difficulty", ""))
    return Problem(row["name"], row["description"], public, private + generated, "", "", solutions, difficulty)


FORMATS.register("code_contests")(
    Format(
        _code_contests, ("name", "description", "public_tests"),
        "github.com/google-deepmind/code_contests", "CC BY 4.0", "deepmind/code_contests",
        {Split.TRAIN: "train", Split.VALIDATION: "valid", Split.TEST: "test"},
    )
)  # fmt: skip


def _live_code_bench(row: dict[str, Any]) -> Problem:
    """Reads LiveCodeBench: tests are JSON; private tests may be packed as a pickled text with zlib and base64."""
    public, private = (_json_tests(row.get(f"{kind}_test_cases") or "[]") for kind in ("public", "private"))
    kinds = {kind for _, _, kind in (*public, *private)}
    starter, function = row.get("starter_code") or "", ""
    if "functional" in kinds:
        function = _json(row["metadata"])["func_name"]
        function = f"Solution.{function}" if "class Solution" in starter or not starter else function

    def read(tests: list[tuple[str, str, str]]) -> tuple[Test, ...]:
        if not function:
            return tuple((stdin, stdout) for stdin, stdout, _ in tests)
        return tuple(([_json(line) for line in i.split("\n") if line.strip()], _json(o)) for i, o, _ in tests)

    question, difficulty = row["question_content"], str(row.get("difficulty", ""))
    return Problem(str(row["question_id"]), question, read(public), read(private), function, starter, (), difficulty)


FORMATS.register("live_code_bench")(
    Format(
        _live_code_bench, ("question_id", "question_content", "public_test_cases"), "livecodebench.github.io",
        "CC BY-NC-SA 4.0", "livecodebench/code_generation_lite", {Split.TEST: "test"},
    )
)  # fmt: skip


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


def _lines(text: Any) -> str:
    return "\n".join(map(_lines, text)) if isinstance(text, list) else str(text)


def _pairs(tests: Any) -> tuple[Test, ...]:
    if isinstance(tests, list):  # a list of {input, output} instead of one list per column
        return tuple((test["input"], test["output"]) for test in tests)
    return tuple(zip(tests.get("input", ()), tests.get("output", ()), strict=True))


def _stands_in(question: str, part: Any) -> bool:
    text = part if isinstance(part, str) else json.dumps(part)
    return " ".join(text.split()) in " ".join(question.split())


class _TextOnly(pickle.Unpickler):
    """Unpickles plain values such as a text and refuses every import, because imports could run code from the file."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in a file of tests")


def _json_tests(packed: Any) -> list[tuple[str, str, str]]:
    try:
        tests = _json(packed)
    except ValueError:
        try:
            tests = _json(_TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load())
        except (pickle.UnpicklingError, zlib.error, EOFError) as error:
            raise ValueError(f"tests that cannot be unpacked: {error}") from None
    return [(test["input"], test["output"], test.get("testtype", "stdin")) for test in tests]


class StdinCode(CodeTasks, Published):
    """Whole programs. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        format: Format of the problems, a name in ``FORMATS``.
        path: Folder with ``train.jsonl``, ``test.jsonl`` (and ``valid.jsonl``) in that format, a file, or ``hub``.
        difficulty: Difficulties to keep, as the data set names them; empty keeps all problems.
        max_hidden: Largest number of hidden tests used per problem; 0 uses all.
        compare: How outputs are compared, a name in ``rewards.comparison.COMPARISONS``.
        compare_options: Options of the comparison.
        validation: Share of the training problems used for validation, if the data set has no validation split.
        n_train: Number of generated training problems.
        n_validation: Number of generated validation problems.
        n_test: Number of generated test problems.
        seed: Seed of the generated problems; splits are disjoint for every seed.
        timeout_s: Limit in processor seconds for one test of a program.
        partial_credit: Whether a wrong program earns the share of tests that it passes.
        isolation: The weakest isolation that is accepted for running programs.
        sandbox: Further options of the sandbox, see :class:`rewards.sandboxes.SandboxOptions`.
    """

    def __init__(
        self,
        format: str = "generated",
        path: str = "data/stdin_code",
        difficulty: Sequence[str] = (),
        max_hidden: int = 0,
        compare: str = "lines",
        compare_options: Mapping[str, Any] | None = None,
        validation: float = 0.1,
        n_train: int = 140,
        n_validation: int = 20,
        n_test: int = 40,
        seed: int = 0,
        timeout_s: float = 5.0,
        partial_credit: bool = False,
        isolation: str = "strict",
        sandbox: Mapping[str, Any] | None = None,
    ) -> None:
        CodeTasks.__init__(self, timeout_s, partial_credit, isolation, sandbox)
        Published.__init__(self, path)
        if not 0 < validation < 1:
            raise ValueError(f"env.options.validation={validation}: a share between 0 and 1")
        self._format, self._validation = FORMATS[format], validation
        self._compare, self._compare_options = compare, dict(compare_options or {})
        comparison(compare, self._compare_options)
        self._difficulty, self._max_hidden = {str(name).lower() for name in difficulty}, max_hidden
        self._sizes = split_sizes(n_train, n_validation, n_test)
        self._seed = seed

    def _load(self, split: Split) -> list[Task]:
        """The problems of a split; training leaves out problems of validation and test, validation those of test."""
        if self._format is None:
            return [self._generated(*each) for each in draw_problems(split, self._sizes[Split(split)], self._seed)]
        parts = self._format.parts
        # If the data set has no validation split, the hash of the question selects training problems for it.
        wanted = split if split in parts or split is Split.TEST else Split.TRAIN
        if wanted not in parts:
            return []
        tasks = self._tasks_of(self._format, parts[wanted])
        if split is Split.TEST:
            return tasks
        for other in (Split.TEST, Split.VALIDATION):
            if other in parts and other is not wanted:
                asked = {normalise_question(task.question) for task in self._tasks_of(self._format, parts[other])}
                tasks = [task for task in tasks if normalise_question(task.question) not in asked]
        if Split.VALIDATION in parts:
            return tasks
        return [task for task in tasks if split_of(task.question, self._validation, test=0.0) == split]

    def _tasks_of(self, form: Format, part: str) -> list[Task]:
        names = (f"{part}.jsonl", f"{part}.jsonl.gz")
        file = PublishedFile(names, form.columns, form.source, form.licence, HubCopy(form.hub, part))
        tasks: dict[str, Task] = {}
        refused: list[str] = []
        for number, row in enumerate(self._rows(file)):
            try:
                problem = form.read(row)
                if self._difficulty and problem.difficulty.lower() not in self._difficulty:
                    continue
                task = self._task(problem, f"{part}/{number}")
            except (ValueError, KeyError, TypeError) as error:
                refused.append(f"row {number + 1}: {type(error).__name__}: {error}")
                continue
            tasks.setdefault(normalise_question(task.question), task)  # some data sets hold a problem twice
        if refused:
            _log.warning("%s: %d problems have no tests that can be used, first %s", part, len(refused), refused[0])
        return list(tasks.values())

    def _task(self, problem: Problem, place: str) -> Task:
        hidden = problem.hidden[: self._max_hidden or None]
        question, tests = problem.question.strip(), None
        if problem.function:
            kinds = _annotations(problem.starter, problem.function)
            shown, rest = (
                tuple(_case(problem.function, *test, kinds) for test in part) for part in (problem.public, hidden)
            )
            tests = FunctionTests(shown, rest, prelude=PRELUDE, alike=True, gold=problem.solutions[:3])
            starter = problem.starter.strip() or f"def {problem.function}(...):"
            question += f"\n\nWrite this in Python; it is called with the arguments.\n```python\n{starter}\n```"
        else:
            tests = ScriptTests(problem.public, hidden, self._compare, self._compare_options, problem.solutions[:3])
            question += "\n\nWrite a Python program that reads standard input and writes to standard output."
        gold = problem.solutions[0] if problem.solutions else ""
        return Task(f"{place}/{problem.id}", question, gold, {"tests": tests, "difficulty": problem.difficulty})

    def _generated(self, question: str, gold: str, tests: list[tuple[str, str]], n_public: int) -> Task:
        pairs = ScriptTests(
            tuple(tests[:n_public]), tuple(tests[n_public:]), self._compare, self._compare_options, gold
        )
        return Task(gold, question, gold, {"tests": pairs, "difficulty": "generated"})


def _case(function: str, args: Any, expected: Any, kinds: list[str]) -> Case:
    # ``kinds`` is empty for a starter without the function, and a test may have more arguments than the function names.
    # Values without an annotation are used unchanged.
    of_args, of_result = kinds[:-1], kinds[-1] if kinds else ""
    values = [_structured(kind, value) for kind, value in zip(of_args + [""] * len(args), args, strict=False)]
    return Case(function, tuple(values), _structured(of_result, expected))


def _annotations(starter: str, function: str) -> list[str]:
    """Annotations of a function's arguments and result in the starter code; empty if the code lacks the function."""
    try:
        # A starter often ends with the colon of a function without a body, which alone does not parse.
        tree = parse(f"{starter.rstrip()} pass" if starter.rstrip().endswith(":") else starter)
    except SyntaxError:
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function.rpartition(".")[2]:
            given = [*(arg.annotation for arg in node.args.args if arg.arg != "self"), node.returns]
            return [ast.unparse(kind) if kind is not None else "" for kind in given]
    return []


def _structured(kind: str, value: Any) -> Any:
    """Converts a list to a linked list or a tree if the annotation says so, because tests write both as lists."""
    for name in ("ListNode", "TreeNode"):
        if name in kind and (value is None or isinstance(value, list)):
            if kind.lower().startswith("list["):
                return [_structured(name, item) for item in value or ()]
            return Structure(name, tuple(value)) if value else None
    return value
