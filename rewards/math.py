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
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b

from rewards.algebra import TooMuchWorkError, UndecidedError, limited_work
from rewards.answers import REASONING, candidates
from rewards.equality import UnevaluatedError, equal, identity
from rewards.kinds import Expression, Family, Hedge, Label, Region, Value
from rewards.notation import (
    LONGEST_READ,
    MAX_ANSWER_CHARS,
    WORDS,
    Notation,
    as_latex,
    normalise,
    notate,
    unit_name,
    words_in,
)
from rewards.pool import Reply, shared_pool
from rewards.score import Score, Verdict
from rewards.values import fold, literal, read

# An answer with more digits in a row, or more LaTeX commands, than any gold has is no answer but an attack on the
# grader's time: sympy would convert or factor it for seconds. It is graded wrong unread.
MAX_DIGIT_RUN, MAX_COMMANDS = 400, 60
# A response that offers more different values than this lists no solutions, it guesses. The bound also keeps the
# pairwise comparison of what is offered, which is quadratic, short.
MAX_OFFERED = 10
DEADLINE_S = 3.0
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGIT_RUN},}}")
# What says how to get the value and not what it is: a sum, a limit, a factorial. sympy would do that work and pay for
# it. ``!(?!=)`` leaves ``!=`` alone.
_UNFINISHED = re.compile(r"\\(?:sum|prod|int|lim|binom|tbinom|dbinom|iint|oint)(?![a-z])|!(?!=)|\\choose")
# ``9^{9^9}`` and ``2^{99999999}``: sympy works out integer powers exactly, whatever memory the digits need.
_TOWER = re.compile(r"\^\s*\{?[^{}+\-=,]*\^|\^\s*\{?\s*-?\d{4,}")
_BIG_FACTORIAL = re.compile(r"\d{3,}[)}]*!(?!=)")
"""sympy compares what it cannot simplify in floating point, where the inverses of all of these are 0."""
# ``(B)``, ``B``, ``(B) 7``, ``B. 7``. A second letter in the text behind it (``A (not B)``) makes it no choice.
_CHOICE = re.compile(r"(?:\(? ?([A-J]) ?\)?|\( ?([A-J]) ?\)(.+)|([A-J])[.:)](.+))")
_OTHER_CHOICE = re.compile(r"(?<![a-zA-Z\\])[A-J](?![a-zA-Z])")
_LETTER = re.compile(r"(.*\S) ?([a-zA-Z](?:\^\{?[23]\}?)?)")
_CACHE = 65536
_FAILURES = (UndecidedError, ArithmeticError, ValueError, RecursionError)


def score_math(
    response: str,
    gold: str,
    form: str | Sequence[str] = "boxed",
    deadline_s: float = DEADLINE_S,
    reasoning: Sequence[tuple[str, str]] = REASONING,
) -> Score:
    r"""Grades the final answer of a response against the gold.

    Args:
        response: What the policy wrote.
        gold: The right answer, as LaTeX or plain text, without ``\boxed``.
        form: Where the task accepts an answer: a name of :data:`rewards.answers.ANSWER_FORMS`, or several in order.
        deadline_s: Processor seconds after which a comparison is killed and graded ``timeout``.
        reasoning: Marks around what is a draft.

    Returns:
        A score of 1 or 0, with the rule that decided as its reason. ``error`` only for what the response did not cause:
        a gold that nothing understands, a worker that cannot start.

    Raises:
        TypeError: If response or gold is no text.
        UnknownNameError: If there is no such form.
    """
    return submit_math(response, gold, form, deadline_s, reasoning).result()


