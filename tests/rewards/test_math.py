"""Math grading: the table of rows, MATH-500 golds in other notation, golds of other problems, and hostile inputs."""

import asyncio
import json
import random
import time

import pytest

from rewards import Score, UnknownNameError, Verdict
from rewards.answers import ANSWER_FORMS, boxed, candidates
from rewards.math import _shown, decide, normalise, score_answer, score_math, submit_answer, submit_math
from rewards.notation import notate
from tests.conftest import ROOT
from tests.rewards import math_rows
from tests.rewards.math_rows_forms import FORMS
from tests.rewards.math_rows_kinds import KINDS
from tests.rewards.math_rows_pairs import PAIRS
from tests.rewards.rephrase import rephrasings

ROWS = [*math_rows.ROWS, *KINDS, *PAIRS, *FORMS]
SLOW = (r"\int_0^1 2x\,dx", r"\int_0^1 x+x\,dx")
"""An answer and a gold that only sympy can compare."""
DATA = ROOT.parent / "shared" / "data"


def test_the_table_is_large():
    assert len(ROWS) >= 300
    assert sum(row.adversarial for row in ROWS) >= 100
    assert len({(row.gold, row.response) for row in ROWS}) == len(ROWS)
    assert all(row.why for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.gold[:20]} | {row.response[:30]} | {row.why}")
def test_row(row):
    started = time.process_time()
    score = score_math(row.response, row.gold, deadline_s=30)
    assert score.verdict == row.verdict, f"{row.why}: {score}"
    assert score.value == (row.verdict == "correct")
    assert score.answer is None or len(score.answer) < 5000
    if row.adversarial:
        assert time.process_time() - started < 1


def math500():
    path = DATA / "math500" / "test.jsonl"
    if not path.exists():
        pytest.skip(f"MATH-500 is not at {path}")
    return [json.loads(line)["answer"] for line in path.read_text().splitlines()]


def test_math500_in_five_other_words():
    golds = math500()
    wrong, total = [], 0
    for gold in golds:
        for name, form, response in rephrasings(gold):
            score = score_math(response, gold, form, deadline_s=30)
            total += 1
            if score.verdict is not Verdict.CORRECT:
                wrong.append((name, gold, response, score))
    assert total == 5 * len(golds)
    assert len(wrong) <= 0.01 * total, wrong[:10]


def test_no_gold_of_another_problem_is_correct():
    golds = math500()
    rng, paid = random.Random(0), []
    for _ in range(10):
        others = rng.sample(golds, len(golds))
        for gold, other in zip(golds, others, strict=True):
            # Different problems may have the same gold, with or without a unit; such pairs are rightly correct.
            if notate(gold).text == notate(other).text:
                continue
            if score_math(f"\\boxed{{{other}}}", gold, deadline_s=30).verdict is Verdict.CORRECT:
                paid.append((gold, other))
    assert not paid


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\frac{\Gamma(10^9)}{\Gamma(3)}", r"\sqrt{2}"),
        (r"\sin(\sin(\sin(\sin(\sin(\sin(x))))))^{999}", r"\sqrt{2}"),
        (r"\sqrt{1+\sqrt{2+\sqrt{3+\sqrt{4+\sqrt{5+\sqrt{6+\sqrt{7}}}}}}}", r"\sqrt{2}"),
        (r"\log_{2}(\log_{3}(\log_{5}(10^{999})))", r"\sqrt{2}"),
        (r"(x+y+z+w)^{60}", r"x+y"),
        (r"\cosh(\sinh(\cosh(\sinh(10^{9}))))", r"\sqrt{2}"),
    ],
)
def test_an_answer_that_takes_for_ever_is_stopped_at_its_deadline(answer, gold):
    score_answer(*SLOW, deadline_s=60)  # starts the worker before time is measured
    started = time.process_time()
    score = score_answer(answer, gold, deadline_s=1.0)
    assert score.verdict in (Verdict.TIMEOUT, Verdict.WRONG)
    assert time.process_time() - started < 1.0  # the caller's processor time; the worker is killed
    assert score_answer(r"\sin^2 x+\cos^2 x", "1+0x", deadline_s=60).verdict in (Verdict.CORRECT, Verdict.WRONG)


