"""Figures over training, from the runs' logged metrics: F1, F2, F4, F9, F11, F12 and F13."""

from collections.abc import Sequence

import numpy as np

from experiments.evidence.model import Figure, Mark, MissingError, Panel, Series, exhibit, spread
from experiments.evidence.sigmoid import MAX_STEEPNESS, fit_sigmoid
from experiments.evidence.store import Curve, Store
from rewards.wording import counted
from rl.analysis.printing import fixed
from rl.analysis.rates import Where, named

_EPISODES = "sampled training episodes"
_BAND = "thick: mean over seeds; band: smallest to largest seed; thin: every seed"
_VALIDATION = "greedy episodes on the validation tasks"
_NOT_VALIDATED = "no run was validated at least twice: set training.validate_every"


def over_seeds(curves: Sequence[Curve], name: str, scale: float = 100) -> Series:
    """Mean, range and single runs of the seeds' curves; the mean ends where the shortest curve ends."""
    # With a budget of tokens, seeds log different numbers of points. A mean over only the longer curves would jump
    # where a shorter one ends.
    shortest = min(len(curve.x) for curve in curves)
    stacked = scale * np.array([curve.y[:shortest] for curve in curves])
    return spread(name, curves[0].x[:shortest], stacked, [(curve.x, scale * curve.y) for curve in curves])


def _validation(store: Store, name: str, where: str = "validation") -> list[Series]:
    found = {arm: store.curves(arm, f"eval/{where}/{name}") for arm in store.trained}
    return [over_seeds(curves, store.names[arm], named(name).scale) for arm, curves in found.items() if curves]


def _scattered(store: Store, x: tuple[str, float], y: tuple[str, float]) -> list[Series]:
    """One metric against another, at every step at which a run logged both; one series per arm with all its seeds.

    Args:
        store: The runs.
        x: Name of the metric on the x axis, and the factor that it is multiplied by.
        y: Name of the metric on the y axis, and the factor that it is multiplied by.
    """
    found = []
    for arm in store.trained:
        pairs: list[tuple[float, float]] = []
        for one, other in zip(store.curves(arm, x[0]), store.curves(arm, y[0]), strict=False):
            # Validations are rarer than training steps, so that one of the two metrics may be missing at a step.
            at = dict(zip(one.x, x[1] * one.y, strict=True))
            pairs += [(at[n], y[1] * value) for n, value in zip(other.x, other.y, strict=True) if n in at]
        if pairs:
            found.append(Series(store.names[arm], *map(list, zip(*pairs, strict=True)), mark=Mark.POINTS))
    return found


@exhibit("F1", "Learning")
def dynamics(store: Store) -> Figure:
    """The headline rates on the validation tasks over training, one panel for each rate."""
    rates = store.rates(store.mode, Where.HEADLINE)
    panels = [
        Panel("", _EPISODES, rate.header, _validation(store, name), zero=not name.startswith("accuracy"))
        for name, rate in rates.items()
    ]
    panels = [panel for panel in panels if panel.series]
    if not panels:
        raise MissingError(_NOT_VALIDATED)
    return Figure(f"{store.env}, {_VALIDATION}{_n(store)}; {_BAND}.", panels)


@exhibit("F2", "How often the answer changes")
def change_rate(store: Store) -> Figure:
    """How often the second answer differs from the first, over the share of training that is done."""
    series = []
    for arm in store.trained:
        if curves := store.curves(arm, "eval/validation/changed_answer"):
            # x is in percent of a run's own length, since arms that are matched on tokens or updates sample different
            # numbers of episodes.
            scaled = [Curve(100 * curve.x / max(1.0, curve.x[-1]), curve.y) for curve in curves]
            series.append(over_seeds(scaled, store.names[arm]))
    if not series:
        raise MissingError(_NOT_VALIDATED)
    caption = (
        f"{store.env}, {_VALIDATION}{_n(store)}: share of episodes whose second final answer differs from the first, "
        f"over the share of the run's training that is done; {_BAND}. A policy that never changes its answer cannot "
        "correct it (SCoRe, arXiv 2409.12917, Figure 5b)."
    )
    panel = Panel("", "share of training that is done (%)", "second answer differs from the first (%)", series)
    return Figure(caption, [panel])


@exhibit("F4", "Whose attempts are corrected")
def mismatch(store: Store) -> Figure:
    """Share of wrong first attempts that an arm fixes: those of the base, stored before training, and its own."""
    where = {
        "base_train": "base's attempts at training tasks",
        "base_validation": "base's attempts at validation tasks",
        "validation": "the arm's own attempts at validation tasks",
    }
    panels = [
        Panel(title, _EPISODES, "wrong first attempts that are fixed (%)", _validation(store, "fix_rate", kind))
        for kind, title in where.items()
    ]
    if not panels[0].series:
        raise MissingError("needs evaluation.fixed_first=<tasks> and training.validate_every")
    caption = (
        f"{store.env}: share of wrong first attempts that are right after a greedy second attempt, over training. "
        "The first attempts are the base's at training tasks and at validation tasks (n = "
        f"{counted(store.setting('evaluation.fixed_first', 0), 'task')} of each kind, stored before training and the "
        f"same during all of it), and the arm's own at the validation tasks{_n(store)}; {_BAND}. An arm that rises "
        "only for the base's attempts has learned to correct the base's errors and not its own (SCoRe, Figure 4)."
    )
    return Figure(caption, panels)


