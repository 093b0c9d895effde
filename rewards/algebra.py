"""Exact arithmetic with a unique normal form: quotients of polynomials over the rationals, with radicals, pi, e and i.

A polynomial is a sum of rational multiples of monomials; a monomial is a product of atoms with rational exponents.
Atoms are variables, pi, e, the imaginary unit, and primes with exponents between 0 and 1 (the square root of 8 is 2
times the atom 2 to the 1/2). Different products of such radicals are linearly independent over the rationals
(Besicovitch 1940), so two polynomials are equal if and only if their normal forms are: the answer is exact both ways,
without floating point, and in microseconds. (That pi and e are algebraically independent is assumed, not proved.)

Everything else (a sine, a power with a variable exponent, the root of a sum) is an *opaque* atom, named by its normal
form: equal names prove equality, different ones prove nothing.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from hashlib import blake2b
from math import isqrt

MAX_TERMS = 120
MAX_BITS = 4096
MAX_POWER = 64
MAX_FACTORED = 10**10
IMAGINARY, PI, EULER, INFINITY = "i", "\\pi", "e", "\\infty"
OPAQUE = "@"
"""First character of an opaque atom's name."""

Atom = int | str
Monomial = tuple[tuple[Atom, Fraction], ...]
_ONE: Monomial = ()


WORK = 20_000
"""Products of terms that one question may cost, about 50 ms: an answer may be written to be slow."""
_spent = threading.local()


class UndecidedError(ValueError):
    """Outside of what this arithmetic can do exactly, or too large for it."""


@contextmanager
def limited_work() -> Iterator[None]:
    """Within it all arithmetic of this thread together may cost ``WORK``; what is dearer raises ``UndecidedError``."""
    before = getattr(_spent, "work", None)
    _spent.work = 0
    try:
        yield
    finally:
        _spent.work = before


def _spend(work: int) -> None:
    if (spent := getattr(_spent, "work", None)) is not None:
        _spent.work = spent + work
        if _spent.work > WORK:
            raise UndecidedError("too much work")


