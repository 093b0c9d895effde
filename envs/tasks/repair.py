"""``repair``: complete a sketch of a Python function, run it, read the result of its test, correct it.

Question: ``a*7 b+4 c? d*3 f(0)==7``, a sketch of four lines in which one constant is missing, and one test:

.. code-block:: python

    def f(x):
        x *= 7        # a: nothing, a factor or an addend
        x += 4        # b: the same
        x += ?        # c: the constant to be found
        x *= 3        # d: nothing, an addend or a factor that has an inverse modulo 10
        return x % 10
    assert f(0) == 7

A response is the whole program in the sketch's words, each of which stands for one line of Python. A *quick* response
is ``def a*7 b+4 c5 d*3``. A *mended* response, ``fix 3 1 a*7 b+4 c6 d*3``, begins with a comment of two digits: by how
much the last result was off, and by how much the constant must change therefore. The comment must begin with ``fix``,
so that the first word alone decides the mode. The program runs in the sandbox. ``f(0)`` is the public test, whose
result is the feedback (``got 4 want 7``); ``f(1)`` to ``f(9)`` are hidden tests, so that a program with a wrong
structure earns 0 even if its constant makes the public test pass.

Version history: v1, first.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from envs.base import Split, Task
from envs.splits import draw_tasks, split_sizes
from envs.tasks.code import CodeTasks
from rewards import Score, Verdict
from rewards.asserts import Case
from rewards.code import FunctionTests, score_program
from rewards.sandboxes import get_sandbox

PASS = "_"
FACTORS = tuple(f"*{k}" for k in range(2, 10))
ADDENDS = tuple(f"+{k}" for k in range(1, 10))
INVERSES = {"*3": 7, "*7": 3, "*9": 9}
"""Factors with their inverses modulo 10. Slot d uses no other factors, so that ``f(0)`` determines the constant."""
BEFORE = (PASS, *FACTORS, *ADDENDS)
AFTER = (PASS, *INVERSES, *ADDENDS)
_PROGRAM = re.compile(r"(?:def|fix (\d) (\d)) a(\S+) b(\S+) c(\d) d(\S+)", re.ASCII)


class Repair(CodeTasks):
    """Sketches to complete. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        p_pass: For each of the slots a, b, d, the probability that it is empty.
        p_factor: For each of the slots a, b, d, the probability that it holds a factor; else it holds an addend.
        seed: Seed of the generated tasks; splits are disjoint by content for every seed.
        timeout_s: Limit in processor seconds for one test of a program.
        isolation: The weakest isolation that is accepted for running programs.
        sandbox: Further options of the sandbox, see :class:`rewards.sandboxes.SandboxOptions`.
    """

    def __init__(
        self,
        n_train: int = 4000,
        n_validation: int = 200,
        n_test: int = 1000,
        p_pass: Sequence[float] = (0.1, 0.2, 0.3),
        p_factor: Sequence[float] = (0.5, 0.4, 0.3),
        seed: int = 0,
        timeout_s: float = 2.0,
        isolation: str = "strict",
        sandbox: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(timeout_s=timeout_s, isolation=isolation, sandbox=sandbox)
        self._sizes = split_sizes(n_train, n_validation, n_test)
        self._p_pass, self._p_factor, self._seed = tuple(p_pass), tuple(p_factor), seed

    def _load(self, split: Split) -> list[Task]:
        rng = random.Random(f"repair/{self._seed}/{split}")
        return draw_tasks(lambda _: self.draw(rng), split, self._sizes[Split(split)])

    def draw(self, rng: random.Random) -> Task:
        """Draws one task of any split; ``info`` has the slots ``a, b, d``, the tests, and ``f(0)`` as ``want``."""
        slots = []
        for k, factors in enumerate((FACTORS, FACTORS, tuple(INVERSES))):
            share = rng.random()
            p_pass, p_factor = self._p_pass[k], self._p_factor[k]
            slots.append(PASS if share < p_pass else rng.choice(factors if share < p_pass + p_factor else ADDENDS))
        gold = written(slots, rng.randrange(10))
        outputs = [run(gold, x) for x in range(10)]  # results are modulo 10, so these inputs cover all others
        question = f"a{slots[0]} b{slots[1]} c? d{slots[2]} f(0)=={outputs[0]}"
        cases = [Case("f", (x,), y) for x, y in enumerate(outputs)]
        tests = FunctionTests(tuple(cases[:1]), tuple(cases[1:]))
        return Task(question, question, gold, {"slots": tuple(slots), "want": outputs[0], "tests": tests})

    def verify(self, task: Task, response: str) -> Score:
        """1 if the program gives the right digit for all ten inputs."""
        want = task.info["want"]
        if parsed(response) is None:
            return Score(0.0, Verdict.NO_ANSWER, None, "malformed", f"got _ want {want}", error="malformed")
        sandbox = get_sandbox(self._sandbox)
        score = score_program(to_python(response), task.info["tests"], self._limits, False, sandbox, self._cache)
        # The sandbox reports a failed public test in the words of ordinary code tasks; only the digit is needed here.
        actual = re.search(r"Got: (\d)", score.observation)
        seen = f"got {actual[1] if actual else want} want {want}"
        mode = response.split(maxsplit=1)[0]
        answer, reason = without_comment(response), f"{mode}/{score.reason}"
        error = kind_of_error(task, response) if score.verdict is Verdict.WRONG else score.error
        return replace(score, answer=answer, key=None, reason=reason, observation=seen, error=error)

    def other_error(self, task: Task, response: str, score: Score, rng: random.Random) -> str:
        """The feedback for a program with another result, for control C4."""
        want, got = task.info["want"], score.observation.split()[1]
        others = [digit for digit in range(10) if str(digit) != got]
        return f"got {rng.choice(others)} want {want}"

    def other_attempt(self, task: Task, response: str, rng: random.Random) -> str | None:
        """The program with another constant, for control C5; ``None`` if the response is not a well-formed program."""
        program = parsed(response)
        if program is None:
            return None
        a, b, constant, d = program
        return written((a, b, d), constant + rng.randrange(1, 10), response.strip()[: response.strip().index(" a")])

    def gold_response(self, task: Task) -> str:
        """The right program in the quick form."""
        return task.gold


def parsed(response: str) -> tuple[str, str, int, str] | None:
    """Slots a and b, the constant and slot d of a well-formed program; ``None`` for any other text."""
    match = _PROGRAM.fullmatch(response.strip())
    if match is None or match[3] not in BEFORE or match[4] not in BEFORE or match[6] not in AFTER:
        return None
    return match[3], match[4], int(match[5]), match[6]


def kind_of_error(task: Task, response: str) -> str:
    """The kind of error in a well-formed program: one wrong slot, several, or by how much the constant is off."""
    program, gold = parsed(response), parsed(task.gold)
    assert program is not None
    assert gold is not None
    wrong = [name for name, mine, right in zip("abcd", program, gold, strict=True) if mine != right and name != "c"]
    if wrong:
        return f"slot {wrong[0]}" if len(wrong) == 1 else "several slots"
    off = (program[2] - gold[2]) % 10  # reported below as the difference with the smallest absolute value, -4 to 5
    return f"constant {off if off <= 5 else off - 10:+d}"


def written(slots: Sequence[str], constant: int, comment: str = "def") -> str:
    """The program with these slots and this constant; ``comment`` is ``def``, or ``fix`` with its two digits."""
    a, b, d = slots
    return f"{comment} a{a} b{b} c{constant % 10} d{d}"


def without_comment(response: str) -> str:
    """The program without its comment; two attempts with equal texts here count as the same answer."""
    return re.sub(r"^fix \d \d", "def", response.strip())


def mended(task: Task, constant: int) -> str:
    """The *mended* response to an attempt with the task's slots and this constant."""
    slots = task.info["slots"]
    # Slot d is applied after the constant: an addend leaves a difference as it is; a factor multiplies it, which the
    # inverse of the factor undoes.
    off = (task.info["want"] - run(written(slots, constant), 0)) % 10
    shift = off * INVERSES.get(slots[2], 1) % 10
    return written(slots, constant + shift, f"fix {off} {shift}")


def run(response: str, x: int) -> int:
    """The result of a well-formed program, computed without the sandbox, for new tasks, training texts and tests."""
    program = parsed(response)
    assert program is not None
    a, b, constant, d = program
    for step in (a, b, f"+{constant}", d):
        if step != PASS:
            x = x + int(step[1]) if step[0] == "+" else x * int(step[1])
    return x % 10


def to_python(response: str) -> str:
    """The Python function that a well-formed program's words stand for."""
    words = response.split()
    lines = ["def f(x):"]
    if words[0] == "fix":
        lines.append(f"    # off by {words[1]}, so add {words[2]} to the constant")
    for word in words[-4:]:
        if word[0] == "c":
            lines.append(f"    x += {word[1:]}")
        elif word[1:] != PASS:
            lines.append(f"    x {word[1]}= {word[2:]}")
    return "\n".join([*lines, "    return x % 10"])
