"""Expressions as trees, and whether two of them have the same value.

A tree is a ``Fraction``, a name (a variable, or pi, e, i, infinity), or a tuple of an operation and its arguments; what
is rational is folded exactly while a tree is built. Two trees that are not both rational are evaluated by mpmath at the
same points, with as many digits as the sizes and lengths of their numbers ask for, 40 at least: equal values there are
equal, different ones are different. Schwartz (1980) gives the odds for polynomials; the points lie on all sides of 0
and 1 and far out, so that ``|x-5|`` is not taken for ``5-x``.

An answer may be written to be slow. Work is counted, in nodes times digits, and what is dearer than ``WORK`` raises.
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
MAX_BITS = 4096  # numbers with a larger exponent, base 2, are left alone
# Largest arguments; what grows faster than a power would need more than MAX_BITS for its value.
_LIMITS = {"!": 400, "binom": 400, "exp": MAX_BITS, "sinh": MAX_BITS, "cosh": MAX_BITS, "tanh": MAX_BITS}
WORK = 20_000  # what one response may cost, about 50 ms
# Where variables are put, one range a point: inside and outside of (-1, 1), since powers and arcsin differ there; both
# signs, since |x| equals x on one side alone; and far out, where |x-2000| and 2000-x part.
_RANGES = ((0.2, 0.9), (1.1, 3), (-0.9, -0.2), (-9, 9), (20, 90), (-90, -20), (1e4, 1e7))
_local = threading.local()


class UndecidedError(ValueError):
    """Outside of what is understood here, or too large."""


class TooMuchWorkError(Exception):
    """The budget of this response is spent: no reading and no comparison goes on."""


@contextmanager
def limited_work() -> Iterator[None]:
    """Within it all work of this thread together may cost ``WORK``; a limit within a limit is the outer one."""
    # The outer budget goes on: a response with ten answers has one budget, not ten.
    if getattr(_local, "work", None) is not None:
        yield
        return
    _local.work = 0
    try:
        yield
    finally:
        _local.work = None


def spend(work: int) -> None:
    """Counts work; raises ``TooMuchWorkError`` when the budget is spent."""
    if (spent := getattr(_local, "work", None)) is not None:
        _local.work = spent + work
        if spent + work > WORK:
            raise TooMuchWorkError("too much work")


def small(value: Fraction) -> Fraction:
    """The same number, unless it has too many digits."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise UndecidedError("a number with too many digits")
    return value


def apply(sign: str, left: Tree, right: Tree) -> Tree:
    """``left + right``, ``*`` or ``/``, worked out if both are rational; raises ``UndecidedError`` for ``/ 0``."""
    if sign == "/" and right == 0:
        raise UndecidedError("division by zero")
    # What is rational stays exact, so 0.1+0.2 is 3/10 and no two floats have to agree.
    rational = isinstance(left, Fraction) and isinstance(right, Fraction)
    return small(OPERATIONS[sign](None, left, right)) if rational else (sign, left, right)


def subtract(left: Tree, right: Tree) -> Tree:
    """The difference."""
    return apply("+", left, apply("*", Fraction(-1), right))


def power(base: Tree, exponent: Tree) -> Tree:
    """The power; a rational number to a moderate integer is worked out."""
    if exponent == 1:
        return base
    if isinstance(base, Fraction) and base and isinstance(exponent, Fraction) and exponent.denominator == 1:
        # The size of the result is known before it is worked out: 9^{99999999} stays a tree, and evaluating that
        # raises.
        size = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
        if size * abs(exponent) <= MAX_BITS:
            return small(base ** int(exponent))
    return ("^", base, exponent)


def names(tree: Tree) -> set[str]:
    """Names of variables and constants."""
    if isinstance(tree, tuple):
        return set().union(*map(names, tree[1:]))
    return {tree} if isinstance(tree, str) else set()


def variables(tree: Tree) -> set[str]:
    """Names of the variables."""
    return names(tree) - {IMAGINARY, PI, EULER, INFINITY}


def substitute(tree: Tree, name: str, value: Tree) -> Tree:
    """The tree with something else in the place of a variable."""
    if isinstance(tree, tuple):
        return (tree[0], *(substitute(argument, name, value) for argument in tree[1:]))
    return value if tree == name else tree


