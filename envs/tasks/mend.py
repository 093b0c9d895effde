r"""``mend``: solve an equation by trial: insert a number, read the values of both sides, correct the number.

Question: an equation ``m * (x + a) + b = c``. A response is the same equation with a number in place of ``x``. The
feedback states only the values of the left and the right side of the *policy's own* equation, never the solution. The
difference of the two sides and the number in the previous attempt are enough to compute the solution.

There are three notations. ``toy`` is for a base model with one word per term; it writes the right side as a multiple of
``m``, and the feedback is the difference of the two sides:

.. code-block:: text

    3* (x +4) +6 =3* (13)          3 * (x + 4) + 6 = 39
    try 3* (5 +4) +6 =3* (13)      quick
    got diff=-6                    feedback: left minus right, in the same form after a right equation
    fix by2 3* (7 +4) +6 =3* (13)  mended: the number in place of x is increased by 2

A mended response must begin with ``fix``, so that the first word alone decides the mode. If ``b`` is 0, a one-layer
model can read off the solution (13 - 4); otherwise it can only guess. ``plain`` (``3 * (7 + 4) + 6 = 39``) and
``latex`` (``3\left(7 + 4\right) + 6 = 39``) are for language models, which may write other text around the answer.
:mod:`rewards.math` grades the number; an equation other than the task's earns 0 even if it holds.

Numbers and sides are exact fractions, so sympy does not have to run. The verdicts and the feedback are those that sympy
computes: ``tests/envs/test_mend.py`` compares them in every notation, and ``python -m benchmarks.mend_by_sympy
<folder>`` in the rows of a finished run.

Version history: v1, first.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from envs.base import Split, Task
from envs.splits import draw_tasks, split_sizes
from envs.tasks.sums import SLIPS
from rewards import Score, Verdict
from rewards.algebra import UndecidedError, limited_work
from rewards.answers import answer_forms, candidates, in_form
from rewards.kinds import Expression
from rewards.math import DEADLINE_S, score_answer
from rewards.values import read

NOTATIONS = ("toy", "plain", "latex")
TOY_LIMITS = {"factors": 9, "max_inner": 20, "max_outer": 5, "max_answer": 9}
"""The largest values for which the tiny base model has words."""
TOY_FAR = 99
"""A difference with a larger absolute value is reported as ``far``."""
MAX_CHARACTERS = 200
_TOY = re.compile(r"(?:try|fix by-?\d) (\d\* \(\d [+-]\d{1,2}\) [+-]\d{1,2} =\d\* \(-?\d{1,2}\))", re.ASCII)
_ONE = r"-?\s*\d+(?:\.\d+|\s*/\s*\d+)?|-?\s*\\[dt]?frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}"
_NUMBER = rf"(?:\(\s*({_ONE})\s*\)|\{{\s*({_ONE})\s*\}}|({_ONE}))"


class Mend:
    """Equations to solve. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        notation: ``toy``, ``plain`` or ``latex``.
        factors: Values from which ``m`` is drawn; a value that is listed twice is twice as likely.
        max_inner: Largest absolute value of ``a``, which is not 0.
        max_outer: Largest absolute value of ``b / m``.
        p_zero: Probability that ``b`` is 0.
        max_answer: Largest solution; solutions are integers from 0 on.
        seed: Seed of the generated tasks; splits are disjoint by content for every seed.
        answer_form: Form of the equation in a response, in ``plain`` and ``latex``: a name in
            :data:`rewards.answers.ANSWER_FORMS`, or several names in order of preference.
        deadline_s: Limit in processor seconds after which the comparison of an answer with the gold is killed.

    Raises:
        ValueError: If the notation is unknown, a value is out of range, or the toy has no word for it.
    """

    observes_execution = True
    """Scores state the values of both sides, so feedback mode ``execution`` can be used."""

    def __init__(
        self,
        n_train: int = 3000,
        n_validation: int = 200,
        n_test: int = 500,
        notation: str = "toy",
        factors: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8, 9),
        max_inner: int = 20,
        max_outer: int = 5,
        p_zero: float = 0.65,
        max_answer: int = 9,
        seed: int = 0,
        answer_form: str | Sequence[str] = "boxed",
        deadline_s: float = DEADLINE_S,
    ) -> None:
        if notation not in NOTATIONS:
            raise ValueError(f"env.options.notation={notation}: must be one of {', '.join(NOTATIONS)}")
        if not factors or min(*factors, max_inner, max_outer, max_answer) < 1:
            raise ValueError("env.options: factors, max_inner, max_outer and max_answer must be positive")
        if not 0.0 <= p_zero <= 1.0:
            raise ValueError(f"env.options.p_zero={p_zero}: must lie in [0, 1]")
        largest = {"factors": max(factors), "max_inner": max_inner, "max_outer": max_outer, "max_answer": max_answer}
        for name, value in largest.items():
            if notation == "toy" and value > TOY_LIMITS[name]:
                raise ValueError(
                    f"env.options.{name}: notation=toy has words up to {TOY_LIMITS[name]}, got {value}; use "
                    "notation=plain"
                )
        answer_forms(answer_form)
        self._sizes = split_sizes(n_train, n_validation, n_test)
        self._notation, self._factors, self._seed = notation, tuple(factors), seed
        self._max_inner, self._max_outer, self._p_zero, self._max_answer = max_inner, max_outer, p_zero, max_answer
        self._form, self._deadline_s = answer_form, deadline_s

    def load(self, split: Split) -> list[Task]:
        """Different tasks of one split."""
        rng = random.Random(f"mend/{self._seed}/{split}")
        return draw_tasks(lambda _: self.draw(rng), split, self._sizes[Split(split)], content=lambda task: task.id)

    def draw(self, rng: random.Random) -> Task:
        """Draws one task of any split; ``info`` has the terms ``m, a, b, c`` and the equation with ``x``."""
        m, solution = rng.choice(self._factors), rng.randint(0, self._max_answer)
        a = rng.choice((-1, 1)) * rng.randint(1, self._max_inner)
        # b is a multiple of m, because the toy writes the right side as m * (a whole number).
        b = 0 if rng.random() < self._p_zero else m * rng.choice((-1, 1)) * rng.randint(1, self._max_outer)
        terms = (m, a, b, m * (solution + a) + b)
        equation = written(terms, "x", self._notation)
        question = equation
        if self._notation != "toy":
            shown = f"${equation}$" if self._notation == "latex" else equation
            question = f"Solve {shown} and write the equation with the solution in the place of x."
        return Task(compact(equation), question, str(solution), {"terms": terms, "equation": equation})

    def verify(self, task: Task, response: str) -> Score:
        """1 if the response is the task's equation with the solution in place of ``x``."""
        # The feedback is computed from the response's own equation, not from the verdict.
        offered, told = self._offered(response), self.told(task, response)
        if len(offered) != 1:
            verdict, reason = (Verdict.AMBIGUOUS, "hedged") if offered else (Verdict.NO_ANSWER, "no_answer")
            return Score(0.0, verdict, None, reason, told)
        text, key, both = offered[0], compact(offered[0]), sides(offered[0])
        answer = " ".join(text.split()) if both is None else key
        holds = both is not None and both[0] == both[1]
        # An equation that merely holds is easy to find (1 = 1), so the response must be the task's equation.
        number = _inserted(task, text)
        if number is None:
            verdict = Verdict.NO_ANSWER if both is None else Verdict.WRONG
            return Score(0.0, verdict, answer, "other_equation", told, key, public=holds)
        score = score_answer(number, task.gold, self._deadline_s)
        error = _miss(number, task.gold) if score.verdict is Verdict.WRONG else score.error
        return replace(score, answer=answer, key=key, observation=told, public=holds, error=error)

    def told(self, task: Task, response: str) -> str:
        """The feedback: the values of both sides of the response's own equation; of the task only ``c`` is used."""
        offered = self._offered(response)
        both = sides(offered[0]) if len(offered) == 1 else None
        if self._notation == "toy":
            difference = both and both[0] - both[1]
            return f"got diff={'_' if difference is None else difference if abs(difference) <= TOY_FAR else 'far'}"
        left, right = both or ("unknown", task.info["terms"][3])
        return f"The left side is {left}, the right side is {right}."

    def other_error(self, task: Task, response: str, score: Score, rng: random.Random) -> str | None:
        """The feedback for a response with another number; ``None`` if the response is not the task's equation."""
        other = self.other_attempt(task, response, rng)
        return other and self.told(task, other)

    def other_attempt(self, task: Task, response: str, rng: random.Random) -> str | None:
        """The response with another number in it; ``None`` if the response is not the task's equation."""
        offered = self._offered(response)
        number = _inserted(task, offered[0]) if len(offered) == 1 else None
        if number is None:
            return None
        other = str(rng.choice([k for k in range(self._max_answer + 1) if Fraction(k) != _value(number)]))
        # A computation in the response is rewritten for the new number, so that the attempts differ in the number only.
        reckons = response.strip() == self.reckoned(task, number)
        return self.reckoned(task, other) if reckons else self._response(task, other)

    def gold_response(self, task: Task) -> str:
        """The equation with the solution; in the toy notation in the quick form."""
        return self._response(task, task.gold)

    def slipped(self, task: Task, rng: random.Random) -> str:
        """A wrong number near the solution, from 0 to ``max_answer``."""
        numbers = (int(task.gold) + slip for slip in SLIPS)
        return str(rng.choice([number for number in numbers if 0 <= number <= self._max_answer]))

    def reckoned(self, task: Task, number: str) -> str:
        """An attempt that computes the number before its equation, rightly or not: ``(39 - 6) / 3 - 4 = 8: ``.

        A language model that has to state the number first can only guess it. The toy notation has no words for the
        computation, so there the attempt is quick.
        """
        if self._notation == "toy":
            return self._response(task, number)
        m, a, b, right = task.info["terms"]
        inner, outer = (f" {'-' if k > 0 else '+'} {abs(k)}" if k else "" for k in (a, b))
        quotient = f"{right}{outer}" if m == 1 else f"({right}{outer}) / {m}" if b else f"{right} / {m}"
        return f"{quotient}{inner} = {number}: {self._response(task, number)}"

    def worked_out(self, task: Task, wrong: str) -> str:
        """A response that corrects a wrong one: its number plus the difference of the two sides divided by ``m``.

        In the toy notation it has the *mended* form; otherwise the computation precedes the answer:
        ``(39 - 33) / 3 = 2, 5 + 2 = 7: ``.

        Raises:
            ValueError: If the wrong response is not the task's equation with a whole number in it.
        """
        offered = self._offered(wrong)
        number = _inserted(task, offered[0]) if len(offered) == 1 else None
        if number is None or not number.removeprefix("-").isdecimal():
            raise ValueError(f"not the equation {task.info['equation']} with a whole number in it: {wrong!r}")
        if self._notation == "toy":
            return mended(task, int(number))
        m, a, b, right = task.info["terms"]
        step = int(task.gold) - int(number)
        apart = f"{right} - {m * (int(number) + a) + b}"
        quotient = apart if m == 1 else f"({apart}) / {m}"
        moved = f"{number} {'-' if step < 0 else '+'} {abs(step)}"
        return f"{quotient} = {step}, {moved} = {task.gold}: {self.gold_response(task)}"

    def _response(self, task: Task, number: str) -> str:
        equation = written(task.info["terms"], number, self._notation)
        return f"try {equation}" if self._notation == "toy" else in_form(equation, self._form)

    def _offered(self, response: str) -> list[str]:
        """The different equations that a response offers as final, as it writes them."""
        if self._notation == "toy":
            found = [equation] if (equation := of_toy(response)) else []
        else:
            found = candidates(response, self._form)
        texts = (tidy(equation[: MAX_CHARACTERS + 1]) for equation in found)
        # Equations of one compact form that are read differently, as "1 4/2" and "14/2", are two.
        return list({(compact(text), sides(text)): text for text in texts}.values())


