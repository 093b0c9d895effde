"""Rewrites an answer by rule into other ways to state the same answer."""

import re
from fractions import Fraction

_SIMPLE = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")


def spacing(gold):
    """The answer with thin spaces around plus signs, and with sized brackets."""
    text = re.sub(r"(?<=[\d}x]) ?\+ ?", r" \\, + \\; ", gold)
    return text.replace("(", "\\left( ").replace(")", " \\right)") if "\\left" not in gold and "[" not in gold else text


def fractions(gold):
    """The answer with ``\\frac`` in place of ``\\dfrac``, or the reverse."""
    if "\\dfrac" in gold:
        return gold.replace("\\dfrac", "\\frac")
    return gold.replace("\\frac", "\\dfrac")


def decimal_or_fraction(gold):
    """The same number in another form.

    A fraction becomes an exact decimal of at most six digits, or is expanded by 2 if it has none. A decimal becomes a
    fraction, and an integer gets ``.0``. Any other answer stays as it is.
    """
    match = _SIMPLE.fullmatch(gold)
    if match:
        value = Fraction(int(match[2]), int(match[3])) * (-1 if match[1] else 1)
        digits = f"{float(value):.6f}".rstrip("0")
        if Fraction(digits) == value:
            return digits
        return f"{value.numerator * 2}/{value.denominator * 2}"
    if re.fullmatch(r"-?\d+\.\d+", gold):
        value = Fraction(gold)
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return f"{gold}.0" if re.fullmatch(r"-?\d+", gold) else gold


def trailing_text(gold):
    """The answer followed by a unit and a full stop if it is a number, else between dollar signs and a full stop."""
    is_number = re.fullmatch(r"-?[\d.]+|-?\\d?frac\{\d+\}\{\d+\}|-?\d*\\sqrt\{\d+\}", gold)
    return f"{gold} \\text{{ units}}." if is_number else f"${gold}$."


def rephrasings(gold):
    """Five responses that state the answer, each as (what was changed, accepted form, response)."""
    boxed = "So we get \\boxed{%s}, as wanted."
    return [
        ("spacing", "boxed", boxed % spacing(gold)),
        ("fractions", "boxed", boxed % fractions(gold)),
        ("unboxed", "sentence", f"I added them up.\nThe answer is ${gold}$.\n"),
        ("trailing text", "boxed", boxed % trailing_text(gold)),
        ("decimal or fraction", "boxed", boxed % decimal_or_fraction(gold)),
    ]
