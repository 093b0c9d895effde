r"""Normal notation of answers: variations in writing are removed, words are separated from symbols, units split off.

Words, written as ``\text{...}`` or plainly, are put between two marks (``WORDS``). Thus ``5 cm``, ``5\text{ cm}`` and
``5\,\mathrm{cm}`` have the same notation, and no later step takes a word for a product of variables.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from rewards.algebra import spend

MAX_ANSWER_CHARS = 600  # longer answers are graded wrong without being parsed, unless the gold is long too
LONGEST_READ = 2 * MAX_ANSWER_CHARS  # longer text is not parsed as a formula but compared as text
_OPEN, _CLOSE = "\u27e6", "\u27e7"
WORDS = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}")

# Unicode characters, each followed by its TeX, or by nothing if it is removed (byte-order mark, zero-width joiners).
_SIGNS = """
\u2212- \u2010- \u2011- \u2013- \u2014- \u00d7\\times \u00f7\\div \u00b7\\cdot \u22c5\\cdot \u2219\\cdot \u03c0\\pi
\u221e\\infty \u2264\\le \u2265\\ge \u2a7d\\le \u2a7e\\ge \u2260\\ne \u2248\\approx \u2245\\approx \u00b1\\pm
\u2213\\mp \u00b0\\circ \u00ba\\circ \u02da\\circ \u222a\\cup \u2229\\cap \u2208\\in \u2205\\emptyset
\u2234\\therefore \u2216\\setminus \u03b8\\theta \u03b1\\alpha \u03b2\\beta \u03b3\\gamma \u03bb\\lambda \u03bc\\mu
\u03c3\\sigma \u03c6\\phi \u03c9\\omega \u0394\\Delta \u211d\\mathbb{R} \u2124\\mathbb{Z} \u00bd\\frac{1}{2}
\u00bc\\frac{1}{4} \u00be\\frac{3}{4} \u2153\\frac{1}{3} \u2154\\frac{2}{3} \u2155\\frac{1}{5} \u215b\\frac{1}{8}
\u2044/ \u2215/ \u2236: \u2019' \u2032' \u221b\\sqrt[3] \u2026... \u22ef... \u00a3\\pound \u20ac\\euro \u00a5\\yen
\u20b9\\rupee \u00a2\\cent \u230a\\lfloor \u230b\\rfloor \u2308\\lceil \u2309\\rceil \ufeff \u200b \u200c \u2060
"""
_UNICODE = str.maketrans(
    # The space after a command separates it from a following letter: ``\pi r``, not ``\pir``.
    {sign[0]: sign[1:] + (" " if sign[-1].isalpha() else "") for sign in _SIGNS.split()}
    # Replaced, because a formula between this module's own marks would be taken for words.
    | {_OPEN: "\\text{", _CLOSE: "}"}
    | {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}  # full width
    | dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000~\t\n\r", " ")
)
# Commands with a synonym, each with the synonym that later steps know.
_SYNONYMS = """
dfrac=\\frac tfrac=\\frac cfrac=\\frac dbinom=\\binom tbinom=\\binom leq=\\le leqslant=\\le leqq=\\le geq=\\ge
geqslant=\\ge geqq=\\ge neq=\\ne lt=< gt=> lbrace=\\{ rbrace=\\} simeq=\\approx thickapprox=\\approx cong=\\approx
varnothing=\\emptyset O=\\emptyset land=\\text{and} wedge=\\text{and} lor=\\text{or} vee=\\text{or} mid=| vert=|
lvert=| rvert=| Vert=| lVert=| rVert=| colon=: langle=( rangle=) bigcup=\\cup bigcap=\\cap imath=i jmath=j
nicefrac=\\frac sfrac=\\frac backslash=\\setminus ldots=... cdots=... dots=... dotsc=... dotsb=...
"""
_COMMANDS: dict[str, str] = {pair.partition("=")[0]: pair.partition("=")[2] for pair in _SYNONYMS.split()}
_SCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207d\u207e\u207f\u2071"
    "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u2099\u2093",
    "0123456789+-()ni0123456789nx",
)
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b\u207d-\u207f\u2071]+")
_SUBSCRIPT = re.compile("[\u2080-\u2089\u2099\u2093]+")
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
# Applied in this order: a row may rely on the rows above it.
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Thin and narrow spaces between groups of three digits. They are removed first, before they become ordinary
        # spaces, since "1 000" with an ordinary space is two numbers.
        (r"(?<=\d)[\u00a0\u2007\u2008\u2009\u200a\u202f](?=\d{3}(?!\d))", ""),
        # Currencies, before single dollar signs are removed as delimiters of mathematics.
        (r"\\(?:text)?dollar|\\\$", r"\\dollar "),
        (r"\\(?:text)?(?:pounds|sterling)(?![a-z])", r"\\pound "),
        (r"\\%", "%"),
        # The end of a matrix row with its spacing (``\\[4pt]``), before ``\[`` is removed as a delimiter.
        (r"\\\\\*? ?(?:\[[^\[\]]*\])?|\\cr(?![a-z])", r"\\newrow "),
        # Quotation marks or emphasis around the whole answer, and row ends at the end of the answer.
        (r"^\s*([\"'`*]+|\u201c)((?:(?!\1|\u201d).)+)(?:\1|\u201d)\s*$", r"\2"),
        (r"(?:\\newrow )+$", ""),
        # Separators of thousands in TeX: ``1{,}000``, ``1,\!000``, ``1\,000``.
        (r"(?<=\d)(?:\{,\}|,\s?\\!|\\,|\\!)\s*(?=\d{3}(?!\d))", ""),
        # Text that TeX does not show is not part of the answer: ``\phantom{3}`` is not graded as 3.
        (r"\\phantom\s*(?:\{[^{}]*\}|\S)|\\(?:[hv](?:space|phantom)|label|tag|(?:text)?color)\*?\{[^{}]*\}", " "),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?|(?:display|text|script)style|(?:no)?limits)(?![a-zA-Z])\.?", " "),
        (r"\\(?:tiny|(?:script|footnote|normal)size|small|[lL]arge|LARGE|[hH]uge|ensuremath)(?![a-zA-Z])", " "),
        (r"\\(?:checkmark|blacksquare|square|nonumber|notag)(?![a-zA-Z])", " "),
        (r"\\(?:hline|(?:math)?strut|q?quad)(?![a-zA-Z])|\\[()\[\]](?![a-zA-Z])|\\[,;:! ]|\$\$?|\\$", " "),
        (r"(\\begin\{array\})(?:\[\w\])?\{[^{}]*\}|(matrix)\*(\})(?: ?\[\w\])?", r"\1\2\3"),
        # {1 \over 2}, \frac 1 2, \frac12 and \frac1{2} become \frac{1}{2}.
        (r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}|^([^{}]*)\\over(?![a-z])([^{}]*)$", r"\\frac{\1\3}{\2\4}"),
        (r"\\frac\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))", r"\\frac{\1\2}{\3\4}"),
        # Powers and numbers as in programs: 2^10, 1.5e6, 1E-3. "2e-1" is unchanged, since it may mean 2e minus 1.
        (r"\^(-\d+|\d{2,})(?!\})", r"^{\1}"),
        (r"(?<![\w.])(\d+(?:\.\d*)?)(?:[eE]([1-9]\d*)|E([+-]\d+)|e([+-]0\d))(?!\w)", r"\1\\times10^{\2\3\4}"),
        (r":=", "="),
        (r"(?<=[)\]]) ?U ?(?=[(\[])", r"\\cup "),
        (r"<=", r"\\le "),
        (r">=|=>(?=\d)", r"\\ge "),
        (r"\\not ?=|!=", r"\\ne "),
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"\\\|", "|"),
        (r"\\mathbb\s*\{?\s*([RZNQC])\s*\}?|\\(R|Z)(?![a-zA-Z])|\\mathbf\{(R|Z)\}", r"\\mathbb{\1\2\3}"),
        (r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-z]))|\\degree(?![a-z])", r"\\circ "),
        (r"(?<=\d) ?\^ ?\{?(?:\\(?:text|mathrm)\{)?o\}{0,2}(?![\w{}])", r"\\circ "),
        (r"\*\*", "^"),
        # A cross product does not commute, so between vectors the sign becomes \cross, which no later step takes for a
        # multiplication.
        (r"(?<=[^\d ]) ?\\times(?= ?\\(?:vec|mathbf|boldsymbol|bm|overrightarrow)(?![a-z]))", r"\\cross "),
        # Notation as in programs: sqrt(2), pi, sin x, inf.
        (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)|\u221a\s*\(([^()]*)\)|\u221a\s*\{?(\d+|[a-z])\}?", r"\\sqrt{\1\2\3}"),
        (r"(?<![\\a-zA-Z])(pi|theta|alpha|beta|gamma|lambda)(?![a-zA-Z])", r"\\\1 "),
        (rf"\\(?:operatorname\*?|mathrm|text)\s*\{{({_FUNCTIONS})\}}", r"\\\1 "),
        (rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?=[\s(\d\\^]|[a-z]\b)", r"\\\1 "),
        (r"(?<![\\a-zA-Z])(?:[Ii]nfinity|INFINITY|inf|oo)(?![a-zA-Z])", r"\\infty "),
        (r"(?<![a-zA-Z\\])([aApP])\. ?([mM])\b\.?", r"\1\2"),
        # Ordinals: 12th, 1^{st}.
        (r"(?<=\d)(?:\^ ?\{? ?)?\\(?:text(?:rm|normal)?|mathrm) ?\{ ?(?:st|nd|rd|th) ?\} ?\}?", ""),
        (r"(?<=\d)(?:st|nd|rd|th|\^\{?th\}?)(?![a-z])", ""),
    )
]  # fmt: skip
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|md|sc)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|boldsymbol|bm|rm"
    r"|underline|vec)\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)
# 0.1\overline{6}, 0.\dot3, 0.(3); 0.\dot{1}2\dot{3} has a dot above the first and the last repeated digit. The number
# of digits is bounded, since 10 to that power is computed.
_REPEATING = re.compile(
    r"(\d{0,20})\.(\d{0,20})(?:\\dot ?\{?(\d)\}?(\d{0,18})\\dot ?\{?(\d)\}?"
    r"|\\(?:overline|bar|dot)\s*(?:\{(\d{1,20})\}|(\d))|\((\d{1,20})\))"
)
_BARE_TEXT = re.compile(r"\\(?:rm|bf|it|vec|math(?:bf|rm|it|sf)|boldsymbol|bm)(?![a-zA-Z])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_PLAIN_WORD = re.compile(r"(?<![\\a-zA-Z_])(?<!\\begin\{)(?<!\\end\{)[A-Za-z]{2,}(?:'[a-z]+)?(?![a-zA-Z])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|therefore|hence|and|the|my|our|final|correct|answers?|result|solution|value|is|are|equals?|be|to|get|"
    r"we|have|approximately|exactly|about|option|choice)\b[\s:,]*)+",
    re.IGNORECASE,
)
# Words after a number that are not a unit, because they change or deny the number: "18 dozen", "3 or more", "18 is
# false". math-verify would strip them and accept the number. Here they stay in the text, which then is not a number.
_MEANING = """
or and not no none never except without plus minus times over per-cent but if unless than less more least most either
neither nor wrong incorrect maybe possibly half twice double triple negative squared cubed to through between is are
was were be been being can cannot could should will would may might must has have had do does did equals equal false
invalid impossible untrue nothing undefined hardly rather instead mod modulo base when where which that greater larger
bigger fewer smaller above below under up down at exactly only dozen dozens score gross couple hundred hundreds
thousand thousands million millions billion billions trillion halves integer first divided multiplied added subtracted
remainder factorial root roots power ones twos threes fours fives sixes sevens eights nines tens pi fail fails failed
reject rejected denied refuted approximately approx roughly nearly almost around about untrue bogus mistaken excluded
ruled out too lakh lakhs crore crores unlikely non myriad
"""
_DIGITS = "one|two|three|four|five|six|seven|eight|nine"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
NUMERALS = {word: i for i, word in enumerate(f"zero|{_DIGITS}|{_TEENS}".split("|"))}
NUMERALS |= {word: 10 * i for i, word in enumerate(_TENS.split("|"), 2)}
_NUMERAL = re.compile(rf"(minus |negative )?((?:{_TENS})[- ](?:{_DIGITS})|{'|'.join(NUMERALS)})(?: (.*))?")
_PARTS_OF_ONE = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourths": 4}
_NO_UNIT = {*_MEANING.split(), *NUMERALS}
# Further words that change or deny a number: "18 tenths", "18 twelfths", "18 isn't it".
_PARTS = re.compile(
    r"(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\w+lfth|\w+teenth|\w+tieth|\w+dth|\w+ionth)s?|\w+n't"
)
_MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Names of units. Groups are separated by bars; the first name of a group is the normal name of the unit.
_UNIT_GROUPS = """
cm centimeter centimeters centimetre centimetres|mm millimeter millimeters|km kilometer kilometers kilometre
kilometres|m meter meters metre metres|in inch inches|ft foot feet|yd yard yards|mi mile miles|cm^2 sqcm|m^2 sqm|in^2
sqin|ft^2 sqft|km^2 sqkm|mi^2 sqmi|yd^2 sqyd|cm^3 cucm cc|m^3 cum|in^3 cuin|ft^3 cuft|s sec secs second seconds|min
mins minute minutes|h hr hrs hour hours|day days|week weeks|month months|yr year years|g gram grams|kg kilogram
kilograms|mg milligram milligrams|lb lbs pound pounds|oz ounce ounces|ton tons|l liter liters litre litres|ml
milliliter milliliters|gal gallon gallons|mph mi/h mi/hr|km/h kph|m/s|ft/s|dollar dollars usd|cent cents|euro
euros|yen|rupee rupees|deg degree degrees|rad radian radians|unit units|unit^2 squnit|unit^3 cuunit|% percent|hz
hertz|n newton newtons|j joule joules|w watt watts|am|pm|degc celsius|degf fahrenheit
"""
_UNITS = {name: group.split()[0] for group in _UNIT_GROUPS.split("|") for name in group.split()}
# Up to three letters that are not marked as text are a product of variables ("xyz"), unless they are one of these
# words.
_SHORT = "is the yes so all odd be are of mod pm am per men egg pen cup box bag car toy cow"
_ALWAYS_WORDS = {*_UNITS, *_NO_UNIT, *re.findall("[a-z]+", _SHORT)}
_CURRENCY = re.compile(
    r"(-?)\\(dollar|pound|euro|yen|rupee) ?(?=[-\d.\\])|()(.*[^\\])\\(dollar|pound|euro|yen|rupee|cent)"
)


@dataclass(frozen=True, slots=True)
class Notation:
    """An answer in normal notation.

    Args:
        text: The answer without its unit; words are between marks.
        unit: Unit or other words after the value.
        known_unit: Whether ``unit`` is the name of a unit. Answers with different known units are different.
    """

    text: str
    unit: str = ""
    known_unit: bool = False


def words_in(text: str) -> list[str]:
    """Words in a text in normal notation, in lower case."""
    return [word for marked in WORDS.findall(text) for word in marked.lower().split()]


def as_latex(text: str) -> str:
    r"""A normal notation as LaTeX: marked words become ``\text{...}``, and ends of rows a double backslash."""
    return WORDS.sub(r"\\text{\1}", text).replace("\\newrow", "\\\\")


@lru_cache(maxsize=65536)
def normalise(answer: str) -> str:
    """The answer without variations in writing, with its words marked; :func:`notate` also splits off the unit."""
    if len(answer) > LONGEST_READ:
        return " ".join(answer.split())
    spend(20 + len(answer))
    # Characters: thin spaces between digits, then superscripts and subscripts, then characters with a TeX command.
    text = _REWRITES[0][0].sub("", answer)
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_SCRIPTS)}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{match[0].translate(_SCRIPTS)}}}", text).translate(_UNICODE)
    text = re.sub(r"(?![0-9])\d", "?", text)  # digits of other scripts, which ``int`` would accept
    # Commands: repeating decimals, synonyms, then the rewrites above.
    text = _REPEATING.sub(_repeating, text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda match: _COMMANDS.get(match[1], match[0]), text)
    for pattern, replacement in _REWRITES[1:]:
        text = pattern.sub(replacement, text)
    # Words: first those that are marked as text, then plain words. Units such as m/s and cm^2 become one word.
    while match := _BOX.search(text):
        text = text[: match.start()] + match[1] + text[match.end() :]
    for _ in range(4):  # font commands may be nested
        text = _TEXT.sub(_mark, text)
    text = _BARE_TEXT.sub(" ", text)
    pieces = re.split(f"({WORDS.pattern.replace('(', '(?:', 1)})", text)
    text = "".join(piece if i % 2 else _PLAIN_WORD.sub(_mark_plain, piece) for i, piece in enumerate(pieces))
    text = re.sub(rf"\\frac\s*\{{\s*({_OPEN}[^{{}}]*)\}}\s*\{{([^{{}}]*{_CLOSE})\s*\}}", r"\1/\2", text)
    text = re.sub(rf"{_CLOSE}\s*([/-])\s*{_OPEN}", r"\1", text)
    text = re.sub(rf"{_CLOSE}\s*\^\s*(?:\{{\s*([23])\s*\}}|([23]))", rf"^\1\2{_CLOSE}", text)
    text = re.sub(rf"{_CLOSE}\s*{_OPEN}", " ", text)
    # Punctuation and braces around the whole; twice, since in ``{43_5.}`` the full stop is inside the braces.
    for _ in range(2):
        text = re.sub(r"^(?:[=: ]|\\(?:therefore|implies|Rightarrow|rightarrow|approx)(?![a-z]))+", "", text)
        text = _strip_braces(re.sub(r"(?:(?<!\.)\.|[,;:\s])+$", "", text))
    text = _join_thousands(re.sub(r"\s+", " ", text))
    # Spaces are removed except between two letters or digits, and between a command and a letter.
    text = re.sub(r"(?<=[^\w\\]) (?=\S)|(?<=\w) (?=[^\w])", "", text)
    return re.sub(r"(\\[a-zA-Z]+) (?=[^a-zA-Z])", r"\1", text)


def _repeating(match: re.Match[str]) -> str:
    """A repeating decimal such as ``0.1\\overline{6}`` as a fraction."""
    whole, fixed, repeated = match[1] or "0", match[2], "".join(filter(None, match.groups()[2:]))
    nines = 10 ** len(repeated) - 1
    numerator = int(whole + fixed) * nines + int(repeated)
    return f"\\frac{{{numerator}}}{{{nines * 10 ** len(fixed)}}}"


def _mark(match: re.Match[str]) -> str:
    inner = match[1].strip()
    if re.fullmatch(r"[^a-zA-Z]*[a-zA-Z][^a-zA-Z]*", inner) and "text" not in match[0][:6]:
        return f" {inner}"  # a single letter in another font is a variable
    # ``\text{A, C, D}`` is a list of choices, ``\text{12}`` is a number and ``\text{x^2}`` is a formula; all other
    # text is words.
    letters = re.fullmatch(r"\(?[A-Z]\)?(?:(?:,| and) ?\(?[A-Z]\)?)+", inner)
    if letters or not re.search(r"[a-zA-Z]", inner) or re.search(r"[\\^_=+*\d<>]", inner):
        return f" {inner} "
    return f"{_OPEN}{inner.strip('.,;: ')}{_CLOSE}"


def _mark_plain(match: re.Match[str]) -> str:
    product = len(match[0]) <= 3 and match[0].isalpha() and match[0].lower() not in _ALWAYS_WORDS
    return match[0] if product else f"{_OPEN}{match[0]}{_CLOSE}"


def _join_thousands(text: str) -> str:
    """Removes the commas from ``1,234`` or ``f(2)=1,234``, unless another comma or bracket suggests a list."""
    name, equals, value = text.rpartition("=")
    joined = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), value)
    return text if re.search(r"[(\[,]|\\\{", joined) or "," in name else name + equals + joined


def _strip_braces(text: str) -> str:
    """Removes braces, and round brackets that contain a single value, around the whole text."""
    while (pair := text[:1] + text[-1:]) in ("{}", "()") and not (pair == "()" and re.search("[,;]", text)):
        plain = re.sub(r"\\.", "..", text)
        # Stop if the first bracket closes before the end, as in ``(1)(2)``. Escaped braces belong to sets and do not
        # count.
        if 0 in list(accumulate((character == pair[0]) - (character == pair[1]) for character in plain))[:-1]:
            break
        text = text[1:-1].strip()
    return text


@lru_cache(maxsize=65536)
def notate(answer: str) -> Notation:
    """The normal notation of an answer, with its unit split off and a lead-in such as "the answer is" removed."""
    text = normalise(answer)
    # Lead-ins ("the answer is", "approximately"), and numbers in words.
    if text.startswith(_OPEN) and (match := _LEAD_IN.match(text, 1)):
        rest = text[match.end() :].removeprefix(_CLOSE) if text[match.end()] == _CLOSE else _OPEN + text[match.end() :]
        text = rest.lstrip(":= ") or text
    text = re.sub(r"^\\approx ?", "", text)
    if (words := WORDS.fullmatch(text)) and (spelled := _spelled(words[1].lower())):
        return spelled
    # A currency before or after the value.
    if match := _CURRENCY.match(text) if "\\" in text else None:
        if match[2]:
            return Notation(match[1] + text[match.end() :].strip(), match[2], True)
        if match.end() == len(text):
            return Notation(match[4].strip(), match[5], True)
    # Degrees are a unit, except in an argument of a function: \sin 30^\circ is not \sin 30.
    if text.endswith("\\circ") and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        return Notation(text.replace("\\circ", "").strip(), "deg", True)
    if match := re.fullmatch(rf"(.*)\\circ ?{_OPEN}?([CF]|[cC]elsius|[fF]ahrenheit){_CLOSE}?", text):
        return Notation(match[1].strip(), f"deg{match[2][0].lower()}", True)
    if text.endswith("%"):
        return Notation(text[:-1].strip(), "%", True)
    # Words after a value, if the text has no other words: "5 cm".
    match = re.search(f"^([^{_OPEN}]*[^\\s(,={_OPEN}]) ?{_OPEN}([^{_CLOSE}]*){_CLOSE}$", text)
    return _with_unit(match[1].strip(), match[2]) if match else Notation(text)


def _spelled(words: str) -> Notation | None:
    """A number in words, with its unit: ``twenty-one apples``, ``three quarters``; ``None`` for any other words."""
    if not (match := _NUMERAL.fullmatch(words)):
        return None
    number = "-" * bool(match[1]) + str(sum(NUMERALS[word] for word in re.split("[- ]", match[2])))
    if match[3] in _PARTS_OF_ONE:
        return Notation(f"\\frac{{{number}}}{{{_PARTS_OF_ONE[match[3]]}}}")
    spelled = _with_unit(number, match[3]) if match[3] else Notation(number)
    return None if _OPEN in spelled.text else spelled


def _with_unit(value: str, words: str) -> Notation:
    lowered = words.lower().strip(" ()")
    first, _, rest = lowered.partition(" ")
    # "4.5 million dollars" is a number with a unit.
    if first in _MULTIPLIERS and re.fullmatch(r"[-\d.]+", value):
        scaled = f"{value}\\cdot10^{{{_MULTIPLIERS[first]}}}"
        return _with_unit(scaled, rest) if rest else Notation(scaled)
    lowered = re.sub(r"\bcu(?:bic|\.)\s+", "cu", re.sub(r"\bsq(?:uare|\.)?\s+", "sq", lowered))
    counted = [word for word in re.split(r"[\s,;()]+", lowered) if word]
    # Any counted thing ("5 apples", "42 dollars per day") counts as a unit, unless its words change the number.
    if set(counted) & _NO_UNIT or any(map(_PARTS.fullmatch, counted)) or not 0 < len(counted) <= 5:
        return Notation(f"{value}{_OPEN}{words}{_CLOSE}")
    # "miles per hour" becomes mi/h, whose normal name is mph.
    parts = [unit_name(part) for part in lowered.replace(" per ", "/").split("/")]
    name = "/".join(parts) if all(parts) else ""
    return Notation(value, _UNITS.get(name, name) or lowered, bool(name))


def unit_name(name: str) -> str:
    """The normal name of a unit, with its power: ``cm^2`` for "sqcentimeters"; empty if the unit is unknown."""
    power = re.fullmatch(r"(sq|cu)?([a-z]+|%)(?:\^([23]))?", name)
    if name in _UNITS or not power or power[2] not in _UNITS:
        return _UNITS.get(name, "")
    exponent = {"sq": "2", "cu": "3"}.get(power[1] or "", power[3])
    return f"{_UNITS[power[2]]}^{exponent}" if exponent else _UNITS[power[2]]
