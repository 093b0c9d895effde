"""What a worker behind :mod:`rewards.math` does: math-verify's verdict on one pair.

Its time-outs are switched off here on purpose: they rest on SIGALRM, which cannot interrupt a C call. The pool kills.
"""

from functools import lru_cache
from typing import Any

FLOAT_DIGITS = 12
"""math-verify's own 6 digits call 1/2004! and 1/2006! equal."""


def load() -> None:
    """Imports sympy and the grammar, 0.7 s, once for all workers."""
    _parse_gold("\\frac{1}{2}")


def answer(request: dict[str, str]) -> dict[str, bool]:
    """Whether the gold could be read, and whether the answer equals it."""
    from math_verify import parse, verify

    gold = _parse_gold(request["gold"])
    offered = parse(f"\\boxed{{{request['answer']}}}", parsing_timeout=0)
    understood = any(not isinstance(reading, str) for reading in gold)  # a string is its way to give up
    same = understood and bool(offered) and verify(gold, offered, float_rounding=FLOAT_DIGITS, timeout_seconds=0)
    return {"gold_parsed": understood, "equal": bool(same)}


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> list[Any]:
    from math_verify import parse

    return parse(f"\\boxed{{{gold}}}", parsing_timeout=0)
