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
    """Items in brackets: ``()``, ``[)``, ``{}``, none for a list, ``:``, ``matrix``, ``||``, ``row``, ``phrase``."""

    brackets: str
    items: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A set of real numbers by the cuts where membership changes: (value to compare, 1 if just above it, its tree)."""

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
    """What is the same only if it reads the same: ``words``, a number in a ``base``, a ``time`` of day, ``symbols``."""

    kind: str
    key: Any


@dataclass(frozen=True, slots=True)
class Family:
    """The values of trees for every integer in the place of a variable."""

    parameter: str
    trees: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Hedge:
    """Several different values offered as final."""

    items: tuple["Value", ...]


Value = Expression | Sequence | Region | Equation | Relation | Named | Label | Family | Hedge
