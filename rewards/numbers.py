"""Reads the number that a short answer states, exactly and in everyday notation: ``1,234``, ``\\$18``, ``x = 18``."""

import re
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

from rewards.algebra import TooMuchWorkError, UndecidedError, limited_work
from rewards.kinds import Expression, Named
from rewards.notation import MAX_ANSWER_CHARS, notate
from rewards.values import read

# 1,234,567 and 12,34,567, but not 1,5. Exponents have at most three digits: the fraction of 1e999999 would fill memory.
_PLAIN = re.compile(
    r"([$€£]?)\s*([+-]?(?:(?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d+)\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*((?:\\?%)?)\.?",
    re.ASCII,
)
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound"}
NOISY_DIGITS = 15
"""A number of so many digits is taken for a float that a program has computed; its last digits are rounding errors."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A number that a text states; a percentage is divided by 100. ``unit`` is the name of a known unit, or empty."""

    value: Fraction
    unit: str = ""


def stated_number(text: str) -> Stated | None:
    """The number that a text states, ``None`` if it states none: ``2+2``, ``1/2`` and ``3 or 4`` are not numbers."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    if found := _PLAIN.fullmatch(text.strip().replace("\N{MINUS SIGN}", "-")):
        value = Fraction(found[2].replace(",", ""))
        return Stated(value / 100 if found[3] else value, _CURRENCIES.get(found[1], ""))
    failures = (UndecidedError, TooMuchWorkError, ArithmeticError, ValueError, RecursionError)
    with limited_work(), suppress(*failures):
        notation, stated = notate(text.rpartition("=")[2]), read(text)
        # Beside "=" only a named number counts, since "9+9 = 18" may be a copy of the question.
        number = stated.value if isinstance(stated, Named) else stated
        if "=" in text.strip("= ") and number is stated:
            return None
        if not isinstance(number, Expression) or not number.literal or re.search(r"/|\\frac", notation.text):
            return None
        if isinstance(number.tree, Fraction):
            unit = notation.unit if notation.known_unit and notation.unit != "%" else ""
            return Stated(number.tree / 100 if number.percent else number.tree, unit)
    return None


def within_rounding(given: Fraction, wanted: Fraction) -> bool:
    """Whether two numbers differ by no more than rounding: a whole number must be equal, any other within a millionth.

    Another number with as many decimals as the wanted one is never equal to it, unless the wanted one has so many
    digits (:data:`NOISY_DIGITS`) that the last of them are rounding errors.
    """
    if wanted.denominator == 1:
        return given == wanted
    tolerance, decimals = min(abs(wanted), Fraction(1)) / 10**6, 0
    while (wanted * 10**decimals).denominator > 1:
        decimals += 1
    if len(str(abs(wanted * 10**decimals))) < NOISY_DIGITS:
        tolerance = min(tolerance, Fraction(49, 100 * 10**decimals))
    return abs(given - wanted) <= tolerance
