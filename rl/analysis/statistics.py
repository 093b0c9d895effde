"""Statistics of evaluated episodes: rates, paired bootstrap intervals, exact McNemar, accuracy over responses per task.

Every number is a mean of per-episode values, first over the samples of a task, then over tasks, then over seeds. A rate
that is not defined for all episodes is a quotient of two such means.
Intervals resample seeds and then tasks (Efron & Tibshirani 1993; clustered as in Miller, arXiv 2411.00640), with the
same draws for every arm, so that differences between arms are paired over tasks and over training seeds.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from rewards.votes import majority_index
from rewards.wording import counted
from rl.analysis.rates import declared
from rl.analysis.rows import EvalRow

DRAWS = 10_000


def summarise(rows: Sequence[EvalRow]) -> dict[str, float]:
    """Rates of a set of episodes, without the failed ones.

    Returns:
        Every rate that exists for this number of attempts, ``nan`` where it is defined for no episode; also
        ``failed_fraction`` and ``n``, the number of episodes that did not fail.
    """
    good = [row for row in rows if not row.failed]
    summary = {}
    for name in declared(max((row.attempts for row in rows), default=1)):
        values = [row.values[name] for row in good if name in row.values]
        summary[name] = float(np.mean(values)) if values else float("nan")
    summary["failed_fraction"] = (len(rows) - len(good)) / len(rows) if rows else float("nan")
    summary["n"] = len(good)
    return summary


def _means(values_SN: np.ndarray) -> np.ndarray:
    """Means over the tasks that have a value, ``[S]``; ``nan`` for a seed without any value."""
    # np.nanmean would warn about a seed without values.
    known = ~np.isnan(values_SN)
    sums, n = np.where(known, values_SN, 0.0).sum(1), known.sum(1)
    return np.divide(sums, n, out=np.full(len(n), np.nan), where=n > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """One rate of one arm by seed and task, as numerator and denominator.

    Args:
        above: ``[S, N]`` numerator: sum of the rate's values over a task's samples that did not fail, divided by the
            number of these samples; ``nan`` if all failed.
        below: ``[S, N]`` denominator: share of these samples for which the rate is defined, 1 for most rates; ``nan``
            if all failed.
    """

    above: np.ndarray
    below: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over samples, tasks and seeds; ``nan`` if the rate is defined for no episode."""
        # Numerator and denominator are averaged separately and divided at the end, which gives the mean over the
        # *episodes* for which the rate is defined. A mean of quotients by task would give a task with one such episode
        # the same weight as a task with many.
        above, below = (float(_means(_means(part)[None])[0]) for part in (self.above, self.below))
        return above / below if below > 0 else float("nan")

    def per_seed(self) -> list[float]:
        """Mean of each seed."""
        return [Cells(self.above[s : s + 1], self.below[s : s + 1]).mean for s in range(len(self.above))]

    def take(self, seeds: Sequence[int], tasks: Sequence[int] | slice = slice(None)) -> "Cells":
        """The cells of some seeds and tasks, selected by position, in the given order."""
        return Cells(*(part[list(seeds)][:, tasks] for part in (self.above, self.below)))


@dataclass(frozen=True, slots=True)
class ArmTable:
    """The rates of one arm in one mode.

    Args:
        arm: Name of the arm.
        seeds: S training seeds.
        task_ids: Ids of the N tasks.
        cells: Values by name of the rate.
    """

    arm: str
    seeds: tuple[int, ...]
    task_ids: tuple[str, ...]
    cells: dict[str, Cells]