def submit_math(
    response: str,
    gold: str,
    form: str | Sequence[str] = "boxed",
    deadline_s: float = DEADLINE_S,
    reasoning: Sequence[tuple[str, str]] = REASONING,
) -> "Future[Score]":
    """The same without waiting for sympy: ``asyncio.wrap_future`` makes the result awaitable."""
    longest = _longest(gold)  # a gold that is no text is refused whatever the response offers
    offered = [_short(answer, longest) for answer in candidates(response, form, reasoning)]
    # Before the budget begins, so that the response is not charged for what its gold costs. From here on it is cached.
    _read(gold)
    # One budget for the whole response: many boxes, each of them just affordable, must not add up to minutes.
    with limited_work():
        try:
            offered = _different(offered)
            if len(offered) > 1:
                # Several values are a hedge (AMBIGUOUS), unless the gold is a list of just these: some models put each
                # solution of an equation into a box of its own.
                joined = ", ".join(offered)
                whole = len(offered) <= MAX_OFFERED and decide(joined, gold)[0] is True
                verdict, answer, reason = (
                    (Verdict.CORRECT, joined, "list") if whole else (Verdict.AMBIGUOUS, offered[-1], "hedged")
                )
                return _done(_score(verdict, answer, reason))
        except TooMuchWorkError:
            return _done(_score(Verdict.TIMEOUT, offered[-1], "work"))
        return (
            submit_answer(offered[0], gold, deadline_s)
            if offered
            else _done(_score(Verdict.NO_ANSWER, "", "no_answer"))
        )


def score_answer(answer: str, gold: str, deadline_s: float = DEADLINE_S) -> Score:
    """Grades an answer that is extracted already; see :func:`score_math`."""
    return submit_answer(answer, gold, deadline_s).result()


def submit_answer(answer: str, gold: str, deadline_s: float = DEADLINE_S) -> "Future[Score]":
    """:func:`score_answer` without waiting for sympy."""
    # Every empty answer would equal an empty gold. That is a fault of the data, not of the response.
    if not normalise(gold):
        return _done(_score(Verdict.ERROR, "", "gold_empty"))
    with limited_work():
        same, reason = decide(answer, gold)
        if reason in ("hedged", "work"):
            return _done(_score(Verdict.AMBIGUOUS if reason == "hedged" else Verdict.TIMEOUT, answer, reason))
        if same is not None:
            return _done(_score(Verdict.CORRECT if same else Verdict.WRONG, answer, reason))
        return _submit_slowly(answer, gold, deadline_s)


def unreadable(golds: Collection[str], deadline_s: float = DEADLINE_S) -> list[str]:
    """Golds that neither this module nor math-verify reads: an answer other than the same text is ``error``."""
    # Only golds that neither this module nor the words among them explain are tried. "x" is equal to none of them, so
    # math-verify has to parse the gold in order to say no.
    doubtful = [gold for gold in dict.fromkeys(golds) if _read(gold) is None and not words_in(notate(gold).text)]
    asked = [(gold, submit_answer("x", gold, deadline_s)) for gold in doubtful]
    return [gold for gold, score in asked if score.result().verdict is Verdict.ERROR]


def _score(verdict: Verdict, answer: str, reason: str) -> Score:
    """A score with the answer as it is read, and the key by which two answers are the same."""
    if not answer:
        return Score(0.0, verdict, None, reason)
    readable, key = _shown(answer)
    return Score(float(verdict is Verdict.CORRECT), verdict, readable, reason, key=key)


@lru_cache(maxsize=_CACHE)
def _shown(answer: str) -> tuple[str, str]:
    """An answer as LaTeX, and a key that equal answers share, as far as that is known without sympy."""
    readable = key = answer
    with limited_work(), suppress(*_FAILURES, TooMuchWorkError):
        readable = key = as_latex(notate(answer).text)
        key = readable if (value := _read(answer)) is None else identity(value)
    return readable[:MAX_ANSWER_CHARS], _short(key, MAX_ANSWER_CHARS)


def _short(text: str, longest: int) -> str:
    """A text, or the beginning of one that is longer with a digest of it all, so that different ones stay different.

    A megabyte in a box is not copied about any further; and what was cut is still longer than ``longest``.
    """
    if len(text) <= longest:
        return text
    return text[:longest] + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _different(offered: list[str]) -> list[str]:
    """Offered answers without repetitions of a value, in order."""
    kept: list[str] = []
    for answer in dict.fromkeys(offered):
        # ``\boxed{14/2} ... \boxed{7}`` repeats one value and is no hedge.
        if not any(_same(answer, other) for other in kept):
            kept.append(answer)
        if len(kept) > MAX_OFFERED:
            break
    return kept