class Polynomial:
    """A sum of monomials; immutable. The empty sum is 0."""

    __slots__ = ("terms",)

    def __init__(self, terms: dict[Monomial, Fraction]) -> None:
        self.terms = {monomial: c for monomial, c in terms.items() if c}
        if len(self.terms) > MAX_TERMS:
            raise UndecidedError(f"more than {MAX_TERMS} terms")

    def __add__(self, other: "Polynomial") -> "Polynomial":
        terms = dict(self.terms)
        for monomial, c in other.terms.items():
            terms[monomial] = terms.get(monomial, Fraction(0)) + c
        return Polynomial(terms)

    def __mul__(self, other: "Polynomial") -> "Polynomial":
        _spend(len(self.terms) * len(other.terms))
        terms: dict[Monomial, Fraction] = {}
        for left, c in self.terms.items():
            for right, d in other.terms.items():
                monomial, factor = multiply(left, right)
                terms[monomial] = terms.get(monomial, Fraction(0)) + _small(c * d * factor)
        return Polynomial(terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def scaled(self, c: Fraction) -> "Polynomial":
        """Every coefficient times ``c``."""
        return Polynomial({monomial: value * c for monomial, value in self.terms.items()})

    @property
    def constant(self) -> Fraction | None:
        """Its value if it is a rational number."""
        if not self.terms:
            return Fraction(0)
        return self.terms[_ONE] if len(self.terms) == 1 and _ONE in self.terms else None

    @property
    def atoms(self) -> set[Atom]:
        """Every atom that occurs."""
        return {atom for monomial in self.terms for atom, _ in monomial}

    def name(self) -> str:
        """A text that is the same for equal polynomials and for them alone."""
        return " + ".join(sorted(_term_name(monomial, c) for monomial, c in self.terms.items())) or "0"


def _term_name(monomial: Monomial, c: Fraction) -> str:
    factors = [str(atom) if exponent == 1 else f"{atom}^({exponent})" for atom, exponent in monomial]
    return "*".join(([str(c)] if c != 1 or not factors else []) + factors)


def _small(c: Fraction) -> Fraction:
    if c.numerator.bit_length() > MAX_BITS or c.denominator.bit_length() > MAX_BITS:
        raise UndecidedError(f"a number of more than {MAX_BITS} bits")
    return c


def multiply(left: Monomial, right: Monomial) -> tuple[Monomial, Fraction]:
    """The product of two monomials, and the rational factor that drops out: ``2^(1/2) * 2^(1/2) = 2``, ``i*i = -1``."""
    if not left or not right:
        return left or right, Fraction(1)
    exponents = dict(left)
    for atom, exponent in right:
        exponents[atom] = exponents.get(atom, Fraction(0)) + exponent
    return _reduce(exponents.items())


def _reduce(exponents: Iterable[tuple[Atom, Fraction]]) -> tuple[Monomial, Fraction]:
    factor, kept = Fraction(1), []
    for atom, exponent in exponents:
        if abs(exponent) > 10_000:
            raise UndecidedError("an exponent that is too large")
        rest = exponent
        if isinstance(atom, int):
            whole = exponent.numerator // exponent.denominator
            factor *= Fraction(atom) ** whole
            rest = exponent - whole
        elif atom == IMAGINARY and exponent.denominator == 1:
            factor *= -1 if exponent % 4 in (2, 3) else 1
            rest = exponent % 2
        if rest:
            kept.append((atom, rest))
    kept.sort(key=lambda pair: (str(type(pair[0])), pair[0]))
    return tuple(kept), _small(factor)


@dataclass(frozen=True)
class Quotient:
    """A quotient of two polynomials: the values of this module. Equality is :meth:`equals`, not ``==``."""

    numerator: Polynomial
    denominator: Polynomial

    @cached_property
    def rational(self) -> Fraction | None:
        """Its value if it is a rational number in plain sight."""
        top, bottom = self.numerator.constant, self.denominator.constant
        return None if top is None or not bottom else top / bottom

    @property
    def opaque(self) -> bool:
        """Whether equality with it can be shown but not refuted."""
        atoms = self.numerator.atoms | self.denominator.atoms
        return any(isinstance(atom, str) and (atom.startswith(OPAQUE) or atom == INFINITY) for atom in atoms)

    @property
    def variables(self) -> set[str]:
        """Names of its variables."""
        atoms = self.numerator.atoms | self.denominator.atoms
        return {a for a in atoms if isinstance(a, str) and a not in (IMAGINARY, PI, EULER, INFINITY) and a[0] != OPAQUE}

    def __add__(self, other: "Quotient") -> "Quotient":
        if self.denominator == other.denominator:
            return Quotient(self.numerator + other.numerator, self.denominator)
        top = self.numerator * other.denominator + other.numerator * self.denominator
        return Quotient(top, self.denominator * other.denominator)

    def __neg__(self) -> "Quotient":
        return Quotient(self.numerator.scaled(Fraction(-1)), self.denominator)

    def __sub__(self, other: "Quotient") -> "Quotient":
        return self + -other

    def __mul__(self, other: "Quotient") -> "Quotient":
        return Quotient(self.numerator * other.numerator, self.denominator * other.denominator)

    def __truediv__(self, other: "Quotient") -> "Quotient":
        if not other.numerator.terms:
            raise UndecidedError("division by zero")
        if len(other.numerator.terms) == 1:  # by a monomial: no denominator is left
            ((monomial, c),) = other.numerator.terms.items()
            inverse, factor = _reduce([(atom, -exponent) for atom, exponent in monomial])
            top = self.numerator * other.denominator * Polynomial({inverse: factor / c})
            return Quotient(top, self.denominator)
        return Quotient(self.numerator * other.denominator, self.denominator * other.numerator)

    def equals(self, other: "Quotient") -> bool | None:
        """Exactly equal, exactly different, or ``None``: opaque atoms differ, which proves nothing."""
        if self.numerator * other.denominator == other.numerator * self.denominator:
            return True
        return None if self.opaque or other.opaque else False

    def power(self, exponent: "Quotient") -> "Quotient":
        """This to the power of another.

        Raises:
            UndecidedError: Where the result would be too large, or depends on a sign that is not known.
        """
        value = exponent.rational
        if value is None:
            return self._opaque_power(exponent)
        if value.denominator == 1:
            return self._integer_power(int(value))
        return self._root(value)

    def _integer_power(self, n: int) -> "Quotient":
        if abs(n) > MAX_POWER and not self._stays_small(abs(n)):
            raise UndecidedError("a power that is too large")
        if n < 0:
            return number(Fraction(1)) / self._integer_power(-n)
        result, square = number(Fraction(1)), self
        while n:
            if n & 1:
                result = result * square
            n >>= 1
            square = square * square if n else square
        return result

    def _stays_small(self, n: int) -> bool:
        """Whether its n-th power is a single term with a coefficient of moderate size."""
        if len(self.numerator.terms) > 1 or len(self.denominator.terms) > 1 or n > MAX_BITS:
            return False
        parts = [*self.numerator.terms.values(), *self.denominator.terms.values()]
        return all(n * (max(abs(c.numerator), c.denominator).bit_length() - 1) <= MAX_BITS for c in parts)

    def _root(self, exponent: Fraction) -> "Quotient":
        if self.denominator.constant != 1 or len(self.numerator.terms) > 1:
            return opaque(f"({self.name()})^{exponent}")
        if not self.numerator.terms:
            return number(Fraction(0)) if exponent > 0 else _undefined()
        ((monomial, c),) = self.numerator.terms.items()
        atoms: dict[Atom, Fraction] = {}
        for atom, power in monomial:
            doubtful = exponent.denominator % 2 == 0 and power.numerator % 2 == 0
            if atom == IMAGINARY or (isinstance(atom, str) and doubtful and atom not in (PI, EULER)):
                raise UndecidedError("a root whose sign depends on a variable")
            atoms[atom] = power * exponent
        if c < 0:
            if exponent.denominator == 2:
                atoms[IMAGINARY] = Fraction(exponent.numerator)
            elif exponent.denominator % 2 == 0:
                raise UndecidedError("an even root of a negative number")
        sign = -1 if c < 0 and exponent.denominator % 2 and exponent.numerator % 2 else 1
        for whole, direction in ((abs(c.numerator), 1), (c.denominator, -1)):
            for prime, multiplicity in factor(whole).items():
                atoms[prime] = atoms.get(prime, Fraction(0)) + direction * multiplicity * exponent
        reduced, scale = _reduce(atoms.items())
        return Quotient(Polynomial({reduced: scale * sign}), Polynomial({_ONE: Fraction(1)}))

    def _opaque_power(self, exponent: "Quotient") -> "Quotient":
        """``base^(a*m + b)`` as ``base^b * (base^m)^a`` with opaque atoms ``base^m``; integers split into primes."""
        if exponent.denominator.constant != 1:
            return opaque(f"({self.name()})^({exponent.name()})")
        base = self.rational
        bases = factor(int(base)) if base is not None and base.denominator == 1 and base > 1 else None
        result = number(Fraction(1))
        for monomial, c in exponent.numerator.terms.items():
            if monomial == _ONE:
                result = result * self.power(number(c))
                continue
            names = {str(prime): n for prime, n in bases.items()} if bases else {f"({self.name()})": 1}
            for name, multiplicity in names.items():
                ((atom, _),) = next(iter(opaque(f"{name}^{_term_name(monomial, Fraction(1))}").numerator.terms))
                term = Polynomial({((atom, c * multiplicity),): Fraction(1)})
                result = result * Quotient(term, Polynomial({_ONE: Fraction(1)}))
        return result

    def name(self) -> str:
        """A text that is the same for values of the same normal form."""
        if len(self.denominator.terms) == 1 and self.denominator.constant == 1:
            return self.numerator.name()
        lead = self.denominator.terms[
            min(self.denominator.terms, key=lambda monomial: _term_name(monomial, Fraction(1)))
        ]
        return f"({self.numerator.scaled(1 / lead).name()})/({self.denominator.scaled(1 / lead).name()})"


def _undefined() -> Quotient:
    raise UndecidedError("division by zero")


def number(value: Fraction) -> Quotient:
    """A rational number."""
    return Quotient(Polynomial({_ONE: _small(value)}), Polynomial({_ONE: Fraction(1)}))


def symbol(name: str) -> Quotient:
    """A variable or a constant by its name."""
    return Quotient(Polynomial({((name, Fraction(1)),): Fraction(1)}), Polynomial({_ONE: Fraction(1)}))


def opaque(name: str) -> Quotient:
    """A value that is known by its name alone; of the name a digest is kept, or names of names would grow for ever."""
    return symbol(OPAQUE + blake2b(name.encode(), digest_size=12).hexdigest())


def factor(n: int) -> dict[int, int]:
    """Prime factors of a positive integer with their multiplicities.

    Raises:
        UndecidedError: If it is too large to factor in a moment, unless it is a square.
    """
    root = isqrt(n)
    if root * root == n and n > 1:
        return {prime: 2 * k for prime, k in factor(root).items()}
    if n > MAX_FACTORED:
        raise UndecidedError(f"{n.bit_length()} bits are too many to factor")
    _spend(isqrt(n) // 20)
    factors: dict[int, int] = {}
    prime = 2
    while prime * prime <= n:
        while n % prime == 0:
            factors[prime] = factors.get(prime, 0) + 1
            n //= prime
        prime += 1 if prime == 2 else 2
    if n > 1:
        factors[n] = factors.get(n, 0) + 1
    return factors
