"""``countdown``: reach a target from given numbers with ``+ - * /`` and parentheses (the game of TinyZero).

Response: an expression in ``\\boxed{...}`` (or as ``answer_form`` says), ``= target`` after it or not. Right if it
uses every given number just once and nothing else, and its exact value is the target. Splits: by the hash of the
question, so seeds cannot leak.

Expressions are parsed and computed here, with fractions, over a grammar of four operations: no policy's text is ever
evaluated as code, and nothing that fits the grammar takes long.

Version history: v1, first.
"""

import ast
import random
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from envs.base import Split, Task
from envs.splits import draw_tasks, split_sizes
from rewards import Score, Verdict
from rewards.answers import answer_forms, candidates, in_form
from rewards.parsing import parse

MAX_CHARACTERS = 500
"""Longer expressions cannot use a handful of numbers once each."""
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": "", "$": ""}
_LATEX |= {"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"}
_FRACTION = re.compile(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}")


class Countdown:
    """Countdown with generated numbers. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        n_numbers: How many numbers a task gives, one of these at random.
        max_number: Numbers are drawn from 1 to this.
        max_target: Targets lie between 1 and this.
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        seed: Which tasks are drawn; splits are disjoint by content for every seed.
        answer_form: Where an answer is accepted: a name of :data:`rewards.answers.ANSWER_FORMS`, or several in order.

    Raises:
        ValueError: If fewer than two numbers are asked for, or limits are below 2.
    """

    def __init__(
        self,
        n_numbers: Sequence[int] = (3, 4),
        max_number: int = 99,
        max_target: int = 99,
        n_train: int = 4000,
        n_validation: int = 200,
        n_test: int = 500,
        seed: int = 0,
        answer_form: str | Sequence[str] = "boxed",
    ) -> None:
        if not n_numbers or min(n_numbers) < 2:
            raise ValueError(f"env.options.n_numbers={list(n_numbers)}: a task needs at least two numbers")
        if min(max_number, max_target) < 2:
            raise ValueError("env.options: max_number and max_target must be at least 2")
        self._n_numbers, self._max_number, self._max_target = list(n_numbers), max_number, max_target
        self._sizes = split_sizes(n_train, n_validation, n_test)
        self._seed, self._form = seed, answer_form
        answer_forms(answer_form)

    def load(self, split: Split) -> list[Task]:
        """Different tasks of one split."""
        rng = random.Random(f"countdown/{self._seed}/{split}")
        return draw_tasks(lambda _: self.draw(rng), split, self._sizes[Split(split)])

    def draw(self, rng: random.Random) -> Task:
        """One task of any split: random steps from random numbers, until they end on a target within the limits."""
        while True:  # every other draw or so ends outside of the limits
            numbers = [rng.randint(1, self._max_number) for _ in range(rng.choice(self._n_numbers))]
            text, value = str(numbers[0]), Fraction(numbers[0])
            for number in numbers[1:]:
                sign = rng.choice("+-*/")
                text, value = f"({text} {sign} {number})", _apply(sign, value, Fraction(number))
            if value.denominator == 1 and 1 <= value <= self._max_target:
                # Shuffled, or the order of the numbers would give the expression away.
                shown = rng.sample(numbers, len(numbers))
                question = (
                    f"Use each of the numbers {', '.join(map(str, shown))} exactly once, with +, -, *, / and "
                    f"parentheses, to make {value}. The result is such an expression."
                )
                key = f"countdown/{'-'.join(map(str, shown))}/{value}"
                return Task(key, question, text[1:-1], {"numbers": shown, "target": int(value)})

    def verify(self, task: Task, response: str) -> Score:
        """1 if the expression uses the numbers and has the value."""
        offered = list(dict.fromkeys(candidates(response, self._form)))
        if not offered:
            return Score(0.0, Verdict.NO_ANSWER, None, "no_answer")
        if len(offered) > 1:
            return Score(0.0, Verdict.AMBIGUOUS, offered[-1], "hedged")
        expression, _, claimed = plain(offered[0]).partition("=")
        found = compute(expression)
        if found is None or (claimed.strip() and claimed.strip() != str(task.info["target"])):
            return Score(0.0, Verdict.WRONG, offered[0], "not_an_expression" if found is None else "claims_otherwise")
        value, used = found
        if Counter(used) != Counter(task.info["numbers"]):
            return Score(0.0, Verdict.WRONG, offered[0], "other_numbers")
        return Score.of(value == task.info["target"], offered[0], "value")

    def gold_response(self, task: Task) -> str:
        """The expression that the task was made from."""
        return in_form(task.gold, self._form)


def plain(expression: str) -> str:
    r"""An expression without LaTeX: ``\frac{a}{b}`` is ``((a)/(b))``, ``\times`` is ``*``."""
    expression = expression[: MAX_CHARACTERS + 1]
    # A fraction within a fraction is replaced from the inside, one level each time.
    while (replaced := _FRACTION.sub(r"((\1)/(\2))", expression)) != expression:
        expression = replaced
    for latex, sign in _LATEX.items():
        expression = expression.replace(latex, sign)
    return expression


def compute(expression: str) -> tuple[Fraction, list[int]] | None:
    """Exact value and the numbers used; ``None`` for what is no expression, is too long, or divides by zero."""
    if len(expression) > MAX_CHARACTERS:
        return None
    try:
        tree = parse(expression.strip(), mode="eval").body
        used: list[int] = []
        return _value(tree, used), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def _value(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:  # True is an int to isinstance
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return _apply(_SIGNS[type(node.op)], _value(node.left, used), _value(node.right, used))
    raise ValueError("not in the grammar")


def _apply(sign: str, left: Fraction, right: Fraction) -> Fraction:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    return left / right