def equal(gold: Tree, answer: Tree) -> bool:
    r"""Whether two trees have the same value wherever both are defined over the real numbers; see :func:`samples`.

    Raises:
        UndecidedError: If no point can be evaluated.
    """
    if gold == answer or (isinstance(gold, Fraction) and isinstance(answer, Fraction)):
        return gold == answer
    # Infinity has no value to compare, and equal trees with it were found above.
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

    A part that leaves the real numbers, such as the root or the logarithm of a negative one, ends the domain: what it
    is worth there is a convention about branches. So ``\sqrt{x}\sqrt{y}`` is ``\sqrt{xy}`` and ``2\ln x`` is
    ``\ln x^2``, while ``x`` is not ``\sqrt{x^2}``: both are defined below 0. A gold with an absolute value was written
    with negative numbers in mind, and counts wherever it is defined: ``\ln x`` is not ``\ln|x|``. Trees that are
    defined together nowhere (``\sqrt{-x^2-1}``) are compared as complex numbers, at every point.
    """
    outside, inside, whole = [], False, _has(gold, "abs")
    every = variables(gold) | variables(answer)
    # Floor and ceiling differ at integers in another way than between them.
    steps = _has(gold, "floor", "ceil") or _has(answer, "floor", "ceil")
    for point in points(every) + ([{name: Fraction(int(_coordinate(name, 4))) for name in every}] if steps else []):
        try:
            values, error, real = evaluate((gold, answer), point)
        except UndecidedError:  # a pole, a logarithm of 0: the point says nothing
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
    """Values for variables, always the same for a name; a single empty point for none."""
    if not variable:
        return [{}]
    alike = [{name: _coordinate(name, i) for name in variable} for i in range(len(_RANGES))]
    # |x+y| is |x|+|y| where both have one sign, so each of a few variables is also the only negative one.
    turned = sorted(variable)[:4] if len(variable) > 1 else []
    return alike[:3] + [alike[1] | {name: -alike[1][name]} for name in turned] + alike[3:]


@lru_cache(maxsize=4096)
def _coordinate(name: str, i: int) -> Fraction:
    return Fraction(int(random.Random(f"{name}/{i}").uniform(*_RANGES[i]) * 2**24), 2**24)


def evaluate(trees: tuple[Tree, ...], point: dict[str, Fraction]) -> tuple[list[Any], Any, list[bool]]:
    """Values of trees at a point, as mpmath's numbers; their error at most; and which are defined over the reals.

    Raises:
        UndecidedError: If one has no value there, is too large, or calls for too many digits.
    """
    if (context := getattr(_local, "context", None)) is None:
        from mpmath import MPContext

        context = _local.context = MPContext()
    # As many digits as the numbers are long, and 50: 10^{100}\pi+1 and 10^{100}\pi+2 differ in the hundred-first.
    digits = sum(_digits(tree) for tree in trees)
    context.dps, values, real = 50 + digits, [], []
    # Twice at most. Evaluating shows how far the sizes of intermediate values lie apart, and so how many digits
    # cancellation may have cost; the second time there are enough.
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
    # An absolute error: a rounding error of the largest intermediate value (0.302 digits a bit), with ten digits to
    # spare for errors that add up.
    kept = int(context.dps - context.largest * 0.302) - 10
    if kept < 25 + digits // 2:  # divided by what may be zero
        raise UndecidedError("too few digits")
    return values, context.mpf(10) ** -kept, real


def _digits(tree: Tree) -> int:
    """Decimal digits of all numbers in a tree together (0.3 a bit)."""
    if isinstance(tree, Fraction):
        return (tree.numerator.bit_length() + tree.denominator.bit_length()) * 3 // 10
    return sum(_digits(part) for part in tree[1:]) if isinstance(tree, tuple) else 0


def _value(context: Any, tree: Any, point: dict[str, Fraction]) -> Any:
    # Each node costs about as much as multiplying numbers of this length.
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
        # mpmath's exponents have no limit: what a tower leads to is stopped here. NaN and infinity have no size at all.
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
        # mpmath's gamma takes half a second at 400 digits, where its other functions take less than a millisecond.
        gamma_is_slow = name in ("!", "binom") and context.dps > 120
        if gamma_is_slow or any(abs(argument) > _LIMITS[name] for argument in arguments if name in _LIMITS):
            raise UndecidedError("too large")
    return OPERATIONS[name](context, *arguments) if name in OPERATIONS else getattr(context, name)(*arguments)


def _power(context: Any, base: Any, exponent: Any, written: Any) -> Any:
    # 0^0 and 0^{-1} have no value; mpmath would return 1 for the first.
    if not base:
        if exponent.real <= 0:
            raise UndecidedError("a power of zero")
        return base
    if abs(exponent) * abs(context.mag(base)) > MAX_BITS:
        raise UndecidedError("too large")
    odd_root = isinstance(written, Fraction) and written.denominator % 2 == 1 and written.denominator > 1
    if odd_root and not base.imag and base.real < 0:  # as in school: the cube root of -8 is -2
        return (-1) ** written.numerator * (-base.real) ** exponent
    return base**exponent


OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": lambda context, left, right: left + right,
    "*": lambda context, left, right: left * right,
    "/": lambda context, left, right: left / right,
    "abs": lambda context, x: abs(x),
    # What should be whole may lie below it by an error.
    "floor": lambda context, x: context.floor(x + context.sqrt(context.eps)),
    "ceil": lambda context, x: context.ceil(x - context.sqrt(context.eps)),
    "!": lambda context, x: context.gamma(x + 1),
    "binom": lambda context, n, k: context.binomial(n, k),
    "log": lambda context, base, x: context.ln(x) / context.ln(base),
    "arcsin": lambda context, x: context.asin(x),
    "arccos": lambda context, x: context.acos(x),
    "arctan": lambda context, x: context.atan(x),
}
"""What a tuple may begin with, apart from the power and functions that mpmath has under the same name."""
