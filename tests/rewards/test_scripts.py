"""Whole programs run as CPython runs them: every habit of the table gets its own output and status."""

import contextlib
import io
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards.asserts import declare_all
from rewards.code import CheckCode, FunctionTests, ScriptTests, score_program
from rewards.sandbox import Limits, Mode, Sandbox, SandboxError
from tests.rewards.scripts import FUNCTIONS, SCRIPTS

LIMITS = Limits(cpu_s=10.0)


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


@pytest.fixture(
    scope="module", params=[Mode.NAMESPACES, Mode.LANDLOCK, Mode.STRICT], ids=lambda mode: mode.name.lower()
)
def sandbox(request):
    try:
        sandbox = Sandbox(n_workers=2, mode=request.param)
    except SandboxError as error:
        pytest.skip(str(error))
    with sandbox:
        yield sandbox


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_whole_program_gets_the_verdict_that_python_gives(name, sandbox, natively):
    source, stdin = SCRIPTS[name]
    output, well = natively[name]
    tests = ScriptTests(((stdin, output),), compare="exact")
    score = score_program(source, tests, LIMITS, sandbox=sandbox)
    assert score.verdict == ("correct" if well else "wrong"), score.observation
    if well and output.strip():
        wrong = ScriptTests(((stdin, output + "x"),), compare="exact")
        assert score_program(source, wrong, LIMITS, sandbox=sandbox).verdict == "wrong"


def test_the_table_is_large():
    assert len(SCRIPTS) >= 200
    assert len(FUNCTIONS) >= 150


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
    limit, stdin, modules = sys.getrecursionlimit(), sys.stdin, sys.modules.get("solution")
    sys.stdin, sys.modules["solution"] = io.StringIO(), types.ModuleType("solution")
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
        sys.stdin = stdin
        sys.modules["solution"] = modules
        if modules is None:
            del sys.modules["solution"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gets_the_verdict_that_python_gives(name, sandbox):
    program, test = FUNCTIONS[name]
    names = {"f": "f"}
    cases = declare_all(test, names)
    tests = FunctionTests(hidden=cases) if cases else FunctionTests(code=CheckCode((test,)))
    score = score_program(program, tests, LIMITS, sandbox=sandbox)
    assert score.verdict == ("correct" if natively_passes(program, test) else "wrong"), score
