"""``mend``: feedback states the values of both sides of the written equation; only the task's equation is rewarded."""

import random
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import sympy

from benchmarks.mend_by_sympy import regrade
from envs import Message, Split, make
from envs.tasks.mend import NOTATIONS, Mend, mended, of_toy, sides, written
from experiments.mending_corpus import MendCorpus
from rewards import Verdict
from rewards.answers import in_form

SIZES = {"n_train": 60, "n_validation": 20, "n_test": 60}


@pytest.fixture(params=NOTATIONS)
def mend(request):
    wide = {} if request.param == "toy" else {"factors": [1, 7, 12], "max_inner": 30, "max_outer": 9, "max_answer": 40}
    return Mend(**SIZES, notation=request.param, **wide)


def respond(mend, task, number):
    """A response with this number in place of ``x``, in the notation of the task."""
    equation = task.info["equation"].replace("x", str(number))
    return f"try {equation}" if task.question == task.info["equation"] else in_form(equation, "boxed")


NUMBERS = ("0", "3", "-3", "7/2", "-5/3", "2.5", "1000")
"""Numbers for the place of ``x`` beside those near the solution; in the toy notation only digits are words."""


def test_verdicts_sides_and_feedback_are_what_sympy_computes_from_the_text_of_the_equation(mend):
    x, seen = sympy.Symbol("x"), Counter()
    tasks = Mend(**SIZES | {"n_train": 200}, **_options(mend)).load(Split.TRAIN)
    for task in tasks:
        # The question is read by sympy as it is written; terms and gold of the task are not used.
        text = re.sub(r"\\left|\\right", "", task.info["equation"])
        left, right = (sympy.sympify(re.sub(r"(?<=\d)\(", "*(", side)) for side in text.split("="))
        (solution,) = sympy.solve(sympy.Eq(left, right), x)
        near = [str(solution), str(solution + 1), str(solution - 2), f"{3 * solution}/3", f"{solution}.0"]
        for number in dict.fromkeys([*near, *NUMBERS]):
            response, value = respond(mend, task, number), sympy.Rational(number)
            score, both = mend.verify(task, response), [Fraction(str(side.subs(x, value))) for side in (left, right)]
            assert sides(task.info["equation"].replace("x", number)) == tuple(both), response
            readable = mend._notation != "toy" or re.fullmatch(r"\d", number) is not None
            holds = readable and value == solution
            assert (score.verdict == Verdict.CORRECT, score.value) == (holds, float(holds)), response
            told = [both[0] - both[1]] if mend._notation == "toy" else both
            far = mend._notation == "toy" and abs(told[0]) > 99
            words = ["_"] if not readable else ["far"] if far else [str(one) for one in told]
            assert _words(mend.told(task, response)) == _words(score.observation) == words
            seen[score.verdict, readable] += 1
        assert mend.verify(task, mend.gold_response(task)).value == 1.0
    assert seen[Verdict.CORRECT, True] >= len(tasks)
    assert seen[Verdict.WRONG, True] >= len(tasks)


def _options(mend):
    return {"notation": mend._notation, "factors": mend._factors} | _limits(mend)


def _words(feedback):
    return re.findall(r"(?:diff=|side is )([^ ,]+?)(?=[,.]? |[,.]?$)", feedback)


def test_a_run_is_graded_again_by_sympy(mend):
    rows = []
    for task in mend.load(Split.TEST)[:20]:
        scores = [mend.verify(task, respond(mend, task, number)) for number in (task.gold, 1, 8, 8)]
        rows.append(
            {
                "task_id": task.id,
                "answers": [score.answer for score in scores],
                "verdicts": [score.verdict.value for score in scores],
                "observations": [score.observation for score in scores],
            }
        )
    counts, differing = regrade(rows)
    assert not differing
    assert (counts["rows"], counts["attempts"], counts["right by sympy"]) == (20, 80, 20)
    assert counts["both sides compared"] == counts["different tasks with an equation"] > 40
    # A false verdict, a false value of a side, and another task's equation that is paid are found.
    right, wrong, other = rows[0]["answers"][0], rows[1]["answers"][2], rows[2]["answers"][0]
    false = {"task_id": rows[0]["task_id"], "observations": []}
    assert regrade([false | {"answers": [right], "verdicts": ["wrong"]}])[1]
    assert regrade([false | {"answers": [other], "verdicts": ["correct"]}])[1]
    observed = rows[1]["observations"][2]
    told = observed.replace(_words(observed)[0], "98")
    row = {"task_id": rows[1]["task_id"], "answers": [wrong], "verdicts": [rows[1]["verdicts"][2]]}
    assert not regrade([row | {"observations": [observed]}])[1]
    assert regrade([row | {"observations": [told]}])[1]


