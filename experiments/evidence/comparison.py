"""Computes the numbers behind the main table and its sentences: intervals, seeds, controls and costs of every arm."""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from experiments.evidence.model import plain
from experiments.evidence.store import Store
from experiments.refusals import refuse_other_kind
from rewards import nearest
from rl.analysis.controls import CONTROLS
from rl.analysis.errors import Shift, shift
from rl.analysis.rates import Where
from rl.analysis.significance import detectable_delta, mcnemar, newcombe_paired
from rl.analysis.statistics import Cells, Interval

FAILED_BELOW = 0.01
"""A training run whose delta is at most this value counts as failed: it did not learn to correct itself."""


@dataclass(frozen=True, slots=True)
class SeedLine:
    """One training run: its rates, and tests of whether accuracy differs between the two attempts.

    Args:
        seed: Training seed.
        rates: Headline rates by name, as fractions.
        p_value: P-value of the exact McNemar test of "the second attempt is right as often as the first".
        delta_interval: Newcombe's paired interval of delta; it is over tasks, so it says nothing about other seeds.
        failed: Whether delta is at most :data:`FAILED_BELOW`; ``False`` for episodes of one attempt, which have no
            delta.
    """

    seed: int
    rates: dict[str, float]
    p_value: float
    delta_interval: tuple[float, float]
    failed: bool


@dataclass(frozen=True, slots=True)
class ArmLine:
    """Results of one arm: one row of the main table.

    Args:
        arm: Key of the arm.
        name: Name of the arm in tables.
        trained: Whether the arm sampled episodes to learn from.
        rates: Rates with intervals, by name.
        against: Difference in the comparison's goal, this arm minus another arm, by the other arm's key.
        p_against: Two-sided bootstrap p-values of the differences in ``against``, not adjusted.
        detectable: The smallest delta that a test on this many tasks finds with 80 % power, given the share of tasks
            whose verdict changed.
        seeds: The training runs.
        crashed: Seeds that ended with an error.
        controls: Accuracy of the second attempt under each control; empty if no control was played.
        losses: Loss of the second attempt under each control: accuracy without the control minus accuracy under it.
        mending: The part of each loss at tasks whose own first attempt was wrong: share of all tasks that are mended
            without the control, minus share of these tasks that are right under it.
        shift: The arm's errors compared with the errors in its training data; ``None`` if the runs logged no errors.
        episodes: Episodes sampled for training, the maximum over seeds.
        updates: Optimiser steps of a run, mean over seeds.
        gradient_tokens: Tokens that a run was trained on, mean over seeds.
        seconds: Wall-clock seconds of a run, mean over seeds.
    """

    arm: str
    name: str
    trained: bool
    rates: dict[str, Interval]
    against: dict[str, Interval]
    p_against: dict[str, float]
    detectable: float
    seeds: list[SeedLine]
    crashed: list[int]
    controls: dict[str, Interval]
    losses: dict[str, Interval]
    mending: dict[str, Interval]
    shift: Shift | None
    episodes: int
    updates: float
    gradient_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of all arms in one mode.

    Args:
        env: Name of the environment.
        n_tasks: Number of tasks.
        mode: ``greedy`` or ``sampled``.
        attempts: K, the number of attempts that an episode may have.
        goal: The rate that arms are ranked by: ``delta``, or ``accuracy_t1`` if there is only one attempt.
        arms: Results of every arm, in the order of the tables.
        missing: Names of arms without a finished run.
    """

    env: str
    n_tasks: int
    mode: str
    attempts: int
    goal: str
    arms: list[ArmLine]
    missing: list[str]

    def arm(self, key: str) -> ArmLine:
        """Results of the arm with this key."""
        return next(line for line in self.arms if line.arm == key)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON types."""
        return plain(asdict(self))


@lru_cache(maxsize=8)
def compare(store: Store, mode: str) -> Comparison:
    """Compares the arms of a folder in one mode.

    Arms are paired over the seeds that all trained arms finished; the single run of an untrained arm is paired with
    every seed.

    Raises:
        TypeError: If ``store`` is no store.
        ValueError: If no episode was evaluated in the mode.
    """
    refuse_other_kind(store, Store, "compare", "make one with Store(<folder of runs>)")
    if mode not in store.modes:
        raise ValueError(
            f"mode={mode}: not evaluated here{nearest(mode, store.modes)} There is: {', '.join(store.modes)}"
        )
    goal = "delta" if store.attempts(mode) > 1 else "accuracy_t1"
    lines = [_line(store, mode, arm, goal) for arm in store.arms if arm in store.tables(mode)]
    missing = [store.names[arm] for arm in store.order if arm not in store.arms]
    return Comparison(store.env, store.n_tasks(mode), mode, store.attempts(mode), goal, lines, missing)