def tabulate(rows: Sequence[EvalRow], mode: str) -> dict[str, ArmTable]:
    """Tables of the rates of one mode by arm, all with the same tasks in the same order.

    Raises:
        ValueError: If arms or seeds were evaluated on different tasks, so that differences would not be paired.
    """
    episodes: dict[tuple[str, int], dict[str, list[EvalRow]]] = defaultdict(dict)
    for row in rows:
        if row.mode == mode:
            of_task = episodes[row.arm, row.seed].setdefault(row.task_id, [])
            of_task += [] if row.failed else [row]
    # A failed episode is a missing value, not a missing task: the task stays, with its samples that did not fail.
    order = list(next(iter(episodes.values()), {}))
    names = list(declared(max((row.attempts for row in rows if row.mode == mode), default=1)))
    tables = {}
    for arm in dict.fromkeys(arm for arm, _ in episodes):
        seeds = sorted(seed for name, seed in episodes if name == arm)
        parts = np.full((2, len(seeds), len(order), len(names)), np.nan)
        for s, seed in enumerate(seeds):
            if set(episodes[arm, seed]) != set(order):
                raise ValueError(f"{arm}, seed {seed}: evaluated on other tasks than the rest, so nothing is paired")
            for i, task in enumerate(order):
                if found := episodes[arm, seed][task]:
                    values = np.array([[row.values.get(name, np.nan) for name in names] for row in found])
                    parts[0, s, i] = np.nansum(values, axis=0) / len(found)
                    parts[1, s, i] = (~np.isnan(values)).mean(axis=0)
        cells = {name: Cells(parts[0, :, :, f], parts[1, :, :, f]) for f, name in enumerate(names)}
        tables[arm] = ArmTable(arm, tuple(seeds), tuple(order), cells)
    return tables


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its percentile interval.

    All numbers are rounded, so that a value that is zero except for rounding errors is exactly zero. Otherwise a
    printed sentence could depend on the processor.
    """

    mean: float
    low: float
    high: float

    def __post_init__(self) -> None:
        for name, digits in (("mean", 12), ("low", 6), ("high", 6)):  # fewer digits for the ends: draws are float32
            object.__setattr__(self, name, round(getattr(self, name), digits) + 0.0)


class Bootstrap:
    """Shared resamples of seeds and tasks, so that all intervals computed from one instance are paired.

    Args:
        n_seeds: Largest number of training seeds of any arm.
        n_tasks: Number of tasks, N.
        draws: Number of resamples.
        seed: Random seed of the resampling.
    """

    def __init__(self, n_seeds: int, n_tasks: int, draws: int = DRAWS, seed: int = 0) -> None:
        # ``[draws, N]`` and ``[draws, S]`` weights: how often each task or seed is drawn, as a share, so that resampled
        # means are a matrix product. The weights are drawn once for all arms, which makes differences paired.
        rng = np.random.default_rng(seed)
        self._n_seeds, self._n_tasks = n_seeds, n_tasks
        self._drawn: dict[Cells, np.ndarray] = {}
        self._tasks = rng.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), size=draws).astype(np.float32) / n_tasks
        self._seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws).astype(np.float32) / n_seeds

    def draws(self, cells: Cells) -> np.ndarray:
        """Resampled values of a rate, ``[draws]``; ``nan`` where a resample has no episode for which it is defined."""
        if cells not in self._drawn:  # cached, because an arm is compared with every other arm
            found = self._means(cells.above)
            # A rate that is defined for every sample has a denominator of 1.
            if np.nanmin(cells.below, initial=1.0) < 1:
                below = self._means(cells.below)
                found = np.divide(found, below, out=np.full_like(found, np.nan), where=below > 0)
            self._drawn[cells] = found
        return self._drawn[cells]

    def _means(self, values_SN: np.ndarray) -> np.ndarray:
        """Resampled means, ``[draws]``. A single row (the untrained base) is used for every seed.

        Tasks without a value (all episodes failed) are left out of the mean.
        """
        if values_SN.shape[0] == 1:
            values_SN = np.repeat(values_SN, self._n_seeds, axis=0)
        if values_SN.shape != (self._n_seeds, self._n_tasks):
            raise ValueError(f"values are {values_SN.shape}, expected ({self._n_seeds}, {self._n_tasks})")
        known = ~np.isnan(values_SN)
        sums = self._tasks @ np.where(known, values_SN, 0.0).T.astype(np.float32)
        weights = self._tasks @ known.T.astype(np.float32)
        means = np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)
        return (self._seeds * means).sum(1)

    def interval(self, cells: Cells, level: float = 0.95) -> Interval:
        """Mean of a rate and its percentile interval."""
        return _interval(cells.mean, self.draws(cells), level)

    def difference(self, left: Cells, right: Cells, level: float = 0.95) -> Interval:
        """Mean and paired percentile interval of ``left - right``."""
        return _interval(left.mean - right.mean, self.draws(left) - self.draws(right), level)

    def statistic(
        self, values_SNE: np.ndarray, of: Callable[[np.ndarray, int], np.ndarray]
    ) -> tuple[float, np.ndarray]:
        """Mean over seeds of a statistic that is not itself a mean over tasks, and the resamples of this mean.

        Args:
            values_SNE: E numbers for each seed and task, which are averaged over tasks.
            of: Statistic of one seed: takes ``[D, E]`` means over tasks and the seed's position, and returns ``[D]``
                values.

        Returns:
            The mean over seeds, and its ``[draws]`` resamples.
        """
        whole = float(np.mean([of(values_NE.mean(0)[None], s)[0] for s, values_NE in enumerate(values_SNE)]))
        drawn = [of(self._tasks @ values_NE.astype(np.float32), s) for s, values_NE in enumerate(values_SNE)]
        return whole, (self._seeds * np.stack(drawn, 1)).sum(1)

    def p_value(self, left: Cells, right: Cells) -> float:
        """Two-sided p-value: twice the share of draws with a difference of the other sign or 0, at least 2 / draws."""
        # Draws equal to 0 count for both tails. If no draw has the other sign, the share is only known to be below
        # 1 / draws. Rounding makes the difference of equal arms exactly 0.
        draws = np.round(self.draws(left) - self.draws(right), 6)
        draws = draws[~np.isnan(draws)]
        if not len(draws):
            return 1.0
        other_sign = min((draws <= 0).mean(), (draws >= 0).mean())
        return float(min(1.0, 2 * max(other_sign, 1 / len(draws))))


def _interval(centre: float, draws: np.ndarray, level: float) -> Interval:
    known = draws[~np.isnan(draws)]
    if np.isnan(centre) or not len(known):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(centre, float(low), float(high))


def pass_at_k(n: int, n_correct: int, k: int) -> float:
    """Unbiased estimate, from n samples, that at least one of k samples is right (Chen et al., arXiv 2107.03374).

    Raises:
        ValueError: If k exceeds n.
    """
    if k > n:
        raise ValueError(f"pass@{k} cannot be estimated from {counted(n, 'sample')}")
    return 1.0 - comb(n - n_correct, k) / comb(n, k)


def by_responses(rows: Sequence[EvalRow]) -> list[dict[str, float]]:
    """Accuracy by the number k of responses per task, from the sampled episodes of one arm and seed.

    ``pass`` is pass@k and ``majority`` the accuracy of the majority answer, both over k first attempts. ``sequential``
    is the majority over the last attempts of k / K episodes of K attempts, which cost the same k responses; ``nan``
    where k is not a multiple of K.
    """
    by_task: dict[str, list[EvalRow]] = defaultdict(list)
    for row in rows:
        if row.mode == "sampled" and not row.failed:
            by_task[row.task_id].append(row)
    groups = list(by_task.values())
    if not groups:
        return []
    n = min(len(group) for group in groups)
    n_attempts = max(row.attempts for row in groups[0])
    points = []
    for k in range(1, n + 1):
        # k responses are k / K episodes of K attempts, if that is a whole number.
        episodes = k // n_attempts if k % n_attempts == 0 else 0
        points.append(
            {
                "responses": float(k),
                "pass": float(np.mean([pass_at_k(len(g), sum(r.correct[0] for r in g), k) for g in groups])),
                "majority": float(np.mean([_majority(g[:k], 1) for g in groups])),
                "sequential": float(np.mean([_majority(g[:episodes], n_attempts) for g in groups]))
                if episodes
                else np.nan,
            }
        )
    return points


def _majority(rows: Sequence[EvalRow], k: int) -> float:
    """1 if the most frequent answer at attempt ``k`` is right, else 0; also 0 if no episode has an answer."""
    winner = majority_index([row.answer_keys[row.at(k)] for row in rows])
    return 0.0 if winner is None else float(rows[winner].correct[rows[winner].at(k)])
