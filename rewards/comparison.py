"""When is what a program printed the expected output? Ways to compare, by name; a task's author may add one.

A comparison gets the expected output, what was printed, and the input, and says yes or no. One that raises says no: it
must not be up to a response whether there is a verdict.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rewards.lookup import Lookup

Comparison = Callable[[str, str, str], bool]
"""From expected output, actual output and standard input to a verdict."""
COMPARISONS: Lookup[Callable[..., Comparison]] = Lookup("env.options.compare")
"""By name, what makes a comparison of its options (``None`` if it has none)."""
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
# No nan, no infinity and no exponent beyond three digits: as a fraction 1e999999999 has that many digits.
_FINITE = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
# Longer numbers are compared as text alone.
_MAX_NUMBER = 400


@COMPARISONS.register("lines")
def _lines(options: None) -> Comparison:
    """Line by line without trailing white space, and without empty lines at the end: what judges of programs do."""

    def lines(text: str) -> list[str]:
        return [line.rstrip() for line in text.rstrip().split("\n")]

    return lambda expected, actual, _: lines(expected) == lines(actual)


@COMPARISONS.register("exact")
def _exact(options: None) -> Comparison:
    """Every character."""
    return lambda expected, actual, _: expected == actual


@COMPARISONS.register("tokens")
def _tokens(options: None) -> Comparison:
    """What stands between white space."""
    return lambda expected, actual, _: expected.split() == actual.split()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far numbers may lie apart; to be within one of the two is enough.

    Args:
        absolute: Difference.
        relative: Difference as a share of the expected number.
    """

    absolute: float = 1e-6
    relative: float = 1e-6


@COMPARISONS.register("numbers", options=Tolerance)
def _numbers(options: Tolerance) -> Comparison:
    """Tokens; numbers may differ a little, but none may be another integer than the expected one, however large."""

    def same(expected: str, actual: str) -> bool:
        if expected == actual:
            return True
        if max(len(expected), len(actual)) > _MAX_NUMBER:
            return False
        if _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(actual):
            return int(expected) == int(actual)
        if not _FINITE.fullmatch(expected) or not _FINITE.fullmatch(actual):
            return False
        wanted, got = Fraction(expected), Fraction(actual)
        share = Fraction(options.relative) * abs(wanted)
        if _INTEGER.fullmatch(
            expected
        ):  # 1000000006.0 is not 1000000007 either: a share never reaches the next integer
            share = min(share, Fraction(49, 100))
        return abs(wanted - got) <= max(Fraction(options.absolute), share)

    def compare(expected: str, actual: str, _: str) -> bool:
        left, right = expected.split(), actual.split()
        return len(left) == len(right) and all(map(same, left, right))

    return compare


def safely(comparison: Comparison, expected: str, actual: str, stdin: str) -> bool:
    """The verdict of a comparison; one that raises says no."""
    try:
        return bool(comparison(expected, actual, stdin))
    except Exception:
        return False


def comparison(name: str, options: dict[str, Any] | None = None) -> Comparison:
    """The comparison of a name.

    Raises:
        UnknownNameError: If there is none.
        ValueError: If it has no such option.
    """
    return COMPARISONS[name](COMPARISONS.options(name, options or {}))
