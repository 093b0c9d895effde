"""Is this program right? Function-level tests and whole programs on standard input, in the sandbox.

The tests never enter the program's process: it gets the arguments of its calls and returns plain data, which is
compared here, or by a judge in a process of its own where a test is arbitrary code. *Public* tests are those that the
task's text shows. They come first, and the output is read before a hidden argument is sent: nothing that a program
prints, raises or returns about a hidden test can reach the observation.

Not covered: a program that knows its task set by heart, one that is right on the hidden inputs only, and time limits
that a slow machine makes tighter (raise them).
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rewards.answers import program_in
from rewards.asserts import Case, free_names
from rewards.observation import clean_text
from rewards.sandbox import Conversation, Ending, Judgement, Limits, Mode, Outcome, Sandbox
from rewards.sandbox.candidate import MAX_FRAMES
from rewards.sandbox.codec import decode, encode, matches, show
from rewards.sandboxes import get_sandbox
from rewards.score import Score, Verdict

MAX_PROGRAM_CHARS = 100_000
_SHOWN_VALUE = 500


@dataclass(frozen=True, slots=True)
class CheckCode:
    """Test code that is no list of plain cases; it runs in a judge's process, against proxies of the program.

    Args:
        tests: Pieces of code, each one test: it passes if it raises nothing.
        setup: Runs before them: trusted helpers, ``def check(candidate): ...``.
        names: What the program must define and the tests use; empty finds out from the code.
        aliases: Other names under which the tests use one of ``names``.
    """

    tests: tuple[str, ...]
    setup: str = ""
    names: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FunctionTests:
    """Tests of a function. ``public`` ones may be shown to the policy; ``hidden`` and ``code`` never are."""

    public: tuple[Case, ...] = ()
    hidden: tuple[Case, ...] = ()
    code: CheckCode | None = None

    def __post_init__(self) -> None:
        if not (self.public or self.hidden or self.code):
            raise ValueError("no tests: an empty list would pay for any program")

    @cached_property
    def calls(self) -> list[dict[str, Any]]:
        """Requests for the public and for the hidden calls; a group of samples shares them."""
        return [{"kind": "calls", "calls": _calls(cases)} for cases in (self.public, self.hidden) if cases]


@dataclass(frozen=True, slots=True)
class ScriptTests:
    """Tests of a whole program: pairs of standard input and standard output."""

    public: tuple[tuple[str, str], ...] = ()
    hidden: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not (self.public or self.hidden):
            raise ValueError("no tests: an empty list would pay for any program")


def score_code(
    response: str,
    tests: FunctionTests | ScriptTests,
    limits: Limits | None = None,
    partial_credit: bool = False,
    sandbox: Sandbox | None = None,
    minimum: Mode = Mode.STRICT,
) -> Score:
    """Grades the program in a response: the last fenced block, see :func:`rewards.answers.program_in`.

    Args:
        response: What the policy wrote.
        tests: What the program must do.
        limits: Of one process; 5 s by default.
        partial_credit: Pay a wrong program the share of tests that it passes, instead of 0.
        sandbox: Where to run it; ``None`` takes the shared one.
        minimum: The least isolation of the shared sandbox.

    Returns:
        ``correct`` only if every test passes; ``timeout`` if it was killed at a limit, ``no_answer`` without a program.
        A sandbox that fails is an ``error``, never a reward of 0.

    Raises:
        SandboxError: If this machine does not give the isolation that is asked for.
    """
    names = {case.name for case in (*tests.public, *tests.hidden)} if isinstance(tests, FunctionTests) else set()
    program = program_in(response, names)
    if program is None:
        return Score(0.0, Verdict.NO_ANSWER, None, "no_program", "No program found: put it into one ```python block.")
    return score_program(program, tests, limits, partial_credit, sandbox or get_sandbox(minimum))


def score_program(
    program: str,
    tests: FunctionTests | ScriptTests,
    limits: Limits | None = None,
    partial_credit: bool = False,
    sandbox: Sandbox | None = None,
) -> Score:
    """Grades a program as it stands; arguments and result as for :func:`score_code`."""
    sandbox, limits = sandbox or get_sandbox(), limits or Limits()
    program = program.lstrip("\ufeff")
    if len(program) > MAX_PROGRAM_CHARS:
        return Score(0.0, Verdict.WRONG, None, "guard", f"The program is longer than {MAX_PROGRAM_CHARS} characters.")
    if isinstance(tests, ScriptTests):
        return _score_script(program, tests, limits, partial_credit, sandbox)
    return _score_function(program, tests, limits, partial_credit, sandbox)


@dataclass(frozen=True, slots=True)
class _Tally:
    """How far a program came."""

    passed: int
    total: int
    ending: Ending
    detail: str = ""

    def score(self, program: str, observation: str, partial_credit: bool) -> Score:
        answer = program.strip()
        if self.ending is Ending.BROKEN:
            return Score(0.0, Verdict.ERROR, answer, f"sandbox: {self.detail}")
        if self.ending is Ending.TIMEOUT:
            return Score(0.0, Verdict.TIMEOUT, answer, "timeout", observation)
        if self.passed == self.total:
            return Score(1.0, Verdict.CORRECT, answer, "tests", observation)
        reason = "died" if self.ending is Ending.DIED else "tests"
        value = self.passed / self.total if partial_credit else 0.0
        return Score(value, Verdict.WRONG, answer, reason, observation)


def _score_function(
    program: str, tests: FunctionTests, limits: Limits, partial_credit: bool, sandbox: Sandbox
) -> Score:
    outcome = sandbox.run(_conversation(program, tests), limits)
    loaded = bool(outcome.replies) and _is_loaded(outcome.replies[0])
    # A program that raises while it is loaded has failed, even if the function was defined before that.
    public = _results(outcome, 1, len(tests.public)) if loaded and tests.public else []
    hidden = _results(outcome, 1 + bool(tests.public), len(tests.hidden)) if loaded and tests.hidden else []
    passed = sum(map(_passes, tests.public, public)) + sum(map(_passes, tests.hidden, hidden))
    total = len(tests.public) + len(tests.hidden)
    observation = _observe(program, tests, outcome, public, loaded)
    ending, detail = outcome.ending, outcome.detail
    if tests.code is not None:
        total += len(tests.code.tests)
        passes_so_far = passed + len(tests.code.tests) == total
        if loaded and ending is Ending.FINISHED and (partial_credit or passes_so_far):
            judged = sandbox.run(_judgement(program, tests.code), limits)
            passed += _judged(judged)
            ending, detail = judged.ending, judged.detail
    return _Tally(passed, total, ending, detail).score(program, observation, partial_credit)


def _conversation(program: str, tests: FunctionTests) -> Conversation:
    requests: list[dict[str, Any]] = [{"kind": "load", "source": program, "name": "solution"}]
    requests += tests.calls
    requests[-1] = requests[-1] | {"last": True}
    return Conversation(tuple(requests), output_after=2 if tests.public else 1)


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


def _results(outcome: Outcome, index: int, n_cases: int) -> list[Any]:
    """Replies to the calls of one request; an untrusted process may have sent anything, or nothing."""
    if index >= len(outcome.replies) or not isinstance(outcome.replies[index], dict):
        return []
    results = outcome.replies[index].get("results")
    return results if isinstance(results, list) and len(results) == n_cases else []


def _passes(case: Case, result: Any) -> bool:
    if not isinstance(result, dict) or "value" not in result:
        return False
    if case.tolerance is None:
        return matches(case.expected, result["value"])
    value = result["value"]
    if isinstance(value, dict) and set(value) <= {"int", "float", "Fraction", "Decimal"}:
        try:
            value = float(decode(value))
        except (ValueError, OverflowError, TypeError):
            return False
    return isinstance(value, int | float) and abs(value - case.expected) < case.tolerance


def _judgement(program: str, code: CheckCode) -> Judgement:
    free, modules = free_names("\n".join([code.setup, *code.tests]))
    return Judgement(
        {
            "source": program,
            "names": list(code.names or free),
            "modules": modules,
            "aliases": dict(code.aliases),
            "setup": code.setup,
            "tests": list(code.tests),
        }
    )


def _judged(outcome: Outcome) -> int:
    """How many tests the judge saw pass. The judge's process is ours: its word counts."""
    if outcome.ending is not Ending.FINISHED:
        return 0
    return sum(result["passed"] for result in outcome.replies[0].get("results", []))


