"""The worker behind :mod:`rewards.math`: it compares an answer with a gold by math-verify.

The time-outs of math-verify are switched off, because they rely on SIGALRM, which cannot interrupt a C call; the pool
kills the worker instead. math-verify is configured to parse formulas only. By default it would extract a number from
prose and read a trailing ``t`` as tons.
"""

from functools import cache, lru_cache
from typing import Any

FLOAT_DIGITS = 12
"""Digits to which floats are rounded; with math-verify's default of 6, 1/2004! and 1/2006! are equal."""


def load() -> None:
    """Imports sympy and the grammar and compares once, so that the first answer does not wait 1.5 s for it."""
    answer({"gold": "\\tan x", "answer": "\\frac{\\sin x}{\\cos x}+\\sqrt{y}"})


def answer(request: dict[str, str]) -> dict[str, bool]:
    """Whether the gold could be parsed, and whether the answer equals the gold."""
    from math_verify import verify

    # Only golds are cached: a gold comes again with every sample, whereas an answer hardly ever does.
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

    # In a box, because without one math-verify searches the text for anything that looks like an answer.
    found = parse(f"\\boxed{{{text}}}", _config(), fallback_mode="no_fallback", parsing_timeout=0)
    # math-verify returns a string for text that it cannot parse.
    return [] if any(isinstance(reading, str) for reading in found) else found


_parse = lru_cache(maxsize=4096)(_read)
