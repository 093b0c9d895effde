r"""One way to write an answer: what writers vary freely is taken away, words are told from symbols, units split off.

Words, be they ``\text{...}`` or plain, come out between two marks (``WORDS``), so that ``5 cm``, ``5\text{ cm}`` and
``5\,\mathrm{cm}`` are one notation, and so that no later step takes a word for a product of variables.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

MAX_ANSWER_CHARS = 600
"""Longer answers are refused unread: no gold is that long, and parsing megabytes is an attack."""
_OPEN, _CLOSE = "\u27e6", "\u27e7"
WORDS = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}")

_UNICODE = str.maketrans({
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00d7": "\\times ", "\u00f7": "\\div ", "\u00b7": "\\cdot ",
    "\u22c5": "\\cdot ", "\u03c0": "\\pi ", "\u221e": "\\infty ", "\u2264": "\\le ", "\u2265": "\\ge ",
    "\u2260": "\\ne ", "\u2248": "\\approx ", "\u00b1": "\\pm ", "\u00b0": "\\circ ", "\u222a": "\\cup ",
    "\u2229": "\\cap ", "\u2208": "\\in ", "\u2205": "\\emptyset ", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    "\u00bd": "\\frac{1}{2}", "\u00bc": "\\frac{1}{4}", "\u00be": "\\frac{3}{4}", "\u2153": "\\frac{1}{3}",
    "\u2154": "\\frac{2}{3}", "\u00b2": "^{2}", "\u00b3": "^{3}", "\u03b8": "\\theta ", "\u03b1": "\\alpha ",
    "\u03b2": "\\beta ", "\u2044": "/", "\u2019": "'", "\uff0c": ",", "\u221b": "\\sqrt[3]", "\u27e6": "", "\u27e7": "",
    "\ufeff": "", "\u200b": "", "~": " ", "\t": " ", "\n": " ",
})  # fmt: skip
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathstrut|strut|quad|qquad)(?![a-zA-Z])\.?"
    r"|\\[()\[\]](?![a-zA-Z])|\\[,;:! ]|\$\$?|\\(?:hspace|vspace|phantom|label|tag)\*?\{[^{}]*\}|\\$"
)
_SYNONYMS = (
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leq)(?![a-z])"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq)(?![a-z])"), r"\\ge "),
    (re.compile(r"\\neq(?![a-z])|\\not="), r"\\ne "),
    (re.compile(r"\\lt(?![a-z])"), "<"),
    (re.compile(r"\\gt(?![a-z])"), ">"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\\(?:varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:lbrace)(?![a-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![a-z])"), r"\\}"),
    (re.compile(r"\\(?:land|wedge)(?![a-z])"), " and "),
    (re.compile(r"\\(?:lor|vee)(?![a-z])"), " or "),
    (re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-z]))|\\degree(?![a-z])"), r"\\circ "),
    (re.compile(r"\\(?:ldots|cdots|dots|dotsc)(?![a-z])"), "..."),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\u221a\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\u221a\s*\{?(\d+|[a-z])\}?"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])(pi|theta|alpha|beta|gamma|lambda)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"(?<![\\a-zA-Z])(sin|cos|tan|log|ln|exp|arcsin|arccos|arctan)(?=[\s(\d\\]|[a-z]\b)"), r"\\\1 "),
    (re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", re.IGNORECASE), r"\\infty "),
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|md|sc)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|boldsymbol|bm|rm"
    r"|underline|overline(?=\s*\{[A-Za-z ]+\}))\s*\{([^{}]*)\}"
)
_REPEATING = re.compile(r"(\d{0,20})\.(\d{0,20})\\overline\s*\{(\d{1,20})\}")
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
_BARE_TEXT = re.compile(r"\\(?:rm|bf|it)(?![a-zA-Z])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_PLAIN_WORD = re.compile(r"(?<![\\a-zA-Z_])(?<!\\begin\{)(?<!\\end\{)[A-Za-z]{2,}(?:'[a-z]+)?(?![a-zA-Z])")
_PRODUCT = re.compile(r"[a-zA-Z]{2,3}")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_LATEX_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|\\!)\s*(?=\d{3}(?!\d))")
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|therefore|hence|and|the|my|our|final|correct|answer|result|solution|value|is|are|equals?|be|to|get|"
    r"we|have|approximately|exactly|about|option|choice)\b[\s:,]*)+$",
    re.IGNORECASE,
)
_MEANING = """
or and not no none never except without plus minus times over per-cent but if unless than less more least most either
neither nor wrong incorrect isn't doesn't maybe possibly half twice double triple negative squared cubed to through
between
"""
_MEANINGFUL = set(_MEANING.split())
"""Words that change what a number says; text with one of them is no unit."""
_MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNIT_GROUPS = """
cm centimeter centimeters centimetre centimetres|mm millimeter millimeters|km kilometer kilometers kilometre kilometres
m meter meters metre metres|in inch inches|ft foot feet|yd yard yards|mi mile miles
cm^2 sqcm|m^2 sqm|in^2 sqin|ft^2 sqft|km^2 sqkm|mi^2 sqmi|yd^2 sqyd|cm^3 cucm cc|m^3 cum|in^3 cuin|ft^3 cuft
s sec secs second seconds|min mins minute minutes|h hr hrs hour hours|day days|week weeks|month months|yr year years
g gram grams|kg kilogram kilograms|mg milligram milligrams|lb lbs pound pounds|oz ounce ounces|ton tons
l liter liters litre litres|ml milliliter milliliters|gal gallon gallons
mph mi/h mi/hr|km/h kph|m/s|ft/s|dollar dollars usd|cent cents|euro euros|deg degree degrees|rad radian radians
unit units|unit^2 squnit|unit^3 cuunit|% percent|hz hertz|n newton newtons|j joule joules|w watt watts
"""
_UNITS = {name: group.split()[0] for group in re.split(r"[|\n]", _UNIT_GROUPS) if group for name in group.split()}
_LONG_POWERS = ((re.compile(r"\b(?:square|sq\.?)\s+"), "sq"), (re.compile(r"\b(?:cubic|cu\.?)\s+"), "cu"))


@dataclass(frozen=True, slots=True)
class Notation:
    """An answer in its normal notation.

    Args:
        text: Symbols, with words between marks.
        unit: Canonical unit, or whatever words followed the value; empty for none.
        known_unit: Whether the unit is one of the table, so that two different ones are two different answers.
    """

    text: str
    unit: str = ""
    known_unit: bool = False


def words_in(text: str) -> list[str]:
    """Words of a normal notation, in lower case."""
    return [word for marked in WORDS.findall(text) for word in marked.lower().split()]


@lru_cache(maxsize=65536)
def normalise(answer: str) -> str:
    """The answer without what writers vary freely; words are marked. See :func:`notate` for units."""
    text = _FOREIGN_DIGIT.sub("?", answer[: 2 * MAX_ANSWER_CHARS].translate(_UNICODE))
    text = text.replace("\\$", "\\dollar ").replace("\\textdollar", "\\dollar ")
    text = text.replace("\\%", "%")
    text = text.replace("\\\\", "\\newrow ")
    text = _REPEATING.sub(_repeating, _LATEX_THOUSANDS.sub("", text))
    text = _DROPPED.sub(" ", text)
    for pattern, replacement in _SYNONYMS:
        text = pattern.sub(replacement, text)
    while match := _BOX.search(text):
        text = text[: match.start()] + match[1] + text[match.end() :]
    for _ in range(4):  # fonts in fonts
        text, n = _TEXT.subn(_mark, text)
        if not n:
            break
    text = _BARE_TEXT.sub(" ", text)
    text = _outside_marks(text, lambda piece: _PLAIN_WORD.sub(_mark_plain, piece))
    text = re.sub(rf"{_CLOSE}\s*/\s*{_OPEN}", "/", text)
    text = re.sub(rf"{_CLOSE}\s*\^\s*\{{?\s*([23])\s*\}}?", rf"^\1{_CLOSE}", text)
    text = re.sub(rf"{_CLOSE}\s*{_OPEN}", " ", text)
    text = _join_thousands(re.sub(r"\s+", " ", text).strip())
    text = _strip_braces(text.rstrip(".,;: ").lstrip("=: ").strip())
    return _unspace(text)


def _repeating(match: re.Match[str]) -> str:
    """``0.1\\overline{6}`` as the fraction that it is."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    nines = 10 ** len(repeated) - 1
    numerator = int(whole + fixed) * nines + int(repeated)
    return f"\\frac{{{numerator}}}{{{nines * 10 ** len(fixed)}}}"


