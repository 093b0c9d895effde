"""Plain data across the boundary of the sandbox, as JSON with type tags. No pickle, no marshal, no eval.

What JSON has stands for itself (``None``, booleans, short integers, finite floats, strings, lists); everything else is
an object with one key, the tag: ``{"tuple": [1, 2]}``. What has no tag is *opaque*: only the name of its type crosses.

The candidate's side encodes with the base classes' own methods, so an honest subclass of ``int`` or ``list`` arrives as
its value and a lying ``__eq__`` or ``__iter__`` does not cross. The trusted side never trusts what arrives:
:func:`matches` compares normal forms, made in time linear in the reply and without hashing a number of it, so that
neither nesting nor colliding hashes of a reply can hang the supervisor.
"""

import builtins
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

from rewards.wording import counted

MAX_DEPTH = 100
MAX_COMPARED, _SLACK = 2**24, 5000
"""Items and characters of a value, and how many more than four times ours another writing of the same may have."""
# A decimal with a larger one would become a fraction with as many digits.
_MAX_EXPONENT = 400
MAX_ITEMS = 100_000
"""Items taken from an iterator before it counts as endless."""
# Larger integers go as hexadecimal text: reading decimal digits takes quadratic time, and Python limits it.
_EXACT_JSON_INT = 2**53
_SEQUENCES: tuple[tuple[type, str], ...] = (
    (tuple, "tuple"), (list, "list"), (set, "set"), (frozenset, "frozenset"), (deque, "deque"),
)  # fmt: skip


class NotPlainError(ValueError):
    """A value or a node is no plain data, too deep, or endless."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Stands for nodes of a class that the program has: a linked list or a binary tree, as LeetCode has them.

    Args:
        kind: ``ListNode`` or ``TreeNode``.
        values: Of the list in order; of the tree level by level, ``None`` for a missing child.
    """

    kind: str
    values: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.kind}({list(self.values)!r})"


class Opaque:
    """Stands for a value that is no plain data. Equal to nothing, not even to itself."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __repr__(self) -> str:
        return f"<object of type {self.type_name}>"

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def encode(value: Any, opaque: Callable[[Any], Any] | None = None, depth: int = 0) -> Any:
    """The JSON node of a value.

    Args:
        value: Anything.
        opaque: Makes the node of a value that is no plain data; ``None`` sends its type's name.
        depth: Nesting so far.

    Raises:
        NotPlainError: If the value is nested deeper than ``MAX_DEPTH`` or has an endless iterator in it.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_EXACT_JSON_INT <= value <= _EXACT_JSON_INT else {"int": hex(value)}
    if kind is float:
        # inf - inf and nan - nan are nan, and JSON has neither.
        return value if value - value == 0.0 else {"float": repr(value)}
    if depth > MAX_DEPTH:
        raise NotPlainError(f"nested deeper than {MAX_DEPTH}")
    if kind is list:
        return [encode(item, opaque, depth + 1) for item in value]
    # ``dict.items(value)`` and ``base.__iter__(value)`` instead of the value's own methods, which a subclass overrides.
    if isinstance(value, dict):
        items = list(dict.items(value))
        return {"dict": [[encode(k, opaque, depth + 1), encode(v, opaque, depth + 1)] for k, v in items]}
    for base, tag in _SEQUENCES:
        if isinstance(value, base):
            items = [encode(item, opaque, depth + 1) for item in base.__iter__(value)]  # type: ignore[attr-defined]
            return items if tag == "list" else {tag: items}
    return _encode_rare(value, kind, opaque, depth)