def written(terms: Sequence[int], unknown: str, notation: str = "toy") -> str:
    """The equation ``m * (x + a) + b = c`` with the text ``unknown`` in place of ``x``."""
    m, a, b, c = terms
    if notation == "toy":
        return f"{m}* ({unknown} {a:+d}) {b:+d} ={m}* ({c // m})"
    inner, outer = (f" {'-' if k < 0 else '+'} {abs(k)}" if k else "" for k in (a, b))
    opening, closing = ("\\left(", "\\right)") if notation == "latex" else ("(", ")")
    factor = "" if m == 1 else str(m) if notation == "latex" else f"{m} * "
    return f"{factor}{opening}{unknown}{inner}{closing}{outer} = {c}"


def tidy(equation: str) -> str:
    """An equation without the LaTeX that sets its size and spacing; what is left is read as it stands."""
    return re.sub(r"\\left(?![a-z])|\\right(?![a-z])|\\[,;:! ]|[$~]", " ", equation.replace("\N{MINUS SIGN}", "-"))


def compact(equation: str) -> str:
    """A name for an equation, equal for most ways to write it: no spaces, no braces, no ``*`` before a bracket.

    It must not be read as an equation: without its space ``1 4/2`` is another number, without its braces ``2^{1}0``.
    """
    plain = re.sub(r"[\s{}]", "", tidy(equation))
    return re.sub(r"\\(?:cdot|times)(?![a-z])|\N{MULTIPLICATION SIGN}", "*", plain).replace("*(", "(")