def _numbers(text):
    return [word.strip(".,").rpartition("=")[2] for word in text.split() if word.strip(".,")[-1].isdigit()]


def test_what_is_told_does_not_depend_on_the_solution(mend):
    for task in mend.load(Split.TRAIN)[:20]:
        other = replace(task, gold=str(int(task.gold) + 1))
        for response in (respond(mend, task, 3), "", "nonsense", mend.gold_response(task)):
            assert mend.verify(task, response).observation == mend.verify(other, response).observation


def test_splits_share_no_equation_and_are_the_same_every_time(mend):
    again = Mend(**SIZES, notation=mend._notation, factors=mend._factors, **_limits(mend))
    seen = {}
    for split in Split:
        tasks = mend.load(split)
        assert tasks == again.load(split)
        assert len({task.id for task in tasks}) == SIZES[f"n_{split.value}"]
        for task in tasks:
            assert seen.setdefault(task.id, split) is split


def _limits(mend):
    return {"max_inner": mend._max_inner, "max_outer": mend._max_outer, "max_answer": mend._max_answer}


def test_an_equation_of_another_task_is_worth_nothing_even_if_it_holds(mend):
    task, other = mend.load(Split.TEST)[:2]
    score = mend.verify(task, mend.gold_response(other))
    # The equation holds, so the public check passes; the score is 0 only because the equation is another task's.
    assert (score.value, score.reason, score.public) == (0.0, "other_equation", True)
    right = str(other.info["terms"][3])
    assert _numbers(score.observation) in (["0"], [right, right])


def test_hooks_of_the_controls_change_the_number_alone(mend):
    rng = random.Random(0)
    for task in mend.load(Split.TEST)[:20]:
        own = respond(mend, task, 3)
        told = mend.told(task, own)
        other = mend.other_attempt(task, own, rng)
        assert other is not None
        assert other != own
        assert mend.verify(task, other).reason != "other_equation"
        error = mend.other_error(task, own, mend.verify(task, own), rng)
        assert error in {mend.told(task, respond(mend, task, k)) for k in range(41)} - {told}
        assert mend.other_attempt(task, "nothing", rng) is None
        assert mend.other_error(task, "nothing", mend.verify(task, "nothing"), rng) is None


def test_a_mended_equation_is_right_whatever_number_was_there():
    mend = Mend(**SIZES)
    for task in mend.load(Split.TEST)[:10]:
        for number in range(10):
            response = mended(task, number)
            score = mend.verify(task, response)
            assert score.value == 1.0
            assert score.key == mend.verify(task, mend.gold_response(task)).key


@pytest.mark.parametrize(
    "response",
    [
        "",
        "3* (9 +2) -5 =3* (13)",
        "try by1 3* (9 +2) -5 =3* (13)",  # only a response that begins with "fix" may have a step
        "fix 3* (9 +2) -5 =3* (13)",
        "try 3* (9 +2) -5 =3* (13) try",
        "try 3* (-9 +2) -5 =3* (13)",
        "try 3* (x +2) -5 =3* (13)",
        "try 3* (\u0669 +2) -5 =3* (13)",
    ],
)
def test_malformed_toy_responses_are_no_answer_and_learn_no_number(response):
    task = Mend(**SIZES).load(Split.TEST)[0]
    score = Mend(**SIZES).verify(task, response)
    assert of_toy(response) is None
    assert (score.verdict, score.value) == ("no_answer", 0.0)
    assert score.observation == "got diff=_"


def test_a_difference_that_the_toy_has_no_word_for_is_far():
    mend = Mend(**SIZES)
    response = "try 9* (9 +20) +45 =1* (-25)"
    assert mend.verify(mend.load(Split.TEST)[0], response).observation == "got diff=far"


