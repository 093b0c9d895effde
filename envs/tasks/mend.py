r"""``mend``: put the solution into an equation, see what both sides come to, mend it.

Question: an equation ``m * (x + a) + b = c``. A response is the same equation with a number in the place of ``x``, so
that it can be checked by reckoning both sides, and that is all the policy is told: what the left and the right side of
*its own* equation come to, never the solution. The miss and the number that stood there are enough to mend it.

Three notations. ``toy``, for a base with a word per term:

.. code-block:: text

    2* (x +3) +4 =26               2 * (x + 3) + 4 = 26
    try 2* (5 +3) +4 =26           quick
    got left=20 right=26           what is told: always three words, after a right equation too
    fix off6 by3 2* (8 +3) +4 =26  mended: 6 are missing, which is 3 at the place of x

``fix`` is obligatory before a miss, so that the first word alone decides the mode. ``plain`` (``2 * (8 + 3) + 4 = 26``)
and ``latex`` (``2\left(8 + 3\right) + 4 = 26``) are for language models, which may write what they like around the
answer. The number is graded by :mod:`rewards.math`; an equation of another task is worth nothing even if it holds.

Version history: v1, first.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from envs.base import Split, Task
from envs.splits import draw_tasks
from rewards import Score, Verdict
from rewards.algebra import UndecidedError, limited_work
from rewards.answers import answer_forms, candidates, in_form
from rewards.kinds import Expression
from rewards.math import DEADLINE_S, score_answer
from rewards.values import read

NOTATIONS = ("toy", "plain", "latex")
TOY_FACTORS, TOY_ADDEND, TOY_ANSWER = (1, 2, 3), 9, 9
"""What the tiny base has words for: the factors, and the largest addend and solution."""
MAX_CHARACTERS = 200
_TOY = re.compile(r"(?:try|fix off-?\d{1,3} by-?\d{1,2}) (\d\* \(\d [+-]\d\) [+-]\d =-?\d{1,2})", re.ASCII)
_NUMBER = r"\(?(-?\d+(?:\.\d+|/\d+)?)\)?"


class Mend:
    """Equations to solve. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        notation: ``toy``, ``plain`` or ``latex``.
        factors: Values of ``m``, one at random; a value that stands there twice is twice as likely.
        max_addend: ``a`` and ``b`` lie between this and its negative and are not 0.
        max_answer: The solution is an integer from 0 to this.
        seed: Which tasks are drawn; splits are disjoint by content for every seed.
        answer_form: Where an equation is accepted, in ``plain`` and ``latex``: a name of
            :data:`rewards.answers.ANSWER_FORMS`, or several in order.
        deadline_s: Seconds after which a comparison is killed.

    Raises:
        ValueError: For an unknown notation, a number that is not positive, or one that the toy has no word for.
    """

    observes_execution = True
    """Scores carry what both sides come to, so feedback mode ``execution`` can be used."""

    def __init__(
        self,
        n_train: int = 4000,
        n_validation: int = 200,
        n_test: int = 1000,
        notation: str = "toy",
        factors: Sequence[int] = (1, 1, 2, 3),
        max_addend: int = 9,
        max_answer: int = 9,
        seed: int = 0,
        answer_form: str | Sequence[str] = "boxed",
        deadline_s: float = DEADLINE_S,
    ) -> None:
        if notation not in NOTATIONS:
            raise ValueError(f"env.options.notation={notation}: must be one of {', '.join(NOTATIONS)}")
        if not factors or min(*factors, max_addend, max_answer) < 1:
            raise ValueError("env.options: factors, max_addend and max_answer must be positive")
        if notation == "toy" and (
            set(factors) - set(TOY_FACTORS) or max_addend > TOY_ADDEND or max_answer > TOY_ANSWER
        ):
            raise ValueError(
                f"env.options: notation=toy has words for factors {list(TOY_FACTORS)}, addends up to {TOY_ADDEND} and "
                f"solutions up to {TOY_ANSWER}; use notation=plain"
            )
        answer_forms(answer_form)
        self._sizes = {Split.TRAIN: n_train, Split.VALIDATION: n_validation, Split.TEST: n_test}
        self._notation, self._factors, self._seed = notation, tuple(factors), seed
        self._max_addend, self._max_answer = max_addend, max_answer
        self._form, self._deadline_s = answer_form, deadline_s

    def load(self, split: Split) -> list[Task]:
        """Different tasks of one split."""
        rng = random.Random(f"mend/{self._seed}/{split}")
        return draw_tasks(lambda _: self.draw(rng), split, self._sizes[split], content=lambda task: task.id)

    def draw(self, rng: random.Random) -> Task:
        """One task of any split; ``info`` has the terms ``m, a, b, c`` and the equation as it is asked."""
        addends = [k for k in range(-self._max_addend, self._max_addend + 1) if k]
        m, a, b = rng.choice(self._factors), rng.choice(addends), rng.choice(addends)
        solution = rng.randint(0, self._max_answer)
        terms = (m, a, b, m * (solution + a) + b)
        equation = written(terms, "x", self._notation)
        question = equation
        if self._notation != "toy":
            shown = f"${equation}$" if self._notation == "latex" else equation
            question = f"Solve {shown} and write the equation with the solution in the place of x."
        return Task(compact(equation), question, str(solution), {"terms": terms, "equation": equation})

    def verify(self, task: Task, response: str) -> Score:
        """1 if the response is the task's equation with the solution in the place of ``x``."""
        offered, told = self._offered(response), self.told(task, response)
        if len(offered) != 1:
            verdict, reason = (Verdict.AMBIGUOUS, "hedged") if offered else (Verdict.NO_ANSWER, "no_answer")
            return Score(0.0, verdict, None, reason, told)
        answer = offered[0]
        number = re.fullmatch(re.escape(compact(task.info["equation"])).replace("x", _NUMBER), answer, re.ASCII)
        if number is None:
            verdict = Verdict.NO_ANSWER if sides(answer) is None else Verdict.WRONG
            return Score(0.0, verdict, answer, "other_equation", told)
        return replace(
            score_answer(number[1], task.gold, self._deadline_s), answer=answer, key=answer, observation=told
        )

    def told(self, task: Task, response: str) -> str:
        """What both sides of the response's own equation come to; of the task, only the right side is used."""
        offered = self._offered(response)
        both = sides(offered[0]) if len(offered) == 1 else None
        left, right = both or (None, task.info["terms"][3])
        if self._notation == "toy":
            return f"got left={'_' if left is None else left} right={right}"
        return f"The left side is {'unknown' if left is None else left}, the right side is {right}."

    def other_error(self, task: Task, response: str, score: Score, rng: random.Random) -> Score:
        """The score with what another number would have given in its observation, for control C4."""
        told = (self.told(task, self._with_number(task, n)) for n in rng.sample(range(self._max_answer + 1), 2))
        return replace(score, observation=next(text for text in told if text != score.observation))

    def other_attempt(self, task: Task, response: str, rng: random.Random) -> str:
        """The equation with another number in it, for control C5."""
        offered = self._offered(response)
        texts = (self._with_number(task, n) for n in rng.sample(range(self._max_answer + 1), 2))
        return next(text for text in texts if self._offered(text) != offered)

    def _with_number(self, task: Task, number: int) -> str:
        equation = written(task.info["terms"], str(number), self._notation)
        return f"try {equation}" if self._notation == "toy" else in_form(equation, self._form)

    def gold_response(self, task: Task) -> str:
        """The equation with the solution; in the toy, quick."""
        return self._with_number(task, int(task.gold))

    def _offered(self, response: str) -> list[str]:
        """Different equations that are offered as final, each in its compact form."""
        if self._notation == "toy":
            found = [equation] if (equation := of_toy(response)) else []
        else:
            found = candidates(response, self._form)
        return list(dict.fromkeys(compact(equation[: MAX_CHARACTERS + 1]) for equation in found))


