r"""Is this answer equal to the gold?

Three steps, each only where the one before could not decide: equal strings after normalisation, exact rational
arithmetic, and math-verify (sympy) in a killable worker process. A decimal equals a fraction only if it does so
exactly: 0.33 is not 1/3.

Not covered by the first two steps, so left to math-verify: roots, symbols, sets, intervals, matrices, equations.
"""

import atexit
import re
from fractions import Fraction
from functools import lru_cache

from rewards.answers import AnswerForm, candidates
from rewards.pool import WorkerPool
from rewards.score import Score, Verdict

MAX_ANSWER_CHARS = 600
"""Longer answers are refused unread: no gold is that long, and parsing megabytes is an attack."""
MAX_DIGIT_RUN = 400
DEADLINE_S = 3.0

_REPLACEMENTS = (
    ("\u2212", "-"), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", ""), ("\\!", ""),
    ("\\,", ""), ("\\;", ""), ("\\ ", " "), ("\\$", ""), ("$", ""), ("\u00a0", " "),
)  # fmt: skip
_DECIMAL = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?|[+-]?\.\d+")
_LATEX_FRACTION = re.compile(r"([+-]?)\\frac\s*\{([+-]?\d+)\}\s*\{([+-]?\d+)\}|([+-]?)\\frac(\d)(\d)")
_PLAIN_FRACTION = re.compile(r"([+-]?\d+)\s*/\s*([+-]?\d+)")
_HOSTILE = re.compile(r"\^\s*\{?[^{}]*\^|!\s*\)?\s*!|\d{5,}\s*!|\\(?:sum|prod|int)\b")


@lru_cache(maxsize=65536)
def normalise(answer: str) -> str:
    """The answer without what LaTeX writers vary freely: spacing, delimiter sizes, dollars, a trailing full stop."""
    for old, new in _REPLACEMENTS:
        answer = answer.replace(old, new)
    return re.sub(r"\s+", " ", answer).strip().rstrip(".").strip()


@lru_cache(maxsize=65536)
def as_rational(answer: str) -> Fraction | None:
    """The exact value of an integer, decimal, ``a/b`` or ``\\frac{a}{b}``; ``None`` for anything else."""
    text = normalise(answer)
    if len(text) > MAX_DIGIT_RUN:
        return None
    if _DECIMAL.fullmatch(text):
        return Fraction(text.replace(",", ""))
    if match := _PLAIN_FRACTION.fullmatch(text):
        numerator, denominator = int(match[1]), int(match[2])
    elif match := _LATEX_FRACTION.fullmatch(text):
        sign, groups = (match[1], match.group(2, 3)) if match[2] else (match[4], match.group(5, 6))
        numerator, denominator = int(groups[0]) * (-1 if sign == "-" else 1), int(groups[1])
    else:
        return None
    return Fraction(numerator, denominator) if denominator else None


def score_math(
    response: str,
    gold: str,
    form: AnswerForm = AnswerForm.BOXED,
    deadline_s: float = DEADLINE_S,
) -> Score:
    r"""Grades the final answer of a response against the gold.

    Args:
        response: What the policy wrote.
        gold: The right answer, as LaTeX or plain text, without ``\boxed``.
        form: Where the task accepts an answer.
        deadline_s: Seconds after which a comparison is killed and graded ``timeout``.

    Returns:
        A score of 1 or 0. Different values offered in separate places are ``ambiguous``.
    """
    offered = list(dict.fromkeys(normalise(value) for value in candidates(response, form)))
    if not offered:
        return Score(0.0, Verdict.NO_ANSWER, None, "no_answer")
    answer = offered[-1]
    if len(offered) > 1 and not all(_same_fast(value, answer) for value in offered):
        return Score(0.0, Verdict.AMBIGUOUS, answer, "hedged")
    return _grade(answer, gold, deadline_s)


def _same_fast(left: str, right: str) -> bool:
    rational = as_rational(left)
    return left == right or (rational is not None and rational == as_rational(right))


def _grade(answer: str, gold: str, deadline_s: float) -> Score:
    ours = as_rational(answer)
    canonical = answer if ours is None else str(ours)
    if answer == normalise(gold):
        return Score.of(True, canonical, "exact")
    if ours is not None and (theirs := as_rational(gold)) is not None:
        return Score.of(ours == theirs, canonical, "rational")
    if len(answer) > MAX_ANSWER_CHARS or re.search(rf"\d{{{MAX_DIGIT_RUN},}}", answer):
        return Score.of(False, answer[:MAX_ANSWER_CHARS], "guard")
    if _HOSTILE.search(answer) and not _HOSTILE.search(gold):
        return Score.of(False, answer, "guard")
    return _grade_slowly(answer, gold, deadline_s)


def _grade_slowly(answer: str, gold: str, deadline_s: float) -> Score:
    reply = _pool().call({"gold": gold, "answer": answer}, deadline_s=deadline_s)
    if reply.status == "timeout":
        return Score(0.0, Verdict.TIMEOUT, answer, "timeout")
    if reply.status == "crash":
        # The worker was fine until it met this answer (memory limit, deep recursion): the response caused it.
        return Score.of(False, answer, "crash")
    if not reply.value["gold_parsed"]:
        return Score(0.0, Verdict.ERROR, answer, "gold_unparsable")
    return Score.of(bool(reply.value["equal"]), answer, "math_verify")


@lru_cache(maxsize=1)
def _pool() -> WorkerPool:
    """Started on first use, so that importing this module costs nothing and tasks with plain numbers never pay."""
    pool = WorkerPool("rewards.math_worker", n_workers=1)
    atexit.register(pool.close)
    return pool
