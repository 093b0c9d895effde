"""``countdown``: reach a target from given numbers with ``+ - * /`` and parentheses (the game of TinyZero).

Response: an expression in ``\\boxed{...}`` (or as ``answer_form`` says), optionally followed by ``= target``. A
response is right if the expression uses each given number exactly once and no other number, and its exact value is the
target. Splits: by the hash of the question, so that they are disjoint for every seed.

Expressions are parsed and computed here, with fractions, over a grammar of four operations. A policy's text is never
evaluated as code, and every expression of the grammar is computed quickly.

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
"""Longer expressions are refused: a few numbers, each used once, do not need so many characters."""
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": "", "$": ""}
_LATEX |= {"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"}
_FRACTION = re.compile(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}")


class Countdown:
    """Countdown with generated numbers. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        n_numbers: Counts of given numbers, from which each task's count is drawn.
        max_number: Largest given number; numbers are drawn from 1 on.
        max_target: Largest target; targets are at least 1.
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        seed: Seed of the generated tasks; splits are disjoint by content for every seed.
        answer_form: Form of the answer in a response, a name in :data:`rewards.answers.ANSWER_FORMS`, or several names
            in order of preference.

    Raises:
        ValueError: If a task would have fewer than two numbers, or a limit is below 2.
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
        """Draws one task of any split: random operations on random numbers, until the result is a valid target."""
        while True:  # about every second result is not an integer from 1 to max_target
            numbers = [rng.randint(1, self._max_number) for _ in range(rng.choice(self._n_numbers))]
            text, value = str(numbers[0]), Fraction(numbers[0])
            for number in numbers[1:]:
                sign = rng.choice("+-*/")
                text, value = f"({text} {sign} {number})", _apply(sign, value, Fraction(number))
            if value.denominator == 1 and 1 <= value <= self._max_target:
                # Shuffled, because the original order of the numbers is the order in the solution.
                shown = rng.sample(numbers, len(numbers))
                question = (
                    f"Use each of the numbers {', '.join(map(str, shown))} exactly once, with +, -, *, / and "
                    f"parentheses, to make {value}. The result is such an expression."
                )
                key = f"countdown/{'-'.join(map(str, shown))}/{value}"
                return Task(key, question, text[1:-1], {"numbers": shown, "target": int(value)})

    def verify(self, task: Task, response: str) -> Score:
        """1 if the expression uses exactly the given numbers and its value is the target."""
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
        """The expression from which the task was generated."""
        return in_form(task.gold, self._form)


def plain(expression: str) -> str:
    r"""An expression without LaTeX: ``\frac{a}{b}`` is ``((a)/(b))``, ``\times`` is ``*``."""
    expression = expression[: MAX_CHARACTERS + 1]
    # The pattern matches only innermost fractions, so nested fractions take one pass per level.
    while (replaced := _FRACTION.sub(r"((\1)/(\2))", expression)) != expression:
        expression = replaced
    for latex, sign in _LATEX.items():
        expression = expression.replace(latex, sign)
    return expression


def compute(expression: str) -> tuple[Fraction, list[int]] | None:
    """The exact value and the numbers used; ``None`` if the text is no expression, is too long, or divides by zero."""
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
    if isinstance(node, ast.Constant) and type(node.value) is int:  # isinstance would accept True as an int
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
