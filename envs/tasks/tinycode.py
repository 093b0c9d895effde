"""``tinycode``: tiny functions on lists of integers, generated from a grammar with their tests; needs no download.

Question: what ``f(xs)`` does, step by step, and two examples as assertions. Response: the function in a code block. The
examples are the public tests; the hidden tests have eight other inputs, one of them the empty list. The hidden results
of a task take at least three different values, so a function that returns a constant never passes. Every step changes
the result for some input. Splits are disjoint by the function's results on probe inputs, not by the words of the
question: "reverse, then sort" counts as the same function as "sort".

Version history: v1, first.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from envs.base import Split, Task
from envs.splits import draw_tasks, split_sizes
from envs.tasks.code import CodeTasks
from rewards.asserts import Case
from rewards.code import FunctionTests

N_PUBLIC, N_HIDDEN = 2, 8
_MIN_VALUES = 3
_probe_rng = random.Random("tinycode/probes")
_PROBES = [[_probe_rng.randint(-9, 12) for _ in range(length)] for length in (*range(8), *[6, 7, 8, 9] * 8)]
"""Inputs by which two functions are compared: similar to the inputs of the tests, some of them longer."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a function: its words, its Python code and its effect; ``{k}`` is a number from 2 to 5."""

    words: str
    code: str
    apply: Callable[[list[int], int], object]


Steps = list[tuple[_Step, int]]
"""Steps, each with its number ``k``; the last one is an element of ``ENDS``."""
_STEPS = (
    _Step("add {k} to each number", "[x + {k} for x in xs]", lambda xs, k: [x + k for x in xs]),
    _Step("multiply each number by {k}", "[x * {k} for x in xs]", lambda xs, k: [x * k for x in xs]),
    _Step("subtract each number from {k}", "[{k} - x for x in xs]", lambda xs, k: [k - x for x in xs]),
    _Step("square each number", "[x * x for x in xs]", lambda xs, k: [x * x for x in xs]),
    _Step("replace each number by its absolute value", "[abs(x) for x in xs]", lambda xs, k: [abs(x) for x in xs]),
    _Step("keep the even numbers", "[x for x in xs if x % 2 == 0]", lambda xs, k: [x for x in xs if x % 2 == 0]),
    _Step("keep the odd numbers", "[x for x in xs if x % 2 == 1]", lambda xs, k: [x for x in xs if x % 2 == 1]),
    _Step("keep the numbers greater than {k}", "[x for x in xs if x > {k}]", lambda xs, k: [x for x in xs if x > k]),
    _Step("drop the numbers divisible by {k}", "[x for x in xs if x % {k}]", lambda xs, k: [x for x in xs if x % k]),
    _Step("sort in ascending order", "sorted(xs)", lambda xs, k: sorted(xs)),
    _Step("sort in descending order", "sorted(xs, reverse=True)", lambda xs, k: sorted(xs, reverse=True)),
    _Step("reverse the order", "xs[::-1]", lambda xs, k: xs[::-1]),
    _Step("keep the first {k} numbers", "xs[:{k}]", lambda xs, k: xs[:k]),
    _Step("drop the first {k} numbers", "xs[{k}:]", lambda xs, k: xs[k:]),
    _Step("keep every second number, from the first", "xs[::2]", lambda xs, k: xs[::2]),
    _Step(
        "drop repeated numbers, keep the first of each", "list(dict.fromkeys(xs))", lambda xs, k: [*dict.fromkeys(xs)]
    ),
)
ENDS = (
    _Step("return the list", "xs", lambda xs, k: xs),
    _Step("return the sum", "sum(xs)", lambda xs, k: sum(xs)),
    _Step("return how many numbers there are", "len(xs)", lambda xs, k: len(xs)),
    _Step("return the largest number, or 0 if there is none", "max(xs, default=0)", lambda xs, k: max(xs, default=0)),
    _Step("return the smallest number, or 0 if there is none", "min(xs, default=0)", lambda xs, k: min(xs, default=0)),
)


