"""``repair``: complete a sketch of a Python function so that its test passes, run it, read the error, mend it.

Question: ``a*7 b+4 c? d*3 f(0)==7``, a sketch of four lines in which one constant is missing, and one test:

.. code-block:: python

    def f(x):
        x *= 7        # a: nothing, a factor or an addend
        x += 4        # b: the same
        x += ?        # c: the constant to be found
        x *= 3        # d: nothing, an addend or a factor that has an inverse modulo 10
        return x % 10
    assert f(0) == 7

A response is the whole program in the sketch's words, each of which stands for one line of Python: *quick* (``def a*7
b+4 c5 d*3``), or *mended* (``fix 3 1 a*7 b+4 c6 d*3``), which opens with a comment: by how much the last result was
off, and what that is worth at the constant. ``fix`` is obligatory before such a comment, so that the first word alone
decides the mode. The program runs in the sandbox. ``f(0)`` is the public test, whose result the policy is told (``got 4
want 7``); ``f(1)`` to ``f(9)`` are hidden, so a wrong structure with a constant that fits the public test is not paid.

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
"""Factors that have an inverse modulo 10; after the constant only these are used, so that the test determines it."""
BEFORE = (PASS, *FACTORS, *ADDENDS)
AFTER = (PASS, *INVERSES, *ADDENDS)
_PROGRAM = re.compile(r"(?:def|fix (\d) (\d)) a(\S+) b(\S+) c(\d) d(\S+)", re.ASCII)


class Repair(CodeTasks):
    """Sketches to complete. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        p_pass: Probability that slot a, b, d holds nothing.
        p_factor: Probability that it holds a factor; otherwise it holds an addend.
        seed: Which tasks are drawn; splits are disjoint by content for every seed.
        timeout_s: Seconds that one run of a program may take.
        isolation: The least isolation to run programs in.
        sandbox: See :class:`rewards.sandboxes.SandboxOptions`.
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
        """One task of any split; ``info`` has the slots ``a, b, d``, the tests and ``want``, the result of ``f(0)``."""
        slots = []
        for k, factors in enumerate((FACTORS, FACTORS, tuple(INVERSES))):
            share = rng.random()
            p_pass, p_factor = self._p_pass[k], self._p_factor[k]
            slots.append(PASS if share < p_pass else rng.choice(factors if share < p_pass + p_factor else ADDENDS))
        gold = written(slots, rng.randrange(10))
        outputs = [run(gold, x) for x in range(10)]  # modulo 10 these are all inputs that there are
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
        # The observation of a failed public test says what came out, in the words of ordinary code tasks.
        actual = re.search(r"Got: (\d)", score.observation)
        seen = f"got {actual[1] if actual else want} want {want}"
        mode = response.split(maxsplit=1)[0]
        answer, reason = without_comment(response), f"{mode}/{score.reason}"
        error = kind_of_error(task, response) if score.verdict is Verdict.WRONG else score.error
        return replace(score, answer=answer, key=None, reason=reason, observation=seen, error=error)

    def other_error(self, task: Task, response: str, score: Score, rng: random.Random) -> str:
        """What would be told if another value had come out, for control C4."""
        want, got = task.info["want"], score.observation.split()[1]
        others = [digit for digit in range(10) if str(digit) != got]
        return f"got {rng.choice(others)} want {want}"

    def other_attempt(self, task: Task, response: str, rng: random.Random) -> str | None:
        """The program with another constant, for control C5; ``None`` for one that is none."""
        program = parsed(response)
        if program is None:
            return None
        a, b, constant, d = program
        return written((a, b, d), constant + rng.randrange(1, 10), response.strip()[: response.strip().index(" a")])

    def gold_response(self, task: Task) -> str:
        """The right program, quick."""
        return task.gold


def parsed(response: str) -> tuple[str, str, int, str] | None:
    """Slots a, b, the constant and slot d of a well-formed program, or ``None``."""
    match = _PROGRAM.fullmatch(response.strip())
    if match is None or match[3] not in BEFORE or match[4] not in BEFORE or match[6] not in AFTER:
        return None
    return match[3], match[4], int(match[5]), match[6]


def kind_of_error(task: Task, response: str) -> str:
    """What a well-formed program has wrong: one of the slots, several of them, or by how much the constant is off."""
    program, gold = parsed(response), parsed(task.gold)
    assert program is not None
    assert gold is not None
    wrong = [name for name, mine, right in zip("abcd", program, gold, strict=True) if mine != right and name != "c"]
    if wrong:
        return f"slot {wrong[0]}" if len(wrong) == 1 else "several slots"
    off = (program[2] - gold[2]) % 10  # told as the nearer of the two ways round: -4 to 5
    return f"constant {off if off <= 5 else off - 10:+d}"


def written(slots: Sequence[str], constant: int, comment: str = "def") -> str:
    """The program of a sketch with this constant; ``comment`` is ``def``, or ``fix`` with its two digits."""
    a, b, d = slots
    return f"{comment} a{a} b{b} c{constant % 10} d{d}"


def without_comment(response: str) -> str:
    """The program alone: two attempts are the same answer if they agree here."""
    return re.sub(r"^fix \d \d", "def", response.strip())


def mended(task: Task, constant: int) -> str:
    """The *mended* response to a program of the task's own structure whose constant was this one."""
    slots = task.info["slots"]
    # Slot d comes after the constant: an addend does not change a difference, a factor is undone by its inverse.
    off = (task.info["want"] - run(written(slots, constant), 0)) % 10
    shift = off * INVERSES.get(slots[2], 1) % 10
    return written(slots, constant + shift, f"fix {off} {shift}")


def run(response: str, x: int) -> int:
    """What a well-formed program returns, computed here: for documents of the base and for tests of the sandbox."""
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
