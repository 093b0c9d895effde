"""Named ways to compare a program's output with the expected output; authors of tasks may register their own.

A comparison gets the expected output, the actual output and the input, and returns whether the output is accepted. If a
comparison raises, the output is not accepted; otherwise a response could avoid its verdict by making it raise.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rewards.lookup import Lookup

Comparison = Callable[[str, str, str], bool]
"""A function of expected output, actual output and standard input that returns whether the output is accepted."""
COMPARISONS: Lookup[Callable[..., Comparison]] = Lookup("env.options.compare")
"""Functions by name, each of which makes a comparison from its options (``None`` if it has none)."""
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
# No nan, no infinity, and exponents of at most three digits: the fraction of 1e999999999 would fill the memory.
_FINITE = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
# Numbers with more characters are compared as text only.
_MAX_NUMBER = 400


@COMPARISONS.register("lines")
def _lines(options: None) -> Comparison:
    """Compares line by line, ignoring trailing white space and empty lines at the end, as programming judges do."""

    def lines(text: str) -> list[str]:
        return [line.rstrip() for line in text.rstrip().split("\n")]

    return lambda expected, actual, _: lines(expected) == lines(actual)


@COMPARISONS.register("exact")
def _exact(options: None) -> Comparison:
    """Requires that every character is equal."""
    return lambda expected, actual, _: expected == actual


@COMPARISONS.register("tokens")
def _tokens(options: None) -> Comparison:
    """Compares the tokens between white space."""
    return lambda expected, actual, _: expected.split() == actual.split()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far numbers may differ; it is enough to be within one of the two tolerances.

    Args:
        absolute: Largest difference allowed.
        relative: Largest difference allowed, as a share of the expected number.
    """

    absolute: float = 1e-6
    relative: float = 1e-6


@COMPARISONS.register("numbers", options=Tolerance)
def _numbers(options: Tolerance) -> Comparison:
    """Compares tokens; numbers may differ within a tolerance, but an integer never equals another integer."""

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
        ):  # the relative tolerance never reaches the next integer: 1000000006.0 is not 1000000007
            share = min(share, Fraction(49, 100))
        return abs(wanted - got) <= max(Fraction(options.absolute), share)

    def compare(expected: str, actual: str, _: str) -> bool:
        left, right = expected.split(), actual.split()
        return len(left) == len(right) and all(map(same, left, right))

    return compare


def safely(comparison: Comparison, expected: str, actual: str, stdin: str) -> bool:
    """Whether a comparison accepts the output; false if the comparison raises."""
    try:
        return bool(comparison(expected, actual, stdin))
    except Exception:
        return False


def comparison(name: str, options: dict[str, Any] | None = None) -> Comparison:
    """The comparison that is registered under a name, with its options.

    Raises:
        UnknownNameError: If the name is not registered.
        ValueError: If an option is unknown or has the wrong type.
    """
    return COMPARISONS[name](COMPARISONS.options(name, options or {}))
