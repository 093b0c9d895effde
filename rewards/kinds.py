"""What kind of thing an answer is. Kinds never mix: a point is no set, a ratio no fraction, ``12_7`` no ``12_8``."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rewards.algebra import Tree


@dataclass(frozen=True, slots=True)
class Expression:
    """A single value, ``literal`` if it is written as one number, ``percent`` if that sign followed."""

    tree: Tree
    literal: bool = False
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """Several values, and what holds them together.

    Args:
        brackets: ``()``, ``[)`` and so on, ``{}`` for a set, an empty text for a bare list, ``:`` for a ratio,
            ``matrix`` of items ``row``, ``||`` for a determinant, ``phrase`` for words among symbols.
        items: In the order in which they are written.
    """

    brackets: str
    items: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A set of real numbers: a union of intervals.

    Args:
        cuts: Where membership changes, ascending, beginning outside: the value as a number that can be sorted, 0 for
            just below it or 1 for just above it, and its exact tree. ``[1, 2)`` has the cuts (1, 0) and (2, 0).
        variable: The variable of an inequality; empty where none is named.
    """

    cuts: tuple[tuple[Fraction | float, int, Tree], ...]
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Equation:
    """Two sides."""

    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Relation:
    """An ascending chain of inequalities; ``signs`` stand between the sides."""

    signs: tuple[str, ...]
    sides: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A value with the name that was given to it; ``parameters`` of a function."""

    name: str
    value: "Value"
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """A value that equals another only if both have the same key: ``words``, a ``base``, a ``time``, ``symbols``."""

    kind: str
    key: Any


@dataclass(frozen=True, slots=True)
class Family:
    """The values of all trees for every integer in the place of the parameter, such as ``k\\pi``."""

    parameter: str
    trees: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Hedge:
    """Several different values offered as final."""

    items: tuple["Value", ...]


Value = Expression | Sequence | Region | Equation | Relation | Named | Label | Family | Hedge
