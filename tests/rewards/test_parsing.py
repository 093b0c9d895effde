"""Programs are parsed by many threads at once."""

import ast
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards.parsing import parse

NESTED = "x = " + "(" * 40 + "1" + " + 1)" * 40


def test_threads_that_parse_at_once_get_their_trees():
    # Switching threads as often as possible makes CPython 3.11's unguarded ast.parse raise SystemError here.
    before, wanted = sys.getswitchinterval(), ast.dump(ast.parse(NESTED))
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            trees = list(pool.map(parse, [NESTED] * 400))
    finally:
        sys.setswitchinterval(before)
    assert all(ast.dump(tree) == wanted for tree in trees)


def test_what_is_no_program_is_a_syntax_error_and_leaves_the_lock():
    with pytest.raises(SyntaxError):
        parse("def f(:")
    assert parse("1 + 2", mode="eval").body.right.value == 2
