"""Whole programs run as CPython runs them: every habit of the table gets its own output and status."""

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
"""A hundred times what any row uses."""


@pytest.fixture(scope="module")
def natively(tmp_path_factory):
    """What CPython itself makes of each program: its output, and whether it ended well."""
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
"""One test a mode runs all rows and names those that are not as they should be."""


def complaints(mode, rows, complaint):
    """What ``complaint(sandbox, row)`` says of each row."""
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
    """Python's own verdict; these programs are harmless, so they run right here."""
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
    """Python's own verdicts. Here only: these programs change what threads share."""
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