def test_many_boxes_share_one_budget():
    boxes = [rf"\boxed{{(x+y+z+{i})^{{9}}(x+y+{i})^{{9}}\sqrt{{x^{i}+1}}}}" for i in range(1, 12)]
    started = time.process_time()
    score = score_math(" ".join(boxes), r"\sqrt{x}", deadline_s=1)
    assert score.verdict in (Verdict.AMBIGUOUS, Verdict.TIMEOUT)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("response", "gold"), [(None, "7"), (7, "7"), (b"7", "7"), ("\\boxed{7}", 7), ("\\boxed{7}", None), ("x", None)]
)
def test_what_is_no_text_is_named(response, gold):
    with pytest.raises(TypeError, match="must be text, got"):
        score_math(response, gold)


def test_megabytes_of_latex_cost_no_more_than_reading_them():
    for response in ("\\boxed{" * 200_000, "<answer>" * 200_000, "```a\n" * 200_000, "answer is " * 100_000):
        for form in ANSWER_FORMS:
            started = time.process_time()
            score_math(response, "7", form)
            assert time.process_time() - started < 3.0, (response[:10], form)


TOKENS = (
    "1 2 37 x y + - * / ^ { } ( ) [ ] \\frac \\sqrt \\pi , = < \\le \\pm ! _ \\text{ or and cm \\left \\right \\cup \\begin{pmatrix} "
    "\\end{pmatrix} & \\\\ % \\% \\$ $ . : i e \\sin \\log | \\infty \\boxed{ ^{2} ^\\circ \\in 999999999999 \\overline{ 1,000"
)
GOLDS = ("7", r"\frac{1}{2}", r"2\sqrt{3}", "x^2+2x+1", "(1,2)", "1,2,3", r"[0,\infty)", "y=2x+3", r"\text{even}")


def test_nothing_that_can_be_written_raises_or_takes_long():
    """Grading is quick and raises nothing on random and repetitive strings of the notation's tokens.

    On such strings a parser may hang or a recursion explode.
    """
    rng = random.Random(0)
    for _ in range(4000):
        if rng.random() < 0.5:
            text = "".join(rng.choices(TOKENS.split(), k=rng.choice([3, 10, 40, 250])))
        else:
            text = " ".join(rng.choices(TOKENS.split(), k=rng.randint(1, 4))) * rng.choice([5, 30, 200])
        started = time.process_time()
        decide(text[:600], rng.choice(GOLDS))
        _shown(text[:600])
        assert time.process_time() - started < 3.0, text  # usually at most a twentieth of this


def test_a_gold_that_nothing_understands_is_our_error():
    for gold in ("", "$ $", "\\begin{cases}", "\\uparrow"):
        score = score_answer("3", gold, deadline_s=30)
        assert (score.verdict, score.value) == (Verdict.ERROR, 0.0), (gold, score)


def test_the_future_can_be_awaited():
    async def grade_both():
        answers = (SLOW[0].replace("2x", "3x"), SLOW[0])
        futures = [submit_math(f"\\boxed{{{a}}}", SLOW[1], deadline_s=60) for a in answers]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    assert [score.verdict for score in asyncio.run(grade_both())] == ["wrong", "correct"]


def test_a_caller_that_gives_up_takes_the_verdict_from_no_other():
    async def one_of_two():
        answer = SLOW[0].replace("2x", "4x")
        first, second = (asyncio.wrap_future(submit_answer(answer, SLOW[1], deadline_s=60)) for _ in range(2))
        first.cancel()
        return await second

    assert asyncio.run(one_of_two()).verdict is Verdict.WRONG


def test_same_answers_have_the_same_canonical_form():
    def answer(text):
        return score_math(f"\\boxed{{{text}}}", "0.5").key

    assert answer("0.5") == answer(r"\frac{1}{2}") == answer("2/4") == "1/2"
    assert answer("1,2") == answer("2, 1")
    assert answer(r"\sqrt{8}") == answer(r"2\sqrt{2}") == answer(r"x = 2\sqrt 2")
    assert answer("(1,2)") != answer("(2,1)")
    assert answer("x>3") == answer(r"\{x : 3 < x\}")
    assert answer(r"\sin 2x") == answer(r"2\sin x\cos x") != answer(r"\sin 2y")