def _encode_rare(value: Any, kind: type, opaque: Callable[[Any], Any] | None, depth: int) -> Any:
    for base, plain in _SCALARS:
        if isinstance(value, base):  # an honest subclass arrives as its value
            return encode(plain(value))
    if kind in _ENCODERS:
        return {kind.__name__: _ENCODERS[kind](value)}
    if kind is type and getattr(builtins, value.__name__, None) is value:
        return {"type": value.__name__}
    if kind is type(len) and _FUNCTIONS.get(value.__name__) is value:
        return {"function": value.__name__}
    if kind in _VIEWS:
        return {"keys": [encode(item, opaque, depth + 1) for item in value]}
    if kind is Structure:
        return {value.kind: [encode(item, opaque, depth + 1) for item in value.values]}
    if opaque is not None:
        return opaque(value)
    return iterated(value, None, depth) if is_iterator(value) else {"opaque": kind.__name__[:100]}


def is_iterator(value: Any) -> bool:
    """Whether a value is nothing but a stream of items: an iterator, or the values of a dictionary."""
    return isinstance(value, Iterator | type({}.values()))


def iterated(value: Any, opaque: Callable[[Any], Any] | None, depth: int = 0) -> Any:
    """The node of an iterator that ends.

    Raises:
        NotPlainError: If it does not.
    """
    items = list(islice(value, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise NotPlainError(f"an iterator with more than {MAX_ITEMS} items")
    return {"iter": [encode(item, opaque, depth + 1) for item in items]}


_FUNCTIONS: dict[str, Any] = {
    function.__name__: function for function in (abs, all, any, chr, hash, len, max, min, ord, repr, round, sorted, sum)
}
"""What a test may hand over to a function that takes one; all of them only calculate."""
_VIEWS = (type({}.keys()), type({}.items()))
_SCALARS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__pos__),
    (float, float.__pos__),
    (str, str.__str__),
)
_ENCODERS: dict[type, Callable[[Any], Any]] = {
    bytes: bytes.hex,
    bytearray: bytearray.hex,
    complex: lambda value: [encode(value.real), encode(value.imag)],
    range: lambda value: [encode(value.start), encode(value.stop), encode(value.step)],
    Decimal: str,
    Fraction: str,
    date: date.isoformat,
    datetime: datetime.isoformat,
    time: time.isoformat,
    type(...): repr,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
}
_AS_TEXT = {name: name for name in ("type", "function", "bytes", "date", "datetime", "time", "ellipsis")} | {
    "bytearray": "bytes"
}
# Bounds for numbers that arrive, before anything is computed from them.
_HEX = re.compile(r"-?0x[0-9a-f]{1,40000}")
_DECIMAL = re.compile(r"-?(?:[\d.]{1,4000}(?:E[+-]?\d{1,6})?|Infinity|NaN)", re.ASCII)
_QUOTIENT = re.compile(r"-?\d{1,4000}(?:/\d{1,4000})?", re.ASCII)


