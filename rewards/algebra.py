"""Expressions as trees, and a test whether two trees have the same value.

A tree is a ``Fraction``, a name (a variable, or pi, e, i, infinity), or a tuple of an operation and its arguments.
Rational parts are computed exactly while a tree is built. Two trees that are not both rational are evaluated by mpmath
at the same points, with as many digits as the sizes and lengths of their numbers require, at least 40. Two trees count
as equal if their values agree at all points. Schwartz (1980) bounds the error probability for polynomials. The points
lie on all sides of 0 and 1 and far out, so that ``|x-5|`` is not taken for ``5-x``.

An answer may be written to be slow to grade. Therefore work is counted, roughly in nodes times digits, and more work
than ``WORK`` raises ``TooMuchWorkError``.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

Tree = Fraction | str | tuple
IMAGINARY, PI, EULER, INFINITY = "i", "\\pi", "e", "\\infty"
MAX_BITS = 4096  # numbers with a larger exponent to base 2 are not evaluated
# Largest arguments of functions that grow faster than powers: with larger ones, the value would exceed MAX_BITS.
_LIMITS = {"!": 400, "binom": 400, "exp": MAX_BITS, "sinh": MAX_BITS, "cosh": MAX_BITS, "tanh": MAX_BITS}
WORK = 20_000  # work that one response may cost, about 50 ms
# Ranges from which the values of variables are drawn, one range for each point: inside and outside (-1, 1), because
# powers and arcsin behave differently there; of both signs, because |x| equals x for one sign only; and large, because
# |x-2000| and 2000-x differ only there.
_RANGES = ((0.2, 0.9), (1.1, 3), (-0.9, -0.2), (-9, 9), (20, 90), (-90, -20), (1e4, 1e7))
_local = threading.local()


class UndecidedError(ValueError):
    """Raised if a text or an equality cannot be decided here, because it is not understood or too large."""


class TooMuchWorkError(Exception):
    """Raised if the work budget of a response is spent."""


@contextmanager
def limited_work() -> Iterator[None]:
    """Limits all work of this thread inside the context to ``WORK``; a nested context shares the outer budget."""
    # The outer budget continues, so that a response with ten answers has one budget, not ten.
    if getattr(_local, "work", None) is not None:
        yield
        return
    _local.work = 0
    try:
        yield
    finally:
        _local.work = None


def spend(work: int) -> None:
    """Adds to the work counted inside :func:`limited_work`; raises ``TooMuchWorkError`` if the budget is exceeded."""
    if (spent := getattr(_local, "work", None)) is not None:
        _local.work = spent + work
        if spent + work > WORK:
            raise TooMuchWorkError("too much work")


def small(value: Fraction) -> Fraction:
    """Returns the number unchanged; raises ``UndecidedError`` if it has too many digits."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise UndecidedError("a number with too many digits")
    return value


def apply(sign: str, left: Tree, right: Tree) -> Tree:
    """The tree of ``left + right``, ``*`` or ``/``, computed exactly if both are rational.

    Raises:
        UndecidedError: If the right side of a division is 0, or the result has too many digits.
    """
    if sign == "/" and right == 0:
        raise UndecidedError("division by zero")
    # Rational numbers stay exact: 0.1+0.2 is 3/10, without rounding errors.
    rational = isinstance(left, Fraction) and isinstance(right, Fraction)
    return small(OPERATIONS[sign](None, left, right)) if rational else (sign, left, right)


def subtract(left: Tree, right: Tree) -> Tree:
    """The tree of ``left - right``."""
    return apply("+", left, apply("*", Fraction(-1), right))


def power(base: Tree, exponent: Tree) -> Tree:
    """The tree of a power; computed exactly for a rational base and an integer exponent, if the result is not large."""
    if exponent == 1:
        return base
    if isinstance(base, Fraction) and base and isinstance(exponent, Fraction) and exponent.denominator == 1:
        # The size is estimated before the power is computed: 9^{99999999} stays a tree, whose evaluation raises.
        size = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
        if size * abs(exponent) <= MAX_BITS:
            return small(base ** int(exponent))
    return ("^", base, exponent)


def names(tree: Tree) -> set[str]:
    """Names of the variables and constants in a tree."""
    if isinstance(tree, tuple):
        return set().union(*map(names, tree[1:]))
    return {tree} if isinstance(tree, str) else set()


def variables(tree: Tree) -> set[str]:
    """Names of the variables in a tree."""
    return names(tree) - {IMAGINARY, PI, EULER, INFINITY}