def _mark(match: re.Match[str]) -> str:
    inner = match[1].strip()
    if not inner:
        return " "
    if re.fullmatch(r"[a-zA-Z]", inner) and "text" not in match[0][:6]:
        return inner  # a single letter in another font is a variable
    letters = re.sub(r"[^a-zA-Z]", "", inner)
    if len(letters) < 1 or re.search(r"[\\^_=+*\d]", inner):
        return f" {inner} "
    return f"{_OPEN}{inner.strip('.,;: ')}{_CLOSE}"


def _mark_plain(match: re.Match[str]) -> str:
    word = match[0]
    lowered = word.lower()
    is_product = _PRODUCT.fullmatch(word) and lowered not in _UNITS and lowered not in _MEANINGFUL
    if is_product and lowered not in {"is", "the", "yes", "so", "all", "odd", "be", "are", "of", "mod", "pm", "am"}:
        return word
    return f"{_OPEN}{word}{_CLOSE}"


def _outside_marks(text: str, change: Callable[[str], str]) -> str:
    pieces = re.split(f"({_OPEN}[^{_CLOSE}]*{_CLOSE})", text)
    return "".join(piece if piece.startswith(_OPEN) else change(piece) for piece in pieces)


def _join_thousands(text: str) -> str:
    """Takes the commas out of ``1,234`` where no comma of the text can separate a list."""
    if "," not in text or re.search(r"[(\[{]", text):
        return text
    joined = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    return joined if "," not in joined else text


