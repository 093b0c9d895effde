"""Grades the answers of finished ``mend`` runs again by sympy and counts where the stored rows say something else.

``python -m benchmarks.mend_by_sympy <folder>`` reads every ``rows.jsonl`` below the folder and fails if sympy disagrees
with a verdict or with the feedback. It uses nothing of :mod:`envs.tasks.mend` and :mod:`rewards`: a task's id is its
equation, so sympy solves the id, and computes both sides of each answered equation.
"""

import argparse
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sympy import Expr, Rational, Symbol, solve
from sympy.parsing.sympy_parser import implicit_multiplication, parse_expr, rationalize, standard_transformations

NUMBER = r"\(?(-?\d+(?:\.\d+|/\d+)?)\)?"
Graded = tuple[str, str, str, str]
"""Id of a task, answered equation, stored verdict and stored feedback."""
FAR = 99
"""The largest absolute difference for which the toy notation has a word."""


def main() -> int:
    """Prints the counts and every disagreement; returns 1 if there is one, or nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mend_by_sympy", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a finished run or comparison with env=mend")
    lines = (line for path in parser.parse_args().folder.rglob("rows.jsonl") for line in path.open(encoding="utf-8"))
    counts, differing = regrade(json.loads(line) for line in lines)
    print(", ".join(f"{name}: {n:,}" for name, n in counts.items()))
    for task, answer, verdict, observation in differing:
        print(f"  {task}: {answer} is stored as {verdict}, {observation!r}")
    return int(bool(differing) or not counts["different tasks with an equation"])


def regrade(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, int], list[Graded]]:
    """Counts of what was compared, and the graded equations with which sympy disagrees."""
    n_rows, n_attempts, graded = 0, 0, set()
    for row in rows:
        n_rows, n_attempts = n_rows + 1, n_attempts + len(row["answers"])
        told = row["observations"] or [""] * len(row["answers"])
        graded |= {(row["task_id"], *one) for one in zip(row["answers"], row["verdicts"], told, strict=True)}
    # An attempt without an equation, or with several, has the answer None; there is nothing to compute for it.
    answered = sorted(one for one in graded if one[1] is not None)
    differing = [one for one in answered if not agrees(*one)]
    counts = {
        "rows": n_rows,
        "attempts": n_attempts,
        "different tasks with an equation": len(answered),
        "right by sympy": sum(is_right(task, answer) for task, answer, _, _ in answered),
        "both sides compared": sum(
            values(answer) is not None and observation != "" for _, answer, _, observation in answered
        ),
        "disagreements": len(differing),
    }
    return counts, differing


def agrees(task: str, answer: str, verdict: str, observation: str) -> bool:
    """Whether the verdict on an answered equation and the feedback on it are what sympy says."""
    if (verdict == "correct") != is_right(task, answer):
        return False
    both = values(answer)
    if both is None or not observation:
        return True
    if told := re.search(r"left side is (\S+), the right side is (\S+)\.(?!\d)", observation):
        return told.groups() == (str(both[0]), str(both[1]))
    off = both[0] - both[1]
    return observation.split("diff=")[-1] == (str(off) if abs(off) <= FAR else "far")


@cache
def is_right(task: str, answer: str) -> bool:
    """Whether an answer is the task's equation with its solution, according to sympy, in place of ``x``."""
    number = re.fullmatch(re.escape(task).replace("x", NUMBER), answer, re.ASCII)
    return number is not None and solution(task) == Rational(number[1])


@cache
def solution(task: str) -> Expr:
    """The one solution of a task's equation."""
    left, right = map(parsed, task.split("="))
    (found,) = solve(left - right, Symbol("x"))
    return found


@cache
def values(equation: str) -> tuple[Expr, Expr] | None:
    """The values of both sides of an equation between numbers; ``None`` for any other text."""
    # sympy's parser evaluates what it reads as Python, and a policy wrote the text, so little else may pass.
    side = r"[-+/().\d]+(?:\*[-+/().\d]+)*"
    if len(equation) > 200 or not re.fullmatch(f"{side}={side}", equation, re.ASCII):
        return None
    try:
        left, right = map(parsed, equation.split("="))
    except (SyntaxError, TypeError, ArithmeticError):
        return None
    return (left, right) if left.is_Rational and right.is_Rational else None


def parsed(side: str) -> Expr:
    """A side of an equation as sympy reads it, with exact numbers; ``3(x+4)`` is a product."""
    return parse_expr(side, transformations=(*standard_transformations, implicit_multiplication, rationalize))


if __name__ == "__main__":
    raise SystemExit(main())
