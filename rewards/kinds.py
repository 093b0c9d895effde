"""Kinds of values that an answer can have; a point is not a set, and a ratio is not a fraction."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rewards.algebra import Tree


@dataclass(frozen=True, slots=True)
class Expression:
    """A single value; ``literal`` if it is written as one number, ``percent`` if a percent sign follows it."""

    tree: Tree
    literal: bool = False
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """Several values, and the brackets that tell what they form together.

    Args:
        brackets: ``()``, ``[)`` and so on for points and intervals, ``{}`` for a set, an empty text for a bare list,
            ``:`` for a ratio, ``matrix`` (whose items are of the kind ``row``), ``||`` for a determinant, ``phrase``
            for words among symbols.
        items: The values, in the order in which they are written.
    """

    brackets: str
    items: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A set of real numbers: a union of intervals.

    Args:
        cuts: Places where membership changes, ascending; below the first, numbers are not in the set. Each cut holds
            the place as a sortable number, 0 if membership changes just below the place or 1 if just above it, and the
            exact tree of the place. ``[1, 2)`` has the cuts (1, 0) and (2, 0).
        variable: The variable of an inequality; empty if none is named.
    """

    cuts: tuple[tuple[Fraction | float, int, Tree], ...]
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Equation:
    """An equation of two expressions."""

    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Relation:
    """An ascending chain of inequalities; each of ``signs`` stands between two adjacent ``sides``."""

    signs: tuple[str, ...]
    sides: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A value with the name that the answer gives to it, as in ``x = 5``; ``parameters`` are those of a function."""

    name: str
    value: "Value"
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """A value that is compared by its key; the kind is ``words``, ``base``, ``time`` or ``symbols``."""

    kind: str
    key: Any


@dataclass(frozen=True, slots=True)
class Family:
    """All values that the trees take when the parameter runs through the integers, such as ``k\\pi``."""

    parameter: str
    trees: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Hedge:
    """Several different values that are all given as the final answer."""

    items: tuple["Value", ...]


Value = Expression | Sequence | Region | Equation | Relation | Named | Label | Family | Hedge
