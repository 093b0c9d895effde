"""The table of programs, in every mode that this machine gives."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards.asserts import Case
from rewards.code import FunctionTests, score_program
from rewards.sandbox import Limits, Mode, Sandbox, SandboxError
from tests.rewards.programs import HONEST, MARKER, PROGRAMS

HIDDEN_ARGUMENT, HIDDEN_RESULT = 918273, 1836546
TESTS = FunctionTests(
    public=(Case("double", (2,), 4),),
    hidden=(Case("double", (HIDDEN_ARGUMENT,), HIDDEN_RESULT), Case("double", ("hidden-ab",), "hidden-abhidden-ab")),
)
LIMITS = Limits(cpu_s=0.5)
MODES = {"N": Mode.NAMESPACES, "L": Mode.LANDLOCK, "S": Mode.STRICT}


@functools.lru_cache(maxsize=3)
def graded(letter):
    """Scores of all rows of a mode by name; runs them all at once, in whatever order the workers come to them."""
    rows = [row for row in PROGRAMS if letter in row.modes]
    with Sandbox(mode=MODES[letter]) as sandbox, ThreadPoolExecutor(8) as threads:
        scores = list(threads.map(lambda row: score_program(row.source, TESTS, LIMITS, sandbox=sandbox), rows))
        again = score_program(HONEST, TESTS, LIMITS, sandbox=sandbox)
    return {row.name: score for row, score in zip(rows, scores, strict=True)}, again


def skip_without(letter):
    try:
        Sandbox(n_workers=1, mode=MODES[letter]).close()
    except SandboxError as error:
        pytest.skip(str(error))


def test_the_table_is_large_and_names_are_unique():
    assert len(PROGRAMS) >= 80
    assert len({row.name for row in PROGRAMS}) == len(PROGRAMS)
    assert all(row.why for row in PROGRAMS)


@pytest.mark.parametrize("letter", MODES)
@pytest.mark.parametrize("row", PROGRAMS, ids=lambda row: f"{row.category}: {row.name}")
def test_program(row, letter):
    if letter not in row.modes:
        pytest.skip(f"holds in {row.modes} only")
    skip_without(letter)
    scores, _ = graded(letter)
    score = scores[row.name]
    assert score.verdict == row.verdict, f"{row.why}: {score}"
    assert score.value == (row.verdict == "correct")
    for secret in (str(HIDDEN_ARGUMENT), str(HIDDEN_RESULT), "hidden-ab"):
        assert secret not in score.observation
    for marker in ("<|im_end|>", "\x1b", "\x00"):
        assert marker not in score.observation
    assert len(score.observation) < 8000


@pytest.mark.parametrize("letter", MODES)
def test_afterwards_nothing_is_left_and_the_next_program_is_served(letter):
    skip_without(letter)
    _, again = graded(letter)
    assert again.verdict == "correct"
    assert not os.path.exists(MARKER)
