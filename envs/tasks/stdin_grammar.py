"""Problems for whole programs from a grammar: a form of input, steps on lists of integers, a form of output.

The steps are those of ``tinycode``. Hidden tests come in three sizes, with lists of up to 3,000 numbers, so that a
program must read its input in the given form and must not take quadratic time.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from envs.base import Split
from envs.splits import split_of
from envs.tasks.tinycode import ENDS, Steps, behaviour, draw_steps, run_steps
from rewards.wording import counted

SIZES = (6, 150, 3000)
"""Largest number of integers in a list of small, medium and large tests."""
N_PUBLIC, N_OF_SIZE = 2, (4, 3, 2)


@dataclass(frozen=True, slots=True)
class _Form:
    """A form of input: its description, program code that reads lists and calls ``f``, and a writer of such input."""

    words: str
    program: str
    write: Callable[[list[list[int]]], str]
    many: bool = False


def _join(xs: list[int]) -> str:
    return " ".join(map(str, xs))


_FORMS = (
    _Form(
        "The first line holds n, the second line n integers.",
        "input()\nshow(f(list(map(int, input().split()))))",
        lambda lists: f"{len(lists[0])}\n{_join(lists[0])}\n",
    ),
    _Form(
        "Each line holds one integer, until the end of the input.",
        "import sys\nshow(f([int(line) for line in sys.stdin]))",
        lambda lists: "".join(f"{x}\n" for x in lists[0]),
    ),
    _Form(
        "The first line holds t. Then come t cases, a line with n and one with n integers each. Print a line a case.",
        "for _ in range(int(input())):\n    input()\n    show(f(list(map(int, input().split()))))",
        lambda lists: f"{len(lists)}\n" + "".join(f"{len(xs)}\n{_join(xs)}\n" for xs in lists),
        many=True,
    ),
    _Form(
        "The input holds integers, separated by commas, on one line; the line may be empty.",
        "import sys\ntext = sys.stdin.readline().strip()\nshow(f([int(x) for x in text.split(',')] if text else []))",
        lambda lists: ",".join(map(str, lists[0])) + "\n",
    ),
)


@dataclass(frozen=True, slots=True)
class _Show:
    """A form of output: how a list is printed; a number is always printed alone on its line."""

    words: str
    program: str
    text: Callable[[list[Any]], str]


_SHOWS = (
    _Show("on one line, separated by spaces", "print(*value)", lambda xs: _join(xs) + "\n"),
    _Show("on one line, separated by commas", "print(*value, sep=',')", lambda xs: ",".join(map(str, xs)) + "\n"),
)


def draw_problems(split: Split, n: int, seed: int) -> list[tuple[str, str, list[tuple[str, str]], int]]:
    """Draws ``n`` problems that belong to this split only, each as question, program, tests and number of public tests.

    Raises:
        ValueError: If fewer than ``n`` different problems are found.
    """
    rng = random.Random(f"stdin/{seed}/{split}")
    found: dict[str, tuple[str, str, list[tuple[str, str]], int]] = {}
    for _ in range(500 * n):
        if len(found) == n:
            return list(found.values())
        steps, form, show = draw_steps(rng, (1, 3)), rng.choice(_FORMS), rng.choice(_SHOWS)
        content = behaviour(steps)
        if split_of(content) == split and content not in found:
            problem = _problem(steps, form, show)
            # Outputs must differ between tests, because a program that always prints the same text must not pass.
            if len({output for _, output in problem[2]}) > 3:
                found[content] = problem
    if len(found) < n:
        raise ValueError(
            f"only {counted(len(found), 'different problem')} of split {str(split)!r}, {n} wanted: ask for fewer"
        )
    return list(found.values())


def _problem(steps: Steps, form: _Form, show: _Show) -> tuple[str, str, list[tuple[str, str]], int]:
    # The generator is seeded by the problem itself, so that a problem has the same tests for every seed and split size.
    rng = random.Random(repr([(step.code, k) for step, k in steps]) + form.words + show.words)
    is_list = steps[-1][0] is ENDS[0]
    tests = []
    sizes = [SIZES[0]] * N_PUBLIC + [size for size, times in zip(SIZES, N_OF_SIZE, strict=True) for _ in range(times)]
    for size in sizes:
        n_lists = rng.randint(2, 3) if form.many else 1
        spread = 12 if size == SIZES[0] else 1000
        lists = [[rng.randint(-spread, spread) for _ in range(rng.randint(size // 2, size))] for _ in range(n_lists)]
        results = [run_steps(steps, list(xs)) for xs in lists]
        tests.append((form.write(lists), "".join(show.text(r) if isinstance(r, list) else f"{r}\n" for r in results)))
    words = "\n".join(f"{i}. {step.words.format(k=k)}" for i, (step, k) in enumerate(steps, 1)).replace(
        "return", "print"
    )
    examples = "\n".join(f"Input:\n{stdin}Output:\n{stdout}" for stdin, stdout in tests[:N_PUBLIC])
    question = (
        f"Write a Python program that reads integers from standard input and does this, in this order:\n{words}\n"
        f"{form.words}" + (f" Print a list {show.words}." if is_list else "") + f"\n\n{examples}"
    )
    body = "".join(f"    xs = {step.code.format(k=k)}\n" for step, k in steps[:-1])
    printer = f"def show(value):\n    {show.program if is_list else 'print(value)'}\n"
    return question, f"def f(xs):\n{body}    return {steps[-1][0].code}\n{printer}{form.program}\n", tests, N_PUBLIC
