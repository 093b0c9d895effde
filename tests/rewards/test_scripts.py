"""Honest programs and functions, each with a habit of its own, get the verdict in the sandbox that CPython gives."""

import contextlib
import io
import subprocess
import sys
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards.asserts import declare_all
from rewards.code import CheckCode, FunctionTests, ScriptTests, score_program
from rewards.sandbox import Limits, Mode, Sandbox, SandboxError
from tests.rewards import scripts, scripts_functions, scripts_interpreter, scripts_more

SCRIPTS = scripts.SCRIPTS | scripts_interpreter.SCRIPTS | scripts_more.SCRIPTS
FUNCTIONS = scripts_functions.FUNCTIONS | scripts_more.FUNCTIONS
LIMITS = Limits(cpu_s=10.0)
"""A hundred times the processor time that any row uses."""


@pytest.fixture(scope="module")
def natively(tmp_path_factory):
    """The output of each program under CPython itself, and whether its exit status was 0."""
    folder = tmp_path_factory.mktemp("native")

    def run(item):
        name, (source, stdin) = item
        path = folder / str(abs(hash(name))) / "solution.py"
        path.parent.mkdir()
        path.write_text(source)
        environment = {"PYTHONIOENCODING": "utf-8:strict", "PATH": "/usr/bin:/bin"}
        with open(path.parent / "stdin", "wb") as file:
            file.write(stdin.encode())
        with open(path.parent / "stdin", "rb") as file:
            done = subprocess.run(
                [sys.executable, "solution.py"], stdin=file, capture_output=True, cwd=path.parent, env=environment
            )
        return name, (done.stdout.decode(), done.returncode == 0)

    with ThreadPoolExecutor(2) as threads:
        return dict(threads.map(run, SCRIPTS.items()))


MODES = pytest.mark.parametrize(
    "mode", [Mode.NAMESPACES, Mode.LANDLOCK, Mode.STRICT], ids=lambda mode: mode.name.lower()
)
"""Runs a test once per mode; each test runs all rows and lists those with a wrong verdict."""


def complaints(mode, rows, complaint):
    """Runs ``complaint(sandbox, row)`` for all rows in a mode; returns the non-empty results with the rows' names."""
    try:
        sandbox = Sandbox(mode=mode)
    except SandboxError as error:
        pytest.skip(str(error))
    with sandbox, ThreadPoolExecutor(4) as threads:
        said = threads.map(lambda name: complaint(sandbox, name), rows)
        return [f"{name}: {text}" for name, text in zip(rows, said, strict=True) if text]


@MODES
def test_a_whole_program_gets_the_verdict_that_python_gives(mode, natively):
    def complaint(sandbox, name):
        source, stdin = SCRIPTS[name]
        output, well = natively[name]
        score = score_program(source, ScriptTests(((stdin, output),), compare="exact"), LIMITS, sandbox=sandbox)
        if score.verdict != ("correct" if well else "wrong"):
            return score
        if well and output.strip():
            wrong = ScriptTests(((stdin, output + "x"),), compare="exact")
            score = score_program(source, wrong, LIMITS, sandbox=sandbox)
            return score.verdict != "wrong" and f"another output is {score}"
        return ""

    said = complaints(mode, SCRIPTS, complaint)
    assert not said, "\n".join(said)


def test_the_table_is_large():
    programs = [scripts.SCRIPTS, scripts_interpreter.SCRIPTS, scripts_more.SCRIPTS]
    assert len(SCRIPTS) == sum(map(len, programs)) >= 300
    assert len(FUNCTIONS) == len(scripts_functions.FUNCTIONS) + len(scripts_more.FUNCTIONS) >= 190


def natively_passes(program, test):
    """Whether CPython passes the test; the programs are harmless, so they run in this process."""
    namespace = {"__name__": "solution"}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), no_input():
            exec(compile(program, "solution.py", "exec"), namespace)
            exec(test, namespace)
    except (Exception, SystemExit):
        return False
    return True


@contextlib.contextmanager
def no_input():
    limit, stdin = sys.getrecursionlimit(), sys.stdin
    sys.stdin, sys.modules["solution"] = io.StringIO(), types.ModuleType("solution")
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
        sys.stdin = stdin
        del sys.modules["solution"]


@pytest.fixture(scope="module")
def natively_passed():
    """CPython's verdicts by name, found one after the other because the programs change what threads share."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: natively_passes(*row) for name, row in FUNCTIONS.items()}


@MODES
def test_a_function_gets_the_verdict_that_python_gives(mode, natively_passed):
    def complaint(sandbox, name):
        program, test = FUNCTIONS[name]
        cases = declare_all(test, {"f": "f"})
        tests = FunctionTests(hidden=cases) if cases else FunctionTests(code=CheckCode((test,)))
        score = score_program(program, tests, LIMITS, sandbox=sandbox)
        return score.verdict != ("correct" if natively_passed[name] else "wrong") and score

    said = complaints(mode, FUNCTIONS, complaint)
    assert not said, "\n".join(said)
