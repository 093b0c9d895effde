"""Statistics of evaluated episodes: rates, paired bootstrap intervals, exact McNemar, accuracy over responses per task.

Everything is a mean of per-episode values, first over the samples of a task, then over tasks, then over seeds; a rate
that says nothing about some episodes is a quotient of two such means.
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
    """Rates of a set of episodes, with how many they rest on; failed episodes are counted and left out.

    Returns:
        Every rate of episodes of this many attempts, ``nan`` where it says nothing; ``failed_fraction`` and ``n``.
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
    """``[S]`` means over the tasks that have a value, ``nan`` for a seed without any."""
    # Not nanmean, which warns about a seed without values.
    known = ~np.isnan(values_SN)
    sums, n = np.where(known, values_SN, 0.0).sum(1), known.sum(1)
    return np.divide(sums, n, out=np.full(len(n), np.nan), where=n > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """One rate of one arm, by seed and task.

    Args:
        above: ``[S, N]`` mean over a task's samples of what the rate counts; ``nan`` where no episode counts.
        below: ``[S, N]`` share of the samples that the rate says anything about; 1 for most rates.
    """

    above: np.ndarray
    below: np.ndarray

    @property
    def mean(self) -> float:
        """Over samples, tasks and seeds; ``nan`` if the rate says nothing about any episode."""
        # Numerator and denominator are averaged apart and divided at the end: the mean over *episodes* that the rate is
        # about. A mean of quotients by task would weigh a task with one such sample like one with many.
        above, below = (float(_means(_means(part)[None])[0]) for part in (self.above, self.below))
        return above / below if below > 0 else float("nan")

    def per_seed(self) -> list[float]:
        """Means of the single seeds."""
        return [Cells(self.above[s : s + 1], self.below[s : s + 1]).mean for s in range(len(self.above))]

    def take(self, seeds: Sequence[int], tasks: Sequence[int] | slice = slice(None)) -> "Cells":
        """Some seeds and tasks, by position and in this order."""
        return Cells(*(part[list(seeds)][:, tasks] for part in (self.above, self.below)))


@dataclass(frozen=True, slots=True)
class ArmTable:
    """The rates of one arm in one mode.

    Args:
        arm: Which.
        seeds: S training seeds.
        task_ids: N tasks.
        cells: By rate.
    """

    arm: str
    seeds: tuple[int, ...]
    task_ids: tuple[str, ...]
    cells: dict[str, Cells]


def tabulate(rows: Sequence[EvalRow], mode: str) -> dict[str, ArmTable]:
    """Rows of one mode by arm, all on the same tasks in the same order.

    Raises:
        ValueError: If an arm lacks a task that another has: differences would not be paired.
    """
    episodes: dict[tuple[str, int], dict[str, list[EvalRow]]] = defaultdict(dict)
    for row in rows:
        if row.mode == mode:
            of_task = episodes[row.arm, row.seed].setdefault(row.task_id, [])
            of_task += [] if row.failed else [row]
    # A failed episode is a missing value and not a missing task: its task stays, with the samples that did not fail.
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

    Rounded: what is zero up to the order of summation is zero, so that no sentence hangs on a processor's last bits.
    """

    mean: float
    low: float
    high: float

    def __post_init__(self) -> None:
        for name, digits in (("mean", 12), ("low", 6), ("high", 6)):  # the draws behind the ends are float32
            object.__setattr__(self, name, round(getattr(self, name), digits) + 0.0)


class Bootstrap:
    """Shared draws of seeds and tasks, so that everything computed from one instance is paired.

    Args:
        n_seeds: Largest number of training seeds of any arm.
        n_tasks: N.
        draws: Number of resamples.
        seed: Of the resampling.
    """

    def __init__(self, n_seeds: int, n_tasks: int, draws: int = DRAWS, seed: int = 0) -> None:
        # ``[draws, N]`` and ``[draws, S]`` weights: how often a task or a seed is drawn, as a share. A resampled
        # mean is then a product of matrices. They are drawn once for all arms, which is what makes differences paired.
        rng = np.random.default_rng(seed)
        self._n_seeds, self._n_tasks = n_seeds, n_tasks
        self._drawn: dict[Cells, np.ndarray] = {}
        self._tasks = rng.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), size=draws).astype(np.float32) / n_tasks
        self._seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws).astype(np.float32) / n_seeds

    def draws(self, cells: Cells) -> np.ndarray:
        """``[draws]`` resampled values of a rate; ``nan`` where a draw holds no episode that the rate is about."""
        if cells not in self._drawn:  # an arm is compared with every other one
            found = self._means(cells.above)
            # A rate that is about every sample needs no denominator.
            if np.nanmin(cells.below, initial=1.0) < 1:
                below = self._means(cells.below)
                found = np.divide(found, below, out=np.full_like(found, np.nan), where=below > 0)
            self._drawn[cells] = found
        return self._drawn[cells]

    def _means(self, values_SN: np.ndarray) -> np.ndarray:
        """``[draws]`` resampled means. A single row (the untrained base) stands for every seed.

        Tasks without a value (every episode failed) drop out of the mean.
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
        """Mean and percentile interval."""
        return _interval(cells.mean, self.draws(cells), level)

    def difference(self, left: Cells, right: Cells, level: float = 0.95) -> Interval:
        """Mean and paired percentile interval of ``left - right``."""
        return _interval(left.mean - right.mean, self.draws(left) - self.draws(right), level)

    def statistic(
        self, values_SNE: np.ndarray, of: Callable[[np.ndarray, int], np.ndarray]
    ) -> tuple[float, np.ndarray]:
        """A mean over seeds of something that is not a mean over tasks, and its resamples.

        Args:
            values_SNE: What is added up over tasks, E numbers for each.
            of: From ``[D, E]`` sums over tasks and the place of the seed to ``[D]`` values.

        Returns:
            The value, and its ``[draws]`` resamples.
        """
        whole = float(np.mean([of(values_NE.mean(0)[None], s)[0] for s, values_NE in enumerate(values_SNE)]))
        drawn = [of(self._tasks @ values_NE.astype(np.float32), s) for s, values_NE in enumerate(values_SNE)]
        return whole, (self._seeds * np.stack(drawn, 1)).sum(1)

    def p_value(self, left: Cells, right: Cells) -> float:
        """Two-sided: twice the share of draws whose difference has the other sign or is 0, at least 2 / draws."""
        # Draws on 0 count for both tails. Where none has the other sign, its share is only known to be below one draw.
        draws = np.round(self.draws(left) - self.draws(right), 6)  # equal arms tie in every draw
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
    """Probability that at least one of k samples is right, unbiased from n samples (Chen et al., arXiv 2107.03374).

    Raises:
        ValueError: If k exceeds n.
    """
    if k > n:
        raise ValueError(f"pass@{k} cannot be estimated from {counted(n, 'sample')}")
    return 1.0 - comb(n - n_correct, k) / comb(n, k)


def by_responses(rows: Sequence[EvalRow]) -> list[dict[str, float]]:
    """Accuracy against the number of responses per task, from the sampled episodes of one arm and seed.

    ``pass``, ``majority``: of k first attempts. ``sequential``: majority over the last attempts of k / K episodes,
    which costs the same k responses (K attempts each); ``nan`` where k is not a multiple of K.
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
        # k responses in a sequence of K attempts are k / K episodes, where that is a whole number.
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
    """Whether the answer that most give at attempt ``k`` is right; 0 if nobody gives one."""
    winner = majority_index([row.answer_keys[row.at(k)] for row in rows])
    return 0.0 if winner is None else float(rows[winner].correct[rows[winner].at(k)])