@exhibit("F9", "Correction against first-attempt KL")
def kl_frontier(store: Store) -> Figure:
    """Delta against the KL divergence of the first attempt from the base: the cost of correction in drift."""
    series = _scattered(store, ("policy/kl_ref_t1", 1), ("eval/validation/delta", 100))
    if not series:
        raise MissingError("needs an online arm with a KL to the base (algorithm.stages.*.kl_coefs) and validations")
    caption = (
        f"{store.env}: one point per validation and seed of each online arm. x is KL(policy || base) of sampled first "
        "attempts, summed over tokens, in the training step before the validation; y is delta of the greedy episodes "
        f"on the validation tasks{_n(store)}. Points in the upper left are best: there the policy corrects while its "
        "first attempts stay close to those of the base."
    )
    panel = Panel("", "KL of the first attempt to the base (nats)", "delta (points)", series, zero=True)
    return Figure(caption, [panel])


@exhibit("F11", "Revisions in the training samples")
def data_mode(store: Store) -> Figure:
    """Shares of fixes, copied right answers and rewritten right answers among the training samples, over training."""
    kinds = {
        "data/i_to_c": "wrong -> right",
        "data/c_to_c_copied": "right -> the same text",
        "data/c_to_c_rewritten": "right -> another right text",
    }
    panels = []
    for kind, title in kinds.items():
        series = []
        for arm in store.trained:
            if curves := store.curves(arm, kind) or _kept_curves(store, arm, kind):
                series.append(over_seeds(curves, store.names[arm]))
        panels.append(Panel(title, _EPISODES, "share of training samples (%)", series))
    if not any(panel.series for panel in panels):
        raise MissingError("no run logged the kinds of revision in its training samples")
    groups = counted(store.setting("training.tasks_per_step", 0), "group")
    caption = (
        f"{store.env}: share of training samples with each kind of revision (first -> second attempt), over training. "
        f"The samples are all episodes of a step (n = {groups}) for an online arm, and those that the rule kept in a "
        f"round for an offline arm; {_BAND}. An arm cannot learn a kind of revision that its training samples lack."
    )
    return Figure(caption, panels)


def _kept_curves(store: Store, arm: str, kind: str) -> list[Curve]:
    curves = []
    for seed in store.seeds(arm):
        found = [row for row in store.rounds(arm, seed) if row.get(kind) is not None]
        total = store.runs[arm, seed].result["totals"]["episodes"]
        if found:
            # All rounds sample the same number of episodes, so x is computed from the number of the round.
            x = np.array([total * row["round"] / len(found) for row in found])
            curves.append(Curve(x, np.array([row[kind] for row in found])))
    return curves


@exhibit("F12", "Changing wrong and right answers")
def calibration(store: Store) -> Figure:
    """How often wrong answers are changed against how often right ones are; one point for each validation."""
    series = _scattered(store, ("eval/validation/change_if_right", 100), ("eval/validation/change_if_wrong", 100))
    if not series:
        raise MissingError(_NOT_VALIDATED)
    caption = (
        f"{store.env}: share of wrong answers that the second attempt changes against that of right answers, greedy, "
        f"one point per validation and seed{_n(store)}. On the diagonal a policy changes right and wrong answers "
        "equally often, as if it answered again without looking at its first attempt; above the diagonal it changes "
        "wrong answers more often. That alone does not show that it checks its answers: a policy that simply answers "
        "better the second time also changes mostly wrong ones. The controls C1 and C2 tell the two apart."
    )
    panel = Panel("", "right answers that are changed (%)", "wrong answers that are changed (%)", series, diagonal=True)
    return Figure(caption, [panel])


@exhibit("F13", "Fit of accuracy over episodes")
def accuracy_fit(store: Store) -> Figure:
    """Sigmoid fits of validation accuracy over the logarithm of sampled episodes, after ScaleRL (arXiv 2510.13786)."""
    name = f"accuracy_t{min(2, store.attempts(store.mode))}"
    rate, series, ends = named(name), [], []
    for mean in _validation(store, name):
        fit = fit_sigmoid(np.array(mean.x), np.array(mean.y))
        if fit is not None:
            x = np.geomspace(max(1.0, mean.x[1]), mean.x[-1], 60)
            series.append(Series(mean.name, mean.x[1:], mean.y[1:], mark=Mark.POINTS))
            series.append(Series(mean.name, x.tolist(), fit(x).tolist()))
            # If the fitted steepness is at its bound, the curve jumps, and the data do not say how steep it is.
            bounded = fit.steepness < MAX_STEEPNESS - 0.01
            steep = f"B = {fixed(fit.steepness, 2)}" if bounded else "B at its bound (a step)"
            ends.append(f"{mean.name} A = {fixed(fit.ceiling)} %, {steep}")
    if not series:
        raise MissingError("no curve is long enough: at least 6 validations and a rise of 5 points (validate_every)")
    caption = (
        f"{store.env}, {rate.label} of {_VALIDATION}{_n(store)}: points are means over seeds, lines are "
        f"least-squares fits of R0 + (A - R0) / (1 + (C / n)^B) (arXiv 2510.13786): {'; '.join(ends)}. n is the number "
        "of sampled episodes, R0 the accuracy before training, A the accuracy that the curve approaches, B its "
        "steepness, and C the n at half of the rise. Arms with fewer than 6 validations or a rise below 5 points are "
        "not fitted."
    )
    return Figure(caption, [Panel("", _EPISODES, rate.header, series, log_x=10)])


def _n(store: Store) -> str:
    for arm in store.trained:
        if curves := store.curves(arm, "eval/validation/n"):
            return f" (n = {curves[0].y[0]:.0f})"
    return ""