def _number(pattern: re.Pattern[str], read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Reads a number of bounded size: comparing a million digits, or ``Fraction("1e999999999")``, would hang us."""

    def decode_number(body: Any) -> Any:
        if not isinstance(body, str) or not pattern.fullmatch(body):
            raise NotPlainError("a malformed or endless number")
        return read(body)

    return decode_number


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": _number(_HEX, lambda body: int(body, 16)),
    "float": float,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "Decimal": _number(_DECIMAL, Decimal),
    "Fraction": _number(_QUOTIENT, Fraction),
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
    "ellipsis": lambda _: ...,
    "opaque": Opaque,
    "function": _FUNCTIONS.__getitem__,
}
_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "iter": iter,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "complex": lambda items: complex(*items),
    "range": lambda items: range(*items),
}


def decode(node: Any, hooks: Mapping[str, Callable[[Any], Any]] | None = None, depth: int = 0) -> Any:
    """The value of a node. Only for nodes of bounded size, or where a hang is killed: hashes may collide on purpose.

    Args:
        node: What :func:`encode` made, or what somebody claims that it made.
        hooks: By tag, what makes a value of nodes that only one side knows: ``{"ref": ...}``, ``{"ListNode": ...}``.
        depth: Nesting so far.

    Raises:
        NotPlainError: If the node is malformed.
    """
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if depth > MAX_DEPTH:
        raise NotPlainError(f"nested deeper than {MAX_DEPTH}")
    try:
        if isinstance(node, list):
            return [decode(item, hooks, depth + 1) for item in node]
        # Exactly one key; anything else raises ValueError and so is malformed.
        ((tag, body),) = node.items()
        if hooks is not None and tag in hooks:
            return hooks[tag](body)
        if tag == "dict":
            return {decode(k, hooks, depth + 1): decode(v, hooks, depth + 1) for k, v in body}
        if tag in _CONTAINERS:
            return _CONTAINERS[tag]([decode(item, hooks, depth + 1) for item in body])
        if tag in _DECODERS:
            return _DECODERS[tag](body)
        # ``int`` and the like; a name of builtins that is no class (``__import__``) is refused.
        if tag == "type" and isinstance(kind := getattr(builtins, body), type):
            return kind
    except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise NotPlainError(f"malformed node: {error}") from None
    raise NotPlainError("malformed node")


# The trusted side.


def matches(
    expected: Any, node: Any, tolerance: float | None = None, at_most: bool = False, alike: bool = False
) -> bool:
    """Whether ``expected == decode(node)`` as Python has it. Never raises, whatever the node is.

    Args:
        expected: Plain data of ours.
        node: What the candidate's process sent.
        tolerance: If not ``None``, numbers may differ by less than this.
        at_most: By just as much, too.
        alike: A tuple is equal to a list of the same items, as in tests that come from JSON.
    """
    try:
        ours = encode(expected)
        # An equal value may be written longer (tags, 1.0 for 1), but not by more than this: what is larger is not read.
        bound = 4 * _size(ours, MAX_COMPARED) + _SLACK
        if _size(node, bound) > bound:
            return False
        ours, theirs = _normal(ours, alike), _normal(node, alike)
        # Normal forms are lists, texts and exact numbers of bounded size, so == ends soon and calls nobody's __eq__.
        return ours == theirs if tolerance is None else _close(ours, theirs, tolerance, at_most)
    except (NotPlainError, RecursionError):
        return False


def _normal(node: Any, alike: bool) -> Any:
    """A form of a node that is the same for equal values: lists, and of what has no order a sorted list of texts.

    Raises:
        NotPlainError: If the node is malformed, or stands for something that is equal to nothing (``nan``, an object).
    """
    # True == 1 == 1.0 in Python, so they have one form.
    if isinstance(node, bool | int | float):
        return _plain_number(node)
    if node is None or isinstance(node, str):
        return node
    if isinstance(node, list):
        return [_normal(item, alike) for item in node]
    if not isinstance(node, dict) or len(node) != 1:
        raise NotPlainError("malformed node")
    ((tag, body),) = node.items()
    if tag in ("int", "float", "Decimal", "Fraction", "complex"):
        return _plain_number(decode(node))
    if tag in _AS_TEXT and isinstance(body, str):
        return _AS_TEXT[tag], body
    # Two ranges are equal if they give the same items, so by first, last and step; all empty ones are equal.
    if tag == "range":
        values = decode(node)
        return ("range", values[0], values[-1], values[:2][-1]) if values else "range"
    if isinstance(body, list):
        return _normal_container(tag, body, alike)
    raise NotPlainError("malformed node")


def _normal_container(tag: str, body: list[Any], alike: bool) -> Any:
    if tag in ("tuple", "deque", "timedelta", "ListNode", "TreeNode"):
        items = [_normal(item, alike) for item in body]
        if tag.endswith("Node"):
            return (tag, items) if items else None  # no node at all is the empty list, the empty tree
        return items if alike and tag == "tuple" else (tag, items)
    if tag in ("set", "frozenset", "keys"):
        # A set of texts, whose hashes are salted by Python: nobody can make them collide on purpose.
        return "set", sorted({_text(_normal(item, alike)) for item in body})
    if tag == "dict" and all(isinstance(pair, list) and len(pair) == 2 for pair in body):
        values = {_text(_normal(key, alike)): _normal(value, alike) for key, value in body}
        return "dict", [list(item) for item in sorted(values.items(), key=lambda item: item[0])]
    raise NotPlainError("equal to nothing")


def _plain_number(value: Any) -> Any:
    """An integer where the value is whole, else a float where that is exact, else a fraction."""
    if isinstance(value, complex):
        if not value.imag:
            return _plain_number(value.real)
        return "complex", _plain_number(value.real), _plain_number(value.imag)
    if value != value:
        raise NotPlainError("nan is equal to nothing")
    if isinstance(value, int):
        return int(value)
    if value in (float("inf"), float("-inf")):
        return float(value)
    if isinstance(value, Decimal) and abs(value.adjusted()) > _MAX_EXPONENT:
        raise NotPlainError("too large to be compared")
    # Through a fraction, since Python compares int, float, Decimal and Fraction by their exact values.
    exact = Fraction(value)
    if exact.denominator == 1:
        return exact.numerator
    return float(exact) if isinstance(value, float) or Fraction(float(exact)) == exact else exact


def _text(value: Any) -> str:
    """A normal form as text, different for different forms: strings carry their length, so none imitates a list."""
    if isinstance(value, list | tuple):
        inner = ",".join(map(_text, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return f"s{len(value)}:{value}" if isinstance(value, str) else f"i{value:x}" if type(value) is int else repr(value)


def _close(ours: Any, theirs: Any, tolerance: float, at_most: bool) -> bool:
    if isinstance(ours, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(
            _close(a, b, tolerance, at_most) for a, b in zip(ours, theirs, strict=True)
        )  # fmt: skip
    if ours == theirs or not isinstance(ours, int | float | Fraction) or not isinstance(theirs, int | float | Fraction):
        return bool(ours == theirs)
    try:
        difference = abs(theirs - ours)
    except OverflowError:  # an integer that no float can hold
        return False
    return difference <= tolerance if at_most else difference < tolerance


def show(node: Any, limit: int) -> str:
    """A node as Python would print its value, at most about ``limit`` characters, for feedback to a policy."""
    if _size(node, 4 * limit) > 4 * limit:
        return "<a very large value>"
    try:
        text = _shown(node)
    except (NotPlainError, RecursionError):
        text = "<no plain value>"
    return text if len(text) <= limit else f"{text[:limit]}... ({counted(len(text), 'character')})"


_BRACKETS = {"set": "{%s}", "frozenset": "frozenset({%s})", "deque": "deque([%s])", "iter": "iter([%s])",
             "ListNode": "ListNode([%s])", "TreeNode": "TreeNode([%s])"}  # fmt: skip


def _shown(node: Any) -> str:
    """Written from the node itself: a set that is built of it may take for ever."""
    if isinstance(node, list):
        return f"[{', '.join(map(_shown, node))}]"
    if not isinstance(node, dict) or len(node) != 1:
        return repr(node)
    ((tag, body),) = node.items()
    if isinstance(body, list) and tag == "tuple":
        return f"({_shown(body[0])},)" if len(body) == 1 else f"({', '.join(map(_shown, body))})"
    if isinstance(body, list) and tag == "dict" and all(isinstance(pair, list) and len(pair) == 2 for pair in body):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(value)}" for key, value in body) + "}"
    if isinstance(body, list) and tag in _BRACKETS:
        return _BRACKETS[tag] % ", ".join(map(_shown, body)) if body or "[" in _BRACKETS[tag] else f"{tag}()"
    return repr(decode(node))


def _size(node: Any, limit: int) -> int:
    """Characters and items of a node, counted no further than just past ``limit``."""
    total, stack = 0, [node]
    while stack and total <= limit:
        item = stack.pop()
        total += len(item) if isinstance(item, str) else 1
        if isinstance(item, list):
            # No more than is counted: a list of millions is not copied.
            stack += item[:limit]
        elif isinstance(item, dict):
            stack += item.values()
    return total
