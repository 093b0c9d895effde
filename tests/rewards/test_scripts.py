"""Whole programs run as CPython runs them: every habit of the table gets its own output and status."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards.code import ScriptTests, score_program
from rewards.sandbox import Limits, Mode, Sandbox, SandboxError
from tests.rewards.scripts import SCRIPTS

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
