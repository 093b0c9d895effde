"""Parses an answer in normal notation into its value: a number, a point, a set, an interval, an equation, and so on.

An answer that is not understood completely raises :class:`~rewards.algebra.UndecidedError`.
"""

import re
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

from rewards import algebra
from rewards.algebra import UndecidedError
from rewards.equality import INFINITE, INTERVALS, between, combine, equal, first_alone
from rewards.kinds import Equation, Expression, Family, Hedge, Label, Named, Region, Relation, Sequence, Value
from rewards.latex import parse
from rewards.notation import NUMERALS, WORDS, notate

_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)"
_SIGNED = r"(?:-?\d+(?:\.\d+)?|\(-?\d+\))"
# Forms of a plain number: 8/2 is a plain number, 4+0 is a calculation. If the gold is a plain number, the answer must
# be one too.
_LITERAL = re.compile(
    rf"\+?{_NUMBER}|{_SIGNED}/{_SIGNED}|-?\(?\d+/\d+\)?|-?\(?\\frac\{{{_SIGNED}\}}\{{{_SIGNED}\}}\)?"
    r"|-?\d+ ?\\frac\{\d+\}\{\d+\}|-?\d+ \d+/\d+"
    rf"|-?{_NUMBER}(?:\\times|\\cdot|\*)10\^(?:\{{[-+]?\d+\}}|\d)"
)
_MATRIX = re.compile(r"\\begin\{([pbvBV]?(?:small)?matrix|array)\}(.*?)\\end\{\1\}", re.DOTALL)
# 4210_7, (4210)_7, 4210_{seven}, 321 (base 5).
_BASED = re.compile(
    r"\(?(-?[0-9A-Fa-f]*\.?[0-9A-Fa-f]+)\)? ?"
    r"(?:_\{?\(?(?:\u27e6base\u27e7)?(\d+|\u27e6[a-z ]+\u27e7)\)?\}?|\(?\u27e6(?:in )?base\u27e7(\d+)\)?)"
)
_TIME = re.compile(r"(\d{1,2})(?::([0-5]\d))?(?::([0-5]\d))?")
# Names of values before "=": x, f(2), f^{-1}(x), n_{\min}, \angle ABC, [ABC], |AB|, and a whole limit or sum
# ("\lim_{x\to2} f(x) = 8").
_NAME = re.compile(
    r"(?:m?\\(?:angle|triangle) ?)?((?:[a-zA-Z]|[A-Z]{2,}|\\(?!sqrt)[a-zA-Z]+(?:\{[a-zA-Z]+\})?)"
    r"(?:_(?:\{[^{}]*\}|\w|\\[a-z]+))?'*(?:\^\{?-1\}?(?=\())?)(?:\(((?:[^()]|\([^()]*\))*)\))?|\[\u27e6?[A-Z]{3,}\u27e7?\]"
    r"|\|?\\?[A-Z]{2}\|?|\\(?:lim|sum|i?int|prod|det|deg|dim|min|max)(?![a-z])[^<>]*"
)
# "Area = 5", "Area of ABC = 5", but not "not = 5".
_WORD_NAME = re.compile(rf"(?!\u27e6(?:not|no|never)\b){WORDS.pattern}(?: ?(?:[(\[][^()]*[)\]]|[A-Z]+))?", re.I)
_RELATION = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|<|>")
# The end of a family: k\in\mathbb{Z}, n is an integer, for integer n.
_INTEGER = re.compile(
    r"[,;]? ?\(?(?:\u27e6[a-z ]+\u27e7)? ?(?:([a-z])(?:\\in ?(?:\\mathbb\{Z\}|\u27e6[a-z ]*integers\u27e7)|"
    r"\u27e6(?:is )?(?:an |any )?integer\u27e7)|\u27e6for (?:any |all |every |some )?integers?\u27e7 ?([a-z]))\)?$"
)
# The braces of a set are optional here: in plain notation they have no backslash and are already stripped.
_SET_BUILDER = re.compile(
    rf"(?:\\\{{)? ?([a-z])(?:\\in ?(?:\\mathbb\{{R\}}))? ?[|:](.*(?:{_RELATION.pattern}).*?)(?:\\\}})?"
)
# ]2,5[ for (2,5): brackets may face outwards at the beginning of the text and after a bracket or union sign.
_FRENCH = re.compile(r"(?<![^]\[\u222a(p])([\[\]])([^\[\](){}]+,[^\[\](){}]+)([\[\]])")
_REALS = between(*INFINITE)
_SETS = {
    "\\mathbb{R}": _REALS,
    "all real number": _REALS,
    "\\emptyset": Region(()),
    "no solution": Region(()),
    "empty set": Region(()),
}
_BRACKETS = re.compile(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", re.DOTALL)
_OPENING, _CLOSING, MAX_ITEMS = {"(", "[", "{"}, {")", "]", "}"}, 40


def literal(text: str) -> Fraction | None:
    """The exact value of a plain number: integer, decimal, fraction, mixed or scientific; ``None`` for other text."""
    if _LITERAL.fullmatch(text) and len(text) <= 450:
        with suppress(ArithmeticError, ValueError):
            tree = parse(text.lstrip("+"))
            return tree if isinstance(tree, Fraction) else None
    return None


@lru_cache(maxsize=65536)
def read(answer: str) -> Value:
    """The value of an answer.

    Raises:
        UndecidedError: If any part of it is not understood.
    """
    notation = notate(answer)
    # Unlike other units, am and pm must not be omitted: 8:34 p.m. is a time of day that differs from 8:34.
    if notation.unit in ("am", "pm") and (time := _time(notation.text, notation.unit)) is not None:
        return time
    value = read_text(notation.text)
    # The percent sign is kept with the number, since it is a factor of 1/100 or a unit, depending on the other side.
    if notation.unit == "%" and isinstance(number := _without_name(value), Expression):
        number = replace(number, percent=True)
        return replace(value, value=number) if isinstance(value, Named) else number
    return value


def read_text(text: str) -> Value:
    """The value of a normal notation without its unit; see :func:`read`."""
    algebra.spend(20)
    if not text:
        raise UndecidedError("empty")
    if (number := literal(text)) is not None:
        return Expression(number, True)
    if WORDS.fullmatch(text) or text == "...":
        return _SETS.get(fold(text).removesuffix("s")) or Label("words", fold(text))
    # The first reader that recognises the notation decides; if none does, the text is parsed as an expression. A text
    # that cannot be parsed either is a phrase if it contains words.
    try:
        for reader in _READERS:
            if (value := reader(text)) is not None:
                return value
        return Expression(parse(text))
    except UndecidedError:
        if not WORDS.search(text):
            raise
    return _phrase(text)


def fold(text: str) -> str:
    """Words in the form in which they are compared: lower case, without marks, punctuation and articles."""
    # An article is followed by a word; the A of "A, B" is a choice.
    plain = re.sub(r"(?i)\b(?:the|an?)\s+(?=[a-z]{2})", "", WORDS.sub(r" \1 ", text))
    return " ".join(re.sub(r"[^\w\s+-]", " ", plain).lower().split()) or text


def _phrase(text: str) -> Value:
    """A phrase of words and symbols: the words are folded, and symbols become values where they can be parsed."""
    items: list[Value] = []
    for i, piece in enumerate(part.strip(" ,;.") for part in WORDS.split(text)):
        try:
            items += [Label("words", fold(piece)) if i % 2 else read_text(piece)] if piece else []
        except UndecidedError:
            items.append(Label("symbols", piece))
    return Sequence("phrase", tuple(items))


def _time(text: str, half: str = "") -> Value | None:
    """A time of day; without minutes of two digits and without am or pm it may be a ratio and gives ``None``."""
    match = _TIME.fullmatch(text)
    if match is None or not (half or match[2]) or int(match[1]) > (12 if half else 24):
        return None
    hour = int(match[1]) % 12 + (12 if half == "pm" else 0) if half else int(match[1])
    # 05:00 and 13:00 are on a 24-hour clock and so need neither am nor pm; 5:00 may be on either clock.
    clock = "half" if half else "24" if re.match(r"0\d", text) or not 1 <= hour <= 12 else ""
    return Label("time", (hour * 3600 + int(match[2] or 0) * 60 + int(match[3] or 0), clock))


def _based(text: str) -> Value | None:
    match = _BASED.fullmatch(text)
    if not match or not re.search(r"\d", match[1]):  # x_1 is a variable
        return None
    base = match[3] or fold(match[2]).removeprefix("base ").lstrip("0")
    return Label("base", (re.sub(r"^(-?)0+(?=.)", r"\1", match[1].upper()), str(NUMERALS.get(base, base))))


def _family(text: str) -> Value | None:
    r"""A family of numbers such as ``\frac{\pi}{2} + k\pi, k \in \mathbb{Z}``; ``None`` for any other text."""
    # A set {k\pi : k \in Z} is rewritten as k\pi, k \in Z.
    text = re.sub(r"^\\\{([^|:]*)[|:](.*)\\\}$", r"\1,\2", text)
    match = _INTEGER.search(text)
    if not match or not match.start():
        return None
    value = _without_name(read_text(text[: match.start()]))
    items = (value,) if getattr(value, "brackets", "") not in ("", "{}") else getattr(value, "items", (value,))
    trees = tuple(item.tree for item in map(_without_name, items) if isinstance(item, Expression))
    if len(trees) != len(items):
        raise UndecidedError("a family of something else than numbers")
    return Family(match[1] or match[2], trees)


def _without_name(value: Value) -> Value:
    return value.value if isinstance(value, Named) else value


def _joined(text: str) -> Value | None:
    """Values joined by "or", "and" or commas: a union or intersection of sets, a hedge, or a list."""
    # "or" binds most loosely: "x < -8 or 8 < x and x < 9". Inside { x | ... or ... } the "or" belongs to the condition.
    for word, keep in (("or", any), ("and", all), ("", None)) if not _SET_BUILDER.fullmatch(text) else ():
        if word:
            pieces = re.split(rf",?\s*\u27e6{word}\u27e7\s*", text, flags=re.IGNORECASE)
        else:
            pieces = split_at(text, ";" if ";" in text else ",")
        if len(pieces) < 2:
            continue
        items = _items([part for piece in pieces for part in (split_at(piece, ",") if word == "and" else [piece])])
        if any(isinstance(item, Region) for item in items):  # "0 < x < 1 or x = 2"
            items = tuple(map(_as_condition, items))
        if all(isinstance(item, Region) for item in items) and any(getattr(item, "variable", "") for item in items):
            # A comma may mean "and" or "or": "x > 1, x < 3" is an interval, but "x < 1, x > 3" would be empty with
            # "and", so it is read as a union.
            return next((found for k in ([keep] if keep else [all, any]) if (found := combine(k, *items)).cuts), None)
        if word != "or":
            return Sequence("", items)
        # "3 or 3" is 3; "3 or 4" is a hedge, which must not be rewarded.
        return items[0] if all(equal(items[0], item, strict=False) for item in items) else Hedge(items)
    return None


def _as_condition(value: Value) -> Value:
    """A named number ``x = 2`` as the set of numbers that fulfil it; any other value unchanged."""
    if isinstance(value, Named) and not value.parameters and isinstance(value.value, Expression):
        return replace(between(value.value.tree, value.value.tree), variable=value.name)
    return value


def _some(pieces: list[str]) -> list[str]:
    # Lists are compared pairwise, at quadratic cost, so their length is bounded.
    if len(pieces) > MAX_ITEMS or not all(piece.strip() for piece in pieces):
        raise UndecidedError("an empty or endless list")
    return [piece.strip() for piece in pieces]


def split_at(text: str, separator: str) -> list[str]:
    """Pieces of a text between separators; separators inside brackets do not split."""
    pieces, depth = [""], 0
    for part in re.split(rf"({re.escape(separator)}|[()\[\]{{}}])", text):
        if part == separator and depth == 0:
            pieces.append("")
        else:
            depth += (part in _OPENING) - (part in _CLOSING)
            pieces[-1] += part
    return pieces


def _matrix(text: str) -> Value | None:
    bare = text[1:-1] if (text[:1], text[-1:]) in (("(", ")"), ("[", "]"), ("|", "|")) else text
    match = _MATRIX.fullmatch(bare) if "\\begin" in text else None
    if not match:
        return None
    rows = [row for row in match[2].split("\\newrow") if row.strip()]
    cells = [Sequence("row", tuple(read_text(cell.strip()) for cell in row.split("&"))) for row in rows]
    # A determinant |...| is a number and equals no matrix; other brackets around a matrix make no difference.
    return Sequence("||" if match[1][0] in "vV" or text[0] == "|" else "matrix", tuple(cells))


_SCALED = re.compile(
    r"([-+]?(?:\d+(?:/\d+)?|\\frac\{\d+\}\{\d+\})?)(?:\\cdot|\\times|\*)?"
    r"([\[(].*[\])]|\\begin\{[pb]matrix\}.*\\end\{[pb]matrix\})",
    re.DOTALL,
)


def _scaled(text: str) -> Value | None:
    """A number times a point or a matrix: ``-(1,2)`` is ``(-1,-2)``."""
    match = _SCALED.fullmatch(text)
    if not match or not match[1]:
        return None
    inner = _matrix(match[2]) or _bracketed(match[2])
    return inner and _times(Expression(parse({"-": "-1", "+": "1"}.get(match[1], match[1]))), inner)


def _times(factor: Expression, value: Value) -> Value:
    if isinstance(value, Expression):
        return Expression(algebra.apply("*", factor.tree, value.tree), value.literal)
    if isinstance(value, Sequence) and value.brackets in ("()", "matrix", "row"):
        return replace(value, items=tuple(_times(factor, item) for item in value.items))
    raise UndecidedError("a number times something else than points and matrices")


def _set(text: str) -> Value | None:
    """A set of real numbers: a union, intersection or difference, a set given by a condition, or "x in" a set."""
    # "x \in [1,2)" means the same as [1,2).
    text = re.sub(r"^[a-z]\\in ?(?=[(\[\]\\])", "", text)
    text = _FRENCH.sub(lambda match: "[("[match[1] == "]"] + match[2] + "])"[match[3] == "["], text)
    text = re.sub(r"(?<=[})\]])-(?=\\\{)", r"\\setminus", text)
    if text in _SETS:
        return _SETS[text]
    for sign, keep in (("\\cup", any), ("\\cap", all), ("\\setminus", first_alone)):
        if len(pieces := split_at(text, sign)) > 1:
            return combine(keep, *map(read_text, _some(pieces)))
    if match := _SET_BUILDER.fullmatch(text):
        value = read_text(match[2])
        found = combine(all, _REALS, *(value.items if isinstance(value, Sequence) and not value.brackets else (value,)))
        # The condition must be on the set's own variable, unlike in {x | y > 3}. The name of that variable is dropped,
        # because {t | t > 3} is the same set as {x | x > 3}.
        if found.variable not in ("", match[1]):
            raise UndecidedError("a condition on another variable")
        return replace(found, variable="")
    return _bracketed(text)


def _ratio(text: str) -> Value | None:
    pieces = split_at(text.replace("\u27e6to\u27e7", ":"), ":")
    if len(pieces) < 2:
        return None
    return _time(text) or Sequence(":", tuple(read_text(piece) for piece in _some(pieces)))


def _plus_minus(text: str) -> Value | None:
    if "\\pm" not in text and "\\mp" not in text:
        return None
    # Two signs are read as coupled, upper with upper and lower with lower; with more signs this is ambiguous.
    if text.count("\\pm") + text.count("\\mp") > 2:
        raise UndecidedError("several independent signs")
    signs = (text.replace("\\pm", upper).replace("\\mp", lower) for upper, lower in ("+-", "-+"))
    values = (read_text(sign.replace("=+", "=").removeprefix("+")) for sign in signs)
    return Sequence("", tuple(map(_without_name, values)))


def _bracketed(text: str) -> Value | None:
    match = _BRACKETS.fullmatch(text)
    if not match:
        return None
    brackets = (match[1] + match[3]).replace("\\{\\}", "{}")
    # The first and the last bracket must be a pair, unlike in "(1,2),(3,4)".
    depths = list(accumulate(((c in _OPENING) - (c in _CLOSING) for c in match[2]), initial=0))
    pieces = split_at(match[2], ";" if ";" in match[2] else ",")
    if brackets not in ("{}", *INTERVALS) or min(depths) < 0 or depths[-1] or (len(pieces) < 2 and brackets != "{}"):
        return None
    items = _items(pieces)
    if len(items) != len(pieces) and brackets != "{}":
        raise UndecidedError("a sign that may be either, in a tuple")
    return Sequence(brackets, items)


def _items(pieces: list[str]) -> tuple[Value, ...]:
    """Values of the pieces; a piece with a plus-minus sign gives two. A name on the first item alone applies to all."""
    items: list[Value] = []
    notations = [(piece, notate(piece)) for piece in _some(pieces)]
    units = {notation.unit for _, notation in notations} - {""}
    for piece, notation in notations:
        value = read_text(notation.text)
        if len(units) == len(pieces) > 1:  # "3 apples, 5 pears"
            value = Named(f"\u27e6{notation.unit}\u27e7", value)
        items += value.items if isinstance(value, Sequence) and "\\p" in piece and not value.brackets else [value]
    # In "x=1, 2" both values are named x.
    first = items[0]
    if isinstance(first, Named) and not any(isinstance(item, Named) for item in items[1:]):
        items[1:] = [Named(first.name, item) for item in items[1:]]
    return tuple(items)


def _relation(text: str) -> Value | None:
    signs = _RELATION.findall(text)
    if not signs:
        return None
    # Chains are stored in ascending order: 5 > x > 2 is stored as 2 < x < 5.
    sides = [parse(side) for side in _RELATION.split(text)]
    if all(sign in (">", "\\ge") for sign in signs):
        sides, signs = sides[::-1], [{">": "<", "\\ge": "\\le"}[sign] for sign in reversed(signs)]
    elif ("\\ne" in signs and len(signs) > 1) or not all(sign in ("<", "\\le", "\\ne") for sign in signs):
        raise UndecidedError("a chain of mixed inequalities")
    # If the only variable stands alone on one side, the inequality is a set of numbers and is compared as an interval.
    # Any other inequality ("a < b", "x + y < 5") is compared as a chain.
    names = [algebra.variables(side) for side in sides]
    variable = [side for side in sides if isinstance(side, str) and {side} in names]
    if len(variable) != 1 or len(set().union(*names)) != 1 or len(sides) > 3:
        return Relation(tuple(signs), tuple(sides))
    at, name = sides.index(variable[0]), variable[0]
    if signs == ["\\ne"]:
        return replace(combine(first_alone, _REALS, between(sides[1 - at], sides[1 - at])), variable=name)
    if len(sides) == 3 and at != 1:
        raise UndecidedError("a chain with its variable at one end")
    low, below = (sides[at - 1], signs[at - 1]) if at else (INFINITE[0], "<")
    high, above = (sides[at + 1], signs[at]) if at < len(sides) - 1 else (INFINITE[1], "<")
    return replace(between(low, high, "(["[below == "\\le"] + ")]"[above == "\\le"]), variable=name)


def _equation(text: str) -> Value | None:
    # "x \approx 187.5" states 187.5; in "25\pi \approx 78.5" the exact value before the sign counts.
    first, approximately, last = text.partition("\\approx")
    if approximately:
        if name := _name(first):
            return Named(name, read(last))
        exact, rounded = read(first), read(last)
        return exact if _near(exact, rounded) else Hedge((exact, rounded))
    pieces = split_at(text, "=")
    if len(pieces) < 2:
        return None
    pieces = _some(pieces)
    # A named value, or a function whose parameters may be renamed.
    if name := _name(pieces[0]):
        value, match = _last_of(pieces[1:]), _NAME.fullmatch(pieces[0])
        parameters = tuple(((match and match[2]) or "").split(","))
        if isinstance(value, Expression) and match and all(re.fullmatch("[a-z]", name) for name in parameters):
            return Named(_tidy(match[1]), value, parameters)
        return value if isinstance(value, Hedge) else Named(name, value)
    if (words := _WORD_NAME.fullmatch(pieces[0])) or len(pieces) > 2:
        value = _last_of(pieces[1:] if words else pieces)
        return Named(pieces[0].lower(), value) if words and not isinstance(value, Hedge) else value
    # Neither side is a name: an equation if it has variables, otherwise a calculation ("5 * 2 = 10").
    left, right = read(pieces[0]), read(pieces[1])
    if isinstance(left, Expression) and not algebra.variables(left.tree) and (name := _name(pieces[1])):  # 2 = x
        return Named(name, left)
    if isinstance(left, Expression) and isinstance(right, Expression):
        unknown = algebra.variables(left.tree) or algebra.variables(right.tree)
        return Equation(left, right) if unknown else _last_of(pieces)
    names = list(map(_name, split_at(pieces[0][1:-1], ",")))
    if isinstance(right, Sequence) and right.brackets == "()" and all(names) and len(names) == len(right.items):
        return Sequence("()", tuple(map(Named, names, right.items)))  # (x, y) = (3, 5)
    raise UndecidedError("an equation of something else than expressions")


def _near(exact: Value, rounded: Value) -> bool:
    """Whether ``rounded`` is within a tenth of the exact number; true if either value is not a number."""
    if not (isinstance(exact, Expression) and isinstance(rounded, Expression)):
        return True
    if algebra.variables(exact.tree) or algebra.variables(rounded.tree):
        return True
    (left, right), *_ = algebra.evaluate((exact.tree, rounded.tree), {})
    return abs(left - right) <= abs(left) / 10


def _name(text: str) -> str:
    """The name that a text before "=" is, such as ``x``, ``f(2)``, ``n_{\\min}``, ``[ABC]``; empty if it is none."""
    match = _NAME.fullmatch(text.strip())
    # Constants are not names, and x(x+1) or a(a+b) before "=" is a product, not the value of a function.
    if not match or text.strip() in ("e", "i", "\\pi") or (match[2] and (match[1] in match[2] or match[1] in "xyz")):
        return ""
    return _tidy(text)


def _tidy(name: str) -> str:
    with suppress(UndecidedError):
        if isinstance(tree := parse(name), str):
            return tree
    return re.sub(r"[{}\s]", "", name)


def _last_of(pieces: list[str]) -> Value:
    """The last value of a chain of equal values such as ``2+3 = 5``; a hedge if the values differ."""
    values = [read(piece) for piece in pieces]
    last = values[-1]
    if isinstance(last, Expression) and not algebra.variables(last.tree):  # "S = ab = 2 * 3 = 6" substitutes values
        values = [v for v in values if not (isinstance(v, Expression) and algebra.variables(v.tree))]
    return last if all(equal(last, value, strict=False) for value in values[:-1]) else Hedge(tuple(values))


# Ordered from the most specific notation to the most general: a base in a subscript before names, a family before the
# comma that it contains, "or" and commas before "=", since each item of a list may be an equation.
_READERS = (*(_based, _family, _joined, _equation, _scaled, _matrix, _set, _ratio, _plus_minus, _relation),)