def _same(left: str, right: str) -> bool:
    if normalise(left) == normalise(right):
        return True
    value, other = _read(left), _read(right)
    try:
        # Not strict: both are the policy's, so a calculation beside its result offers one value, not two.
        return value is not None and other is not None and equal(value, other, strict=False)
    except _FAILURES:
        return False


def _longest(gold: str) -> int:
    """Characters of the longest answer that is read at all."""
    if not isinstance(gold, str):
        raise TypeError(f"a gold must be text, got {gold!r}: write it as a string")
    return max(MAX_ANSWER_CHARS, 2 * len(gold))


def decide(answer: str, gold: str) -> tuple[bool | None, str]:
    """The verdict without sympy: equal, different, or ``None``; and the rule that decided. Cached, thread-safe."""
    if len(answer) > _longest(gold):
        return False, "guard"
    with limited_work():
        try:
            return _decide(answer, gold)
        except TooMuchWorkError:
            return False, "work"


@lru_cache(maxsize=_CACHE)
def _decide(answer: str, gold: str) -> tuple[bool | None, str]:
    # The same text in normal notation.
    if normalise(answer) == normalise(gold):
        return True, "exact"
    if not normalise(answer):
        return False, "empty"
    if max(len(answer), len(gold)) > LONGEST_READ:
        return False, "long_text"

    # Units. Two that are known must agree (10 cm is not 10 m); one that only one side has may be left out or added.
    ours, theirs = (_unit_of(text) for text in (answer, gold))
    # A letter behind the value is a variable, unless it is the gold's unit: 2500 m.
    letter = _LETTER.fullmatch(ours.text) if theirs.known_unit and not ours.unit else None
    if letter and unit_name(re.sub("[{}]", "", letter[2])) == theirs.unit:
        return _decide(letter[1], gold)
    units = {ours.unit, theirs.unit}
    if ours.known_unit and theirs.known_unit and len(units) > 1:
        return False, "unit"

    # Exact numbers, for which no tree has to be built. Percent and half of the day change the value: further below.
    if not units & {"%", "am", "pm"} and (right := literal(theirs.text)) is not None:
        left = literal(ours.text)
        if left is not None:
            return left == right, "rational"

    return _by_kind(answer, gold)


def _unit_of(text: str) -> Notation:
    r"""The notation, with the unit that follows the last of equal values: ``\text{Area} = 12 \text{ cm}``."""
    whole = notate(text)
    if whole.unit or "=" not in whole.text or "," in whole.text:  # in a list each item has its own unit
        return whole
    last = notate(whole.text.rpartition("=")[2])
    return Notation(whole.text, last.unit, last.known_unit)


def _by_kind(answer: str, gold: str) -> tuple[bool | None, str]:
    # Letters of a multiple choice, "x = (A)" and "(A) 12" included.
    gold_value, value = _read(gold), _read(answer)
    letter, said = _choice(notate(gold).text), notate(answer).text
    if letter is not None and (letter_of_answer := _choice(said.rpartition("=")[2])) is not None:
        return letter == letter_of_answer, "choice"

    # A word of up to three letters may also be read as a product of variables: where one side marks it as text (the
    # gold \text{ACF}, or an answer "The answer is Bob" to the gold Bob), the letters of the other are that word.
    if isinstance(gold_value, Label) and gold_value.kind == "words" and fold(said) == gold_value.key:
        return True, "words"
    if words_in(said) and WORDS.sub(r"\1", said) == notate(gold).text:
        return True, "words"

    # Values of every other kind, if both sides are understood completely.
    try:
        if isinstance(value, Hedge) and not (gold_value is not None and equal(gold_value, value)):
            return False, "hedged"
        if gold_value is not None and value is not None:
            same = equal(gold_value, value)
            words = words_in(notate(gold).text) or words_in(said)
            return same, "words" if words else "structure" if type(value) is not type(gold_value) else "exact_value"
    except UnevaluatedError:
        return False, "unevaluated"
    except _FAILURES:
        pass  # undecided: sympy may know
    return _guarded(answer, gold)


