"""Grades programs in the sandbox, by tests of functions or by standard input and output of whole programs.

The tests never enter the program's process. That process receives the arguments of each call and returns plain data,
which is compared here, or, if a test is arbitrary code, by a judge in a separate process. *Public* tests are those that
the text of the task shows. They run first, and the program's output is read before any hidden argument is sent, so that
nothing a program prints, raises or returns about a hidden test can reach the observation.

Not covered: a program that memorised the answers of its task set, and one that is correct on the hidden inputs only.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rewards.asserting import untested
from rewards.asserts import Case, declare_all, free_names, without_definitions
from rewards.comparison import COMPARISONS, Comparison, comparison, safely
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
    """Tests that are arbitrary code; they run in a judge's process and call the program through proxies.

    Args:
        tests: Pieces of code, each of which is one test; a test passes if it raises nothing.
        setup: Trusted code that runs before the tests, such as helpers or ``def check(candidate): ...``. The tests use
            its definitions even if the program defines the same names, except for ``names``.
        names: Names that the program must define and the tests use; if empty, they are inferred from the code.
        aliases: Pairs of an alias that the tests use and the name in ``names`` that it stands for.

    Raises:
        ValueError: If the tests are not valid Python, use no name that a program could define, or never assert
            anything (:mod:`rewards.asserting`), since then every program would pass.
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
            raise ValueError(f"the tests name nothing that a program must define; give names=[...]: {self.tests}")
        if said := untested("\n".join([self.setup, *self.tests]), self.names):
            raise ValueError(f"the tests would pay for any program: {said}")

    @cached_property
    def free_names(self) -> tuple[list[str], list[str]]:
        """Names that the tests take from the program, and modules that they take from the standard library."""
        return free_names("\n".join([self.setup, *self.tests]))


@dataclass(frozen=True)
class FunctionTests:
    """Tests of functions; ``public`` tests may be shown to the policy, ``hidden`` and ``code`` tests never are.

    Args:
        public: Cases that the question shows.
        hidden: Cases that the question does not show.
        code: Tests that are arbitrary code.
        prelude: Code that runs before the program, in its namespace: imports and helpers that the question gives.
        alike: Whether a tuple equals a list of the same items.
        gold: A solution that must pass, or several, one of which must pass. If none passes, the tests are broken, and
            programs that fail them are graded ``error``. Solutions are run once, when a program first fails.
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
        """Requests for the public and for the hidden calls, built once for all samples of the task."""
        # Public calls are answered one by one ("eager"), because the observation shows the first wrong answer and what
        # was printed up to it. The answers to hidden calls may be sent together.
        parts = ((self.public, True), (self.hidden, False))
        return [{"kind": "calls", "calls": _calls(cases), "eager": shown} for cases, shown in parts if cases]


@dataclass(frozen=True)
class ScriptTests:
    """Tests of a whole program: pairs of standard input and standard output.

    Args:
        public: Pairs that the question shows.
        hidden: Pairs that the question does not show.
        compare: How outputs are compared: a name in ``COMPARISONS``, or a function of the expected output, the actual
            output and the input.
        compare_options: Options of the comparison that ``compare`` names.
        gold: One or several solutions, as in :class:`FunctionTests`.
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
        """The function that compares an output with the expected output."""
        return comparison(self.compare, self.compare_options) if isinstance(self.compare, str) else self.compare

    @property
    def is_built_in(self) -> bool:
        """Whether outputs are compared by a comparison of this package; verdicts by the code of others are not cached.

        That code may have changed since a verdict was stored, which its name does not show.
        """
        return isinstance(self.compare, str) and COMPARISONS[self.compare].__module__ == COMPARISONS["lines"].__module__


Tests = FunctionTests | ScriptTests


