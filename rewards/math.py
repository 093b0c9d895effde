r"""Is this answer equal to the gold?

In order, each step only where the ones before could not decide: equal strings in normal notation; exact numbers; exact
values of any kind that :mod:`rewards.values` reads (radicals, polynomials, tuples, sets, intervals, matrices,
equations, inequalities, words); guards; and last math-verify (sympy), in a worker that is killed at its deadline.

What it holds to:

- A decimal equals a fraction only if it does so exactly: 0.33 is not 1/3.
- A gold that is a plain number wants a plain number: ``2+2`` is not an answer of 4, it is the question.
- Kinds differ: a point is no set, ``[1,2)`` no ``[1,2]``, ``12_7`` neither ``12_8`` nor 12.
- A unit may be left out or added, but not be another one. ``50\%`` is 50 and is 1/2; ``0.5\%`` is not 0.5.
- Several different values offered as final are ``ambiguous``, in one box or in several, unless the gold is a list of
  just those values.

Not covered: whether an expression has the *form* that a task asks for (factored, expanded, simplified). A task whose
question already holds an expression equal to its gold can be answered by copying it: leave such tasks out.
"""

import os
import re
import threading
from collections.abc import Collection
from collections.abc import Sequence as Sequence_
from concurrent.futures import Future
from functools import lru_cache

from rewards.algebra import UndecidedError, limited_work
from rewards.answers import REASONING, candidates
from rewards.equality import equal
from rewards.kinds import Expression, Hedge, Sequence, UnevaluatedError, Value, Words
from rewards.notation import MAX_ANSWER_CHARS, normalise, notate, words_in
from rewards.pool import Reply, shared_pool
from rewards.score import Score, Verdict
from rewards.values import choice, fold, literal, read

MAX_DIGIT_RUN = 400
DEADLINE_S = 3.0
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGIT_RUN},}}")
_UNFINISHED = re.compile(r"\\(?:sum|prod|int|lim|binom|tbinom|dbinom|iint|oint)(?![a-z])|!(?!=)|\\choose")
_TOWER = re.compile(r"\^\s*\{?[^{}+\-=,]*\^|\^\s*\{?\s*-?\d{4,}")
_BIG_FACTORIAL = re.compile(r"\d{3,}[)}]*!(?!=)")
"""sympy compares what it cannot simplify in floating point, where the inverses of all of these are 0."""
_CACHE = 65536


def score_math(
    response: str,
    gold: str,
    form: str | Sequence_[str] = "boxed",
    deadline_s: float = DEADLINE_S,
    reasoning: Sequence_[tuple[str, str]] = REASONING,
) -> Score:
    r"""Grades the final answer of a response against the gold.

    Args:
        response: What the policy wrote.
        gold: The right answer, as LaTeX or plain text, without ``\boxed``.
        form: Where the task accepts an answer: a name of :data:`rewards.answers.ANSWER_FORMS`, or several in order.
        deadline_s: Seconds after which a comparison is killed and graded ``timeout``.
        reasoning: Marks around what is a draft.

    Returns:
        A score of 1 or 0, with the rule that decided as its reason. ``error`` only for what the response did not cause:
        a gold that nothing understands, a worker that cannot start.
    """
    return submit_math(response, gold, form, deadline_s, reasoning).result()


def submit_math(
    response: str,
    gold: str,
    form: str | Sequence_[str] = "boxed",
    deadline_s: float = DEADLINE_S,
    reasoning: Sequence_[tuple[str, str]] = REASONING,
) -> "Future[Score]":
    """The same without waiting for sympy: ``asyncio.wrap_future`` makes the result awaitable."""
    limit = _longest(gold)
    offered = _different([answer[: limit + 1] for answer in candidates(response, form, reasoning)])
    if not offered:
        return _done(Score(0.0, Verdict.NO_ANSWER, None, "no_answer"))
    if len(offered) > 1:
        joined = ", ".join(offered)
        if len(offered) <= 10 and decide(joined, gold)[0] is True:  # the values of a list, each in a box of its own
            return _done(Score.of(True, canonical(joined), "list"))
        return _done(Score(0.0, Verdict.AMBIGUOUS, canonical(offered[-1]), "hedged"))
    return submit_answer(offered[0], gold, deadline_s)


