"""Plain data across the boundary of the sandbox, as JSON with type tags. No pickle, no marshal, no eval.

What JSON has stands for itself (``None``, booleans, short integers, finite floats, strings, lists); everything else is
an object with one key, the tag: ``{"tuple": [1, 2]}``. What has no tag is *opaque*: only the name of its type crosses.

The candidate's side encodes with the base classes' own methods, so an honest subclass of ``int`` or ``list`` arrives as
its value and a lying ``__eq__`` or ``__iter__`` does not cross. The trusted side never trusts what arrives:
:func:`matches` compares a node with the expected value without building anything larger than the expected value, so
that neither nesting nor colliding hashes of a reply can hang the supervisor.
"""

import builtins
import re
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import islice
from typing import Any

MAX_DEPTH = 100
MAX_ITEMS = 100_000
"""Items taken from an iterator before it counts as endless."""
_EXACT_JSON_INT = 2**53
_SEQUENCES: tuple[tuple[type, str], ...] = (
    (tuple, "tuple"), (list, "list"), (set, "set"), (frozenset, "frozenset"), (deque, "deque"),
)  # fmt: skip


class NotPlainError(ValueError):
    """A value or a node is no plain data, too deep, or endless."""


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
        return value if value - value == 0.0 else {"float": repr(value)}
    if depth > MAX_DEPTH:
        raise NotPlainError(f"nested deeper than {MAX_DEPTH}")
    if kind is list:
        return [encode(item, opaque, depth + 1) for item in value]
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
    if isinstance(value, Iterator) or kind.__name__ in ("dict_keys", "dict_values", "dict_items"):
        items = list(islice(value, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            raise NotPlainError(f"an iterator with more than {MAX_ITEMS} items")
        return {"iter": [encode(item, opaque, depth + 1) for item in items]}
    return {"opaque": kind.__name__[:100]} if opaque is None else opaque(value)


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
}
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
    "opaque": Opaque,
}
_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "iter": iter,
    "complex": lambda items: complex(*items),
    "range": lambda items: range(*items),
}


def decode(node: Any, reference: Callable[[Any], Any] | None = None, depth: int = 0) -> Any:
    """The value of a node. Only for nodes of bounded size, or where a hang is killed: hashes may collide on purpose.

    Args:
        node: What :func:`encode` made, or what somebody claims that it made.
        reference: Resolves ``{"ref": ...}``; ``None`` refuses references.
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
            return [decode(item, reference, depth + 1) for item in node]
        ((tag, body),) = node.items()
        if tag == "dict":
            return {decode(k, reference, depth + 1): decode(v, reference, depth + 1) for k, v in body}
        if tag in _CONTAINERS:
            return _CONTAINERS[tag]([decode(item, reference, depth + 1) for item in body])
        if tag in _DECODERS:
            return _DECODERS[tag](body)
        if tag == "type" and isinstance(kind := getattr(builtins, body), type):
            return kind
        if tag == "ref" and reference is not None:
            return reference(body)
    except (ValueError, TypeError, AttributeError, ArithmeticError, InvalidOperation) as error:
        raise NotPlainError(f"malformed node: {error}") from None
    raise NotPlainError("malformed node")


def matches(expected: Any, node: Any) -> bool:
    """Whether ``expected == decode(node)`` as Python has it, in time and memory bounded by the expected value.

    Args:
        expected: Plain data of ours.
        node: What the candidate's process sent.
    """
    if node is None or isinstance(node, bool | int | float | str):
        return not isinstance(expected, list | tuple | dict | set | frozenset | deque) and bool(expected == node)
    if isinstance(node, list):
        return isinstance(expected, list) and _all_match(expected, node)
    if not isinstance(node, dict) or len(node) != 1:
        return False
    ((tag, body),) = node.items()
    if tag in ("tuple", "deque"):
        kind = tuple if tag == "tuple" else deque
        return isinstance(expected, kind) and isinstance(body, list) and _all_match(expected, body)
    if tag in ("set", "frozenset", "dict"):
        kind = dict if tag == "dict" else (set, frozenset)
        # Lengths first: colliding hashes can then cost no more than our own value is large.
        if not isinstance(expected, kind) or not isinstance(body, list) or len(body) != len(expected):
            return False
    try:
        return bool(expected == decode(node))
    except NotPlainError:
        return False


def _all_match(expected: Any, nodes: list[Any]) -> bool:
    return len(expected) == len(nodes) and all(map(matches, expected, nodes))


def show(node: Any, limit: int) -> str:
    """A node as Python would print its value, at most about ``limit`` characters, for feedback to a policy."""
    try:
        text = repr(decode(node)) if _size(node, 4 * limit) <= 4 * limit else "<a very large value>"
    except (NotPlainError, RecursionError):
        text = "<no plain value>"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def _size(node: Any, limit: int) -> int:
    """Characters and items of a node, counted no further than just past ``limit``."""
    total, stack = 0, [node]
    while stack and total <= limit:
        item = stack.pop()
        total += len(item) if isinstance(item, str) else 1
        if isinstance(item, list):
            stack += item[:limit]
        elif isinstance(item, dict):
            stack += item.values()
    return total