def _strip_braces(text: str) -> str:
    """Takes away braces, and brackets that hold a single value, around the whole."""
    while (text[:1], text[-1:]) in (("{", "}"), ("(", ")")) and len(text) > 1 and _closes_at_end(text):
        if text[0] == "(" and "," in text:
            break
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for i, character in enumerate(text):
        if i and text[i - 1] == "\\":
            continue
        depth += {"{": 1, "(": 1, "}": -1, ")": -1}.get(character, 0)
        if depth == 0:
            return i == len(text) - 1
    return False


def _unspace(text: str) -> str:
    """Spaces go where they mean nothing: everywhere but between two letters, two digits, or after a command."""
    text = re.sub(r"(?<=[^\w\\]) (?=\S)|(?<=[\d\w]) (?=[^\w])", lambda match: "" if match[0] == " " else match[0], text)
    return re.sub(r"(\\[a-zA-Z]+) (?=[^a-zA-Z])", r"\1", text)


@lru_cache(maxsize=65536)
def notate(answer: str) -> Notation:
    """An answer with its unit split off and a lead-in such as "the answer is" taken away."""
    text = normalise(answer)
    match = re.match(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}[:=]?(?=.)", text)
    if match and _LEAD_IN.match(match[1]):
        text = text[match.end() :].strip()
    if text.startswith("\\dollar"):
        return Notation(text.removeprefix("\\dollar").strip(), "dollar", True)
    if text.startswith("-\\dollar"):
        return Notation("-" + text.removeprefix("-\\dollar").strip(), "dollar", True)
    if text.endswith("\\circ"):
        return Notation(text.removesuffix("\\circ").strip(), "deg", True)
    if text.endswith("%"):
        return Notation(text[:-1].strip(), "%", True)
    match = re.search(f"^(.*[^\\s(,]) ?{_OPEN}([^{_CLOSE}]*){_CLOSE}$", text)
    return _with_unit(match[1].strip(), match[2]) if match else Notation(text)


def _with_unit(value: str, words: str) -> Notation:
    lowered = words.lower().strip()
    first, _, rest = lowered.partition(" ")
    if first in _MULTIPLIERS and re.fullmatch(r"[-\d.]+", value):
        return Notation(f"{value}\\cdot10^{{{_MULTIPLIERS[first]}}}", rest, False)
    for pattern, prefix in _LONG_POWERS:
        lowered = pattern.sub(prefix, lowered)
    if set(re.split(r"[\s,;]+", lowered)) & _MEANINGFUL or len(lowered.split()) > 5:
        return Notation(f"{value}{_OPEN}{words}{_CLOSE}")
    name = _UNITS.get(lowered.replace(" per ", "/").replace("miles/hour", "mph"), "") or _power_of_unit(lowered)
    return Notation(value, name or lowered, bool(name))


def _power_of_unit(text: str) -> str:
    """``sqinches`` and ``centimeters^2`` by the table's name of the unit."""
    match = re.fullmatch(r"(sq|cu)?([a-z]+)(?:\^([23]))?", text)
    if not match or match[2] not in _UNITS:
        return ""
    power = {"sq": "2", "cu": "3"}.get(match[1] or "", match[3])
    return _UNITS[match[2]] + (f"^{power}" if power else "")
