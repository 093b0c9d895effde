"""Compares two values of any kind; raises ``UndecidedError`` if their equality cannot be decided."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from hashlib import blake2b
from typing import Any

from rewards import algebra
from rewards.algebra import Tree, UndecidedError
from rewards.kinds import Equation, Expression, Family, Hedge, Label, Named, Region, Relation, Sequence, Value
from rewards.notation import WORDS

INTERVALS = ("()", "[]", "(]", "[)")
INFINITE = (algebra.apply("*", Fraction(-1), algebra.INFINITY), algebra.INFINITY)


class UnevaluatedError(ValueError):
    """Raised if the answer is a calculation whose result is the gold, where the gold is a plain number."""


def equal(gold: Value, answer: Value, strict: bool = True) -> bool:
    """Whether an answer equals the gold.

    Args:
        gold: The correct value.
        answer: The value that the response gives.
        strict: Whether a gold that is a plain number requires a plain number, not a calculation with that result.

    Raises:
        UndecidedError: If the equality cannot be decided.
        UnevaluatedError: If ``strict`` and the answer is such a calculation.
    """
    algebra.spend(5)
    # A gold "x = 1 or x = 2" is a list of both values; a hedge in an answer can equal only such a list.
    gold, answer = (Sequence("", side.items) if isinstance(side, Hedge) else side for side in (gold, answer))
    # In the following cases the two kinds may differ: a name may be omitted, an interval may be given as an inequality.
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _named(gold, answer, strict)
    if isinstance(gold, Region) or isinstance(answer, Region):
        return _regions(gold, answer)
    if isinstance(gold, Family) or isinstance(answer, Family):
        return _families(gold, answer)
    if isinstance(gold, Expression) and isinstance(answer, Equation):
        # "a + b = 5" and "|z| = 5" state the value 5; "x + 1 = 5" is an equation that the answer left unsolved.
        left = answer.left.tree
        stated = len(algebra.variables(left)) > 1 or (isinstance(left, tuple) and left[0] not in ("+", "*", "/", "^"))
        return stated and not algebra.variables(answer.right.tree) and equal(gold, answer.right, strict)
    # The set {2} may be given as 2.
    if isinstance(gold, Sequence) and isinstance(answer, Expression) and len(gold.items) == 1:
        return gold.brackets == "{}" and equal(gold.items[0], answer, strict)
    if type(gold) is not type(answer):
        return False
    return _COMPARISONS[type(gold)](gold, answer, strict)


def _named(gold: Value, answer: Value, strict: bool) -> bool:
    left, right = (side.value if isinstance(side, Named) else side for side in (gold, answer))
    differ = False
    if isinstance(gold, Named) and isinstance(answer, Named):
        # y = 5 is not x = 5. But if one name is a word ("Area = 5" and "x = 5"), the names may mean the same quantity.
        differ = (gold.name, len(gold.parameters)) != (answer.name, len(answer.parameters))
        differ &= not WORDS.match(gold.name) and not WORDS.match(answer.name)
        if not differ and isinstance(left, Expression) and isinstance(right, Expression):
            for i, (name, theirs) in enumerate(zip(gold.parameters, answer.parameters, strict=False)):
                # f(x) = x^2 is f(t) = t^2: parameters are replaced by their position. "#" cannot occur in the names of
                # an answer.
                left = replace(left, tree=algebra.substitute(left.tree, name, f"#{i}"))
                right = replace(right, tree=algebra.substitute(right.tree, theirs, f"#{i}"))
    # Values with different names may still be the same line: y = 2x+3 is x = (y-3)/2.
    if differ or isinstance(left, Equation) or isinstance(right, Equation):
        equations = [_as_equation(side) for side in (gold, answer)]
        return None not in equations and _equations(*equations, strict)  # type: ignore[arg-type]
    return equal(left, right, strict)


def _as_equation(value: Value) -> Equation | None:
    """An equation, also for a named expression such as ``y = 2x``; ``None`` for a value (``x = 5``) or a function."""
    if isinstance(value, Named) and isinstance(value.value, Expression) and algebra.variables(value.value.tree):
        return None if value.parameters else Equation(Expression(value.name), value.value)
    return value if isinstance(value, Equation) else None


def _expressions(gold: Expression, answer: Expression, strict: bool) -> bool:
    same = algebra.equal(gold.tree, answer.tree)  # percent signs are ignored at first
    if gold.percent != answer.percent:
        # The percent sign means hundredths. It also counts as a unit that may be omitted, but only for numbers above 1,
        # since 0.5% for 0.5 is more likely an error.
        left_out = same and isinstance(gold.tree, Fraction) and abs(gold.tree) > 1
        trees = [algebra.apply("/", side.tree, Fraction(100)) if side.percent else side.tree for side in (gold, answer)]
        same = left_out or algebra.equal(*trees)
    # 2+2 equals the gold 4 but may be a copy of the question. It raises, since its form is refused, not its value.
    if same and strict and gold.literal and not answer.literal:
        raise UnevaluatedError
    return same


def _sequences(gold: Sequence, answer: Sequence, strict: bool) -> bool:
    kinds, names, theirs = {gold.brackets, answer.brackets}, _names(gold.items), _names(answer.items)
    if kinds == {"()", "matrix"}:
        columns = _column(gold), _column(answer)
        return columns[0].brackets == columns[1].brackets and _sequences(*columns, strict)
    listed = theirs if gold.brackets else names
    # "x=3, y=-7" may stand for the point (3, -7) if the names are different letters. The mark of words sorts after
    # every letter, so the comparison with it excludes "3 apples, 5 pears".
    point = kinds == {"", "()"} and len(set(listed)) == len(listed) > 1 and max(listed) < "\u27e6"
    # The braces of a set may be omitted; otherwise the brackets must agree: (1,2) is neither {1,2} nor [1,2].
    if (len(kinds) > 1 and kinds != {"", "{}"} and not point) or len(gold.items) != len(answer.items):
        return False
    if point:  # the coordinates are ordered by the alphabet: "y=-7, x=3" is (3, -7) too
        items = [tuple(sorted(side.items, key=lambda item: getattr(item, "name", ""))) for side in (gold, answer)]
        return all(equal(g, a, strict) for g, a in zip(*items, strict=True))
    if gold.brackets == ":":
        return _ratios(gold.items, answer.items)
    # Items are matched by name if all have different names (x=3, y=5 is y=5, x=3 but not x=5, y=3); items of other sets
    # and lists are matched in any order.
    if len(set(names)) > 1 and theirs and set(names) == set(theirs) and len(set(theirs)) == len(theirs):
        by_name = dict(zip(theirs, answer.items, strict=True))
        return all(equal(item, by_name[name], strict) for name, item in zip(names, gold.items, strict=True))
    if gold.brackets in ("", "{}") and len(set(names)) <= 1:
        return _unordered(gold.items, answer.items, strict)
    return all(equal(g, a, strict) for g, a in zip(gold.items, answer.items, strict=True))


def _column(value: Sequence) -> Sequence:
    """A column vector as a point; any other value unchanged."""
    rows = [row.items for row in value.items if isinstance(row, Sequence) and row.brackets == "row"]
    column = value.brackets == "matrix" and all(len(row) == 1 for row in rows)
    return Sequence("()", tuple(row[0] for row in rows)) if column else value


def _names(items: tuple[Value, ...]) -> list[str]:
    """Names of all items; empty if any item has no name."""
    names = [item.name for item in items if isinstance(item, Named)]
    return names if len(names) == len(items) else []


def _ratios(gold: tuple[Value, ...], answer: tuple[Value, ...]) -> bool:
    """Whether one ratio is a multiple of the other: ``2:3`` is ``4:6``; ``0:0`` equals only itself."""
    sides = [[item.tree for item in side if isinstance(item, Expression)] for side in (gold, answer)]
    if [len(gold)] * 2 != list(map(len, sides)):
        return False
    # Compared by cross products with the first part that is not 0. An answer must have 0 exactly where the gold has 0;
    # otherwise 0:0 would equal every ratio.
    zero, first = Fraction(0), [next((tree for tree in side if tree != 0), Fraction(1)) for side in sides]
    return all(
        algebra.equal(g, zero) == algebra.equal(a, zero)
        and algebra.equal(algebra.apply("*", g, first[1]), algebra.apply("*", a, first[0]))
        for g, a in zip(*sides, strict=True)
    )


def _unordered(gold: tuple[Value, ...], answer: tuple[Value, ...], strict: bool) -> bool:
    # Each item is matched once, so that 1,2,2 is not 1,2,1. Compared pairwise, because values cannot be sorted.
    left = list(answer)
    for item in gold:
        found = next((i for i, other in enumerate(left) if equal(item, other, strict)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _regions(gold: Value, answer: Value) -> bool:
    left, right = as_region(gold), as_region(answer)
    if left is None or right is None or len(left.cuts) != len(right.cuts):
        return False
    same = len({left.variable, right.variable} - {""}) <= 1
    return same and all(a[1] == b[1] and algebra.equal(a[2], b[2]) for a, b in zip(left.cuts, right.cuts, strict=True))


def as_region(value: Value) -> Region | None:
    """An interval, or a set of numbers, as a region; ``None`` for any other value."""
    if isinstance(value, Region):
        return value
    if not isinstance(value, Sequence):
        return None
    if not value.brackets and value.items and not isinstance(value.items[0], Expression):
        # "(0,1) and (2,3)" means their union. Sets that overlap are alternatives to choose from, not a union.
        union = combine(any, *value.items)
        parts = [region for region in map(as_region, value.items) if region is not None]
        return union if len(union.cuts) == sum(len(part.cuts) for part in parts) else None
    if not all(isinstance(item, Expression) for item in value.items):
        return None
    trees = [item.tree for item in value.items if isinstance(item, Expression)]
    if value.brackets in INTERVALS and len(trees) == 2:
        return between(trees[0], trees[1], value.brackets)
    return combine(any, *(between(tree, tree) for tree in trees)) if value.brackets == "{}" else None


def between(low: Tree, high: Tree, brackets: str = "[]") -> Region:
    """An interval; raises ``UndecidedError`` if an end is not a real number or the interval is empty."""
    # A cut (value, 0) lies just below the value and a cut (value, 1) just above it: [1,2) runs from (1,0) to (2,0), and
    # (1,2] from (1,1) to (2,1).
    above = (int(brackets[0] == "(" or low in INFINITE), int(brackets[1] == "]" and high not in INFINITE))
    cuts = ((_place(low), above[0], low), (_place(high), above[1], high))
    if cuts[0][:2] >= cuts[1][:2]:
        raise UndecidedError("an empty interval")
    return Region(cuts)


def _place(tree: Tree) -> Fraction | float:
    if tree in INFINITE:
        return (-1) ** (1 + INFINITE.index(tree)) * float("inf")
    if isinstance(tree, Fraction):
        return tree
    # Irrational values are rounded to 25 digits after the point, so that they can be sorted and compared.
    (value,), error, _ = algebra.evaluate((tree,), {})
    if abs(value.imag) > error:
        raise UndecidedError("no real number")
    return Fraction(int(value.real * 10**25), 10**25)


def combine(keep: Callable[[list[bool]], bool], *values: Value) -> Region:
    """Union (``any``), intersection (``all``) or difference (``first_alone``) of sets of real numbers."""
    regions = [region for region in map(as_region, values) if region is not None]
    names = {region.variable for region in regions} - {""}
    if len(regions) < len(values) or len(names) > 1:
        raise UndecidedError("no sets of numbers, or of several variables")
    # A sweep over all cuts of all sets; the result has a cut wherever the value of ``keep`` changes.
    cuts, inside, kept = [], [False] * len(regions), False
    places = {cut[:2]: cut for region in regions for cut in region.cuts}
    for place in sorted(places):
        for i, region in enumerate(regions):
            inside[i] ^= any(cut[:2] == place for cut in region.cuts)
        if keep(inside) != kept:
            kept = not kept
            cuts.append(places[place])
    return Region(tuple(cuts), "".join(names))


def first_alone(inside: list[bool]) -> bool:
    """Whether a point is in the first set and in no other."""
    return inside[0] and not any(inside[1:])


def _families(gold: Value, answer: Value) -> bool:
    """Whether the members of each family near 0 belong to the other one; the answer may omit "k is an integer"."""
    if not isinstance(gold, Family):
        return False
    if not isinstance(answer, Family):
        items = answer.items if isinstance(answer, Sequence) and answer.brackets in ("", "{}") else (answer,)
        trees = tuple(item.tree for item in items if isinstance(item, Expression))
        names = set().union(*map(algebra.variables, trees))
        if len(trees) != len(items) or len(names) != 1:
            return False
        answer = Family(names.pop(), trees)
    # Members for k from -3 to 3 must be among the other family's members for k from -12 to 12, since equal families may
    # number their members differently: k\pi - \pi/2 and k\pi + \pi/2. The check runs in both directions, because 2k\pi
    # is contained in k\pi but not the other way round.
    near, far = ([_members(family, n) for family in (gold, answer)] for n in (3, 12))
    return near[0] <= far[1] and near[1] <= far[0]


def _members(family: Family, n: int) -> set[int]:
    trees = (algebra.substitute(tree, family.parameter, Fraction(k)) for tree in family.trees for k in range(-n, n + 1))
    return {round(_place(tree) * 10**15) for tree in trees}


def _equations(gold: Equation, answer: Equation, strict: bool) -> bool:
    r"""Whether two equations have the same solutions: one is a multiple of the other, or both solve to equal values."""
    left, right = (algebra.subtract(side.left.tree, side.right.tree) for side in (gold, answer))
    if algebra.variables(left) != algebra.variables(right):
        return False
    if _factor(left, right) is not None:
        return True
    # Not a multiple, as with x/y = 2 and x = 2y. If both can be solved for the same variable, its values decide.
    for name in sorted(algebra.variables(left)):
        roots = [_solved(side, name) for side in (left, right)]
        if roots[0] is not None and roots[1] is not None:
            return algebra.equal(roots[0], roots[1])
    return False  # not passed on to sympy, which solves neither and would call two empty lists of solutions equal


def _factor(left: Tree, right: Tree) -> Any:
    """The number c for which the first tree is c times the second; ``None`` if there is none."""
    # The quotient must be the same at every point. Products are compared, because either value may be 0 at a point.
    reference: tuple[Any, Any, Any] | None = None
    for a, b, error in algebra.samples(left, right):
        first, other, margin = reference = reference or (a, b, error)
        if abs(a * other - b * first) > error * (1 + abs(other) + abs(first)) + margin * (abs(a) + abs(b)):
            return None
    if reference is None:
        raise UndecidedError("no value")
    return reference[0] / reference[1] if reference[0] and reference[1] else None


def _solved(tree: Tree, name: str) -> Tree | None:
    """The value of a variable for which the tree is 0; ``None`` if the tree is not linear in the variable."""
    # The tree is linear if its second difference is 0: tree = at[0] + slope * name.
    at = [algebra.substitute(tree, name, Fraction(k)) for k in (0, 1, 2)]
    slope = algebra.subtract(at[1], at[0])
    try:
        linear = algebra.equal(algebra.subtract(at[2], at[1]), slope) and not algebra.equal(slope, Fraction(0))
        return algebra.subtract(Fraction(0), algebra.apply("/", at[0], slope)) if linear else None
    except UndecidedError:
        return None


def _relations(gold: Relation, answer: Relation, strict: bool) -> bool:
    if gold.signs != answer.signs:
        return False
    # Chains such as a < b < c are compared side by side; a single inequality by the difference of its sides, which must
    # agree up to a positive factor.
    if len(gold.signs) > 1:
        return all(map(algebra.equal, gold.sides, answer.sides))
    left, right = (algebra.subtract(side.sides[1], side.sides[0]) for side in (gold, answer))
    factor = _factor(left, right) if algebra.variables(left) == algebra.variables(right) else None
    return factor is not None and (factor.real > 0 or gold.signs == ("\\ne",))


def _labels(gold: Label, answer: Label, strict: bool) -> bool:
    if gold.kind == answer.kind == "time":
        (seconds, clock), (theirs, their_clock) = gold.key, answer.key  # type: ignore[misc]
        # ``clock`` tells how the gold states the half of the day: by a.m. or p.m. ("half"), by a 24-hour clock ("24":
        # 13:00, 05:00), or not at all. The answer may add the half of the day to a gold without it, but not omit it.
        if clock and (their_clock or clock == "24"):
            return seconds == theirs
        return not clock and seconds % 43200 == theirs % 43200
    if gold.kind == answer.kind == "words":  # "John and Mary" equals "Mary and John"
        return sorted(str(gold.key).split(" and ")) == sorted(str(answer.key).split(" and "))
    return gold == answer


_COMPARISONS: dict[type, Callable] = {
    Expression: _expressions,
    Sequence: _sequences,
    Equation: _equations,
    Relation: _relations,
    Label: _labels,
}


def identity(value: Value) -> str:
    """A text that equal values share; for a number that is not rational, it is a digest of the numerical value."""
    if isinstance(value, Named):
        return identity(value.value)
    if isinstance(value, Expression):
        return _digest(value.tree) + ("%" if value.percent else "")
    if isinstance(value, Sequence | Hedge):
        brackets = value.brackets if isinstance(value, Sequence) else ""
        items = [identity(item) for item in value.items]
        return f"{brackets[:1]}{', '.join(sorted(items) if brackets in ('', '{}') else items)}{brackets[1:]}"
    if isinstance(value, Region):
        return str([(str(place), above) for place, above, _ in value.cuts])
    return f"{value.kind} {value.key}" if isinstance(value, Label) else repr(value)


def _digest(tree: Tree) -> str:
    if isinstance(tree, Fraction | str):
        return str(tree)
    # For counting answers, two points distinguish values well enough, and at 12 digits rounding errors do not show.
    names = algebra.variables(tree)
    try:
        found = [algebra.evaluate((tree,), point)[0][0] for point in algebra.points(names)[:2]]
        text = repr([round(float(part), 12) for value in found for part in (value.real, value.imag)])
    except (UndecidedError, OverflowError):
        text = repr(tree)
    return blake2b(f"{sorted(names)} {text}".encode(), digest_size=8).hexdigest()