def _choice(text: str) -> str | None:
    """The letter of a multiple-choice answer: ``(B)``, ``B.``, ``\\text{(B)} 7``; ``None`` for anything else."""
    plain = WORDS.sub(r" \1 ", text).strip()
    match = _CHOICE.fullmatch(plain)
    if not match or _OTHER_CHOICE.search(match[3] or match[5] or ""):
        return None
    return match[1] or match[2] or match[4]


@lru_cache(maxsize=_CACHE)
def _read(text: str) -> Value | None:
    if len(text) > LONGEST_READ or _LONG_NUMBER.search(text):
        return None
    try:
        return read(text)
    except _FAILURES:
        return None


def _guarded(answer: str, gold: str) -> tuple[bool | None, str]:
    """Refuses what must not reach sympy, because it would pay for it or never come back; ``None`` lets it pass."""
    ours, theirs = notate(answer).text, notate(gold).text
    # math-verify takes a number out of prose, the last entry of "2,4,...,100", and 4210 for 4210_7; and its products
    # commute, so that a x b would equal b x a.
    if (
        words_in(theirs)
        or words_in(ours)
        or "\\cross" in ours + theirs
        or "..." in ours + theirs
        or re.search(r"\d\)?_", ours + theirs)
    ):
        return False, "words"
    # Long or deep expressions and huge numbers, which a gold may hold but an answer may not bring in.
    if len(re.findall(r"\\[a-z]", ours)) > max(MAX_COMMANDS, theirs.count("\\")) or _LONG_NUMBER.search(ours):
        return False, "guard"
    if _BIG_FACTORIAL.search(ours) or (_TOWER.search(ours) and not _TOWER.search(theirs)):
        return False, "guard"
    if _UNFINISHED.search(ours) and not _UNFINISHED.search(theirs):
        return False, "unfinished"
    # Signs alone: "?", "...", a lone brace.
    if not re.search(r"[\w\\]", ours):
        return False, "empty"
    right = _read(gold)
    if isinstance(right, Expression) and right.literal:
        # The answer is no number in plain sight: whatever it comes to, it is not worked out.
        return False, "unevaluated"
    if isinstance(right, Region | Label | Family):
        return False, "structure"  # sympy has no such kinds
    return None, ""


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


def _submit_slowly(answer: str, gold: str, deadline_s: float) -> "Future[Score]":
    pair = (answer, gold)
    with _lock:
        if pair in _known:
            return _done(_known[pair])
        if pair in _under_way:
            return _under_way[pair]
        future = _under_way[pair] = Future()
        # Several callers may hold this future. One that is already running cannot be cancelled, so a caller that gives
        # up (``asyncio.wrap_future`` passes its cancellation on) does not take the verdict from the others.
        future.set_running_or_notify_cancel()

    def settle(score: Score) -> None:
        with _lock:
            _under_way.pop(pair, None)
            # A timeout or an error may be the machine's doing, so the next response asks again.
            if score.verdict in (Verdict.CORRECT, Verdict.WRONG):
                if len(_known) >= _CACHE:
                    _known.clear()
                _known[pair] = score
        future.set_result(score)

    def replied(reply: "Future[Reply]") -> None:
        error = reply.exception()  # no worker could be started: our failure, masked and counted
        settle(_score(Verdict.ERROR, answer, f"pool: {error}") if error else _judge(reply.result(), answer))

    # Without units, which were split off here: math-verify's own stripping takes a trailing variable for one.
    request = {"gold": as_latex(notate(gold).text), "answer": as_latex(notate(answer).text)}
    try:
        shared_pool("rewards.math_worker").submit(request, deadline_s).add_done_callback(replied)
    except RuntimeError as error:
        settle(_score(Verdict.ERROR, answer, f"pool: {error}"))
    return future


def _judge(reply: Reply, answer: str) -> Score:
    if reply.status == "timeout":
        return _score(Verdict.TIMEOUT, answer, "timeout")
    if reply.status == "crash":
        # The worker was fine until it met this answer (memory limit, deep recursion): the response caused it.
        return _score(Verdict.WRONG, answer, "crash")
    if not reply.value["gold_parsed"]:
        return _score(Verdict.ERROR, answer, "gold_unparsable")
    return _score(Verdict.CORRECT if reply.value["equal"] else Verdict.WRONG, answer, "math_verify")
