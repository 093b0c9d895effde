"""Many threads can parse programs at once, although ``ast.parse`` of CPython 3.11 is not safe to call from threads."""

import ast
import gc
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards.parsing import parse

NESTED = "x = " + "(" * 40 + "1" + " + 1)" * 40


@pytest.fixture
def threads_take_turns_while_a_tree_is_built():
    """Collects garbage at every few new nodes of a tree and lets another thread run each time.

    Threads that parse at the same time would otherwise rarely interrupt each other.
    """

    def let_others(phase, info):
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(let_others)
    gc.set_threshold(5)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(let_others)


@pytest.mark.usefixtures("threads_take_turns_while_a_tree_is_built")
def test_threads_that_parse_at_once_get_their_trees():
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(parse, [NESTED] * 100))
    assert len({ast.dump(tree) for tree in trees}) == 1


def test_what_is_no_program_is_a_syntax_error_and_leaves_the_lock():
    with pytest.raises(SyntaxError):
        parse("def f(:")
    assert parse("1 + 2", mode="eval").body.right.value == 2


@pytest.mark.parametrize(
    "program", [r"pattern = '\d'", "x = 1if True else 0"], ids=["invalid escape", "number before a word"]
)
def test_python_does_not_warn_of_what_a_model_wrote(program):
    """pytest sets filters of its own, so another process parses, in which every other warning is an error."""
    of_program = f"from rewards.parsing import parse; parse({program!r})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", of_program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