# What the policy is told.


def _observe(program: str, tests: FunctionTests, outcome: Outcome, results: list[Any], loaded: bool) -> str:
    """The first thing that went wrong with the program or a public test, and what was printed until then."""
    if not loaded:
        reply = outcome.replies[0] if outcome.replies else None
        lines = ["The program could not be loaded.", *_what_happened(program, reply, outcome)]
    elif tests.public and not results:
        lines = ["The shown tests got no answer.", *_what_happened(program, None, outcome)]
    else:
        lines = _first_failure(program, tests.public, results)
    return _framed(lines, outcome.output)


def _framed(lines: list[str], output: bytes) -> str:
    body = [clean_text("\n".join(lines))]
    if output.strip():
        body += ["[sandbox] standard output:", clean_text(output).rstrip()]
    return "\n".join(body)


def _first_failure(program: str, cases: Sequence[Case], results: list[Any]) -> list[str]:
    for case, result in zip(cases, results, strict=True):
        if _passes(case, result):
            continue
        lines = [f"Input: {case.call_text()}", f"Expected: {case.expected!r}"]
        if isinstance(result, dict) and "value" in result:
            return [*lines, f"Got: {show(result['value'], _SHOWN_VALUE)}"]
        return [*lines, *_what_happened(program, result, None)]
    if not cases:
        return ["The program was loaded without an error. No test is shown for it."]
    return [f"All {len(cases)} shown tests pass." if len(cases) > 1 else "The shown test passes."]


