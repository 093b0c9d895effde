r"""What kind of thing an answer is, and when two of them are the same.

Kinds never mix: ``(1,2)`` is no set, ``2:3`` no fraction, ``(1,2]`` no ``[1,2)``, ``12_7`` no ``12_8``. Within a kind,
values are compared exactly. Every comparison has three outcomes: true, false where both sides are fully understood, and
``None``.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from rewards import algebra
from rewards.algebra import Quotient, UndecidedError
from rewards.latex import parse
from rewards.notation import WORDS, notate, words_in

_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)"
_LITERAL = re.compile(
    rf"\+?{_NUMBER}|-?\d+/-?\d+|-?\(?\d+/\d+\)?|-?\\frac\{{-?\d+(?:\.\d+)?\}}\{{-?\d+(?:\.\d+)?\}}|-?\\frac(?:\d\d|\d\{{\d+\}}|\{{\d+\}}\d)"
    rf"|-?\d+ ?\\frac(?:\{{\d+\}}\{{\d+\}}|\d\d)|-?\d+ \d+/\d+|-?{_NUMBER}(?:\\times|\\cdot|\*)10\^(?:\{{-?\d+\}}|\d)"
)
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*?)\\end\{\1\}", re.DOTALL)
_BASE = re.compile(r"(-?[0-9A-Fa-f]*\.?[0-9A-Fa-f]+)_\{?(\d{1,2})\}?")
_NAME = re.compile(
    r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?'?(?:\([a-zA-Z](?:,[a-zA-Z])*\))?|\\angle ?[A-Z]{1,3}|m\\angle ?[A-Z]{1,3}"
)
_RELATIONS = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|<|>")
_CHOICE = re.compile(r"(?:\(? ?([A-J]) ?\)?|\( ?([A-J]) ?\)(.+)|([A-J])[.:)](.+))")
_OTHER_CHOICE = re.compile(r"(?<![a-zA-Z\\])[A-J](?![a-zA-Z])")
MAX_ITEMS = 40


@dataclass(frozen=True)
class Expression:
    """A single value.

    Args:
        value: What it is.
        literal: Whether it is written as one number and needs no working out.
        percent: Whether a percent sign followed.
        name: What it is the value of, for ``x = 5``.
    """

    value: Quotient
    literal: bool
    percent: bool = False
    name: str = ""


@dataclass(frozen=True)
class Sequence:
    """Items in brackets; ``brackets`` is empty for a bare list."""

    brackets: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class Union:
    """Sets joined by a cup."""

    parts: tuple["Value", ...]


@dataclass(frozen=True)
class Equation:
    """Two sides."""

    left: Quotient
    right: Quotient
    name: str = ""


@dataclass(frozen=True)
class Matrix:
    """Rows; ``bars`` for a determinant."""

    rows: tuple[tuple["Value", ...], ...]
    bars: bool


@dataclass(frozen=True)
class Words:
    """Text, folded to lower case without punctuation."""

    text: str


@dataclass(frozen=True)
class Based:
    """Digits, and perhaps a point and a sign, in a base that is written out."""

    digits: str
    base: int


@dataclass(frozen=True)
class Hedge:
    """Several different values offered as final."""

    items: tuple["Value", ...]


@dataclass(frozen=True)
class Relation:
    """A strict or weak inequality ``difference > 0`` (or ``>= 0``), or ``difference != 0``."""

    sign: str
    difference: Quotient


Value = Expression | Sequence | Union | Equation | Matrix | Words | Based | Hedge | Relation


def literal(text: str) -> Fraction | None:
    """The exact value of a number written as one: integer, decimal, fraction, mixed, scientific; else ``None``."""
    if not _LITERAL.fullmatch(text) or len(text) > 450:
        return None
    try:
        return parse(text.lstrip("+")).rational
    except (UndecidedError, ArithmeticError, ValueError):
        return None


@lru_cache(maxsize=65536)
def read(answer: str) -> Value:
    """The value of an answer.

    Raises:
        UndecidedError: If any part of it is not understood.
    """
    notation = notate(answer)
    value = read_text(notation.text)
    if notation.unit == "%" and isinstance(value, Expression):
        return replace(value, percent=True)
    return value


def read_text(text: str) -> Value:
    """The value of a normal notation without its unit; see :func:`read`."""
    if not text:
        raise UndecidedError("empty")
    number = literal(text)
    if number is not None:
        return Expression(algebra.number(number), True)
    if WORDS.fullmatch(text):
        return Words(fold(text))
    for reader in (
        _alternatives,
        _matrix,
        _union,
        _ratio,
        _bracketed,
        _list,
        _plus_minus,
        _relation,
        _equation,
        _based,
    ):
        value = reader(text)
        if value is not None:
            return value
    if words_in(text):
        raise UndecidedError("words among symbols")
    return Expression(parse(text), False)


def fold(text: str) -> str:
    """Words for comparison: lower case, without marks, punctuation and articles."""
    plain = re.sub(r"[^\w\s+-]", " ", WORDS.sub(r" \1 ", text)).lower()
    return " ".join(word for word in plain.split() if word not in ("the", "a", "an"))


def _alternatives(text: str) -> Value | None:
    pieces = re.split(r",?\s*\u27e6or\u27e7\s*", text, flags=re.IGNORECASE)
    if len(pieces) > 1:
        items = tuple(read_text(_unit_free(piece)) for piece in _some(pieces))
        return Hedge(items)
    pieces = re.split(r",?\s*\u27e6and\u27e7\s*", text, flags=re.IGNORECASE)
    if len(pieces) > 1:
        parts = [part for piece in _some(pieces) for part in split_at(piece, ",")]
        return Sequence("", _items(parts))
    return None


def _unit_free(piece: str) -> str:
    return notate(piece).text


def _some(pieces: list[str]) -> list[str]:
    if len(pieces) > MAX_ITEMS or not all(piece.strip() for piece in pieces):
        raise UndecidedError("an empty or endless list")
    return [piece.strip() for piece in pieces]


def _value_of(part: str) -> str:
    """``x=3`` within a list of solutions is 3."""
    left, equals, right = part.strip().partition("=")
    return right.strip() if equals and _NAME.fullmatch(left.strip()) else part.strip()


def split_at(text: str, separator: str) -> list[str]:
    """Pieces between separators that stand outside of all brackets."""
    pieces, depth, start, i = [], 0, 0, 0
    while i < len(text):
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, i):
            pieces.append(text[start:i])
            start = i + len(separator)
            i = start
            continue
        i += 1
    return [*pieces, text[start:]]


def _matrix(text: str) -> Value | None:
    match = _MATRIX.fullmatch(text)
    if not match:
        return None
    rows = [row for row in match[2].split("\\newrow") if row.strip()]
    cells = tuple(tuple(read_text(cell.strip()) for cell in row.split("&")) for row in rows)
    return Matrix(cells, match[1] in ("vmatrix", "Vmatrix"))


def _union(text: str) -> Value | None:
    pieces = split_at(text, "\\cup")
    if len(pieces) < 2:
        return None
    return Union(tuple(read_text(re.sub(r"^[a-z]\\in", "", piece.strip())) for piece in _some(pieces)))


def _ratio(text: str) -> Value | None:
    pieces = split_at(text, ":")
    return Sequence(":", tuple(read_text(piece) for piece in _some(pieces))) if len(pieces) > 1 else None


def _plus_minus(text: str) -> Value | None:
    if "\\pm" not in text and "\\mp" not in text:
        return None
    if text.count("\\pm") + text.count("\\mp") > 2:
        raise UndecidedError("several independent signs")
    upper = text.replace("\\pm", "+").replace("\\mp", "-")
    lower = text.replace("\\pm", "-").replace("\\mp", "+")
    return Sequence(
        "", tuple(read_text(_value_of(sign.replace("=+", "=").removeprefix("+"))) for sign in (upper, lower))
    )


def _bracketed(text: str) -> Value | None:
    pairs = (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("\\langle", "\\rangle"))
    for opening, closing in pairs:
        if text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : len(text) - len(closing)]
            if not _balanced(inner):
                continue
            pieces = split_at(inner, ",")
            if len(pieces) < 2 and opening != "\\{":
                return None
            brackets = "{}" if opening == "\\{" else "()" if opening == "\\langle" else opening + closing
            items = _items(_some(pieces))
            if len(items) != len(pieces) and brackets != "{}":
                raise UndecidedError("a sign that may be either, in a tuple")
            return Sequence(brackets, items)
    return None


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += 1 if character in "([{" else -1 if character in ")]}" else 0
        if depth < 0:
            return False
    return depth == 0


def _list(text: str) -> Value | None:
    pieces = split_at(text, ",")
    if len(pieces) < 2:
        return None
    return Sequence("", _items(_some(pieces)))


def _items(pieces: list[str]) -> tuple[Value, ...]:
    """Values of the pieces; one with a plus-minus sign is two."""
    items: list[Value] = []
    for piece in pieces:
        value = read_text(_unit_free(_value_of(piece)))
        items += value.items if isinstance(value, Sequence) and "\\p" in piece and not value.brackets else [value]
    return tuple(items)


def _relation(text: str) -> Value | None:
    text = re.sub(r"^[a-z]\\in ?(?=[(\[\\])", "", text)
    if (bracketed := _bracketed(text)) is not None:
        return bracketed
    signs = _RELATIONS.findall(text)
    if not signs:
        return None
    sides = [Expression(parse(side), literal(side.strip()) is not None) for side in _RELATIONS.split(text)]
    if len(signs) == 1:
        return _single_relation(signs[0], *sides)
    return _chain(signs, sides)


def _single_relation(sign: str, left: Expression, right: Expression) -> Value:
    if sign in ("<", "\\le"):
        left, right, sign = right, left, {"<": ">", "\\le": "\\ge"}[sign]
    if sign != "\\ne":
        infinity = Expression(algebra.symbol(algebra.INFINITY), False)
        minus = Expression(-infinity.value, False)
        closed = sign == "\\ge"
        if _is_variable(left.value) and not right.value.variables:
            return Sequence("[)" if closed else "()", (right, infinity))
        if _is_variable(right.value) and not left.value.variables:
            return Sequence("(]" if closed else "()", (minus, left))
    return Relation(sign, left.value - right.value)


def _chain(signs: list[str], sides: list[Expression]) -> Value:
    if len(signs) != 2 or not _is_variable(sides[1].value) or sides[0].value.variables or sides[2].value.variables:
        raise UndecidedError("a chain of inequalities")
    if all(sign in (">", "\\ge") for sign in signs):
        sides, signs = sides[::-1], [{">": "<", "\\ge": "\\le"}[sign] for sign in reversed(signs)]
    if not all(sign in ("<", "\\le") for sign in signs):
        raise UndecidedError("a chain of mixed inequalities")
    brackets = ("[" if signs[0] == "\\le" else "(") + ("]" if signs[1] == "\\le" else ")")
    return Sequence(brackets, (sides[0], sides[2]))


def _is_variable(value: Quotient) -> bool:
    return len(value.variables) == 1 and value.equals(algebra.symbol(next(iter(value.variables)))) is True


def _equation(text: str) -> Value | None:
    if "\\approx" in text:
        first, _, last = text.partition("\\approx")
        return read_text(_value_of(first) if not _NAME.fullmatch(first.strip()) else last.strip())
    pieces = split_at(text, "=")
    if len(pieces) < 2:
        return None
    pieces = _some(pieces)
    name = pieces[0] if _NAME.fullmatch(pieces[0]) or WORDS.fullmatch(pieces[0]) else ""
    if name or len(pieces) > 2:
        return _named(name, pieces[1:] if name else pieces)
    left, right = read_text(pieces[0]), read_text(_unit_free(pieces[1]))
    if not isinstance(left, Expression) or not isinstance(right, Expression):
        raise UndecidedError("an equation of something else than expressions")
    if not left.value.variables and not right.value.variables:
        return _named("", pieces)
    return Equation(left.value, right.value)


def _named(name: str, pieces: list[str]) -> Value:
    """``x = 2+3 = 5``: what a chain of equal values ends in. A chain of different ones is a hedge."""
    values = [read_text(_unit_free(piece)) for piece in pieces]
    last = values[-1]
    for value in values[:-1]:
        same = equal(last, value, strict=False)
        if same is None:
            raise UndecidedError("a chain of equations")
        if not same:
            return Hedge(tuple(values))
    if name and isinstance(last, Expression) and not WORDS.fullmatch(name):
        return Equation(parse_name(name), last.value, name) if last.value.variables else replace(last, name=name)
    return last


def parse_name(name: str) -> Quotient:
    """A function's or variable's name as a symbol of its own."""
    return algebra.symbol(re.sub(r"[\\{}\s]", "", name))


def _based(text: str) -> Value | None:
    match = _BASE.fullmatch(text)
    if not match or not 2 <= int(match[2]) <= 36:
        return None
    if not re.search(r"\d", match[1]):
        return None  # x_1 is a variable
    return Based(match[1].upper().lstrip("0") or "0", int(match[2]))


# Equality.


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
        # The sign is a unit that may be left out, and it also means hundredths.
        hundredth = algebra.number(Fraction(1, 100))
        sides = [side.value * hundredth if side.percent else side.value for side in (gold, answer)]
        same = same or sides[0].equals(sides[1])
    if same and strict and gold.literal and not answer.literal:
        raise UnevaluatedError
    return same


class UnevaluatedError(ValueError):
    """The answer is a calculation that leads to the gold."""


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
    return True if _proportional(gold.left - gold.right, answer.left - answer.right, positive=False) else None


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


def choice(text: str) -> str | None:
    """The letter of a multiple-choice answer: ``(B)``, ``B.``, ``\\text{(B)} 7``; ``None`` for anything else."""
    plain = WORDS.sub(r" \1 ", text).strip()
    match = _CHOICE.fullmatch(plain)
    if not match or _OTHER_CHOICE.search(match[3] or match[5] or ""):
        return None
    return match[1] or match[2] or match[4]
