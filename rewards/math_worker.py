"""What a worker behind :mod:`rewards.math` does: math-verify's verdict on one pair.

Its time-outs are switched off here on purpose: they rest on SIGALRM, which cannot interrupt a C call. The pool kills.
It reads formulas only: left to itself it would take the number within a text, and a trailing ``t`` for tons.
"""

from functools import cache, lru_cache
from typing import Any

FLOAT_DIGITS = 12
"""math-verify's own 6 digits call 1/2004! and 1/2006! equal."""


def load() -> None:
    """Imports sympy and the grammar, and compares once: 1.5 s that no first answer waits for."""
    answer({"gold": "\\tan x", "answer": "\\frac{\\sin x}{\\cos x}+\\sqrt{y}"})


def answer(request: dict[str, str]) -> dict[str, bool]:
    """Whether the gold could be read, and whether the answer equals it."""
    from math_verify import verify

    # Only golds are cached: they come again with every sample, the same answer hardly ever.
    gold, offered = _parse(request["gold"]), _read(request["answer"])
    same = bool(gold and offered) and verify(gold, offered, float_rounding=FLOAT_DIGITS, timeout_seconds=0)
    return {"gold_parsed": bool(gold), "equal": bool(same)}


@cache
def _config() -> Any:
    from latex2sympy2_extended.math_normalization import NormalizationConfig
    from math_verify import LatexExtractionConfig

    normalization = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="all")
    return [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)]


def _read(text: str) -> list[Any]:
    from math_verify import parse

    # In a box, since outside of one math-verify searches the text for whatever looks like an answer.
    found = parse(f"\\boxed{{{text}}}", _config(), fallback_mode="no_fallback", parsing_timeout=0)
    return [] if any(isinstance(reading, str) for reading in found) else found  # text is its way to give up


_parse = lru_cache(maxsize=4096)(_read)