def score_answer(answer: str, gold: str, deadline_s: float = DEADLINE_S) -> Score:
    """Grades an answer that is extracted already; see :func:`score_math`."""
    return submit_answer(answer, gold, deadline_s).result()


def submit_answer(answer: str, gold: str, deadline_s: float = DEADLINE_S) -> "Future[Score]":
    """:func:`score_answer` without waiting for sympy."""
    if not normalise(gold):
        return _done(Score(0.0, Verdict.ERROR, None, "gold_empty"))
    equal_, reason = decide(answer, gold)
    shown = canonical(answer[:MAX_ANSWER_CHARS])
    if reason == "hedged":
        return _done(Score(0.0, Verdict.AMBIGUOUS, shown, reason))
    if equal_ is not None:
        return _done(Score.of(equal_, shown, reason))
    return _submit_slowly(answer, gold, shown, deadline_s)


def unreadable(golds: Collection[str], deadline_s: float = DEADLINE_S) -> list[str]:
    """Golds that neither this module nor math-verify reads: an answer other than the same text is ``error``."""
    doubtful = [gold for gold in dict.fromkeys(golds) if _read(gold) is None and not words_in(notate(gold).text)]
    asked = [(gold, submit_answer("0", gold, deadline_s)) for gold in doubtful]
    return [gold for gold, score in asked if score.result().verdict is Verdict.ERROR]


def _different(offered: list[str]) -> list[str]:
    """Offered answers without repetitions of a value, in order."""
    kept: list[str] = []
    for answer in dict.fromkeys(offered):
        if not any(_same(answer, other) for other in kept):
            kept.append(answer)
        if len(kept) > 10:
            break
    return kept


@limited_work()
def _same(left: str, right: str) -> bool:
    if normalise(left) == normalise(right):
        return True
    value = _read(left)
    other = _read(right)
    try:
        return value is not None and other is not None and equal(value, other, strict=False) is True
    except (UndecidedError, ArithmeticError, ValueError, RecursionError):
        return False


def _longest(gold: str) -> int:
    """Characters of the longest answer that is read at all."""
    return max(MAX_ANSWER_CHARS, 2 * len(gold))


def decide(answer: str, gold: str) -> tuple[bool | None, str]:
    """The verdict without sympy: equal, different, or ``None``; and the rule that decided. Cached, thread-safe."""
    return (False, "guard") if len(answer) > _longest(gold) else _decide(answer, gold)


@lru_cache(maxsize=_CACHE)
@limited_work()
def _decide(answer: str, gold: str) -> tuple[bool | None, str]:
    if normalise(answer) == normalise(gold):
        return True, "exact"
    if not normalise(answer):
        return False, "empty"
    ours, theirs = notate(answer), notate(gold)
    if ours.known_unit and theirs.known_unit and ours.unit != theirs.unit and "%" not in (ours.unit, theirs.unit):
        return False, "unit"
    if (same := _numbers(answer, gold)) is not None:
        return same, "rational"
    return _by_kind(answer, gold)


def _numbers(answer: str, gold: str) -> bool | None:
    ours, theirs = notate(answer), notate(gold)
    if "%" in (ours.unit, theirs.unit):
        return None
    right = literal(theirs.text)
    left = literal(ours.text) if right is not None else None
    return None if left is None else left == right


def _by_kind(answer: str, gold: str) -> tuple[bool | None, str]:
    theirs = _read(gold)
    letter = choice(normalise(gold))
    if letter is not None and (letter_of_answer := choice(normalise(answer))) is not None:
        return letter == letter_of_answer, "choice"
    if isinstance(theirs, Words) and fold(normalise(answer)) == theirs.text:
        return True, "words"
    ours = _read(answer)
    try:
        if isinstance(ours, Hedge) and not (theirs is not None and equal(theirs, ours) is True):
            return False, "hedged"
        if theirs is not None and ours is not None:
            same = equal(theirs, ours)
            if same is not None:
                return same, "structure" if type(ours) is not type(theirs) else "exact_value"
    except UnevaluatedError:
        return False, "unevaluated"
    except (UndecidedError, ArithmeticError, ValueError, RecursionError):
        pass
    return _guarded(answer, gold)


@lru_cache(maxsize=_CACHE)
@limited_work()
def _read(text: str) -> Value | None:
    if len(text) > 2 * MAX_ANSWER_CHARS or _LONG_NUMBER.search(text):
        return None
    try:
        return read(text)
    except (UndecidedError, ArithmeticError, ValueError, RecursionError):
        return None