def written(terms: Sequence[int], unknown: str, notation: str = "toy") -> str:
    """The equation ``m * (x + a) + b = c`` with this text in the place of ``x``."""
    m, a, b, c = terms
    if notation == "toy":
        return f"{m}* ({unknown} {a:+d}) {b:+d} ={c}"
    inner, outer = (f"{'-' if k < 0 else '+'} {abs(k)}" for k in (a, b))
    opening, closing = ("\\left(", "\\right)") if notation == "latex" else ("(", ")")
    factor = "" if m == 1 else str(m) if notation == "latex" else f"{m} * "
    return f"{factor}{opening}{unknown} {inner}{closing} {outer} = {c}"


def compact(equation: str) -> str:
    """An equation in the one form in which equations are compared: no spaces, no LaTeX, no sign before a bracket."""
    plain = re.sub(r"\\left|\\right|\\[,;:! ]|[\s${}]", "", equation.replace("\N{MINUS SIGN}", "-"))
    return re.sub(r"\\(?:cdot|times)(?![a-z])|\N{MULTIPLICATION SIGN}", "*", plain).replace("*(", "(")


def sides(equation: str) -> tuple[Fraction, Fraction] | None:
    """What both sides of an equation come to, exactly; ``None`` for what is no equation between two numbers."""
    values = [_value(side) for side in equation[: MAX_CHARACTERS + 1].split("=")]
    if len(values) != 2 or len(equation) > MAX_CHARACTERS or values[0] is None or values[1] is None:
        return None
    return values[0], values[1]


@lru_cache(maxsize=65536)
def _value(side: str) -> Fraction | None:
    try:
        with limited_work():
            value = read(side)
    except (UndecidedError, ArithmeticError, ValueError, RecursionError):
        return None
    if isinstance(value, Expression) and isinstance(value.tree, Fraction) and not value.percent:
        return value.tree
    return None


def of_toy(response: str) -> str | None:
    """The equation of a toy response, without mode and trace, or ``None`` for anything else."""
    match = _TOY.fullmatch(response.strip())
    return match and match[1]


def mended(task: Task, number: int) -> str:
    """The *mended* toy response to the task's own equation with this number."""
    m, a, b, c = task.info["terms"]
    off = c - (m * (number + a) + b)
    return f"fix off{off} by{off // m} {written(task.info['terms'], str(number + off // m))}"
