"""Compares the errors that a policy makes with the errors in its training data, by kind.

Fine-tuning on stored episodes teaches a policy to correct the errors in these episodes. If the policy's own errors are
of other kinds, the learned corrections are of no use to it (SCoRe, arXiv 2409.12917, section 4.2: the distribution
mismatch). The distance between two distributions of kinds of error is their total variation: half the sum of the
absolute differences of the shares, 0 for equal distributions and 1 for distributions without a common kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl.analysis.rows import EvalRow
from rl.analysis.statistics import Bootstrap, Interval

HARDLY = 0.02
"""A kind of error counts as hardly seen if it makes up less than this share of the errors in the training data."""
SIMULATIONS = 2000

Counts = Mapping[str, int]


def total_variation(one: Counts, other: Counts) -> float:
    """Total variation distance between two tables of counts by kind; ``nan`` if one of them is empty."""
    n, m = sum(one.values()), sum(other.values())
    if not n or not m:
        return float("nan")
    return 0.5 * sum(abs(one.get(kind, 0) / n - other.get(kind, 0) / m) for kind in {*one, *other})


@dataclass(frozen=True, slots=True)
class Shift:
    """Errors in one arm's own first attempts, compared with the errors in the arm's training data.

    Args:
        distance: Total variation between the two, corrected for its bias, with a bootstrap interval over seeds, then
            tasks. The correction is needed because the total variation of two samples of a few hundred errors is above
            0 even if their distributions are equal.
        by_chance: 95 % quantile of the uncorrected total variation of two samples of these sizes from one distribution.
        differs: Whether the measured uncorrected total variation is above ``by_chance``.
        unseen: Share of the policy's own errors whose kind was hardly seen in training (:data:`HARDLY`).
        mended_unseen: Share of the hardly seen errors that the second attempt corrects; ``nan`` if there are none.
        mended_seen: Share of all other errors that the second attempt corrects; ``nan`` if there are none.
    """

    distance: Interval
    by_chance: float
    differs: bool
    unseen: Interval
    mended_unseen: float
    mended_seen: float


def shift(
    rows: Sequence[Sequence[EvalRow]], learned: Sequence[Counts], task_ids: Sequence[str], bootstrap: Bootstrap
) -> Shift | None:
    """Measures how far a policy's own errors are from the errors in its training data.

    Args:
        rows: Evaluated episodes of every seed, without failed ones.
        learned: For every seed, the number of errors of each kind in its training data.
        task_ids: Tasks that were evaluated.
        bootstrap: Bootstrap over this number of seeds and tasks.

    Returns:
        The shift; ``None`` if a seed makes no error or has no error in its training data.
    """
    # Count errors by seed and task, since the bootstrap resamples tasks; use the kinds that occur on either side.
    kinds = sorted({kind for counts in learned for kind in counts} | {row.errors[0] for one in rows for row in one})
    kinds = [kind for kind in kinds if kind]
    own = np.stack([_by_task(one, kinds, task_ids) for one in rows])
    seen_SE = np.array([[counts.get(kind, 0) for kind in kinds] for counts in learned], dtype=float)
    if not (own.sum((1, 2)) > 0).all() or not (seen_SE.sum(1) > 0).all():
        return None
    shares_SE = seen_SE / seen_SE.sum(1, keepdims=True)
    hardly_SE = shares_SE < HARDLY

    def variation(own_DE: np.ndarray, s: int) -> np.ndarray:
        return 0.5 * np.abs(_normalised(own_DE) - shares_SE[s]).sum(-1)

    def unseen(own_DE: np.ndarray, s: int) -> np.ndarray:
        return _normalised(own_DE) @ hardly_SE[s]

    measured, draws = bootstrap.statistic(own, variation)
    # Resampling biases the total variation upwards as much as the original sampling did: E[draws] - measured estimates
    # the bias, and measured - bias = 2 measured - E[draws]. The ends are reflected in the same way (the basic
    # bootstrap), so that the upper quantile gives the lower end.
    lowest, highest = np.nanquantile(draws, (0.025, 0.975))
    corrected = (2 * measured - value for value in (float(np.nanmean(draws)), float(highest), float(lowest)))
    by_chance = _by_chance((own.sum(2) > 0).sum(1), seen_SE, own.sum(1))
    # Compare how often the policy corrects errors of kinds that it hardly saw in training and of all other kinds.
    wrong = [(row, s) for s, one in enumerate(rows) for row in one if row.errors[0]]
    mended: dict[bool, list[bool]] = {True: [], False: []}
    for row, s in wrong:
        mended[bool(hardly_SE[s, kinds.index(row.errors[0])])].append(row.correct[row.at(2)])
    share, share_draws = bootstrap.statistic(own, unseen)
    return Shift(
        Interval(*(min(1.0, max(0.0, value)) for value in corrected)),
        by_chance,
        measured > by_chance,
        Interval(share, *map(float, np.nanquantile(share_draws, (0.025, 0.975)))),
        float(np.mean(mended[True])) if mended[True] else float("nan"),
        float(np.mean(mended[False])) if mended[False] else float("nan"),
    )


def _by_task(rows: Sequence[EvalRow], kinds: Sequence[str], task_ids: Sequence[str]) -> np.ndarray:
    """Number of first attempts at each task that make each kind of error, ``[N, E]``."""
    places = {task: i for i, task in enumerate(task_ids)}
    found = np.zeros((len(places), len(kinds)))
    for row in rows:
        if row.errors[0]:
            found[places[row.task_id], kinds.index(row.errors[0])] += 1
    return found


def _normalised(counts_DE: np.ndarray) -> np.ndarray:
    totals = counts_DE.sum(-1, keepdims=True)
    return np.divide(counts_DE, totals, out=np.full_like(counts_DE, np.nan), where=totals > 0)


def _by_chance(n_own: np.ndarray, seen_SE: np.ndarray, own_SE: np.ndarray) -> float:
    """95 % quantile, under equal distributions, of the total variation averaged over seeds.

    Both sides are simulated as samples from the pooled errors of the seed.

    Args:
        n_own: ``[S]`` number of tasks with a wrong first attempt. Samples of one task are not independent, so each task
            counts as one draw.
        seen_SE: ``[S, E]`` errors in the training data.
        own_SE: ``[S, E]`` the policy's own errors.
    """
    rng, found = np.random.default_rng(0), np.zeros(SIMULATIONS)
    for n, seen_E, own_E in zip(n_own, seen_SE, own_SE, strict=True):
        together = (seen_E + own_E) / (seen_E + own_E).sum()
        draws = [rng.multinomial(m, together, SIMULATIONS) / m for m in (int(n), int(seen_E.sum()))]
        found += 0.5 * np.abs(draws[0] - draws[1]).sum(1)
    return float(np.quantile(found / len(n_own), 0.95))