def as_tests(tests: Tests | str | Sequence[str]) -> Tests:
    """Returns tests unchanged, or makes them from Python assertions.

    If every assertion can be declared as a plain case, the result holds cases; otherwise it holds code for the judge.

    Raises:
        TypeError: If ``tests`` are neither tests nor text.
        ValueError: If the assertions are not valid Python.
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
    """Grades the program in a response; :func:`rewards.program.program_in` extracts it.

    Args:
        response: Text that the policy wrote.
        tests: Tests that the program must pass; assertions as text are accepted too.
        limits: Limits of one process; by default, 5 s of processor time for a test.
        partial_credit: Whether a wrong program scores the share of tests that it passes, instead of 0.
        sandbox: Sandbox that runs the program; ``None`` uses the shared sandbox.
        cache: Cache of earlier verdicts; ``None`` runs every program, and so do outputs that another module compares.

    Returns:
        A score whose verdict is ``correct`` only if every test passes, ``timeout`` if the program was killed at a time
        limit, and ``no_answer`` if the response has no program. If the sandbox or a test itself fails, the verdict is
        ``error``, which is masked instead of being trained on as a reward of 0.

    Raises:
        SandboxError: If this machine does not provide the required isolation.
        TypeError: If the response is not a string, or ``tests`` are not tests.
    """
    if not isinstance(response, str):
        raise TypeError(f"a response must be text, got {response!r:.100}")
    tests = as_tests(tests)
    program = program_in(response, wanted_names(tests))
    if program is None:
        return Score(0.0, Verdict.NO_ANSWER, None, "no_program", "No program found: put it into one ```python block.")
    return score_program(program, tests, limits, partial_credit, sandbox, cache)


def wanted_names(tests: Tests) -> set[str]:
    """Names that a program must define at its top level."""
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
    """Grades a program that has already been extracted; other arguments and result are as for :func:`score_code`."""
    limits = limits or Limits()
    # Some editors write a byte-order mark, which ``compile`` would reject as a character of the program.
    program = program.lstrip("\ufeff")
    if len(program) > MAX_PROGRAM_CHARS:
        return Score(0.0, Verdict.WRONG, None, "guard", f"The program is longer than {MAX_PROGRAM_CHARS} characters.")
    if cache is not None and (isinstance(tests, FunctionTests) or tests.is_built_in):

        def run() -> Score:
            return score_program(program, tests, limits, partial_credit, sandbox)

        # A verdict also depends on what the sandbox lets a program import, open and allocate, so those settings are
        # part of the key.
        return cache.score(program, tests, (limits, partial_credit, getattr(sandbox, "settings", ())), run)
    sandbox = sandbox or get_sandbox()
    score = _score(program, tests, limits, partial_credit, sandbox)
    # The solution is run only if a program failed, since only then broken tests would cost the policy its reward.
    if score.verdict in (Verdict.WRONG, Verdict.TIMEOUT) and (broken := _broken(tests, limits, sandbox)):
        return Score(0.0, Verdict.ERROR, score.answer, broken)
    return score


def _broken(tests: Tests, limits: Limits, sandbox: Runner) -> str:
    """What is wrong with the tests, judged by running their own solution; empty if it passes or there is none."""
    # The finding is stored on the tests, beside their cached properties, so that the solution runs only once.
    known = tests.__dict__
    if not tests.gold or "_broken" in known:
        return known.get("_broken", "")
    said = ""
    for gold in (tests.gold,) if isinstance(tests.gold, str) else tests.gold:
        score = _score(gold, tests, limits, False, sandbox)
        if score.verdict is Verdict.CORRECT:
            said = ""
            break
        # Not stored: a failure of the sandbox says nothing about the tests.
        if score.verdict is Verdict.ERROR and score.reason.startswith("sandbox"):
            return score.reason
        said = f"tests: their own solution is {score.verdict}"
        _log.warning("%s, so they pay nothing unless another one passes: %s\n%s", said, gold[:300], score.observation)
    known["_broken"] = said
    return said


@dataclass(slots=True)
class _Tally:
    """Number of tests that a program passed, and how its processes ended."""

    total: int
    passed: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    fault: str = ""
    """A failure of the tests themselves, if there was one."""
    why: str = "tests"

    def ended(self, ending: Ending) -> Outcome | None:
        """The outcome of the first process that ended in this way; ``None`` if no process did."""
        return next((outcome for outcome in self.outcomes if outcome.ending is ending), None)

    def score(self, program: str, observation: str, partial_credit: bool, limits: Limits) -> Score:
        """The score that follows from the tests passed and the endings."""
        answer = program.strip()
        # Failures of the sandbox and the tests come first, since they are masked whatever else was found; then time
        # limits; then the tests.
        if broken := self.ended(Ending.BROKEN):
            return Score(0.0, Verdict.ERROR, answer, f"sandbox: {broken.detail}")
        if self.fault:
            return Score(0.0, Verdict.ERROR, answer, f"tests: {self.fault}")
        if limits.total_s and sum(outcome.cpu_s for outcome in self.outcomes) > limits.total_s:
            return Score(0.0, Verdict.TIMEOUT, answer, "timeout_in_all", observation)
        if self.passed == self.total and not self.ended(Ending.TIMEOUT):
            return Score(1.0, Verdict.CORRECT, answer, "tests", observation)
        # A program that passes every test and then hangs is not correct, so it scores less than 1.
        value = min(self.passed, self.total - 1) / self.total if partial_credit else 0.0
        if self.ended(Ending.TIMEOUT):
            return Score(value, Verdict.TIMEOUT, answer, "timeout", observation)
        return Score(value, Verdict.WRONG, answer, "died" if self.ended(Ending.DIED) else self.why, observation)


def _score(program: str, tests: Tests, limits: Limits, partial_credit: bool, sandbox: Runner) -> Score:
    if isinstance(tests, ScriptTests):
        return _score_script(program, tests, limits, partial_credit, sandbox)
    cases, code = (*tests.public, *tests.hidden), tests.code
    tally = _Tally(len(cases) + (len(code.tests) if code else 0))
    # Public and hidden calls run in one process. After a crash, further processes are started only for partial credit.
    first = sandbox.run(_conversation(program, tests, tests.calls), limits)
    loaded = bool(first.replies) and _is_loaded(first.replies[0])

    def call(start: int) -> tuple[Outcome, list[Any]]:
        rest = [{"kind": "calls", "calls": _calls(cases[start:]), "eager": True}]
        outcome = first if not tally.outcomes else sandbox.run(_conversation(program, tests, rest), limits)
        # A program that raises while it is loaded has failed, even if its function was defined before the exception.
        return outcome, list(outcome.replies[1:]) if outcome.replies and _is_loaded(outcome.replies[0]) else []

    results = _answers(len(cases), call, partial_credit and loaded, tally)
    # Cases after the last answer have no result and count as failed.
    passed = [_passes(case, result, tests.alike) for case, result in zip(cases, results, strict=False)]
    tally.passed = sum(passed)
    n_public = len(tests.public)
    observation = of_calls(program, tests.public, results, passed[:n_public], first)
    # The judge needs a second process, so it runs only if the program passed all plain cases or gets partial credit.
    if code and loaded and (partial_credit or tally.passed == len(cases)):
        request = _judgement(program, tests.prelude, code)

        def judge(start: int) -> tuple[Outcome, list[Any]]:
            outcome = sandbox.run(Judgement(request | {"tests": list(code.tests[start:])}), limits)
            return outcome, list(outcome.replies)

        # The judge's process is trusted, so its verdicts need no check.
        verdicts = _answers(len(code.tests), judge, partial_credit, tally)
        tally.passed += sum(bool(verdict and verdict["passed"]) for verdict in verdicts)
        if any(verdict and verdict.get("object") for verdict in verdicts):
            tally.why = "object_for_plain_value"
        tally.fault = next((_said(verdict) for verdict in verdicts if verdict and verdict.get("ours")), "")
    score = tally.score(program, observation, partial_credit, limits)
    return replace(score, public=sum(passed[:n_public]) == n_public) if n_public else score


def _answers(n: int, run: Callable[[int], tuple[Outcome, list[Any]]], go_on: bool, tally: _Tally) -> list[Any]:
    """Answers to the first tests out of ``n`` that were run; ``None`` for a test that killed or hung its process.

    With ``go_on``, the tests after such a test still run, in another process, so that only that test fails.
    """
    outcome, further = run(0)
    tally.outcomes.append(outcome)
    answers, again = list(further), False
    while go_on and len(answers) + again < n and outcome.ending is not Ending.BROKEN:
        # The judge failed before its first test (a missing module, a broken set-up), and would fail so again.
        if answers and isinstance(answers[-1], dict) and answers[-1].get("setup"):
            break
        # A run that ends early may lose answers that were buffered, so the next test in order is not necessarily the
        # one at fault. Only a second run that starts with that test and fails at it shows that it is.
        if again and (outcome.ending is not Ending.FINISHED or not further):
            answers.append(None)
        again = True
        outcome, further = run(len(answers))
        tally.outcomes.append(outcome)
        answers += further
    return answers


def _conversation(program: str, tests: FunctionTests, calls: list[dict[str, Any]]) -> Conversation:
    load = {"kind": "load", "source": program, "prelude": tests.prelude}
    # Output is recorded up to the reply to the public calls (the second request), or, without public tests, up to the
    # end of loading (the first request).
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
        # A stub of the tested function itself, as in HumanEval's prompts, must not replace the program's function.
        "setup": without_definitions(code.setup, names),
    }


def _said(verdict: dict[str, Any]) -> str:
    raised = verdict.get("raised") or {}
    return f"{raised.get('type')}: {raised.get('message')}"


def _score_script(program: str, tests: ScriptTests, limits: Limits, partial_credit: bool, sandbox: Runner) -> Score:
    public, passed = _run_script(program, tests, tests.public, limits, sandbox)
    # The observation is made before the hidden pairs are run, so that it cannot depend on them.
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
    for stdin, expected in pairs:  # enough room for the expected output, and for recognising that an output is too long
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