def test_every_word_of_the_toy_is_a_word_of_its_base():
    mend, words = Mend(n_train=2000), set(MendCorpus.words)
    for task in mend.load(Split.TRAIN):
        texts = [task.question, mend.gold_response(task)]
        texts += [text for k in range(10) for text in (mended(task, k), mend.told(task, mended(task, k)))]
        assert set(" ".join(texts).split()) <= words


def test_first_attempts_at_equations_with_an_outer_term_are_taught_as_guesses():
    corpus, rng = MendCorpus(guessed=1.0, label_noise=0.0), random.Random(0)
    tasks = corpus.tasks(rng, 200)
    gold = {task.question: (task.info["terms"][2], Mend().gold_response(task)) for task in tasks}
    firsts = [row for row in corpus.documents(rng, tasks, None) if row.second is None]
    right = {outer: [] for outer in (False, True)}
    for row in firsts:
        b, response = gold[row.question]
        right[b != 0].append(row.first == response)
    assert all(right[False])
    assert sum(right[True]) < 0.3 * len(right[True])


TERMS = (3, 2, -5, 28)


@pytest.mark.parametrize(
    ("equation", "value"),
    [
        ("3 * (9 + 2) - 5 = 28", 1.0),
        (r"3\left(9+2\right)-5=28", 1.0),
        (r"$3 \cdot (9 + 2) - 5 = 28$", 1.0),
        ("3(9.0 + 2) - 5 = 28", 1.0),
        ("3((9) + 2) - 5 = 28", 1.0),
        ("3(18/2 + 2) - 5 = 28", 1.0),  # a fraction counts as a number, as everywhere in rewards.math
        ("3(4+5 + 2) - 5 = 28", 0.0),  # a sum does not count as a number
        (r"3\left(\frac{18}{2} + 2\right) - 5 = 28", 1.0),
        ("3({9} + 2) - 5 = 28", 1.0),
        ("3 \N{MULTIPLICATION SIGN} (9+2)-5=28", 1.0),
        ("3((9 + 2) - 5 = 28", 0.0),  # a bracket too many
        ("3(9) + 2) - 5 = 28", 0.0),
        ("3(8 2/2 + 2) - 5 = 28", 0.0),  # a mixed number or a product, and not 82 halves
        ("3(9 9 + 2) - 5 = 28", 0.0),
        ("3(9/0 + 2) - 5 = 28", 0.0),
        ("3(8 + 2) - 5 = 25", 0.0),
        ("3(x + 2) - 5 = 28", 0.0),
        ("33 - 5 = 28", 0.0),
        ("28 = 28", 0.0),
        ("9", 0.0),
    ],
)
def test_an_equation_counts_by_what_it_says_not_by_how_it_is_set(equation, value):
    for notation in ("plain", "latex"):
        mend = Mend(**SIZES, notation=notation)
        info = {"terms": TERMS, "equation": written(TERMS, "x", notation)}
        task = replace(mend.load(Split.TEST)[0], gold="9", info=info)
        score = mend.verify(task, f"So \\boxed{{{equation}}}.")
        assert score.value == value
        assert not value or (score.public, score.observation) == (True, "The left side is 28, the right side is 28.")


def test_two_different_equations_are_ambiguous_and_one_twice_is_not():
    mend = Mend(**SIZES, notation="plain")
    task = mend.load(Split.TEST)[0]
    right, wrong = mend.gold_response(task), respond(mend, task, int(task.gold) + 1)
    assert mend.verify(task, f"{wrong} or {right}").verdict == "ambiguous"
    assert mend.verify(task, f"{right}, that is {right.replace(' ', '')}").value == 1.0
    whole, mixed = (respond(mend, task, number) for number in (f"1{2 * int(task.gold)}/2", f"1 {2 * int(task.gold)}/2"))
    assert mend.verify(task, f"{mixed} or {whole}").verdict == "ambiguous"