def test_long_answers_are_told_apart_to_their_end():
    long = "word " * 400
    first, second = (score_math(f"\\boxed{{{long}{end}}}", "7") for end in ("one", "two"))
    assert first.verdict == second.verdict == "wrong"
    assert first.key != second.key
    assert max(len(first.key), len(first.answer)) < 700
    assert score_math(f"\\boxed{{{long}one}} \\boxed{{{long}two}}", "7").verdict is Verdict.AMBIGUOUS
    for form, response in (("boxed", "\\boxed{%s}"), ("sentence", "The answer is %s"), ("answer_line", "Answer: %s")):
        for end, verdict in (("one", Verdict.CORRECT), ("two", Verdict.WRONG), ("", Verdict.WRONG)):
            assert score_math(response % (long + end), long + "one", form).verdict is verdict, (form, end)


def test_the_answer_is_shown_as_people_read_it():
    for text, shown in ((r"\sin^2 x", r"\sin^2 x"), (r"$\frac{1}{2}$", r"\frac{1}{2}"), ("Evelyn.", r"\text{Evelyn}")):
        assert score_math(f"\\boxed{{{text}}}", "7").answer == shown


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("7", "7", "exact"),
        ("7.0", "7", "rational"),
        (r"\sqrt{8}", r"2\sqrt2", "exact_value"),
        ("(1,2)", "7", "structure"),
        ("2+2", "4", "unevaluated"),
        ("10 cm", r"10\text{ m}", "unit"),
        ("3 or 4", "3", "hedged"),
        ("(B) 7", "B", "choice"),
    ],
)
def test_the_reason_names_the_rule(answer, gold, reason):
    assert decide(answer, gold)[1] == reason


@pytest.mark.parametrize(
    ("form", "text", "found"),
    [
        ("boxed", r"\boxed{\frac{1}{\sqrt{2}}}", [r"\frac{1}{\sqrt{2}}"]),
        ("boxed", r"\boxed{\{1\}} \boxed{\left\{ x \right.}", [r"\{1\}", r"\left\{ x \right."]),
        ("tagged", "x <answer> 4 </answer> y", ["4"]),
        ("tagged", "I put <answer> tags: <ANSWER>4</ANSWER>", ["4"]),
        ("sentence", "The answer is 42. Good.", ["42"]),
        ("sentence", "The answer is 4.5.", ["4.5"]),
        ("sentence", "no claim here", []),
        ("last_number", "first 3 then -1,204.5", ["-1,204.5"]),
        ("whole", "  yes ", ["yes"]),
        ("sentence", "The answer is 8:34 p.m. Done.", ["8:34 p.m"]),
        ("sentence", "So the answer is $x = 2$, since we divide.", ["x = 2"]),
        ("sentence", "The answer is 5.\n\nQ: Next?\nThe answer is 6.", ["5"]),
        ("sentence", "Question: first?\nThe answer is 5.", ["5"]),
        ("sentence", "<think>The answer is 5.", []),
        ("answer_line", "**Final Answer**\n\n\\[ 7 \\]", ["7"]),
        ("answer_line", "Done. Answer: 7", ["7"]),
        ("answer_line", "The answer is 7.", []),
        ("hash", "2+2\n#### 1,234\n", ["1,234"]),
        ("hash", "### 7", []),
        (["hash", "boxed"], "\\boxed{5}", ["5"]),
        (["hash", "boxed"], "\\boxed{5}\n#### 6", ["6"]),
    ],
)
def test_extraction(form, text, found):
    assert candidates(text, form) == found


def test_an_unknown_form_names_the_nearest():
    for form in ("boxxed", ["hash", "boxxed"]):
        with pytest.raises(UnknownNameError, match=r"answer_form=boxxed: unknown; did you mean 'boxed'\?"):
            candidates("\\boxed{7}", form)
    with pytest.raises(ValueError, match="at least one"):
        candidates("7", [])


def test_another_module_adds_a_form():
    ANSWER_FORMS.register("shouted")(lambda text: [word for word in text.split() if word.isupper()])
    assert score_math("it is SEVEN", "seven", "shouted").value == 1.0


def test_pieces():
    assert boxed(r"\boxed{a{b}c} \fbox{d}") == ["a{b}c", "d"]
    assert boxed(r"\boxed{1 \boxed{2}}") == [r"1 \boxed{2}"]
    assert normalise(r"$\left( 1,\ 2 \right).$") == "(1,2)"


def test_scores_refuse_nonsense():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Score(1.5, Verdict.CORRECT)
    with pytest.raises(ValueError, match="no value"):
        Score(0.5, Verdict.ERROR)