def _line(store: Store, mode: str, arm: str, goal: str) -> ArmLine:
    boot, table, own = store.bootstrap(mode), store.tables(mode)[arm], store.cells(arm, mode, goal)
    others = {other: store.cells(other, mode, goal) for other in store.tables(mode) if other != arm}
    results = [store.runs[arm, seed].result for seed in table.seeds]
    controls, losses, mending = _controls(store, arm) if mode == "greedy" else ({}, {}, {})
    return ArmLine(
        arm=arm,
        name=store.names[arm],
        trained=arm in store.trained,
        rates={name: store.interval(arm, mode, name) for name in store.rates(mode, Where.TABLES)},
        against={other: boot.difference(own, cells) for other, cells in others.items()},
        p_against={other: boot.p_value(own, cells) for other, cells in others.items()},
        detectable=_detectable(store, mode, arm),
        seeds=[_seed(store, mode, arm, i) for i in range(len(table.seeds))],
        crashed=store.crashed(arm),
        controls=controls,
        losses=losses,
        mending=mending,
        shift=_shift(store, mode, arm),
        episodes=max(result["totals"].get("episodes", 0) for result in results),
        updates=sum(result["totals"].get("updates", 0) for result in results) / len(results),
        gradient_tokens=sum(result["totals"].get("gradient_tokens", 0) for result in results) / len(results),
        seconds=sum(result["seconds"] for result in results) / len(results),
    )


def _controls(store: Store, arm: str) -> tuple[dict[str, Interval], ...]:
    """Accuracy of the second attempt under each control, its loss, and the part of the loss at wrong first attempts."""
    boot, there, lost, mending = store.bootstrap("greedy"), {}, {}, {}
    for control in CONTROLS:
        if arm in store.tables(control):
            # Tasks are put into the order of the greedy episodes: differences are paired by position.
            places = {task: i for i, task in enumerate(store.tables(control)[arm].task_ids)}
            order = [places[task] for task in store.tables("greedy")[arm].task_ids]
            cells = store.cells(arm, control, "accuracy_t2")
            cells = cells.take(range(len(cells.above)), order)
            there[control] = boot.interval(cells)
            # A task without a second attempt under the control is left out on both sides.
            own, missing = store.cells(arm, "greedy", "accuracy_t2"), np.isnan(cells.above)
            own = Cells(*(np.where(missing, np.nan, part) for part in (own.above, own.below)))
            lost[control] = boot.difference(own, cells)
            # A policy that keeps right attempts and guesses otherwise loses accuracy under every control, but only
            # where its own first attempt was right.
            wrong = 1.0 - store.cells(arm, "greedy", "accuracy_t1").above
            mended, under = (Cells(one.above * wrong, one.below) for one in (own, cells))
            mending[control] = boot.difference(mended, under)
    return there, lost, mending


def _shift(store: Store, mode: str, arm: str) -> Shift | None:
    seeds = store.complete or store.seeds(arm)[:1]
    if arm not in store.trained or store.attempts(mode) < 2 or not all(store.errors(arm, seed) for seed in seeds):
        return None
    rows = [[row for row in store.rows_of(arm, mode) if row.seed == seed] for seed in seeds]
    learned = [store.errors(arm, seed)[-1].seen for seed in seeds]
    return shift(rows, learned, store.tables(mode)[arm].task_ids, store.bootstrap(mode))


def _seed(store: Store, mode: str, arm: str, index: int) -> SeedLine:
    table = store.tables(mode)[arm]
    seed = table.seeds[index]
    rates = {name: table.cells[name].per_seed()[index] for name in store.rates(mode, Where.HEADLINE)}
    rows = [row for row in store.rows_of(arm, mode) if row.seed == seed and row.attempts > 1]
    # The 2 x 2 table of verdicts at both attempts, which McNemar's test and Newcombe's interval are computed from.
    pairs = Counter((row.correct[0], row.correct[row.at(2)]) for row in rows)
    both, broken, fixed, neither = (pairs[first, last] for first in (True, False) for last in (True, False))
    # The tolerance makes a delta of 1 in 100 tasks count as failed, which rounding may put just above 0.01.
    failed = rates.get("delta", 1.0) <= FAILED_BELOW + 1e-9
    return SeedLine(seed, rates, mcnemar(fixed, broken), newcombe_paired(both, broken, fixed, neither), failed)


def _detectable(store: Store, mode: str, arm: str) -> float:
    """Smallest detectable delta, given the mean share of tasks whose verdict differs between the two attempts."""
    table = store.tables(mode)[arm]
    if "delta" not in table.cells:
        return float("nan")
    changing = [table.cells[name].mean for name in ("delta_i_to_c", "delta_c_to_i")]
    return detectable_delta(sum(changing), len(table.task_ids))