def sides(equation: str) -> tuple[Fraction, Fraction] | None:
    """The exact values of both sides of an equation; ``None`` if the text is not an equation between two numbers."""
    values = [_value(side) for side in tidy(equation[: MAX_CHARACTERS + 1]).split("=")]
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


def _miss(number: str, gold: str) -> str:
    """The kind of error: by how much the number is off if by at most 3, else only whether it is too large or small."""
    value = _value(number)
    if value is None:  # such as a division by zero
        return "no number"
    off = value - int(gold)
    if off.denominator == 1 and abs(off) <= 3:
        return f"number {int(off):+d}"
    return "number too large" if off > 0 else "number too small"


def _inserted(task: Task, equation: str) -> str | None:
    """The number that stands in place of ``x``; ``None`` if this is not the task's equation with a number in it."""
    match = _pattern(task.info["equation"]).fullmatch(equation)
    return next((number for number in match.groups() if number), None) if match else None


@lru_cache(maxsize=65536)
def _pattern(equation: str) -> re.Pattern[str]:
    """A regular expression for an equation with any number in place of ``x``; the number is one of its three groups."""
    times = r"(?:\*|\\cdot(?![a-z])|\\times(?![a-z])|\N{MULTIPLICATION SIGN})?"
    parts = {"x": _NUMBER, "(": rf"{times}\s*\("}
    tokens = (one for one in re.findall(r"\d+|[-+*/()=x]", tidy(equation)) if one != "*")
    return re.compile(
        r"\s*".join(["", *(parts[one] if one in parts else re.escape(one) for one in tokens), ""]), re.ASCII
    )


def of_toy(response: str) -> str | None:
    """The equation of a toy response, without ``try`` or ``fix`` and its number; ``None`` if the text is malformed."""
    match = _TOY.fullmatch(response.strip())
    return match and match[1]


def mended(task: Task, number: int) -> str:
    """The *mended* toy response to an attempt with the task's equation and this number."""
    step = int(task.gold) - number
    return f"fix by{step} {written(task.info['terms'], str(number + step))}"