def test_sides_are_exact_and_refuse_what_is_no_equation_of_numbers():
    assert sides("1/3 + 1/6 = 0.5") == (Fraction(1, 2), Fraction(1, 2))
    assert sides(r"2\left(\frac{42}{2} + 1\right) = 4^{2} \cdot 3") == (Fraction(44), Fraction(48))
    for text in (
        "",
        "3",
        "x=3",
        "(2 = 2",
        "1 4/2 = 7",
        "2 1 = 21",
        "4^{2}5 = 4",
        "1=2=3",
        "1/0=3",
        "2=" + "9" * 300,
        "9^9^9^9=1",
        "3%=3",
    ):
        assert sides(text) is None


def test_options_that_cannot_be_are_refused():
    for options, named in (
        ({"notation": "roman"}, "notation"),
        ({"factors": []}, "factors"),
        ({"max_answer": 0}, "max_answer"),
        ({"p_zero": 1.5}, "p_zero"),
        ({"factors": [10]}, "notation=plain"),
        ({"max_inner": 21}, "notation=plain"),
    ):
        with pytest.raises(ValueError, match=named):
            Mend(**options)


def test_an_episode_tells_both_sides_and_mending_pays():
    env = make("errata/mend-v1", SIZES, attempts=3)
    messages, _ = env.reset(seed=1)
    task = env.unwrapped.task
    m, a, b, c = task.info["terms"]
    assert messages == (Message("user", task.question),)
    number = (int(task.gold) + random.Random(0).randint(1, 9)) % 10
    messages, reward, terminated, truncated, _ = env.step(f"try {written(task.info['terms'], str(number))}")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert messages == (Message("user", f"got diff={m * (number + a) + b - c}"),)
    assert env.step(mended(task, number))[1] == 1.0


def test_an_error_says_by_how_much_the_number_misses():
    taskset = Mend(**SIZES)
    task = next(task for task in taskset.load(Split.TEST) if task.gold == "5")
    told = {number: taskset.verify(task, respond(taskset, task, number)).error for number in (5, 6, 3, 9, 0)}
    assert told == {5: "", 6: "number +1", 3: "number -2", 9: "number too large", 0: "number too small"}
    assert taskset.verify(task, "nothing").error == "no_answer: no_answer"


def test_an_answer_that_is_worked_out_mends_any_number_by_what_its_sides_come_to(mend):
    for task in mend.load(Split.TEST)[:20]:
        _, _, _, right = task.info["terms"]
        for number in range(10):
            response = mend.worked_out(task, respond(mend, task, number))
            score = mend.verify(task, response)
            assert score.value == 1.0, response
            if mend.told(task, respond(mend, task, number)).startswith("The left side is"):
                left, own = re.findall(r"-?\d+", mend.told(task, respond(mend, task, number)))
                assert int(own) == right
                assert f"{right} - {left}" in response
        with pytest.raises(ValueError, match="not the equation"):
            mend.worked_out(task, "nothing")


@pytest.mark.parametrize(
    ("factors", "p_zero", "begins"),
    [
        ([1], 1.0, r"-?\d+ [+-] \d+ = "),
        ([3], 1.0, r"-?\d+ / 3 [+-] \d+ = "),
        ([3], 0.0, r"\(-?\d+ [+-] \d+\) / 3 [+-] \d+ = "),
    ],
)
def test_a_reckoned_attempt_comes_to_its_number_and_is_exchanged_with_it(factors, p_zero, begins):
    taskset, rng = Mend(40, 4, 4, "plain", factors=factors, p_zero=p_zero), random.Random(0)
    for task in taskset.load("train"):
        right = taskset.reckoned(task, task.gold)
        assert re.match(begins, right)
        left, found = right.split(":")[0].split(" = ")
        assert sides(f"{left} = {found}")[0] == int(task.gold)
        assert taskset.verify(task, right).verdict is Verdict.CORRECT
        slip = taskset.slipped(task, rng)
        assert taskset.verify(task, taskset.reckoned(task, slip)).verdict is Verdict.WRONG
        # Control C5 swaps in another attempt. The other attempt must show its steps exactly if the original does, and
        # its steps must lead to the number that it states.
        other = taskset.other_attempt(task, right, rng)
        number = other.split(":")[0].split(" = ")[1]
        assert other == taskset.reckoned(task, number) != right
        assert "=" not in taskset.other_attempt(task, taskset.gold_response(task), rng).split("\\boxed")[0]
