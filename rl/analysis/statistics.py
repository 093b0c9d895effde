"""Statistics of evaluated episodes: rates, paired bootstrap intervals, exact McNemar, inference-time scaling.

Everything is a mean of per-episode values, first over the samples of a task, then over tasks, then over seeds.
Intervals resample seeds and then tasks (Efron & Tibshirani 1993; clustered as in Miller, arXiv 2411.00640), with the
same draws for every arm, so that differences between arms are paired over tasks and over training seeds.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.stats import binomtest

from rewards.votes import majority_index
from rl.analysis.revisions import edit_ratio
from rl.analysis.rows import EvalRow

DRAWS = 10_000
RATES: tuple[str, ...] = (
    "accuracy_t1",
    "accuracy_t2",
    "delta",
    "delta_i_to_c",
    "delta_c_to_i",
    "edit_rate",
    "edit_distance",
    "same_answer",
    "changed_answer",
    "truncated_fraction",
    "no_answer_fraction",
    "response_tokens",
)
"""Per-episode values whose means are reported. Differences are between the last and the first attempt."""


def episode_values(row: EvalRow) -> tuple[float, ...]:
    """The values of one episode, in the order of :data:`RATES`.

    Raises:
        ValueError: For a failed episode: it has no attempts that count.
    """
    if row.failed:
        raise ValueError(f"task {row.task_id}: a failed episode has no values")
    first, last = row.correct[0], row.correct[-1]
    n_attempts = len(row.correct)
    return (
        float(first),
        float(row.correct[min(1, n_attempts - 1)]),
        float(last) - float(first),
        float(last and not first),
        float(first and not last),
        float(row.texts[0] != row.texts[-1]),
        edit_ratio(row.texts[0], row.texts[-1]),
        float(row.answers[0] is not None and row.answers[0] == row.answers[-1]),
        float(row.answers[0] != row.answers[-1]),
        sum(row.truncated) / n_attempts,
        sum(verdict == "no_answer" for verdict in row.verdicts) / n_attempts,
        float(sum(row.n_tokens)),
    )


def summarise(rows: Sequence[EvalRow]) -> dict[str, float]:
    """Rates of a set of episodes, with how many they rest on; failed episodes are counted and left out.

    Returns:
        :data:`RATES`, ``accuracy_t<k>`` for further attempts, ``fix_rate``, ``break_rate``, ``change_if_wrong`` and
        ``change_if_right`` (another final answer, of those wrong or right at first),
        ``failed_fraction`` and ``n``; ``nan`` where nothing can be computed.
    """
    good = [row for row in rows if not row.failed]
    table = np.array([episode_values(row) for row in good]).reshape(len(good), len(RATES))
    means = table.mean(0) if len(good) else np.full(len(RATES), np.nan)
    summary: dict[str, float] = dict(zip(RATES, means.tolist(), strict=True))
    n_attempts = max((len(row.correct) for row in good), default=0)
    for k in range(2, n_attempts):
        summary[f"accuracy_t{k + 1}"] = float(np.mean([row.correct[k] for row in good if len(row.correct) > k]))
    wrong, right = 1.0 - summary["accuracy_t1"], summary["accuracy_t1"]
    summary["fix_rate"] = summary["delta_i_to_c"] / wrong if wrong else float("nan")
    summary["break_rate"] = summary["delta_c_to_i"] / right if right else float("nan")
    for name, first_is_right in (("change_if_wrong", False), ("change_if_right", True)):
        of_these = [row.answers[0] != row.answers[-1] for row in good if row.correct[0] is first_is_right]
        summary[name] = float(np.mean(of_these)) if of_these else float("nan")
    summary["failed_fraction"] = (len(rows) - len(good)) / len(rows) if rows else float("nan")
    summary["n"] = len(good)
    return summary


@dataclass(frozen=True, slots=True)
class ArmTable:
    """The values of one arm in one mode.

    Args:
        arm: Which.
        seeds: S training seeds.
        task_ids: N tasks.
        values: ``[S, N, F]``, F in the order of :data:`RATES`; means over a task's samples, ``nan`` where none counts.
    """

    arm: str
    seeds: tuple[int, ...]
    task_ids: tuple[str, ...]
    values: np.ndarray

    def rate(self, name: str) -> np.ndarray:
        """``[S, N]`` values of one rate."""
        return self.values[:, :, RATES.index(name)]

    def per_seed(self, name: str) -> list[float]:
        """Mean over tasks, per seed."""
        return np.nanmean(self.rate(name), axis=1).tolist()


def tabulate(rows: Sequence[EvalRow], mode: str) -> dict[str, ArmTable]:
    """Rows of one mode by arm, all on the same tasks in the same order.

    Raises:
        ValueError: If an arm lacks a task that another has: differences would not be paired.
    """
    cells: dict[tuple[str, int, str], list[tuple[float, ...]]] = defaultdict(list)
    seeds: dict[str, set[int]] = defaultdict(set)
    tasks: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for row in rows:
        if row.mode != mode:
            continue
        seeds[row.arm].add(row.seed)
        tasks[row.arm, row.seed].setdefault(row.task_id)
        if not row.failed:
            cells[row.arm, row.seed, row.task_id].append(episode_values(row))
    order = list(next(iter(tasks.values()), {}))
    tables = {}
    for arm, arm_seeds in seeds.items():
        for seed in arm_seeds:
            if set(tasks[arm, seed]) != set(order):
                raise ValueError(f"{arm}, seed {seed}: evaluated on other tasks than the rest, so nothing is paired")
        missing = [(np.nan,) * len(RATES)]
        values = np.array(
            [[np.mean(cells.get((arm, seed, task), missing), axis=0) for task in order] for seed in sorted(arm_seeds)]
        )
        tables[arm] = ArmTable(arm, tuple(sorted(arm_seeds)), tuple(order), values)
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
        rng = np.random.default_rng(seed)
        self._n_seeds, self._n_tasks = n_seeds, n_tasks
        self._tasks = rng.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), size=draws).astype(np.float32) / n_tasks
        self._seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws).astype(np.float32) / n_seeds

    def means(self, values_SN: np.ndarray) -> np.ndarray:
        """``[draws]`` resampled means of ``[S, N]`` values. A single row (the untrained base) stands for every seed.

        Tasks without a value (every episode failed) drop out of the mean.
        """
        if values_SN.shape[0] == 1:
            values_SN = np.repeat(values_SN, self._n_seeds, axis=0)
        if values_SN.shape != (self._n_seeds, self._n_tasks):
            raise ValueError(f"values are {values_SN.shape}, expected ({self._n_seeds}, {self._n_tasks})")
        known = ~np.isnan(values_SN)
        sums = self._tasks @ np.where(known, values_SN, 0.0).T.astype(np.float32)
        weights = self._tasks @ known.T.astype(np.float32)
        # A draw without any known task has no mean; with more than a handful of tasks there is none.
        means = np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)
        return (self._seeds * means).sum(1)

    def interval(self, values_SN: np.ndarray, level: float = 0.95) -> Interval:
        """Mean and percentile interval of ``[S, N]`` values."""
        return _interval(float(np.nanmean(np.nanmean(values_SN, axis=1))), self.means(values_SN), level)

    def difference(self, left_SN: np.ndarray, right_SN: np.ndarray, level: float = 0.95) -> Interval:
        """Mean and paired percentile interval of ``left - right``."""
        centre = float(np.nanmean(np.nanmean(left_SN, axis=1)) - np.nanmean(np.nanmean(right_SN, axis=1)))
        return _interval(centre, self.means(left_SN) - self.means(right_SN), level)

    def quotient(self, numerator_SN: np.ndarray, denominator_SN: np.ndarray, level: float = 0.95) -> Interval:
        """A quotient of two means, such as "fixed, of those that were wrong"; ``nan`` where nothing is below the line.

        Draws whose denominator is 0 are left out of the interval.
        """
        above, below = self.means(numerator_SN), self.means(denominator_SN)
        draws = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        total = float(np.nanmean(np.nanmean(denominator_SN, axis=1)))
        if total <= 0 or np.isnan(draws).all():
            return Interval(float("nan"), float("nan"), float("nan"))
        return _interval(float(np.nanmean(np.nanmean(numerator_SN, axis=1))) / total, draws, level)

    def p_value(self, left_SN: np.ndarray, right_SN: np.ndarray) -> float:
        """Two-sided: twice the share of draws whose difference has the other sign or is 0, at least 2 / draws."""
        draws = np.round(self.means(left_SN) - self.means(right_SN), 6)  # equal arms tie in every draw
        other_sign = min((draws <= 0).mean(), (draws >= 0).mean())
        return float(min(1.0, 2 * max(other_sign, 1 / len(draws))))


def _interval(centre: float, draws: np.ndarray, level: float) -> Interval:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(centre, float(low), float(high))


def mcnemar(n_i_to_c: int, n_c_to_i: int) -> float:
    """Exact two-sided McNemar p-value of "the second attempt is right as often as the first".

    Under it, each of the discordant episodes is i->c with probability 1/2 (McNemar 1947; exact binomial form).
    """
    n = n_i_to_c + n_c_to_i
    return float(binomtest(n_i_to_c, n, 0.5).pvalue) if n else 1.0


def pass_at_k(n: int, n_correct: int, k: int) -> float:
    """Probability that at least one of k samples is right, unbiased from n samples (Chen et al., arXiv 2107.03374).

    Raises:
        ValueError: If k exceeds n.
    """
    if k > n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples")
    return 1.0 - comb(n - n_correct, k) / comb(n, k)


def scaling(rows: Sequence[EvalRow]) -> list[dict[str, float]]:
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
    n_attempts = max(len(row.correct) for row in groups[0])
    points = []
    for k in range(1, n + 1):
        episodes = k // n_attempts if k % n_attempts == 0 else 0
        points.append(
            {
                "responses": float(k),
                "pass": float(np.mean([pass_at_k(len(g), sum(r.correct[0] for r in g), k) for g in groups])),
                "majority": float(np.mean([_majority(g[:k], 0) for g in groups])),
                "sequential": float(np.mean([_majority(g[:episodes], -1) for g in groups])) if episodes else np.nan,
            }
        )
    return points


def _majority(rows: Sequence[EvalRow], attempt: int) -> float:
    winner = majority_index([row.answers[attempt] for row in rows])
    return 0.0 if winner is None else float(rows[winner].correct[attempt])
