"""Rates: the value of each rate for any number of attempts, and a rate that another module adds."""

import math
from dataclasses import replace

import pytest

from rewards.lookup import UnknownNameError
from rl.analysis.rates import RATES, Where, declared, edit_ratio, named, rate, reported
from rl.analysis.rows import EvalRow
from rl.analysis.statistics import summarise, tabulate
from tests.helpers import row


def played(*correct, attempts=2, task_id="t", answers=None, **more):
    """An evaluated episode with the given verdicts, possibly fewer than the ``attempts`` that were allowed."""
    n = len(correct)
    answers = answers or tuple("1" if right else "0" for right in correct)
    return EvalRow(
        "a", 0, "greedy", task_id, 0, attempts, tuple(map(bool, correct)), tuple(map(float, correct)),
        tuple("correct" if right else "wrong" for right in correct), answers, answers, (2,) * n, (False,) * n,
        "attempts_used", False, **more,
    )  # fmt: skip


def test_an_episode_that_ends_early_counts_with_its_last_attempt():
    """Nine of ten episodes stop at a right first attempt, one is wrong to the end: accuracy is 0.9 at each attempt."""
    rows = [played(1, attempts=4, task_id=str(i)) for i in range(9)] + [played(0, 0, 0, 0, attempts=4, task_id="9")]
    got = summarise(rows)
    assert [got[f"accuracy_t{k}"] for k in (1, 2, 3, 4)] == [0.9] * 4
    assert got["delta"] == got["delta_t3"] == got["delta_t4"] == got["changed_answer"] == 0.0
    table = tabulate(rows, "greedy")["a"]
    assert table.cells["accuracy_t4"].mean == pytest.approx(0.9)


def test_every_attempt_has_its_key_even_if_nobody_got_there():
    got = summarise([played(1, attempts=3), played(1, attempts=3, task_id="u")])
    assert [name for name in got if name.startswith("accuracy")] == ["accuracy_t1", "accuracy_t2", "accuracy_t3"]
    assert got["accuracy_t3"] == 1.0
    assert math.isnan(got["fix_rate"])  # no first attempt was wrong


def test_three_attempts_keep_delta_between_the_first_two():
    got = summarise([played(0, 0, 1, attempts=3), played(0, 1, 0, attempts=3, task_id="u")])
    assert (got["accuracy_t2"], got["accuracy_t3"]) == (0.5, 0.5)
    assert got["delta"] == got["accuracy_t2"] - got["accuracy_t1"] == 0.5
    assert got["delta_t3"] == got["accuracy_t3"] - got["accuracy_t1"] == 0.5
    assert got["delta"] == got["delta_i_to_c"] - got["delta_c_to_i"]
    assert got["fix_rate"] == 0.5


def test_one_attempt_has_no_second_one():
    got = summarise([played(1, attempts=1), played(0, attempts=1, task_id="u")])
    assert got["accuracy_t1"] == 0.5
    assert not {"accuracy_t2", "delta", "edit_distance", "fix_rate"} & got.keys()
    assert "truncated_fraction" in got


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ("", "", 0.0),
        ("same", "same", 0.0),
        ("abc", "", 1.0),
        ("ab", "xy", 1.0),
        ("abcd", "abxy", 0.5),
        ("kitten", "sitting", 5 / 13),  # delete k and e, insert s, i and g
        ("ab" * 50 + "c" * 50, "c" * 50 + "ab" * 50, 100 / 300),  # moving the block of c's is cheapest
    ],
)
def test_the_edit_ratio_is_a_distance(first, second, ratio):
    assert edit_ratio(first, second) == pytest.approx(ratio)
    assert edit_ratio(second, first) == edit_ratio(first, second)


def test_conditional_rates_are_quotients_of_means():
    rows = [played(0, 1, task_id="x"), played(1, 1, task_id="y"), played(0, 0, task_id="z"), played(1, 0, task_id="w")]
    table = tabulate(rows, "greedy")["a"]
    assert table.cells["fix_rate"].mean == table.cells["break_rate"].mean == 0.5
    assert table.cells["fix_rate"].below.tolist() == [[1, 0, 1, 0]]


def test_values_travel_with_the_row():
    one = played(0, 1)
    assert one.values["delta"] == 1.0
    assert "break_rate" not in one.values  # undefined if the first attempt was wrong
    assert EvalRow.from_json(one.to_json()) == one
    stored = replace(one, values={"accuracy_t1": 0.25})
    assert stored.values["accuracy_t1"] == 0.25, "what is stored stays"
    assert stored.values["delta"] == 1.0, "what is missing is measured"
    assert row(failed=True).values == {}


def test_names_that_do_not_exist_are_refused_with_the_nearest():
    assert named("accuracy_t7").label == "acc@t7"
    with pytest.raises(UnknownNameError, match="rate=edit_distanc: unknown; did you mean 'edit_distance'"):
        named("edit_distanc")


def test_a_rate_from_outside_is_measured_and_shown_everywhere(monkeypatch):
    monkeypatch.setattr(RATES, "_values", dict(RATES._values))  # restored after this test

    @rate("short", "short answers", "%", least=2)
    def short(row):
        """Second attempts of one character."""
        return len(row.texts[row.at(2)]) == 1

    got = summarise([played(0, 1), played(0, 1, task_id="u", answers=("10", "11"))])
    assert got["short"] == 0.5
    assert declared(2, Where.HEADLINE)["short"].header == "short answers (%)"
    assert "short" not in declared(1)
    line = {"eval/validation/short": 0.5, "eval/validation/delta": None, "eval/validation/n": 2, "step": 1}
    ((one, value),) = reported(line, "eval/validation/", Where.HEADLINE).values()
    assert one.line(value) == "short answers 50.0 %"
    with pytest.raises(ValueError, match="docstring"):
        rate("mute", "mute", "%")(lambda row: 1.0)