def substitute(tree: Tree, name: str, value: Tree) -> Tree:
    """The tree with a variable replaced by another tree."""
    if isinstance(tree, tuple):
        return (tree[0], *(substitute(argument, name, value) for argument in tree[1:]))
    return value if tree == name else tree


def equal(gold: Tree, answer: Tree) -> bool:
    r"""Whether two trees have the same value wherever both are defined over the real numbers; see :func:`samples`.

    Raises:
        UndecidedError: If the trees cannot be evaluated at any point.
    """
    if gold == answer or (isinstance(gold, Fraction) and isinstance(answer, Fraction)):
        return gold == answer
    # Infinity has no value that could be compared; identical trees with infinity were found equal above.
    if INFINITY in names(gold) | names(answer):
        return False
    compared = False
    for left, right, error in samples(gold, answer):
        if abs(left - right) > error:
            return False
        compared = True
    if not compared:
        raise UndecidedError("no value")
    return True


def samples(gold: Tree, answer: Tree) -> Iterator[tuple[Any, Any, Any]]:
    r"""Values of two trees, and their error, at the points where both are defined over the real numbers.

    A tree is undefined where any part of it is not real, such as the root or the logarithm of a negative number,
    because its value there depends on a convention about branches. So ``\sqrt{x}\sqrt{y}`` equals ``\sqrt{xy}`` and
    ``2\ln x`` equals ``\ln x^2``, but ``x`` is not ``\sqrt{x^2}``, because both are defined below 0. If the gold has an
    absolute value, its author considered negative numbers, so every point counts at which the gold is defined:
    ``\ln x`` is not ``\ln|x|``. If both are defined at no common point (``\sqrt{-x^2-1}``), they are compared as
    complex numbers at all points.
    """
    outside, inside, whole = [], False, _has(gold, "abs")
    every = variables(gold) | variables(answer)
    # ``ceil(x)`` and ``floor(x)+1`` differ only at integers, so one point with integers is added.
    steps = _has(gold, "floor", "ceil") or _has(answer, "floor", "ceil")
    for point in points(every) + ([{name: Fraction(int(_coordinate(name, 4))) for name in every}] if steps else []):
        try:
            values, error, real = evaluate((gold, answer), point)
        except UndecidedError:  # no value at this point: a pole, a logarithm of 0
            continue
        if real[0] and (real[1] or whole):
            inside = True
            yield *values, error
        else:
            outside.append((*values, error))
    if not inside:
        yield from outside


def _has(tree: Tree, *operations: str) -> bool:
    return isinstance(tree, tuple) and (tree[0] in operations or any(_has(part, *operations) for part in tree[1:]))


def points(variable: set[str]) -> list[dict[str, Fraction]]:
    """Points at which trees are compared: a value for each variable, always the same for the same name.

    Without variables there is a single, empty point.
    """
    if not variable:
        return [{}]
    alike = [{name: _coordinate(name, i) for name in variable} for i in range(len(_RANGES))]
    # |x+y| equals |x|+|y| if x and y have the same sign. Therefore, for up to four variables, there are points at which
    # only one variable is negative.
    turned = sorted(variable)[:4] if len(variable) > 1 else []
    return alike[:3] + [alike[1] | {name: -alike[1][name]} for name in turned] + alike[3:]


@lru_cache(maxsize=4096)
def _coordinate(name: str, i: int) -> Fraction:
    return Fraction(int(random.Random(f"{name}/{i}").uniform(*_RANGES[i]) * 2**24), 2**24)


def evaluate(trees: tuple[Tree, ...], point: dict[str, Fraction]) -> tuple[list[Any], Any, list[bool]]:
    """Values of trees at a point as mpmath numbers, a bound on their error, and whether each is defined over the reals.

    Raises:
        UndecidedError: If a tree has no value at the point, is too large, or needs too many digits.
    """
    if (context := getattr(_local, "context", None)) is None:
        from mpmath import MPContext

        context = _local.context = MPContext()
    # 50 digits more than all numbers have together: 10^{100}\pi+1 and 10^{100}\pi+2 differ only in the 101st digit.
    digits = sum(_digits(tree) for tree in trees)
    context.dps, values, real = 50 + digits, [], []
    # Evaluated twice at most. The first evaluation shows how far the sizes of intermediate values lie apart, and hence
    # how many digits cancellation may have cost; the second one uses that many more digits.
    for _ in range(2):
        context.largest, context.smallest = 0, 0
        values, real = [], []
        try:
            for tree in trees:
                context.real = True
                values.append(context.mpc(_value(context, tree, point)))
                real.append(context.real)
        except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise error if isinstance(error, UndecidedError) else UndecidedError(str(error)) from error
        if context.dps >= 40 + digits + (context.largest - context.smallest) // 2:
            break
        context.dps = 40 + digits + (context.largest - context.smallest) // 2
    # Bound on the absolute error: the rounding error of the largest intermediate value (0.302 digits per bit), with ten
    # digits to spare for errors that add up.
    kept = int(context.dps - context.largest * 0.302) - 10
    if kept < 25 + digits // 2:  # an intermediate value is huge, as after division by a rounding error instead of 0
        raise UndecidedError("too few digits")
    return values, context.mpf(10) ** -kept, real


