r"""From an answer in normal notation to its value: a number, a point, a set, an interval, an equation, and so on.

Whatever is not understood completely raises :class:`~rewards.algebra.UndecidedError`.
"""

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from rewards import algebra
from rewards.algebra import Quotient, UndecidedError
from rewards.equality import equal, parse_name
from rewards.kinds import Based, Equation, Expression, Hedge, Matrix, Relation, Sequence, Union, Value, Words
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
        _scaled,
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
        items = tuple(read_text(_unit_free(_value_of(piece))) for piece in _some(pieces))
        return items[0] if all(equal(items[0], item, strict=False) is True for item in items) else Hedge(items)
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


_SCALED = re.compile(
    r"([-+]?(?:\d+(?:/\d+)?|\\frac(?:\{\d+\}\{\d+\}|\d\d))?)(?:\\cdot|\\times|\*)?"
    r"(\(.*\)|\\begin\{[pb]matrix\}.*\\end\{[pb]matrix\}|[\[(].*[\])])",
    re.DOTALL,
)


def _scaled(text: str) -> Value | None:
    """A number times a point or a matrix: ``-(1,2)`` is ``(-1,-2)``."""
    match = _SCALED.fullmatch(text)
    if not match or not match[1]:
        return None
    inner = _matrix(match[2]) or (_bracketed(match[2]) if len(split_at(match[2][1:-1], ",")) > 1 else None)
    if inner is None:
        return None
    factor = parse({"-": "-1", "+": "1"}.get(match[1], match[1]))
    if isinstance(inner, Sequence):
        if inner.brackets != "()" or not factor.rational:
            raise UndecidedError("an interval times something")
        return Sequence("()", tuple(_times(factor, item) for item in inner.items))
    if isinstance(inner, Matrix) and not inner.bars:
        return Matrix(tuple(tuple(_times(factor, cell) for cell in row) for row in inner.rows), False)
    raise UndecidedError("a determinant times something")


def _times(factor: Quotient, item: Value) -> Value:
    if not isinstance(item, Expression):
        raise UndecidedError("entries that are no numbers")
    return Expression(factor * item.value, item.literal)


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


def _based(text: str) -> Value | None:
    match = _BASE.fullmatch(text)
    if not match or not 2 <= int(match[2]) <= 36:
        return None
    if not re.search(r"\d", match[1]):
        return None  # x_1 is a variable
    return Based(match[1].upper().lstrip("0") or "0", int(match[2]))


def choice(text: str) -> str | None:
    """The letter of a multiple-choice answer: ``(B)``, ``B.``, ``\\text{(B)} 7``; ``None`` for anything else."""
    plain = WORDS.sub(r" \1 ", text).strip()
    match = _CHOICE.fullmatch(plain)
    if not match or _OTHER_CHOICE.search(match[3] or match[5] or ""):
        return None
    return match[1] or match[2] or match[4]
