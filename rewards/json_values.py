"""Finds the JSON value that a response states, and compares JSON values exactly."""

import json
import re
from contextlib import suppress
from decimal import Decimal
from typing import Any

from rewards.answers import without_drafts

# A code block: its language, which may stand in front of the content, and its content. The marks are of bounded length,
# so that matching stays fast on a long row of them.
_BLOCK = re.compile(r"(`{3,6}|~{3,6})[ \t]*([A-Za-z][\w+-]*(?=[\s{\[\"])|)(.*?)\1", re.DOTALL)
MAX_STARTS = 1000
"""Brackets in prose at which a value is looked for; a response with more of them states none."""


class RepeatedKeyError(ValueError):
    """An object has a key twice, so that it could state two answers."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise RepeatedKeyError("an object has a key twice")
    return found


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ValueError(f"the exponent of {text[:40]} is too large") from None


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_decimal)


def parse_json(text: str) -> Any:
    """The JSON value of a text; numbers with a decimal point are exact, of type :class:`decimal.Decimal`.

    Raises:
        ValueError: If the text is not JSON; :class:`RepeatedKeyError` if an object has a key twice.
    """
    try:
        return _DECODER.decode(text.strip())
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def stated_values(response: str, gold: Any) -> list[Any]:
    """The JSON values that a response states; several different ones are a hedge.

    The response is JSON as a whole; or its last code block is JSON, where blocks marked ``json`` come first; or its
    prose contains values of the gold's kind, an object or a list.

    Raises:
        RepeatedKeyError: If an object has a key twice.
    """
    text = without_drafts(response)
    blocks = [(language.lower(), content) for _, language, content in _BLOCK.findall(text)]
    marked = [content for language, content in blocks if language.startswith("json")]
    unmarked = [content for language, content in blocks if not language]
    for whole in (text, *(marked or unmarked)[-1:]):
        try:
            return [parse_json(whole)]
        except RepeatedKeyError:
            raise
        except ValueError:
            pass
    return [] if marked or not isinstance(gold, dict | list) else _in_prose(_BLOCK.sub(" ", text), type(gold))


def _in_prose(text: str, kind: type) -> list[Any]:
    """The outermost objects and lists in a text that are of the given type, each once."""
    found: list[Any] = []
    end = 0
    starts = [match.start() for match in re.finditer(r"[{\[]", text)]
    for start in starts if len(starts) <= MAX_STARTS else ():
        if start < end:
            continue
        with suppress(json.JSONDecodeError, RecursionError):
            value, end = _DECODER.raw_decode(text, start)
            if isinstance(value, kind) and not any(same_json(value, other) for other in found):
                found.append(value)
    return found


def same_json(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 equals 1.0, but not true."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def json_text(value: Any) -> str:
    """A JSON value as text, whatever the order of its keys; other values, as of a Parquet file, as their text."""

    def plain(other: Any) -> Any:
        return (
            float(other) if isinstance(other, Decimal) else other.decode() if isinstance(other, bytes) else str(other)
        )

    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=plain)
