"""When two values are the same. Three outcomes: true, false where both sides are fully understood, and ``None``."""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction

from rewards import algebra
from rewards.algebra import Quotient, UndecidedError
from rewards.kinds import (
    Based,
    Equation,
    Expression,
    Hedge,
    Matrix,
    Relation,
    Sequence,
    UnevaluatedError,
    Union,
    Value,
    Words,
)


def equal(gold: Value, answer: Value, strict: bool = True) -> bool | None:
    """Whether an answer is the gold.

    Args:
        gold: The right value.
        answer: The value that is offered.
        strict: A gold that is a plain number wants a plain number, not a calculation that leads to it.
    """
    if isinstance(answer, Hedge):
        answer = Sequence("", answer.items)
    if isinstance(gold, Hedge):
        gold = Sequence("", gold.items)
    comparison = _COMPARISONS.get((type(gold), type(answer)))
    if comparison is not None:
        return comparison(gold, answer, strict)
    if isinstance(gold, Sequence) and isinstance(answer, Expression) and len(gold.items) == 1:
        return equal(gold.items[0], answer, strict) if gold.brackets == "{}" else False
    return False


def _expressions(gold: Expression, answer: Expression, strict: bool) -> bool | None:
    if gold.name and answer.name and not parse_name(gold.name).equals(parse_name(answer.name)):
        return False
    same = gold.value.equals(answer.value)
    if gold.percent != answer.percent:
        # The sign means hundredths; and it is a unit that may be left out, but hardly of a number below 1.
        left_out = same is True and gold.value.rational is not None and abs(gold.value.rational) > 1
        hundredth = algebra.number(Fraction(1, 100))
        sides = [side.value * hundredth if side.percent else side.value for side in (gold, answer)]
        same = left_out or sides[0].equals(sides[1])
    if same and strict and gold.literal and not answer.literal:
        raise UnevaluatedError
    return same


def _sequences(gold: Sequence, answer: Sequence, strict: bool) -> bool | None:
    kinds = {gold.brackets, answer.brackets}
    if len(kinds) > 1 and kinds != {"", "{}"}:
        return False
    if len(gold.items) != len(answer.items):
        return None if gold.brackets == "{}" and len(gold.items) < len(answer.items) else False
    if gold.brackets == ":":
        return _ratios(gold.items, answer.items)
    if gold.brackets in ("", "{}"):
        return _unordered(gold.items, answer.items, strict)
    return _all(equal(g, a, strict) for g, a in zip(gold.items, answer.items, strict=True))


def _ratios(gold: tuple[Value, ...], answer: tuple[Value, ...]) -> bool | None:
    """``2:3`` is ``4:6``."""
    pairs = list(zip(gold, answer, strict=True))
    if not all(isinstance(g, Expression) and isinstance(a, Expression) for g, a in pairs):
        raise UndecidedError("a ratio of something else than numbers")
    values = [(g.value, a.value) for g, a in pairs if isinstance(g, Expression) and isinstance(a, Expression)]
    first_gold, first_answer = values[0]
    return _all((g * first_answer).equals(a * first_gold) for g, a in values[1:])


def _all(results: Iterable[bool | None]) -> bool | None:
    undecided = False
    for result in results:
        if result is False:
            return False
        undecided |= result is None
    return None if undecided else True


def _unordered(gold: tuple[Value, ...], answer: tuple[Value, ...], strict: bool) -> bool | None:
    left, undecided = list(answer), False
    for item in gold:
        results = [equal(item, other, strict) for other in left]
        if True in results:
            left.pop(results.index(True))
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _unions(gold: Union, answer: Union, strict: bool) -> bool | None:
    if len(gold.parts) != len(answer.parts):
        return None
    return _unordered(gold.parts, answer.parts, strict)


def _equations(gold: Equation, answer: Equation, strict: bool) -> bool | None:
    if gold.name and answer.name:
        if not gold.left.equals(answer.left):
            return False
        return gold.right.equals(answer.right)
    left, right = gold.left - gold.right, answer.left - answer.right
    if _proportional(left, right, positive=False):
        return True
    return False if _is_linear(left) and _is_linear(right) else None


def _is_linear(value: Quotient) -> bool:
    """Whether it is a polynomial of degree 1: two of those have the same zeros only if they are proportional."""
    if value.opaque or value.denominator.constant is None:
        return False
    variables = value.variables
    degrees = [sum(e for atom, e in monomial if atom in variables) for monomial in value.numerator.terms]
    return max(degrees, default=0) == 1 and all(degree in (0, 1) for degree in degrees)


def _relations(gold: Relation, answer: Relation, strict: bool) -> bool | None:
    if gold.sign != answer.sign:
        return False
    return True if _proportional(gold.difference, answer.difference, positive=gold.sign != "\\ne") else None


def _proportional(left: Quotient, right: Quotient, positive: bool) -> bool:
    """Whether one is a rational multiple of the other."""
    if not left.numerator.terms or not right.numerator.terms:
        return False
    monomial = next(iter(left.numerator.terms))
    if monomial not in right.numerator.terms:
        return False
    ratio = left.numerator.terms[monomial] / right.numerator.terms[monomial]
    if positive and ratio < 0:
        return False
    scaled = Quotient(right.numerator.scaled(ratio), right.denominator)
    return left.denominator == right.denominator and left.equals(scaled) is True


def _equation_and_value(gold: Equation, answer: Expression, strict: bool) -> bool | None:
    if gold.name:
        return gold.right.equals(answer.value)
    return False


def _value_and_equation(gold: Expression, answer: Equation, strict: bool) -> bool | None:
    return gold.value.equals(answer.right) if answer.name else False


def _matrices(gold: Matrix, answer: Matrix, strict: bool) -> bool | None:
    if gold.bars != answer.bars or [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
        return False
    cells = zip((c for row in gold.rows for c in row), (c for row in answer.rows for c in row), strict=True)
    return _all(equal(g, a, strict) for g, a in cells)


def _words(gold: Words, answer: Words, strict: bool) -> bool | None:
    return gold.text == answer.text


def _based_numbers(gold: Based, answer: Based, strict: bool) -> bool | None:
    return (gold.digits, gold.base) == (answer.digits, answer.base)


_COMPARISONS: dict[tuple[type, type], Callable] = {
    (Expression, Expression): _expressions,
    (Sequence, Sequence): _sequences,
    (Union, Union): _unions,
    (Equation, Equation): _equations,
    (Relation, Relation): _relations,
    (Equation, Expression): _equation_and_value,
    (Expression, Equation): _value_and_equation,
    (Matrix, Matrix): _matrices,
    (Words, Words): _words,
    (Based, Based): _based_numbers,
}


def parse_name(name: str) -> Quotient:
    """A function's or variable's name as a symbol of its own."""
    return algebra.symbol(re.sub(r"[\\{}\s]", "", name))
