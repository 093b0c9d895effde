"""What kind of thing an answer is. Kinds never mix: a point is no set, a ratio no fraction, ``12_7`` no ``12_8``."""

from dataclasses import dataclass

from rewards.algebra import Quotient


class UnevaluatedError(ValueError):
    """The answer is a calculation that leads to the gold."""


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
