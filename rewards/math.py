r"""Decides whether a mathematical answer equals the gold answer.

The following steps run in this order, each only if the steps before it could not decide: comparing the texts in normal
notation; comparing exact numbers; comparing exact values of any kind that :mod:`rewards.values` reads (radicals,
polynomials, tuples, sets, intervals, matrices, equations, inequalities, words); guards that refuse dangerous input; and
finally math-verify (sympy), in a worker process that is killed at its deadline.

Rules of the comparison:

- A decimal equals a fraction only if both are exactly equal: 0.33 is not 1/3.
- If the gold is a plain number, the answer must be a plain number: ``2+2`` is refused for 4, because it may be a copy
  of the question.
- Values of different kinds differ: a point is not a set, ``[1,2)`` is not ``[1,2]``, and ``12_7`` is neither ``12_8``
  nor 12.
- A unit may be omitted or added, but not replaced by another unit. ``50\%`` equals 50 and 1/2; ``0.5\%`` is not 0.5.
- Several different final answers, in one box or in several, are ``ambiguous``, unless the gold is a list of exactly
  those values.

Not covered: whether an expression has the *form* that a task asks for (factored, expanded, simplified). If the question
of a task already contains an expression equal to the gold, copying that expression is accepted: leave such tasks out.
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

# Most digits in a row and most LaTeX commands in an answer. No gold has more, and sympy would spend seconds converting
# or factoring such an answer, so it is graded wrong without being parsed.
MAX_DIGIT_RUN, MAX_COMMANDS = 400, 60
# A response with more different final answers than this is guessing, not listing solutions. The bound also limits the
# pairwise comparison of the answers, whose cost is quadratic.
MAX_OFFERED = 10
DEADLINE_S = 3.0
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGIT_RUN},}}")
# Operations that the answer leaves to be carried out: a sum, a limit, a factorial. sympy would carry them out and so
# reward an answer that was never worked out. ``!(?!=)`` does not match ``!=``.
_UNFINISHED = re.compile(r"\\(?:sum|prod|int|lim|binom|tbinom|dbinom|iint|oint)(?![a-z])|!(?!=)|\\choose")
# ``9^{9^9}`` and ``2^{99999999}``: sympy evaluates integer powers exactly, however much memory the digits need.
_TOWER = re.compile(r"\^\s*\{?[^{}+\-=,]*\^|\^\s*\{?\s*-?\d{4,}")
_BIG_FACTORIAL = re.compile(r"\d{3,}[)}]*!(?!=)")
"""sympy compares what it cannot simplify in floating point, where the inverses of all such factorials are 0."""
# ``(B)``, ``B``, ``(B) 7``, ``B. 7``. With a second letter in the text behind (``A (not B)``) it is not a choice.
_CHOICE = re.compile(r"(?:\(? ?([A-J]) ?\)?|\( ?([A-J]) ?\)(.+)|([A-J])[.:)](.+))")
_OTHER_CHOICE = re.compile(r"(?<![a-zA-Z\\])[A-J](?![a-zA-Z])")
_LETTER = re.compile(r"(.*\S) ?([a-zA-Z](?:\^\{?[23]\}?)?)")
_PROGRAM_NUMBER = re.compile(r"^([-+]?\d+\.?\d*)e([-+]?(?:[4-9]|\d{2,3}))$")
_CACHE = 65536
_FAILURES = (UndecidedError, ArithmeticError, ValueError, RecursionError)


def score_math(
    response: str,
    gold: str,
    form: str | Sequence[str] = "boxed",
    deadline_s: float = DEADLINE_S,
    reasoning: Sequence[tuple[str, str]] = REASONING,
) -> Score:
    r"""Grades the final answer of a response against the gold answer.

    Args:
        response: Text that the policy wrote.
        gold: The correct answer, as LaTeX or plain text, without ``\boxed``.
        form: Form in which the task accepts an answer: a name in :data:`rewards.answers.ANSWER_FORMS`, or several
            names in order of preference.
        deadline_s: Processor seconds after which a comparison is killed and graded ``timeout``.
        reasoning: Pairs of opening and closing marks; text between such marks is a draft and is not graded.

    Returns:
        A score of 1 or 0, with the rule that decided as its reason. The verdict is ``error`` only if the response is
        not the cause: a gold that cannot be parsed, or a worker that cannot start.

    Raises:
        TypeError: If the response or the gold is not a string.
        UnknownNameError: If the form is unknown.
    """
    return submit_math(response, gold, form, deadline_s, reasoning).result()


def submit_math(
    response: str,
    gold: str,
    form: str | Sequence[str] = "boxed",
    deadline_s: float = DEADLINE_S,
    reasoning: Sequence[tuple[str, str]] = REASONING,
) -> "Future[Score]":
    """Like :func:`score_math`, but does not wait for sympy; ``asyncio.wrap_future`` makes the result awaitable."""
    longest = _longest(gold)  # raises for a gold that is not a string, even if the response offers no answer
    offered = [_short(answer, longest) for answer in candidates(response, form, reasoning)]
    # The gold is parsed, and cached, before the budget starts, so that its cost is not charged to the response.
    _read(gold)
    # One budget for the whole response: otherwise many boxes, each within its budget, could take minutes together.
    with limited_work():
        try:
            offered = _different(offered)
            if len(offered) > 1:
                # Several values are a hedge (AMBIGUOUS), unless the gold is a list of exactly these values: some models
                # put each solution of an equation into its own box.
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
    """Grades an answer that has already been extracted from its response; see :func:`score_math`."""
    return submit_answer(answer, gold, deadline_s).result()


def submit_answer(answer: str, gold: str, deadline_s: float = DEADLINE_S) -> "Future[Score]":
    """Like :func:`score_answer`, but does not wait for sympy."""
    # An empty gold would equal every empty answer. It is a fault of the data, not of the response, hence an error.
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
    """Golds that neither this module nor math-verify can parse; any answer but the same text is graded ``error``."""
    # Golds that this module parses, or that contain words, need no check. The others are compared with "x", which
    # equals none of them, so that math-verify has to parse the gold.
    doubtful = [gold for gold in dict.fromkeys(golds) if _read(gold) is None and not words_in(notate(gold).text)]
    asked = [(gold, submit_answer("x", gold, deadline_s)) for gold in doubtful]
    return [gold for gold, score in asked if score.result().verdict is Verdict.ERROR]


def _score(verdict: Verdict, answer: str, reason: str) -> Score:
    """A score with the answer in readable form and the key that equal answers share."""
    if not answer:
        return Score(0.0, verdict, None, reason)
    readable, key = _shown(answer)
    return Score(float(verdict is Verdict.CORRECT), verdict, readable, reason, key=key)


@lru_cache(maxsize=_CACHE)
def _shown(answer: str) -> tuple[str, str]:
    """An answer as LaTeX, and a key that equal answers share as far as their equality can be decided without sympy."""
    readable = key = answer
    with limited_work(), suppress(*_FAILURES, TooMuchWorkError):
        readable = key = as_latex(notate(answer).text)
        key = readable if (value := _read(answer)) is None else identity(value)
    return readable[:MAX_ANSWER_CHARS], _short(key, MAX_ANSWER_CHARS)


def _short(text: str, longest: int) -> str:
    """A text of at most ``longest`` characters as it is; a longer one is cut and gets a digest of the whole appended.

    The digest keeps different texts different, and keeps a cut text longer than ``longest``, so that it is still
    refused as too long. Cutting avoids copying megabytes.
    """
    if len(text) <= longest:
        return text
    return text[:longest] + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _different(offered: list[str]) -> list[str]:
    """Offered answers in order, without those whose value was offered before."""
    kept: list[str] = []
    for answer in dict.fromkeys(offered):
        # ``\boxed{14/2} ... \boxed{7}`` states one value twice and is not a hedge.
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
        # Not strict: both answers are the policy's own, so a calculation and its result count as one value.
        return value is not None and other is not None and equal(value, other, strict=False)
    except _FAILURES:
        return False


def _longest(gold: str) -> int:
    """Length in characters up to which an answer to this gold is parsed."""
    if not isinstance(gold, str):
        raise TypeError(f"a gold must be text, got {gold!r}: write it as a string")
    return max(MAX_ANSWER_CHARS, 2 * len(gold))


def decide(answer: str, gold: str) -> tuple[bool | None, str]:
    """Whether an answer equals the gold, decided without sympy (``None`` if undecided), and the rule that decided.

    Results are cached, and calls from several threads are safe.
    """
    if len(answer) > _longest(gold):
        return False, "guard"
    with limited_work():
        try:
            return _decide(answer, gold)
        except TooMuchWorkError:
            return False, "work"


@lru_cache(maxsize=_CACHE)
def _decide(answer: str, gold: str) -> tuple[bool | None, str]:
    if normalise(answer) == normalise(gold):
        return True, "exact"
    if not normalise(answer):
        return False, "empty"
    if max(len(answer), len(gold)) > LONGEST_READ:
        return False, "long_text"

    # If both units are known they must agree (10 cm is not 10 m); a unit on one side only is accepted.
    ours, theirs = (_unit_of(text) for text in (answer, gold))
    # A letter behind the answer's value is a variable, unless it is the unit of the gold: 2500 m.
    letter = _LETTER.fullmatch(ours.text) if theirs.known_unit and not ours.unit else None
    if letter and unit_name(re.sub("[{}]", "", letter[2])) == theirs.unit:
        return _decide(letter[1], gold)
    units = {ours.unit, theirs.unit}
    if ours.known_unit and theirs.known_unit and len(units) > 1:
        return False, "unit"

    # Exact numbers, which need no expression tree. Percent, am and pm change the value and are handled in _by_kind.
    if not units & {"%", "am", "pm"} and (right := literal(theirs.text)) is not None:
        # Beside a plain number 5e-5, which programs write for 0.00005, is not the difference of 5e and 5: that would be
        # refused as unevaluated. Programs write smaller exponents out, so that 2e-1 stays this difference.
        left = literal(_PROGRAM_NUMBER.sub(r"\1\\times10^{\2}", ours.text))
        if left is not None:
            return left == right, "rational"

    return _by_kind(answer, gold)


def _unit_of(text: str) -> Notation:
    r"""The notation of a text, with the unit behind its last "=" sign: ``\text{Area} = 12 \text{ cm}``."""
    whole = notate(text)
    if whole.unit or "=" not in whole.text or "," in whole.text:  # each item of a list has its own unit
        return whole
    last = notate(whole.text.rpartition("=")[2])
    return Notation(whole.text, last.unit, last.known_unit)


def _by_kind(answer: str, gold: str) -> tuple[bool | None, str]:
    # Letters of a multiple choice, including "x = (A)" and "(A) 12".
    gold_value, value = _read(gold), _read(answer)
    letter, said = _choice(notate(gold).text), notate(answer).text
    if letter is not None and (letter_of_answer := _choice(said.rpartition("=")[2])) is not None:
        return letter == letter_of_answer, "choice"

    # A word of up to three letters could also be parsed as a product of variables. If one side marks it as text (gold
    # \text{ACF}, or answer "The answer is Bob" and gold Bob), the same letters on the other side are a word.
    if isinstance(gold_value, Label) and gold_value.kind == "words" and fold(said) == gold_value.key:
        return True, "words"
    if words_in(said) and WORDS.sub(r"\1", said) == notate(gold).text:
        return True, "words"

    # Values of every other kind, if both sides were parsed completely.
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
        pass  # undecided here; sympy may be able to decide
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
    """Refuses pairs that sympy would wrongly accept or never finish; ``None`` lets a pair through to sympy."""
    ours, theirs = notate(answer).text, notate(gold).text
    # math-verify extracts a number from prose, takes the last entry of "2,4,...,100", and reads 4210_7 as 4210. Its
    # products commute, so the cross product a x b would equal b x a.
    if (
        words_in(theirs)
        or words_in(ours)
        or "\\cross" in ours + theirs
        or "..." in ours + theirs
        or re.search(r"\d\)?_", ours + theirs)
    ):
        return False, "words"
    # Long expressions and huge numbers, which sympy may take very long to evaluate. The gold may contain more commands
    # than the limit, and then the answer may too.
    if len(re.findall(r"\\[a-z]", ours)) > max(MAX_COMMANDS, theirs.count("\\")) or _LONG_NUMBER.search(ours):
        return False, "guard"
    if _BIG_FACTORIAL.search(ours) or (_TOWER.search(ours) and not _TOWER.search(theirs)):
        return False, "guard"
    if _UNFINISHED.search(ours) and not _UNFINISHED.search(theirs):
        return False, "unfinished"
    # Punctuation without any letter or digit: "?", "...", a lone brace.
    if not re.search(r"[\w\\]", ours):
        return False, "empty"
    right = _read(gold)
    if isinstance(right, Expression) and right.literal:
        # The gold is a plain number and the answer is not: whatever its value, the answer was not worked out.
        return False, "unevaluated"
    if isinstance(right, Region | Label | Family):
        return False, "structure"  # sympy has no such kinds
    return None, ""


# The slow path: comparison by math-verify in worker processes.

_lock = threading.Lock()
_known: dict[tuple[str, str], Score] = {}
_under_way: "dict[tuple[str, str], Future[Score]]" = {}
"""Pairs of answer and gold that are being compared; samples of one task often agree, so each pair is submitted once."""


def _forget() -> None:
    """Clears the state in a forked child, whose copies of the parent's pending futures would never be resolved."""
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
        # Several callers may share this future. Marked as running, it cannot be cancelled, so a caller that gives up
        # (``asyncio.wrap_future`` passes its cancellation on) does not cancel it for the other callers.
        future.set_running_or_notify_cancel()

    def settle(score: Score) -> None:
        with _lock:
            _under_way.pop(pair, None)
            # A timeout or an error may be caused by the machine, so neither is cached: the next response tries again.
            if score.verdict in (Verdict.CORRECT, Verdict.WRONG):
                if len(_known) >= _CACHE:
                    _known.clear()
                _known[pair] = score
        future.set_result(score)

    def replied(reply: "Future[Reply]") -> None:
        error = reply.exception()  # no worker could be started, which is not the response's fault: masked and counted
        settle(_score(Verdict.ERROR, answer, f"pool: {error}") if error else _judge(reply.result(), answer))

    # Units are already split off here, because math-verify's own unit stripping also removes a trailing variable.
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
        # The worker worked until it got this answer (memory limit, deep recursion), so the response caused the crash.
        return _score(Verdict.WRONG, answer, "crash")
    if not reply.value["gold_parsed"]:
        return _score(Verdict.ERROR, answer, "gold_unparsable")
    return _score(Verdict.CORRECT if reply.value["equal"] else Verdict.WRONG, answer, "math_verify")
