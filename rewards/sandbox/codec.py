"""Encodes plain data that crosses the boundary of the sandbox as JSON with type tags; no pickle, no marshal, no eval.

Types that JSON has are encoded as themselves (``None``, booleans, short integers, finite floats, strings, lists). Every
other type is encoded as an object with one key, the tag: ``{"tuple": [1, 2]}``. A value of a type without a tag is
*opaque*: only the name of its type is sent.

The candidate's side encodes with the methods of the base classes, so that an honest subclass of ``int`` or ``list``
arrives as its value, and an overridden ``__eq__`` or ``__iter__`` has no effect. The trusted side does not trust a
reply. :func:`matches` compares normal forms, which are built in time linear in the reply and without hashing its
numbers, so that neither deep nesting nor colliding hashes can hang the supervisor.
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
"""Bounds on items and characters: of an expected value, and of a reply beyond four times the expected value."""
# Largest exponent of a decimal that is compared, since its fraction has as many digits.
_MAX_EXPONENT = 400
MAX_ITEMS = 100_000
"""Number of items after which an iterator counts as endless."""
# Larger integers are sent as hexadecimal text: reading decimal digits takes quadratic time, and Python limits it.
_EXACT_JSON_INT = 2**53
_SEQUENCES: tuple[tuple[type, str], ...] = (
    (tuple, "tuple"), (list, "list"), (set, "set"), (frozenset, "frozenset"), (deque, "deque"),
)  # fmt: skip


class NotPlainError(ValueError):
    """Raised for a value or a node that is not plain data, is nested too deeply, or is endless."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A linked list or binary tree of the program's own node class, as in LeetCode.

    Args:
        kind: ``ListNode`` or ``TreeNode``.
        values: Values of the list in order, or of the tree level by level with ``None`` for a missing child.
    """

    kind: str
    values: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.kind}({list(self.values)!r})"


class Opaque:
    """Stands for a value that is not plain data; equal to nothing, not even to itself."""

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
        value: Any value.
        opaque: Function that makes the node of a value that is not plain data; ``None`` sends the name of its type.
        depth: Depth of nesting so far.

    Raises:
        NotPlainError: If the value is nested deeper than ``MAX_DEPTH`` or contains an endless iterator.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_EXACT_JSON_INT <= value <= _EXACT_JSON_INT else {"int": hex(value)}
    if kind is float:
        # False for inf and nan, which JSON does not have: inf - inf and nan - nan are nan.
        return value if value - value == 0.0 else {"float": repr(value)}
    if depth > MAX_DEPTH:
        raise NotPlainError(f"nested deeper than {MAX_DEPTH}")
    if kind is list:
        return [encode(item, opaque, depth + 1) for item in value]
    # ``dict.items(value)`` and ``base.__iter__(value)``, since a subclass may override the value's own methods.
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
        if isinstance(value, base):  # an instance of a subclass is sent as a plain value
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
    """Whether a value is only a stream of items: an iterator, or the values of a dictionary."""
    return isinstance(value, Iterator | type({}.values()))


def iterated(value: Any, opaque: Callable[[Any], Any] | None, depth: int = 0) -> Any:
    """The node of an iterator.

    Raises:
        NotPlainError: If the iterator has more than ``MAX_ITEMS`` items.
    """
    items = list(islice(value, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise NotPlainError(f"an iterator with more than {MAX_ITEMS} items")
    return {"iter": [encode(item, opaque, depth + 1) for item in items]}


_FUNCTIONS: dict[str, Any] = {
    function.__name__: function for function in (abs, all, any, chr, hash, len, max, min, ord, repr, round, sorted, sum)
}
"""Builtin functions that a test may pass as an argument; all of them are free of side effects."""
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
# Formats of numbers in replies, with bounded lengths, which are checked before anything is computed.
_HEX = re.compile(r"-?0x[0-9a-f]{1,40000}")
_DECIMAL = re.compile(r"-?(?:[\d.]{1,4000}(?:E[+-]?\d{1,6})?|Infinity|NaN)", re.ASCII)
_QUOTIENT = re.compile(r"-?\d{1,4000}(?:/\d{1,4000})?", re.ASCII)


def _number(pattern: re.Pattern[str], read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A decoder of numbers of bounded size; a million digits or ``Fraction("1e999999999")`` would hang this process."""

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
    """The value of a node.

    Only for nodes of bounded size, or in a process that is killed if it hangs: a malicious node may contain values
    whose hashes collide on purpose.

    Args:
        node: A node that :func:`encode` made, or that an untrusted process sent.
        hooks: Decoders by tag for nodes that only one side knows, such as ``{"ref": ...}`` and ``{"ListNode": ...}``.
        depth: Depth of nesting so far.

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
        # The node must have exactly one key; otherwise this raises ValueError, and the node is malformed.
        ((tag, body),) = node.items()
        if hooks is not None and tag in hooks:
            return hooks[tag](body)
        if tag == "dict":
            return {decode(k, hooks, depth + 1): decode(v, hooks, depth + 1) for k, v in body}
        if tag in _CONTAINERS:
            return _CONTAINERS[tag]([decode(item, hooks, depth + 1) for item in body])
        if tag in _DECODERS:
            return _DECODERS[tag](body)
        # Builtin classes such as ``int``; other builtins, such as ``__import__``, are refused.
        if tag == "type" and isinstance(kind := getattr(builtins, body), type):
            return kind
    except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise NotPlainError(f"malformed node: {error}") from None
    raise NotPlainError("malformed node")


# The functions below run on the trusted side.


def matches(
    expected: Any, node: Any, tolerance: float | None = None, at_most: bool = False, alike: bool = False
) -> bool:
    """Whether ``expected == decode(node)`` in Python; never raises, whatever the node is.

    Args:
        expected: The expected value, plain data.
        node: Node that the candidate's process sent.
        tolerance: If not ``None``, numbers may differ by less than this.
        at_most: Whether a difference of exactly ``tolerance`` is allowed too.
        alike: Whether a tuple equals a list of the same items, as in tests that come from JSON.
    """
    try:
        ours = encode(expected)
        # An equal value may have a longer encoding (tags, 1.0 for 1), but not beyond this bound. Larger nodes are not
        # compared.
        bound = 4 * _size(ours, MAX_COMPARED) + _SLACK
        if _size(node, bound) > bound:
            return False
        ours, theirs = _normal(ours, alike), _normal(node, alike)
        # Normal forms contain only lists, tuples, texts and numbers of bounded size, so == is fast and calls no __eq__
        # of the program.
        return ours == theirs if tolerance is None else _close(ours, theirs, tolerance, at_most)
    except (NotPlainError, RecursionError):
        return False


def _normal(node: Any, alike: bool) -> Any:
    """A normal form of a node, the same for equal values; unordered values become sorted lists of texts.

    Raises:
        NotPlainError: If the node is malformed, or stands for a value that equals nothing (``nan``, an object).
    """
    # True == 1 == 1.0 in Python, so these have the same form.
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
    # Two ranges are equal if they have the same items. First, second and last item decide this; all empty ranges are
    # equal.
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
            return (tag, items) if items else None  # an empty list or tree is None in the program
        return items if alike and tag == "tuple" else (tag, items)
    if tag in ("set", "frozenset", "keys"):
        # The set holds texts, whose hashes Python salts, so that no program can make them collide on purpose.
        return "set", sorted({_text(_normal(item, alike)) for item in body})
    if tag == "dict" and all(isinstance(pair, list) and len(pair) == 2 for pair in body):
        values = {_text(_normal(key, alike)): _normal(value, alike) for key, value in body}
        return "dict", [list(item) for item in sorted(values.items(), key=lambda item: item[0])]
    raise NotPlainError("equal to nothing")


def _plain_number(value: Any) -> Any:
    """A number in normal form: an integer if it is whole, else a float if that is exact, else a fraction."""
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
    # By way of a fraction, since Python compares int, float, Decimal and Fraction by their exact values.
    exact = Fraction(value)
    if exact.denominator == 1:
        return exact.numerator
    return float(exact) if isinstance(value, float) or Fraction(float(exact)) == exact else exact


def _text(value: Any) -> str:
    """A text for a normal form, different for different forms; strings carry their length, so none imitates a list."""
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
    except OverflowError:  # an integer too large for a float
        return False
    return difference <= tolerance if at_most else difference < tolerance


def show(node: Any, limit: int) -> str:
    """A node as Python would print its value, cut to about ``limit`` characters, for feedback to the policy."""
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
    """The text of a node, written without decoding containers, since hashes in a forged set may collide on purpose."""
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
    """Number of characters and items in a node; counting stops after ``limit`` is exceeded."""
    total, stack = 0, [node]
    while stack and total <= limit:
        item = stack.pop()
        total += len(item) if isinstance(item, str) else 1
        if isinstance(item, list):
            # Only as many items as can be counted, so that a list of millions is not copied.
            stack += item[:limit]
        elif isinstance(item, dict):
            stack += item.values()
    return total
