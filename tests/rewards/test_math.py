"""Math grading as a table: (gold, response, verdict), each row with its reason."""

import time

import pytest

from rewards import Score, Verdict
from rewards.answers import AnswerForm, boxed, candidates
from rewards.math import as_rational, normalise, score_math

C, W, N, A = Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER, Verdict.AMBIGUOUS

FAST = [
    ("7", r"so \boxed{7}", C),
    ("7", r"\boxed{ 7. }", C),  # spacing and a full stop
    ("7", r"\boxed{8}", W),
    ("7", "7", N),  # right, but not in the accepted form
    ("7", "", N),
    ("7", r"\boxed{}", N),
    ("7", r"\boxed{7", N),  # an unclosed box
    ("7", r"\boxed{7} or \boxed{8}", A),  # hedging must not pay
    ("7", r"\boxed{7}, that is \boxed{7.0}", C),  # the same value twice is no hedge
    ("0.5", r"\boxed{\frac{1}{2}}", C),
    ("0.5", r"\boxed{\dfrac12}", C),
    ("1/3", r"\boxed{0.333}", W),  # a decimal equals a fraction exactly or not at all
    ("1/2", r"\boxed{2/4}", C),
    ("-3", "\\boxed{\u22123}", C),  # unicode minus
    ("1000", r"\boxed{1,000}", C),
    ("1000", r"\boxed{1000.00}", C),
    ("12", r"\boxed{120}", W),
    ("-1/2", r"\boxed{-\frac{1}{2}}", C),
    ("3", r"\boxed{3/0}", W),  # not a number at all
    ("3", r"\boxed{9^{9^{9^9}}}", W),  # a power tower is refused unread
    ("3", r"\boxed{" + "9" * 100_000 + "}", W),  # so are a hundred thousand digits
]

SLOW = [
    (r"2\sqrt{2}", r"\boxed{\sqrt{8}}", C),
    (r"2\sqrt{2}", r"\boxed{\sqrt{6}}", W),
    ("x+1", r"\boxed{1+x}", C),
    (r"\pi", r"\boxed{3.14}", W),
    ("(1,2)", r"\boxed{(1, 2)}", C),
]


@pytest.mark.parametrize(("gold", "response", "verdict"), FAST + SLOW)
def test_table(gold, response, verdict):
    score = score_math(response, gold)
    assert score.verdict is verdict, score
    assert score.value == float(verdict is C)


@pytest.mark.slow
def test_an_answer_that_never_ends_is_a_timeout_and_the_next_one_is_graded():
    started = time.monotonic()
    score = score_math(r"\boxed{\binom{1000000000}{500000000}}", "3", deadline_s=1.0)
    assert score.verdict in (Verdict.TIMEOUT, W)  # whichever way sympy gives up
    assert time.monotonic() - started < 10
    assert score_math(r"\boxed{\sqrt{8}}", r"2\sqrt{2}", deadline_s=30).verdict is C


def test_same_answers_have_the_same_canonical_form():
    assert score_math(r"\boxed{0.5}", "0.5").answer == score_math(r"\boxed{\frac{1}{2}}", "0.5").answer == "1/2"


@pytest.mark.parametrize(
    ("form", "text", "found"),
    [
        (AnswerForm.BOXED, r"\boxed{\frac{1}{\sqrt{2}}}", [r"\frac{1}{\sqrt{2}}"]),
        (AnswerForm.TAGGED, "x <answer> 4 </answer> y", ["4"]),
        (AnswerForm.SENTENCE, "The answer is 42. Good.", ["42"]),
        (AnswerForm.SENTENCE, "no claim here", []),
        (AnswerForm.LAST_NUMBER, "first 3 then -1,204.5", ["-1,204.5"]),
        (AnswerForm.WHOLE, "  yes ", ["yes"]),
    ],
)
def test_extraction(form, text, found):
    assert candidates(text, form) == found


def test_pieces():
    assert boxed(r"\boxed{a{b}c} \fbox{d}") == ["a{b}c", "d"]
    assert normalise(r"$\left( 1,\ 2 \right).$") == "( 1, 2 )"
    assert as_rational("x") is None


def test_scores_refuse_nonsense():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Score(1.5, C)
    with pytest.raises(ValueError, match="no value"):
        Score(0.5, Verdict.ERROR)