class TinyCode(CodeTasks):
    """Functions from the grammar. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        min_steps: Fewest steps before the value is returned.
        max_steps: Most steps before the value is returned.
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        seed: Seed of the generated tasks; splits are disjoint by content for every seed.
        timeout_s: Limit in processor seconds for one test of a program.
        partial_credit: Whether a wrong program earns the share of tests that it passes.
        isolation: The weakest isolation that is accepted for running programs.
        sandbox: Further options of the sandbox, see :class:`rewards.sandboxes.SandboxOptions`.
    """

    def __init__(
        self,
        min_steps: int = 1,
        max_steps: int = 3,
        n_train: int = 1000,
        n_validation: int = 100,
        n_test: int = 200,
        seed: int = 0,
        timeout_s: float = 2.0,
        partial_credit: bool = False,
        isolation: str = "strict",
        sandbox: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(timeout_s, partial_credit, isolation, sandbox)
        if not 1 <= min_steps <= max_steps:
            raise ValueError(
                f"env.options.min_steps={min_steps}, max_steps={max_steps}: needs 1 <= min_steps <= max_steps"
            )
        self._n_steps, self._seed = (min_steps, max_steps), seed
        self._sizes = split_sizes(n_train, n_validation, n_test)

    def _load(self, split: Split) -> list[Task]:
        """Different tasks of one split."""
        rng = random.Random(f"tinycode/{self._seed}/{split}")
        return draw_tasks(
            lambda _: self._draw(rng), split, self._sizes[Split(split)], content=lambda t: t.info["behaviour"]
        )

    def _draw(self, rng: random.Random) -> Task:
        while True:
            steps = draw_steps(rng, self._n_steps)
            cases = _cases(steps)
            if len({repr(case.expected) for case in cases[N_PUBLIC:]}) >= _MIN_VALUES:
                return _task(steps, cases)


def draw_steps(rng: random.Random, n_steps: tuple[int, int]) -> Steps:
    """Draws the steps and the end of a function; ``n_steps`` are the fewest and the most steps before the end.

    Every step changes the result for some input.
    """
    while True:
        steps = [_draw_step(rng) for _ in range(rng.randint(*n_steps))] + [(rng.choice(ENDS), 0)]
        # Leaving out any step must change the result: "sort, then sort" would be a longer question, but no harder one.
        if not any(_same(steps, steps[:i] + steps[i + 1 :]) for i in range(len(steps) - 1)):
            return steps


def _draw_step(rng: random.Random) -> tuple[_Step, int]:
    step, k = rng.choice(_STEPS), rng.randint(2, 5)
    return step, k if "{k}" in step.code else 0


def _cases(steps: Steps) -> list[Case]:
    """The test cases of a function; they depend on its steps only, so that its question is the same for every seed."""
    rng = random.Random("".join(f"{step.code} {k};" for step, k in steps))
    inputs = [[rng.randint(-9, 12) for _ in range(rng.randint(2, 7))] for _ in range(N_PUBLIC + N_HIDDEN - 1)]
    inputs.append([])
    return [Case("f", (xs,), run_steps(steps, list(xs))) for xs in inputs]


def run_steps(steps: Steps, value: object) -> object:
    """The result of the function for a list."""
    for step, k in steps:
        value = step.apply(value, k)  # type: ignore[arg-type]
    return value


def _same(steps: Steps, others: Steps) -> bool:
    """Whether two functions have the same results on all probe inputs."""
    return all(run_steps(steps, list(xs)) == run_steps(others, list(xs)) for xs in _PROBES)


def behaviour(steps: Steps) -> str:
    """A hash that is the same for functions with the same results on all probe inputs."""
    results = repr([run_steps(steps, list(xs)) for xs in _PROBES])
    return hashlib.blake2b(results.encode(), digest_size=16).hexdigest()


def _task(steps: Steps, cases: list[Case]) -> Task:
    words = "\n".join(f"{i}. {step.words.format(k=k)}" for i, (step, k) in enumerate(steps, 1))
    shown = "\n".join(f"assert {case.call_text()} == {case.expected!r}" for case in cases[:N_PUBLIC])
    question = (
        f"Write a Python function f(xs) that takes a list of integers and does the following, in this order:\n{words}\n"
        f"It must pass these tests:\n```python\n{shown}\n```"
    )
    body = "".join(f"    xs = {step.code.format(k=k)}\n" for step, k in steps[:-1])
    gold = f"def f(xs):\n{body}    return {steps[-1][0].code}"
    tests = FunctionTests(tuple(cases[:N_PUBLIC]), tuple(cases[N_PUBLIC:]), gold=gold)
    return Task(gold, question, gold, {"tests": tests, "n_steps": len(steps) - 1, "behaviour": behaviour(steps)})
