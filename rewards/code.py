"""Is this program right? Function-level tests and whole programs on standard input, in the sandbox.

The tests never enter the program's process: it gets the arguments of its calls and returns plain data, which is
compared here, or by a judge in a process of its own where a test is arbitrary code. *Public* tests are those that the
task's text shows. They come first, and the output is read before a hidden argument is sent: nothing that a program
prints, raises or returns about a hidden test can reach the observation.

Not covered: a program that knows its task set by heart, and one that is right on the hidden inputs only.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rewards.asserts import Case, declare_all, free_names, without_definitions
from rewards.comparison import Comparison, comparison, safely
from rewards.observation import of_calls, of_script
from rewards.program import program_in
from rewards.sandbox import Conversation, Ending, Judgement, Limits, Outcome, Runner, Script
from rewards.sandbox.codec import encode, matches
from rewards.sandboxes import get_sandbox
from rewards.score import Score, Verdict
from rewards.verdict_cache import VerdictCache

MAX_PROGRAM_CHARS = 100_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckCode:
    """Test code that is no list of plain cases; it runs in a judge's process, against proxies of the program.

    Args:
        tests: Pieces of code, each one test: it passes if it raises nothing.
        setup: Runs before them: trusted helpers, ``def check(candidate): ...``. What it defines is the tests' own,
            whatever the program calls by that name, except ``names``.
        names: What the program must define and the tests use; empty finds out from the code.
        aliases: Other names under which the tests use one of ``names``.

    Raises:
        ValueError: If the tests are no Python, or use nothing that a program could define: all would be paid.
    """

    tests: tuple[str, ...]
    setup: str = ""
    names: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.tests, str):
            object.__setattr__(self, "tests", (self.tests,))
        try:
            free, _ = self.free_names
        except SyntaxError as error:
            raise ValueError(f"the tests are no Python: {error}: {self.tests}") from None
        if not self.names and not free:
            raise ValueError(f"the tests name nothing that a program must define; say what, by names=: {self.tests}")

    @cached_property
    def free_names(self) -> tuple[list[str], list[str]]:
        """Names that the tests take from the program, and modules that they take from the library."""
        return free_names("\n".join([self.setup, *self.tests]))


@dataclass(frozen=True)
class FunctionTests:
    """Tests of a function. ``public`` ones may be shown to the policy; ``hidden`` and ``code`` never are.

    Args:
        public: Cases that the question shows.
        hidden: Further cases.
        code: Tests that are no plain cases.
        prelude: Runs before the program, in its namespace: imports and helpers that the question gives.
        alike: A tuple counts as equal to a list of the same items.
        gold: A program that must pass, or several of which one must. If the tests refuse it they are broken, and
            every other verdict than ``correct`` is an ``error``; it is run once, when that question first arises.
    """

    public: tuple[Case, ...] = ()
    hidden: tuple[Case, ...] = ()
    code: CheckCode | None = None
    prelude: str = ""
    alike: bool = False
    gold: str | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        if not (self.public or self.hidden or self.code):
            raise ValueError("no tests: an empty list would pay for any program")
        for case in (*self.public, *self.hidden):
            if not isinstance(case, Case):
                raise TypeError(f"public and hidden hold Case, got {case!r:.100}; assertions as text: as_tests([...])")

    @cached_property
    def calls(self) -> list[dict[str, Any]]:
        """Requests for the public and for the hidden calls; a group of samples shares them."""
        # Public calls are answered one by one ("eager"): the observation needs the first wrong one and what was printed
        # until then. Hidden answers may travel together.
        parts = ((self.public, True), (self.hidden, False))
        return [{"kind": "calls", "calls": _calls(cases), "eager": shown} for cases, shown in parts if cases]


@dataclass(frozen=True)
class ScriptTests:
    """Tests of a whole program: pairs of standard input and standard output.

    Args:
        public: Pairs that the question shows.
        hidden: Further pairs.
        compare: When an output is the expected one: a name of ``COMPARISONS``, or a function of the expected output,
            the actual one and the input.
        compare_options: Of that name.
        gold: As for functions.
    """

    public: tuple[tuple[str, str], ...] = ()
    hidden: tuple[tuple[str, str], ...] = ()
    compare: str | Comparison = "lines"
    compare_options: dict[str, Any] = field(default_factory=dict)
    gold: str | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        if not (self.public or self.hidden):
            raise ValueError("no tests: an empty list would pay for any program")

    @cached_property
    def comparison(self) -> Comparison:
        """Compares an output."""
        return comparison(self.compare, self.compare_options) if isinstance(self.compare, str) else self.compare


Tests = FunctionTests | ScriptTests


def as_tests(tests: Tests | str | Sequence[str]) -> Tests:
    """Tests as they are, or made of assertions in Python: cases where they are plain, code for the judge where not.

    Raises:
        TypeError: If they are neither.
        ValueError: If they are no Python.
    """
    if isinstance(tests, FunctionTests | ScriptTests):
        return tests
    texts = [tests] if isinstance(tests, str) else list(tests) if isinstance(tests, Sequence) else [tests]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"tests are FunctionTests, ScriptTests, or assertions as text; got {tests!r:.100}")
    found = [declare_all(text) for text in texts]
    cases = tuple(case for each in found for case in each or ())
    return FunctionTests(hidden=cases) if None not in found else FunctionTests(code=CheckCode(tuple(texts)))


def score_code(
    response: str,
    tests: Tests | str | Sequence[str],
    limits: Limits | None = None,
    partial_credit: bool = False,
    sandbox: Runner | None = None,
    cache: VerdictCache | None = None,
) -> Score:
    """Grades the program in a response, see :func:`rewards.program.program_in`.

    Args:
        response: What the policy wrote.
        tests: What the program must do; assertions as text are taken too.
        limits: Of one process; 5 s of processor time for a test by default.
        partial_credit: Pay a wrong program the share of tests that it passes, instead of 0.
        sandbox: Where to run it; ``None`` takes the shared one.
        cache: Where verdicts are remembered; ``None`` runs every program.

    Returns:
        ``correct`` only if every test passes; ``timeout`` if it was killed at a limit, ``no_answer`` without a program.
        A sandbox or a test that fails by itself is an ``error``, never a reward of 0.

    Raises:
        SandboxError: If this machine does not give the isolation that is asked for.
        TypeError: If the response is no text, or the tests are none.
    """
    if not isinstance(response, str):
        raise TypeError(f"a response must be text, got {response!r:.100}")
    tests = as_tests(tests)
    program = program_in(response, wanted_names(tests))
    if program is None:
        return Score(0.0, Verdict.NO_ANSWER, None, "no_program", "No program found: put it into one ```python block.")
    return score_program(program, tests, limits, partial_credit, sandbox, cache)


def wanted_names(tests: Tests) -> set[str]:
    """What a program must define at its top level."""
    if isinstance(tests, ScriptTests):
        return set()
    names = set(tests.code.names or tests.code.free_names[0]) if tests.code else set()
    return names | {case.name.partition(".")[0] for case in (*tests.public, *tests.hidden)}


def score_program(
    program: str,
    tests: Tests,
    limits: Limits | None = None,
    partial_credit: bool = False,
    sandbox: Runner | None = None,
    cache: VerdictCache | None = None,
) -> Score:
    """Grades a program as it stands; arguments and result as for :func:`score_code`."""
    limits = limits or Limits()
    # A byte-order mark, which some editors write; ``compile`` takes it for a character of the program.
    program = program.lstrip("\ufeff")
    if len(program) > MAX_PROGRAM_CHARS:
        return Score(0.0, Verdict.WRONG, None, "guard", f"The program is longer than {MAX_PROGRAM_CHARS} characters.")
    if cache is not None:

        def run() -> Score:
            return score_program(program, tests, limits, partial_credit, sandbox)

        # Besides its tests and limits a verdict depends on what the sandbox lets a program import, open and allocate.
        return cache.score(program, tests, (limits, partial_credit, getattr(sandbox, "settings", ())), run)
    sandbox = sandbox or get_sandbox()
    score = _score(program, tests, limits, partial_credit, sandbox)
    # Only a verdict that costs the policy something is worth asking whether the tests are to blame.
    if score.verdict in (Verdict.WRONG, Verdict.TIMEOUT) and (broken := _broken(tests, limits, sandbox)):
        return Score(0.0, Verdict.ERROR, score.answer, broken)
    return score


def _broken(tests: Tests, limits: Limits, sandbox: Runner) -> str:
    """What is wrong with the tests, as their own solution shows; empty if nothing is, or there is no solution."""
    # Kept with the tests, beside their cached properties: the solution is run once, whatever many samples fail.
    known = tests.__dict__
    if not tests.gold or "_broken" in known:
        return known.get("_broken", "")
    said = ""
    for gold in (tests.gold,) if isinstance(tests.gold, str) else tests.gold:
        score = _score(gold, tests, limits, False, sandbox)
        if score.verdict is Verdict.CORRECT:
            said = ""
            break
        # Not kept: that the sandbox failed says nothing about the tests.
        if score.verdict is Verdict.ERROR and score.reason.startswith("sandbox"):
            return score.reason
        said = f"tests: their own solution is {score.verdict}"
        _log.warning("%s, so they pay nothing unless another one passes: %s\n%s", said, gold[:300], score.observation)
    known["_broken"] = said
    return said


@dataclass(slots=True)
class _Tally:
    """How many tests a program passed, and how its processes ended."""

    total: int
    passed: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    fault: str = ""
    """Of the tests themselves."""
    why: str = "tests"

    def ended(self, ending: Ending) -> Outcome | None:
        """The first process that ended so."""
        return next((outcome for outcome in self.outcomes if outcome.ending is ending), None)

    def score(self, program: str, observation: str, partial_credit: bool, limits: Limits) -> Score:
        """The verdict."""
        answer = program.strip()
        # Our own failures first: they are masked, whatever else was found. Then limits, then the tests.
        if broken := self.ended(Ending.BROKEN):
            return Score(0.0, Verdict.ERROR, answer, f"sandbox: {broken.detail}")
        if self.fault:
            return Score(0.0, Verdict.ERROR, answer, f"tests: {self.fault}")
        if limits.total_s and sum(outcome.cpu_s for outcome in self.outcomes) > limits.total_s:
            return Score(0.0, Verdict.TIMEOUT, answer, "timeout_in_all", observation)
        if self.passed == self.total and not self.ended(Ending.TIMEOUT):
            return Score(1.0, Verdict.CORRECT, answer, "tests", observation)
        # A program that answers every test and then hangs is not right, and so is not paid as one that is.
        value = min(self.passed, self.total - 1) / self.total if partial_credit else 0.0
        if self.ended(Ending.TIMEOUT):
            return Score(value, Verdict.TIMEOUT, answer, "timeout", observation)
        return Score(value, Verdict.WRONG, answer, "died" if self.ended(Ending.DIED) else self.why, observation)


def _score(program: str, tests: Tests, limits: Limits, partial_credit: bool, sandbox: Runner) -> Score:
    if isinstance(tests, ScriptTests):
        return _score_script(program, tests, limits, partial_credit, sandbox)
    cases, code = (*tests.public, *tests.hidden), tests.code
    tally = _Tally(len(cases) + (len(code.tests) if code else 0))
    # Public and hidden calls in one process. Only where partial credit is paid do further ones follow a crash.
    first = sandbox.run(_conversation(program, tests, tests.calls), limits)
    loaded = bool(first.replies) and _is_loaded(first.replies[0])

    def call(start: int) -> tuple[Outcome, list[Any]]:
        rest = [{"kind": "calls", "calls": _calls(cases[start:]), "eager": True}]
        outcome = first if not tally.outcomes else sandbox.run(_conversation(program, tests, rest), limits)
        # A program that raises while it is loaded has failed, even if the function was defined before that.
        return outcome, list(outcome.replies[1:]) if outcome.replies and _is_loaded(outcome.replies[0]) else []

    results = _answers(len(cases), call, partial_credit and loaded, tally)
    # Cases behind the last answer have no result, and so have not passed.
    passed = [_passes(case, result, tests.alike) for case, result in zip(cases, results, strict=False)]
    tally.passed = sum(passed)
    n_public = len(tests.public)
    observation = of_calls(program, tests.public, results, passed[:n_public], first)
    # The judge costs a second process, so plain cases come first and a program that fails them is not judged.
    if code and loaded and (partial_credit or tally.passed == len(cases)):
        request = _judgement(program, tests.prelude, code)

        def judge(start: int) -> tuple[Outcome, list[Any]]:
            outcome = sandbox.run(Judgement(request | {"tests": list(code.tests[start:])}), limits)
            return outcome, list(outcome.replies)

        # The judge's process is ours: its word counts.
        verdicts = _answers(len(code.tests), judge, partial_credit, tally)
        tally.passed += sum(bool(verdict and verdict["passed"]) for verdict in verdicts)
        if any(verdict and verdict.get("object") for verdict in verdicts):
            tally.why = "object_for_plain_value"
        tally.fault = next((_said(verdict) for verdict in verdicts if verdict and verdict.get("ours")), "")
    score = tally.score(program, observation, partial_credit, limits)
    return replace(score, public=sum(passed[:n_public]) == n_public) if n_public else score


def _answers(n: int, run: Callable[[int], tuple[Outcome, list[Any]]], go_on: bool, tally: _Tally) -> list[Any]:
    """Answers to as many of ``n`` tests as were run; ``None`` for one that killed or hung its process.

    With ``go_on`` such a test costs itself alone: the tests behind it run in a process of their own.
    """
    outcome, further = run(0)
    tally.outcomes.append(outcome)
    answers, again = list(further), False
    while go_on and len(answers) + again < n and outcome.ending is not Ending.BROKEN:
        # The judge could not even begin (no such module, a broken set-up): further runs would end the same way.
        if answers and isinstance(answers[-1], dict) and answers[-1].get("setup"):
            break
        # The first run keeps quick answers back, so the next test may not be the one at fault; the second tells.
        if again and (outcome.ending is not Ending.FINISHED or not further):
            answers.append(None)
        again = True
        outcome, further = run(len(answers))
        tally.outcomes.append(outcome)
        answers += further
    return answers


def _conversation(program: str, tests: FunctionTests, calls: list[dict[str, Any]]) -> Conversation:
    load = {"kind": "load", "source": program, "prelude": tests.prelude}
    # The output counts up to the public calls' answers: load, public. Without public tests, up to the end of loading.
    return Conversation((load, *calls), output_after=2 if tests.public else 1)


def _calls(cases: Sequence[Case]) -> list[dict[str, Any]]:
    return [
        {
            "name": case.name,
            "args": [encode(arg) for arg in case.args],
            "kwargs": {name: encode(value) for name, value in case.kwargs},
        }
        for case in cases
    ]


def _is_loaded(reply: Any) -> bool:
    return isinstance(reply, dict) and reply.get("loaded") is True


def _passes(case: Case, result: Any, alike: bool) -> bool:
    if not isinstance(result, dict) or "value" not in result:
        return False
    return matches(case.expected, result["value"], case.tolerance, case.at_most, alike)


def _judgement(program: str, prelude: str, code: CheckCode) -> dict[str, Any]:
    free, modules = code.free_names
    names = code.names or free
    return {
        "source": program,
        "prelude": prelude,
        "names": list(names),
        "modules": modules,
        "aliases": dict(code.aliases),
        # A stub of the very function, as HumanEval's prompts have it, is no helper.
        "setup": without_definitions(code.setup, names),
    }


def _said(verdict: dict[str, Any]) -> str:
    raised = verdict.get("raised") or {}
    return f"{raised.get('type')}: {raised.get('message')}"


def _score_script(program: str, tests: ScriptTests, limits: Limits, partial_credit: bool, sandbox: Runner) -> Score:
    public, passed = _run_script(program, tests, tests.public, limits, sandbox)
    # Before the hidden pairs are run, so that it cannot depend on them.
    observation, seen = of_script(tests.public, public, passed), all(passed)
    tally = _Tally(len(tests.public) + len(tests.hidden), sum(passed), public)
    if all(passed) or partial_credit:
        hidden, passed = _run_script(program, tests, tests.hidden, limits, sandbox)
        tally.passed += sum(passed)
        tally.outcomes += hidden
    score = tally.score(program, observation, partial_credit, limits)
    return replace(score, public=seen) if tests.public else score


def _run_script(
    program: str, tests: ScriptTests, pairs: Sequence[tuple[str, str]], limits: Limits, sandbox: Runner
) -> tuple[list[Outcome], list[bool]]:
    waiting = []
    for stdin, expected in pairs:  # a right output must have room, and one that is too long must be seen to be
        room = max(limits.output_bytes, 2 * len(expected.encode()) + 1024)
        waiting.append(sandbox.submit(Script(program, stdin.encode()), replace(limits, output_bytes=room)))
    outcomes = [future.result() for future in waiting]
    passed = [
        outcome.ending is Ending.FINISHED
        and outcome.exit == 0
        and safely(tests.comparison, expected, outcome.output.decode("utf-8", "replace"), stdin)
        for (stdin, expected), outcome in zip(pairs, outcomes, strict=True)
    ]
    return outcomes, passed