def _what_happened(program: str, reply: Any, outcome: Outcome | None) -> list[str]:
    if isinstance(reply, dict) and isinstance(reply.get("raised"), dict):
        return _traceback(program, reply["raised"])
    if isinstance(reply, dict) and "unusable" in reply:
        return [f"The result is no plain data: {reply['unusable']}"]
    if outcome is None:
        return ["The program sent no answer."]
    if outcome.ending is Ending.TIMEOUT:
        return ["Timeout: the program was stopped at its time limit."]
    if outcome.signal:
        return [f"The program was killed by signal {outcome.signal}."]
    return ["The program ended before it answered."]


def _traceback(program: str, raised: dict[str, Any]) -> list[str]:
    """A traceback of the program's own frames. The frames' text is ours; the type and message are the program's."""
    lines = program.splitlines()
    text = []
    frames = raised.get("frames")
    for frame in frames[:MAX_FRAMES] if isinstance(frames, list) else []:
        if not (isinstance(frame, list) and len(frame) == 2 and isinstance(frame[0], int)):
            continue
        number, name = frame
        text.append(f'  File "solution.py", line {number}, in {str(name)[:100]}')
        if 0 < number <= len(lines):
            text.append(f"    {lines[number - 1].strip()[:200]}")
    message = str(raised.get("message", ""))
    return [
        "Traceback:",
        *text,
        f"{raised.get('type', 'Exception')}: {message}" if message else str(raised.get("type")),
    ]


# Whole programs.


def _score_script(program: str, tests: ScriptTests, limits: Limits, partial_credit: bool, sandbox: Sandbox) -> Score:
    public = _run_script(program, tests.public, limits, sandbox)
    public_passed = [
        _script_passes(expected, outcome) for (_, expected), outcome in zip(tests.public, public, strict=True)
    ]
    observation = _observe_script(program, tests, public, public_passed)
    outcomes = list(public)
    passed = sum(public_passed)
    if all(public_passed) or partial_credit:
        hidden = _run_script(program, tests.hidden, limits, sandbox)
        passed += sum(_script_passes(expected, o) for (_, expected), o in zip(tests.hidden, hidden, strict=True))
        outcomes += hidden
    total = len(tests.public) + len(tests.hidden)
    endings = [outcome.ending for outcome in outcomes]
    ending = next((e for e in (Ending.BROKEN, Ending.TIMEOUT) if e in endings), Ending.FINISHED)
    detail = next((outcome.detail for outcome in outcomes if outcome.ending is Ending.BROKEN), "")
    return _Tally(passed, total, ending, detail).score(program, observation, partial_credit)


def _run_script(program: str, tests: Sequence[tuple[str, str]], limits: Limits, sandbox: Sandbox) -> list[Outcome]:
    request = {"kind": "load", "source": program, "name": "__main__", "last": True}
    waiting: list[Future[Outcome]] = [
        sandbox.submit(Conversation((request,), stdin=stdin.encode(), read_output_at_end=True), limits)
        for stdin, _ in tests
    ]
    return [future.result() for future in waiting]


def _script_passes(expected: str, outcome: Outcome) -> bool:
    ended_well = outcome.ending is Ending.FINISHED and _is_loaded(outcome.replies[0])
    if not ended_well and not (outcome.ending is Ending.DIED and outcome.exit == 0):
        return False
    return _lines(outcome.output.decode("utf-8", "replace")) == _lines(expected)


def _lines(text: str) -> list[str]:
    """Lines without trailing white space, and no empty ones at the end: what judges of programs compare."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _observe_script(program: str, tests: ScriptTests, outcomes: list[Outcome], passed: list[bool]) -> str:
    for (stdin, expected), outcome, right in zip(tests.public, outcomes, passed, strict=True):
        if right:
            continue
        lines = [f"Standard input:\n{stdin}", f"Expected output:\n{expected}"]
        reply = outcome.replies[0] if outcome.replies else None
        if not _is_loaded(reply):
            lines += _what_happened(program, reply, outcome)
        return _framed(lines, outcome.output or b"(nothing)")
    return f"All {len(passed)} shown tests pass." if passed else "No test is shown."
