"""Nouns agree with their counts ("1 row", "2 rows"), and every sentence with a count takes it from ``counted``."""

import ast
import itertools
import re

import pytest

from rewards.wording import counted
from tests.conftest import ROOT

NOUNS = "arm attempt byte character claim conversation episode finding folder gold group job process question replica "
NOUNS += "request row run sample seed step study task tensor token training trial turn word"
SEVERAL = re.compile(rf" (?:[a-z-]+ )??(?:{'|'.join(NOUNS.split())})e?s\b".replace("study", "studi"))
COUNT = re.compile(r"len\(|n_tasks|\.attempts")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (counted(0, "row"), "0 rows"),
        (counted(1, "row"), "1 row"),
        (counted(2, "row"), "2 rows"),
        (counted(1024, "optimiser step"), "1,024 optimiser steps"),
        (counted(1, "study", "studies"), "1 study"),
        (counted(3, "study", "studies"), "3 studies"),
        (counted(1, "of 3 rows was", "of 3 rows were"), "1 of 3 rows was"),
        (counted(2, "of 3 rows was", "of 3 rows were"), "2 of 3 rows were"),
    ],
)
def test_one_and_several(found, said):
    assert found == said


@pytest.mark.parametrize("layer", ["rewards", "envs", "rl", "experiments"])
def test_no_sentence_counts_by_hand(layer):
    found = []
    for path in sorted((ROOT / layer).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            values = node.values if isinstance(node, ast.JoinedStr) else []
            for value, text in itertools.pairwise(values):
                if isinstance(text, ast.Constant) and SEVERAL.match(text.value) and COUNT.search(ast.unparse(value)):
                    found.append(f"{path}:{node.lineno}: {ast.unparse(value)}{text.value}")
    assert not found