def _digits(tree: Tree) -> int:
    """Total number of decimal digits of all numbers in a tree (0.3 per bit)."""
    if isinstance(tree, Fraction):
        return (tree.numerator.bit_length() + tree.denominator.bit_length()) * 3 // 10
    return sum(_digits(part) for part in tree[1:]) if isinstance(tree, tuple) else 0


def _value(context: Any, tree: Any, point: dict[str, Fraction]) -> Any:
    # The cost of a node is about that of multiplying two numbers of this precision.
    spend(3 + context.dps // 50)
    if isinstance(tree, str):
        constants = {PI: context.pi, EULER: context.e, IMAGINARY: context.j}
        if tree not in point and tree not in constants:
            raise UndecidedError(f"{tree} has no value")
        tree = point[tree] if tree in point else constants[tree]
    if isinstance(tree, Fraction):
        value = context.mpf(tree.numerator) / tree.denominator
    elif isinstance(tree, tuple):
        arguments = [_value(context, argument, point) for argument in tree[1:]]
        value = _applied(context, tree, arguments)
        context.real &= not value.imag or any(argument.imag for argument in arguments)
    else:
        value = +tree
    if value:
        size = context.mag(value)
        # mpmath's exponents have no limit, so the values of power towers are stopped here. The test also fails for NaN
        # and infinity, which have no size.
        if not -MAX_BITS < size < MAX_BITS:
            raise UndecidedError("too large, or no number")
        context.largest, context.smallest = max(context.largest, size), min(context.smallest, size)
    return value


def _applied(context: Any, tree: tuple, arguments: list[Any]) -> Any:
    name = tree[0]
    if name == "^":
        return _power(context, arguments[0], arguments[1], tree[2])
    if name not in "+*/":
        spend(200 if name in ("!", "binom") else 10 + context.dps // 5)
        # At 400 digits mpmath's gamma takes half a second, whereas its other functions take less than a millisecond.
        gamma_is_slow = name in ("!", "binom") and context.dps > 120
        if gamma_is_slow or any(abs(argument) > _LIMITS[name] for argument in arguments if name in _LIMITS):
            raise UndecidedError("too large")
    return OPERATIONS[name](context, *arguments) if name in OPERATIONS else getattr(context, name)(*arguments)


def _power(context: Any, base: Any, exponent: Any, written: Any) -> Any:
    # 0^0 and 0^{-1} have no value, although mpmath would return 1 for 0^0.
    if not base:
        if exponent.real <= 0:
            raise UndecidedError("a power of zero")
        return base
    if abs(exponent) * abs(context.mag(base)) > MAX_BITS:
        raise UndecidedError("too large")
    odd_root = isinstance(written, Fraction) and written.denominator % 2 == 1 and written.denominator > 1
    if odd_root and not base.imag and base.real < 0:  # the real root, as taught in school: the cube root of -8 is -2
        return (-1) ** written.numerator * (-base.real) ** exponent
    return base**exponent


OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": lambda context, left, right: left + right,
    "*": lambda context, left, right: left * right,
    "/": lambda context, left, right: left / right,
    "abs": lambda context, x: abs(x),
    # A value that should be an integer may lie next to it by a rounding error.
    "floor": lambda context, x: context.floor(x + context.sqrt(context.eps)),
    "ceil": lambda context, x: context.ceil(x - context.sqrt(context.eps)),
    "!": lambda context, x: context.gamma(x + 1),
    "binom": lambda context, n, k: context.binomial(n, k),
    "log": lambda context, base, x: context.ln(x) / context.ln(base),
    "arcsin": lambda context, x: context.asin(x),
    "arccos": lambda context, x: context.acos(x),
    "arctan": lambda context, x: context.atan(x),
}
"""Operations of trees by name, other than the power and the functions that mpmath has under the same name."""
