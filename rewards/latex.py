r"""From LaTeX, or the plain notation that models mix with it, to exact values. A small precedence parser.

It reads numbers, variables, the four operations, powers, fractions, roots, brackets, absolute values and the usual
functions. It refuses, with :class:`~rewards.algebra.UndecidedError`, whatever it does not know: better no verdict here
than a wrong one. Nothing is ever evaluated with floating point, and nothing large is evaluated at all.
"""

import re
from fractions import Fraction

from rewards import algebra
from rewards.algebra import Quotient, UndecidedError

MAX_DEPTH = 30
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<command>\\[a-zA-Z]+|\\[^a-zA-Z])|(?P<letter>[a-zA-Z])|(?P<sign>\S))"
)
_GREEK = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi
varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell
"""
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp gcd lcm det Re Im arg"
_TIMES = {"*", "\\cdot", "\\times", "\\ast"}
_OVER = {"/", "\\div"}
_OPENING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_ENDS = {")", "]", "}", "+", "-", "|", ",", "\\rfloor", "\\rceil", "\\rvert", *_TIMES, *_OVER}


def parse(text: str) -> Quotient:
    """The exact value of an expression.

    Raises:
        UndecidedError: If it is no expression that is understood here completely.
    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position = 0
        text = text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise UndecidedError("unreadable")
            self._tokens.append((str(match.lastgroup), match[0].strip()))
            position = match.end()
        self._position = self._depth = 0

    def whole(self) -> Quotient:
        value = self._sum()
        if self._position < len(self._tokens):
            raise UndecidedError(f"unexpected {self._text()!r}")
        return value

    def _text(self) -> str:
        return self._tokens[self._position][1] if self._position < len(self._tokens) else ""

    def _kind(self) -> str:
        return self._tokens[self._position][0] if self._position < len(self._tokens) else "end"

    def _take(self) -> str:
        text = self._text()
        if not text:
            raise UndecidedError("ends too early")
        self._position += 1
        return text

    def _expect(self, text: str) -> None:
        if self._take() != text:
            raise UndecidedError(f"expected {text!r}")

    def _sum(self) -> Quotient:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UndecidedError("nested too deeply")
        negative = False
        while self._text() in ("+", "-"):
            negative ^= self._take() == "-"
        value = -self._product() if negative else self._product()
        while self._text() in ("+", "-"):
            value = value + self._product() if self._take() == "+" else value - self._product()
        self._depth -= 1
        return value

    def _product(self) -> Quotient:
        value = self._mixed_or_power()
        while True:
            text = self._text()
            if text in _TIMES:
                self._take()
                value = value * self._signed_power()
            elif text in _OVER:
                self._take()
                value = value / self._signed_power()
            elif text and text not in _ENDS and text != "^" and text != "_":
                if self._kind() == "number":
                    raise UndecidedError("two numbers side by side")
                value = value * self._power()
            else:
                return value

    def _signed_power(self) -> Quotient:
        negative = False
        while self._text() in ("+", "-"):
            negative ^= self._take() == "-"
        return -self._power() if negative else self._power()

    def _mixed_or_power(self) -> Quotient:
        r"""A power; or a mixed number, ``2\frac{1}{3}`` or ``2 1/3``, which is a sum and no product."""
        if self._kind() == "number" and self._text().isdigit():
            start = self._position
            whole = Fraction(self._take())
            part = self._proper_fraction()
            if part is not None:
                return algebra.number(whole + part)
            self._position = start
        return self._power()

    def _proper_fraction(self) -> Fraction | None:
        start = self._position
        texts = [text for _, text in self._tokens[start : start + 7]]
        if texts[:1] == ["\\frac"]:
            pieces = "".join(texts)
            match = re.match(r"\\frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d)(?!\d))", pieces)
            length = 7 if match and match[1] else 3
            parts = (match[1] or match[3], match[2] or match[4]) if match else None
            if match is None and re.match(r"\\frac\d\d", pieces):  # the tokens hold "12" as one number
                return None
        elif len(texts) >= 3 and texts[0].isdigit() and texts[1] == "/" and texts[2].isdigit():
            parts, length = (texts[0], texts[2]), 3
        else:
            return None
        if parts is None or int(parts[1]) == 0:
            return None
        if int(parts[0]) >= int(parts[1]):
            raise UndecidedError("a mixed number or a product")
        if texts[0] == "\\frac" and length == 3 and len(texts[1]) == 2:  # \frac12 as two tokens: \frac and 12
            length = 2
        self._position = start + length
        return Fraction(int(parts[0]), int(parts[1]))

    def _power(self) -> Quotient:
        value = self._atom()
        if self._text() == "^":
            self._take()
            return value.power(self._argument())
        if self._text() in ("!", "_"):
            raise UndecidedError(f"{self._text()!r} is not read here")
        return value

    def _argument(self) -> Quotient:
        """What follows ``^`` or a command: a group, or a single token (one digit of a number, as in TeX)."""
        if self._text() == "{":
            self._take()
            value = self._sum()
            self._expect("}")
            return value
        if self._text() == "-":
            self._take()
            return -self._argument()
        if self._kind() == "number":
            digits = self._text()
            if len(digits) > 1 and digits.isdigit():
                self._tokens[self._position] = ("number", digits[1:])
                return algebra.number(Fraction(digits[0]))
        return self._atom()

    def _atom(self) -> Quotient:
        self._depth += 1  # \\sin \\sin \\sin ... nests without a bracket
        if self._depth > 2 * MAX_DEPTH:
            raise UndecidedError("nested too deeply")
        value = self._bare_atom()
        self._depth -= 1
        return value

    def _bare_atom(self) -> Quotient:
        kind, text = self._kind(), self._take()
        if kind == "number":
            if len(text) > algebra.MAX_BITS // 4:
                raise UndecidedError("too many digits")
            return algebra.number(Fraction(text))
        if kind == "letter":
            return self._variable(text)
        if text in _OPENING:
            return self._bracket(text)
        if text in ("|", "\\vert", "\\lvert"):
            return self._absolute(text)
        if kind == "command":
            return self._command(text[1:])
        raise UndecidedError(f"unexpected {text!r}")

    def _variable(self, name: str) -> Quotient:
        if self._text() == "_":
            self._take()
            name += "_" + self._subscript()
        elif name in ("e", "i"):
            return algebra.symbol(name)
        while self._text() in ("'", "\\prime"):
            self._take()
            name += "'"
        return algebra.symbol(name)

    def _subscript(self) -> str:
        if self._text() != "{":
            return self._take()
        self._take()
        parts = []
        while self._text() != "}":
            parts.append(self._take())
        self._take()
        return "".join(parts)

    def _bracket(self, opening: str) -> Quotient:
        value = self._sum()
        self._expect(_OPENING[opening])
        if opening.startswith("\\"):
            if value.rational is None:
                return algebra.opaque(f"{opening}({value.name()})")
            below = value.rational.numerator // value.rational.denominator
            return algebra.number(Fraction(below if opening == "\\lfloor" else -(-value.rational // 1)))
        return value

    def _absolute(self, opening: str) -> Quotient:
        value = self._sum()
        self._expect({"\\lvert": "\\rvert"}.get(opening, opening))
        if value.rational is not None:
            return algebra.number(abs(value.rational))
        names = sorted((value.name(), (-value).name()))
        return algebra.opaque(f"|{names[0]}|")

    def _command(self, name: str) -> Quotient:
        if name == "frac":
            top = self._argument()
            return top / self._argument()
        if name == "sqrt":
            return self._radical()
        if name == "pi":
            return algebra.symbol(algebra.PI)
        if name == "infty":
            return algebra.symbol(algebra.INFINITY)
        if name in _GREEK.split():
            return self._variable("\\" + name)
        if name in _FUNCTIONS.split():
            return self._function(name)
        if name in ("mathrm", "mathbf", "mathit", "mathbb", "operatorname"):
            raise UndecidedError("a font")
        raise UndecidedError(f"the command \\{name} is not read here")

    def _radical(self) -> Quotient:
        degree = Fraction(2)
        if self._text() == "[":
            self._take()
            inner = self._sum()
            self._expect("]")
            if inner.rational is None or inner.rational.denominator != 1 or not 2 <= inner.rational <= MAX_DEPTH:
                raise UndecidedError("a root of unusual degree")
            degree = inner.rational
        return self._argument().power(algebra.number(1 / degree))

    def _function(self, name: str) -> Quotient:
        decorations = ""
        exponent = None
        while self._text() in ("_", "^"):
            if self._take() == "_":
                decorations += "_" + self._subscript()
            else:
                exponent = self._argument()
        argument = self._function_argument()
        value = algebra.opaque(f"{name}{decorations}({argument.name()})")
        if exponent is None:
            return value
        if exponent.rational is None or exponent.rational < 0:  # sin^{-1} is no power
            return algebra.opaque(f"{name}^({exponent.name()})({argument.name()})")
        return value.power(exponent)

    def _function_argument(self) -> Quotient:
        if self._text() in ("(", "{", "["):
            return self._bracket(self._take())
        value = self._signed_power()
        while self._kind() in ("letter", "number") or self._text() in ("\\pi", "\\frac"):
            value = value * self._power()  # \sin 2x
        return value
