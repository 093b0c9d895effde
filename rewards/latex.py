r"""A small precedence parser from LaTeX, and from the plain notation that models mix with LaTeX, to expression trees.

It parses numbers, variables, the four operations, powers, fractions, roots, brackets, absolute values and the usual
functions. Anything else raises :class:`~rewards.algebra.UndecidedError`, because no verdict is better than a wrong one.
"""

import re
from fractions import Fraction
from functools import lru_cache

from rewards import algebra
from rewards.algebra import Tree, UndecidedError

MAX_DEPTH, MINUS = 100, Fraction(-1)
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\(?:angle|triangle) ?[A-Z]+|\\[a-zA-Z]+|\\[^a-zA-Z]|\S)")
_GREEK = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau
upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar pi infty
"""
# A decorated letter is a variable different from the plain letter: ``\bar z`` is not ``z``.
_DECORATIONS = {"overline": "bar", "bar": "bar", "hat": "hat", "widehat": "hat", "tilde": "tilde", "dot": "dot"}
_KNOWN = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp"
_NAMES, _FUNCTIONS = _GREEK.split(), _KNOWN.split()
_TIMES, _OVER = {"*", "\\cdot", "\\times", "\\ast"}, {"/", "\\div"}
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_ENDS = {"", "+", "-", "|", ",", "^", "_", *_CLOSING.values()}
# Mixed numbers, 2\frac{1}{3} and 2 1/3, but not after ^ or _ or a decimal point: x^2\frac{1}{3} is a product.
_MIXED = re.compile(r"(?<![\^_.\d])(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))")


@lru_cache(maxsize=16384)
def parse(text: str) -> Tree:
    """The tree of an expression.

    Raises:
        UndecidedError: If any part of the text cannot be parsed.
    """
    parser = _Parser(text)
    tree = parser.sum()
    # A token is left that was not understood; the value of the part before it would be a wrong reading.
    if parser.next:
        raise UndecidedError(f"unexpected {parser.next!r}")
    return tree


class _Parser:
    def __init__(self, text: str) -> None:
        text = _MIXED.sub(_mixed, text)
        self._tokens = _TOKEN.findall(text)
        self._position = self._depth = 0
        algebra.spend(len(self._tokens))

    @property
    def next(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _take(self, *accepted: str) -> str:
        text = self.next
        if not text or (accepted and text not in accepted):
            raise UndecidedError(f"expected {' or '.join(accepted) or 'more'}, not {text!r}")
        self._position += 1
        return text

    def sum(self) -> Tree:
        value = self._product(self._sign())
        while self.next in ("+", "-"):
            value = algebra.apply("+", value, self._product(self._sign()))
        return value

    def _sign(self) -> bool:
        negative = False
        while self.next in ("+", "-"):
            negative ^= self._take() == "-"
        return negative

    def _product(self, negative: bool) -> Tree:
        # The sign is applied after the power of the first factor: -x^2 is -(x^2).
        value = self._power()
        if negative:
            value = algebra.apply("*", MINUS, value)
        while True:
            if self.next in _TIMES:
                self._take()
                value = algebra.apply("*", value, self._signed())
            elif self.next in _OVER:
                self._take()
                value = algebra.apply("/", value, self._signed())
            elif self.next in _ENDS:
                return value
            # "3 4" is not the product of 3 and 4, but two numbers, of which only one can be the answer.
            elif self.next[0].isdigit():
                raise UndecidedError("two numbers side by side")
            else:  # a product without a sign: 2x, 3\pi, (x+1)(x-1)
                value = algebra.apply("*", value, self._power())

    def _signed(self) -> Tree:
        return algebra.apply("*", MINUS, self._power()) if self._sign() else self._power()

    def _power(self) -> Tree:
        value = self._atom()
        while self.next in ("!", "\\circ", "^"):
            if (sign := self._take()) == "!":
                value = ("!", value)
                # n!! means the product of every second number, not (n!)!.
                if self.next == "!":
                    raise UndecidedError("a double factorial")
            # Inside an expression, the degree sign is the factor pi/180: \sin 30^\circ + x is 1/2 + x.
            elif sign == "\\circ":
                value = algebra.apply("*", value, algebra.apply("/", algebra.PI, Fraction(180)))
            else:  # returns, since a second ^ is not valid TeX; in 2^{3^2} the braces group the exponent
                return algebra.power(value, self._argument())
        return value

    def _argument(self) -> Tree:
        """The argument of ``^`` or a command: a group or a single token (one digit of a number, as in TeX)."""
        if self.next == "-":
            self._take()
            return algebra.apply("*", MINUS, self._argument())
        # \frac12 is 1 over 2: only the first digit belongs to the argument, and the other digits are put back.
        if len(digits := self.next) > 1 and digits.isdigit():
            self._tokens[self._position] = digits[1:]
            return Fraction(digits[0])
        return self._atom()

    def _atom(self) -> Tree:
        self._depth += 1
        # A limit of its own, since how much of Python's recursion limit is left depends on the caller.
        if self._depth > MAX_DEPTH:
            raise UndecidedError("nested too deeply")
        text = self._take()
        if text[0].isdigit() or (text[0] == "." and len(text) > 1):
            value = algebra.small(Fraction(text))
        elif text.isalpha() and text.isascii():
            value = self._name(text)
        elif text in _CLOSING:
            value = self.sum()
            self._take(_CLOSING[text])
            if text.startswith("\\"):
                value = ("floor" if text == "\\lfloor" else "ceil", value)
        elif text == "|":
            value = ("abs", self.sum())
            self._take(text)
        else:
            value = self._command(text[1:])
        self._depth -= 1
        return value

    def _name(self, name: str) -> Tree:
        if self.next == "_":
            self._take()
            name += "_" + self._raw()
        while self.next in ("'", "\\prime"):
            self._take()
            name += "'"
        return name

    def _raw(self) -> str:
        """The text of a token or of all tokens of a group."""
        if self.next != "{":
            return self._take()
        start, depth = self._position, 0
        while True:
            depth += {"{": 1, "}": -1}.get(self._take(), 0)
            if depth == 0:
                return "".join(self._tokens[start + 1 : self._position - 1])

    def _command(self, name: str) -> Tree:
        if name in ("frac", "binom"):
            top, bottom = self._argument(), self._argument()
            return algebra.apply("/", top, bottom) if name == "frac" else ("binom", top, bottom)
        if name == "sqrt":
            degree: Tree = Fraction(2)
            if self.next == "[":
                self._take()
                degree = self.sum()
                self._take("]")
            return algebra.power(self._argument(), algebra.apply("/", Fraction(1), degree))
        if name in _DECORATIONS:
            return self._name(f"\\{_DECORATIONS[name]}({self._raw()})")
        if name.startswith(("angle", "triangle")):
            return f"\\{name}"
        if name in _NAMES:
            return self._name(f"\\{name}")
        if name in _FUNCTIONS:
            return self._function(name)
        raise UndecidedError(f"\\{name} is not read here")

    def _function(self, name: str) -> Tree:
        base: Tree = Fraction(10)
        exponent: Tree = Fraction(1)
        while self.next in ("_", "^"):
            if self._take() == "^":
                exponent = self._argument()
            elif name == "log":
                base = self._argument()
            else:
                raise UndecidedError(f"\\{name}_")
        argument = self._function_argument()
        # log without a base has base 10, and \log_e is ln.
        if name in ("log", "lg"):
            value: Tree = ("ln", argument) if base == algebra.EULER else ("log", base, argument)
        # By convention \sin^{-1} x is the inverse function and \sin^2 x is the square of the value.
        elif exponent == -1 and f"arc{name}" in _FUNCTIONS:
            return (f"arc{name}", argument)
        else:
            value = (name, argument)
        # With any other negative exponent, both an inverse function and a reciprocal may be meant.
        if isinstance(exponent, Fraction) and exponent < 0:
            raise UndecidedError("an inverse function or a reciprocal")
        return algebra.power(value, exponent)

    def _function_argument(self) -> Tree:
        # An argument in brackets ends with the bracket: \sin(x)y is y times \sin(x).
        if self.next in ("(", "{", "["):
            return self._atom()
        value = self._signed()
        # An argument without brackets extends over the factors that follow, up to a function, sign or operator.
        while self.next[:1].isalnum() or self.next == "\\frac" or self.next[1:] in _NAMES:  # \sin 2x, \sin 2\pi x
            value = algebra.apply("*", value, self._power())
        return value


def _mixed(match: re.Match[str]) -> str:
    r"""A mixed number, ``2\frac{1}{3}`` or ``2 1/3``, as one fraction, so that it is not parsed as a product."""
    whole, top, bottom = match[1], match[2] or match[4], match[3] or match[5]
    # Mixed numbers have no improper fractions, so 2\frac{3}{2} may be meant as a product.
    if int(top) >= int(bottom):
        raise UndecidedError("a mixed number or a product")
    return f"(\\frac{{{int(whole) * int(bottom) + int(top)}}}{{{bottom}}})"
