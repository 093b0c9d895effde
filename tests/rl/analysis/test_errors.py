"""A policy's own errors against the errors in its training data, with numbers worked out by hand."""

import pytest

from rl.analysis.errors import shift, total_variation
from rl.analysis.rows import EvalRow
from rl.analysis.statistics import Bootstrap

N = 200
TASKS = [f"t{i}" for i in range(N)]


def row(task, error, mended=False):
    """An episode of two attempts whose first makes the given error; an empty error means that it is right."""
    right = not error
    last = mended or right
    verdicts = ("correct" if right else "wrong", "correct" if last else "wrong")
    return EvalRow(
        "x", 0, "greedy", task, 0, 2, (right, last), (float(right), float(last)), verdicts, ("1", "2"), ("a", "b"),
        (1, 1), (False, False), "attempts_used", False, errors=(error, "" if last else error),
    )  # fmt: skip


def rows_of(**counts):
    """One episode per task: ``counts`` gives how many first attempts make each kind of error; the others are right."""
    kinds = [kind for kind, n in counts.items() for _ in range(n)]
    return [row(task, kind) for task, kind in zip(TASKS, kinds + [""] * (N - len(kinds)), strict=True)]


def test_total_variation_by_hand():
    assert total_variation({"a": 3, "b": 1}, {"a": 30, "b": 10}) == 0
    assert total_variation({"a": 3}, {"b": 5}) == 1
    # Shares 1/2, 1/2, 0 against 1/4, 1/4, 1/2: half of 1/4 + 1/4 + 1/2.
    assert total_variation({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 2}) == pytest.approx(0.5)
    assert total_variation({}, {"a": 1}) != total_variation({}, {"a": 1})  # nan, as one table is empty


def test_the_same_shares_are_not_told_apart():
    found = shift([rows_of(a=60, b=40)], [{"a": 600, "b": 400}], TASKS, Bootstrap(1, N))
    assert not found.differs
    assert found.distance.mean < 0.02
    assert found.unseen.mean == found.unseen.high == 0
    assert found.mended_unseen != found.mended_unseen


def test_what_sampling_alone_makes_is_no_difference():
    """A distance that sampling alone can explain is no difference: 12 or 8 errors of a kind where 10 are expected."""
    own = {f"k{i}": 12 if i % 2 else 8 for i in range(10)}
    found = shift([rows_of(**own)], [{f"k{i}": 500 for i in range(10)}], TASKS, Bootstrap(1, N))
    assert not found.differs
    assert 0.1 < found.by_chance < 0.2


def test_a_skewed_base_is_told_apart_and_its_new_errors_are_named():
    """Own errors are 40 % a and 60 % c, but only 1 % of the errors in training is c, so c counts as hardly seen."""
    rows = [row(one.task_id, one.errors[0], mended=one.errors[0] == "a") for one in rows_of(a=40, c=60)]
    rows[40] = row(rows[40].task_id, "c", mended=True)
    found = shift([rows], [{"a": 500, "b": 490, "c": 10}], TASKS, Bootstrap(1, N))
    assert found.differs
    # |.4 - .5| + .49 + |.6 - .01|, halved.
    assert found.distance.mean == pytest.approx(0.59, abs=0.01)
    assert found.distance.low < 0.59 < found.distance.high
    assert found.unseen.mean == pytest.approx(0.6)
    assert (found.mended_unseen, found.mended_seen) == (1 / 60, 1.0)


def test_seeds_are_compared_each_with_its_own_training_data():
    rows = [rows_of(a=100), rows_of(b=100)]
    same = shift(rows, [{"a": 1000}, {"b": 1000}], TASKS, Bootstrap(2, N))
    other = shift(rows, [{"b": 1000}, {"a": 1000}], TASKS, Bootstrap(2, N))
    assert (same.distance.mean, same.differs) == (0.0, False)
    assert (other.distance.mean, other.differs) == (1.0, True)


def test_without_errors_there_is_nothing_to_say():
    assert shift([rows_of()], [{"a": 3}], TASKS, Bootstrap(1, N)) is None
    assert shift([rows_of(a=3)], [{}], TASKS, Bootstrap(1, N)) is None