def _guarded(answer: str, gold: str) -> tuple[bool | None, str]:
    """What must not reach sympy: text, which it would grade by its last number; work that is not done; towers."""
    ours, theirs = notate(answer).text, notate(gold).text
    if words_in(theirs):
        return fold(ours) == fold(theirs), "words"
    if words_in(ours):
        return False, "words"
    if _LONG_NUMBER.search(ours) or _BIG_FACTORIAL.search(ours) or (_TOWER.search(ours) and not _TOWER.search(theirs)):
        return False, "guard"
    if _UNFINISHED.search(ours) and not _UNFINISHED.search(theirs):
        return False, "unfinished"
    if not re.search(r"[\w\\]", ours):
        return False, "empty"
    right = _read(gold)
    if isinstance(right, Expression) and right.literal and right.value.rational is not None:
        # The answer is no number in plain sight: whatever it comes to, it is not worked out.
        return False, "unevaluated"
    return None, ""


@lru_cache(maxsize=_CACHE)
def canonical(answer: str) -> str:
    """A text that is the same for answers that say the same, where that can be known without sympy."""
    value = _read(answer)
    if isinstance(value, Expression) and value.value.rational is not None:
        return str(value.value.rational) + ("%" if value.percent else "")
    if isinstance(value, Sequence) and all(isinstance(item, Expression) for item in value.items):
        items = [canonical_value(item) for item in value.items]
        if value.brackets in ("", "{}"):
            items.sort()
        left, right = (value.brackets[:1], value.brackets[1:]) if value.brackets else ("", "")
        return left + ", ".join(items) + right
    if isinstance(value, Expression):
        return value.value.name()
    return normalise(answer)[:MAX_ANSWER_CHARS]


def canonical_value(value: Value) -> str:
    """The normal form of an expression as text."""
    if not isinstance(value, Expression):
        return repr(value)
    return str(value.value.rational) if value.value.rational is not None else value.value.name()


# The slow path.

_lock = threading.Lock()
_known: dict[tuple[str, str], Score] = {}
_under_way: "dict[tuple[str, str], Future[Score]]" = {}
"""Samples of one task repeat each other: the same pair is in a worker once."""


def _forget() -> None:
    """In a forked child nobody answers what the parent asked."""
    global _lock
    _lock = threading.Lock()
    _known.clear()
    _under_way.clear()


os.register_at_fork(after_in_child=_forget)


def _done(score: Score) -> "Future[Score]":
    future: Future[Score] = Future()
    future.set_result(score)
    return future


def _submit_slowly(answer: str, gold: str, shown: str, deadline_s: float) -> "Future[Score]":
    pair = (answer, gold)
    with _lock:
        if pair in _known:
            return _done(_known[pair])
        if pair in _under_way:
            return _under_way[pair]
        future = _under_way[pair] = Future()

    def settle(score: Score) -> None:
        with _lock:
            _under_way.pop(pair, None)
            if score.verdict in (Verdict.CORRECT, Verdict.WRONG):
                if len(_known) >= _CACHE:
                    _known.clear()
                _known[pair] = score
        future.set_result(score)

    def replied(reply: "Future[Reply]") -> None:
        error = reply.exception()  # no worker could be started: our failure, masked and counted
        settle(Score(0.0, Verdict.ERROR, shown, f"pool: {error}") if error else _judge(reply.result(), shown))

    try:
        shared_pool("rewards.math_worker").submit({"gold": gold, "answer": answer}, deadline_s).add_done_callback(
            replied
        )
    except RuntimeError as error:
        settle(Score(0.0, Verdict.ERROR, shown, f"pool: {error}"))
    return future


def _judge(reply: Reply, shown: str) -> Score:
    if reply.status == "timeout":
        return Score(0.0, Verdict.TIMEOUT, shown, "timeout")
    if reply.status == "crash":
        # The worker was fine until it met this answer (memory limit, deep recursion): the response caused it.
        return Score.of(False, shown, "crash")
    if not reply.value["gold_parsed"]:
        return Score(0.0, Verdict.ERROR, shown, "gold_unparsable")
    return Score.of(bool(reply.value["equal"]), shown, "math_verify")
