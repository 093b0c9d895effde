"""Figures over training: F1, F2, F4, F9, F11, F12 and F13, from the runs' logged metrics."""

from collections.abc import Sequence

import numpy as np

from experiments.evidence.model import Figure, Mark, MissingError, Panel, Series
from experiments.evidence.scaling import MAX_STEEPNESS, fit_sigmoid
from experiments.evidence.store import Curve, Store
from rl.analysis.printing import fixed

_EPISODES = "sampled training episodes"
_BAND = "thick: mean over seeds, band: smallest to largest seed, thin: every seed"
_VALIDATION = "greedy episodes on the validation tasks"


def over_seeds(curves: Sequence[Curve], name: str, scale: float = 100) -> Series:
    """Mean, range and single runs of curves that may differ in length; the mean ends where the shortest does."""
    shortest = min(len(curve.x) for curve in curves)
    stacked = scale * np.array([curve.y[:shortest] for curve in curves])
    return Series(
        name,
        curves[0].x[:shortest].tolist(),
        stacked.mean(0).tolist(),
        stacked.min(0).tolist(),
        stacked.max(0).tolist(),
        runs=[(curve.x.tolist(), (scale * curve.y).tolist()) for curve in curves],
    )


def _validation(store: Store, rate: str, where: str = "validation", scale: float = 100) -> list[Series]:
    found = {arm: store.curves(arm, f"eval/{where}/{rate}") for arm in store.trained}
    return [over_seeds(curves, store.names[arm], scale) for arm, curves in found.items() if curves]


def dynamics(store: Store) -> Figure:
    """F1: accuracy of both attempts and their difference while training goes on."""
    labels = {
        "accuracy_t1": "accuracy of attempt 1 (%)",
        "accuracy_t2": "accuracy of attempt 2 (%)",
        "delta": "delta: attempt 2 minus attempt 1 (points)",
    }
    panels = [
        Panel("", _EPISODES, label, _validation(store, rate), zero=rate == "delta") for rate, label in labels.items()
    ]
    if not panels[0].series:
        raise MissingError("no run was validated at least twice: set training.validate_every")
    return Figure("F1", "Learning", f"{store.env}, {_VALIDATION}{_n(store)}; {_BAND}.", panels)


def change_rate(store: Store) -> Figure:
    """F2: how often the final answer differs from the first, over the part of training that is done."""
    series = []
    for arm in store.trained:
        curves = store.curves(arm, "eval/validation/changed_answer")
        if curves:
            scaled = [Curve(100 * curve.x / max(1.0, curve.x[-1]), curve.y) for curve in curves]
            series.append(over_seeds(scaled, store.names[arm]))
    if not series:
        raise MissingError("no run was validated at least twice: set training.validate_every")
    caption = (
        f"{store.env}, {_VALIDATION}{_n(store)}; {_BAND}. A policy that never changes its answer cannot correct it "
        "(SCoRe, arXiv 2409.12917, Figure 5b)."
    )
    panel = Panel("", "training done (%)", "final answer differs from the first (% of tasks)", series)
    return Figure("F2", "How often the answer changes", caption, [panel])


def mismatch(store: Store) -> Figure:
    """F4: correction of stored first attempts against correction of its own ones."""
    where = {
        "base_train": "base's attempts at training tasks",
        "base_validation": "base's attempts at validation tasks",
        "validation": "its own attempts at validation tasks",
    }
    panels = [
        Panel(title, _EPISODES, "fixed, of wrong first attempts (%)", _validation(store, "fix_rate", kind))
        for kind, title in where.items()
    ]
    if not panels[0].series:
        raise MissingError("needs evaluation.fixed_first=<tasks> and training.validate_every")
    n = store.config.evaluation.get("fixed_first", 0)
    caption = (
        f"{store.env}, greedy second attempts at three kinds of first ones; the base's are fixed over training, n = "
        f"{n} tasks of each kind, of which the wrong ones count; {_BAND}. Fine-tuning that rises on the left and not "
        "on the right has learned other attempts than its own (SCoRe, Figure 4)."
    )
    return Figure("F4", "Whose attempts are corrected", caption, panels)


def kl_frontier(store: Store) -> Figure:
    """F9: what correction costs in distance of the first attempt from the base."""
    series = []
    for arm in store.trained:
        x, y = _frontier(store, arm)
        if x:
            series.append(Series(store.names[arm], x, y, mark=Mark.POINTS))
    if not series:
        raise MissingError("needs an online arm with a KL to the base (algorithm.stages.*.kl_coefs) and validations")
    caption = (
        f"{store.env}: one point per validation and seed of the online arms. x is KL(policy || base) of sampled first "
        "attempts, summed over tokens, as measured by the training step of that validation; y is greedy delta on the "
        f"validation tasks{_n(store)}. Up and to the left is better: correction without moving the first attempt."
    )
    panel = Panel("", "KL of the first attempt to the base (nats)", "delta (points)", series, zero=True)
    return Figure("F9", "Correction against first-attempt KL", caption, [panel])


def _frontier(store: Store, arm: str) -> tuple[list[float], list[float]]:
    x, y = [], []
    kls, deltas = store.curves(arm, "policy/kl_ref_t1"), store.curves(arm, "eval/validation/delta")
    for kl, delta in zip(kls, deltas, strict=False):
        at = dict(zip(kl.x.tolist(), kl.y.tolist(), strict=True))
        for episodes, value in zip(delta.x.tolist(), delta.y.tolist(), strict=True):
            if episodes in at:
                x.append(at[episodes])
                y.append(100 * value)
    return x, y


def data_mode(store: Store) -> Figure:
    """F11: what the training samples show: fixes, copies, rewritten right answers."""
    kinds = {
        "data/i_to_c": "wrong -> right",
        "data/c_to_c_copied": "right -> the same text",
        "data/c_to_c_rewritten": "right -> another right text",
    }
    panels = []
    for kind, title in kinds.items():
        series = []
        for arm in store.trained:
            curves = store.curves(arm, kind) or _kept_curves(store, arm, kind)
            if curves:
                series.append(over_seeds(curves, store.names[arm]))
        panels.append(Panel(title, _EPISODES, "share of training samples (%)", series))
    if not any(panel.series for panel in panels):
        raise MissingError("no run logged what its training samples are")
    caption = (
        f"{store.env}: kinds of revision among what is trained on: all sampled episodes of an online arm's step (n = "
        f"{store.config.training.tasks_per_step} groups), what an offline arm's rule kept in a round; {_BAND}. What an "
        "arm never sees it cannot learn."
    )
    return Figure("F11", "What is trained on", caption, panels)


def _kept_curves(store: Store, arm: str, kind: str) -> list[Curve]:
    curves = []
    for seed in store.seeds(arm):
        found = [row for row in store.rounds(arm, seed) if row.get(kind) is not None]
        total = store.results[arm, seed]["totals"]["episodes"]
        if found:
            x = np.array([total * row["round"] / len(found) for row in found])
            curves.append(Curve(x, np.array([row[kind] for row in found])))
    return curves


def calibration(store: Store) -> Figure:
    """F12: does it change wrong answers rather than right ones?"""
    series = []
    for arm in store.trained:
        right = store.curves(arm, "eval/validation/change_if_right")
        wrong = store.curves(arm, "eval/validation/change_if_wrong")
        x, y = [], []
        for one, other in zip(right, wrong, strict=False):
            at = dict(zip(one.x.tolist(), one.y.tolist(), strict=True))
            pairs = [(at[e], v) for e, v in zip(other.x.tolist(), other.y.tolist(), strict=True) if e in at]
            x += [100 * pair[0] for pair in pairs]
            y += [100 * pair[1] for pair in pairs]
        if x:
            series.append(Series(store.names[arm], x, y, mark=Mark.POINTS))
    if not series:
        raise MissingError("no run was validated at least twice: set training.validate_every")
    caption = (
        f"{store.env}: one point per validation and seed{_n(store)}, greedy. The policy as a verifier of its own "
        "answer: on the diagonal it changes right and wrong answers alike (it draws again), above it it tells them "
        "apart. Changing a wrong answer is not mending it; and who answers better the second time changes wrong "
        "answers only, without looking: read C1 and C2 beside it."
    )
    panel = Panel("", "right answers that are changed (%)", "wrong answers that are changed (%)", series, diagonal=True)
    return Figure("F12", "Changing wrong and right answers", caption, [panel])


def scaling_fit(store: Store) -> Figure:
    """F13: a sigmoid of validation accuracy over the logarithm of sampled episodes, after ScaleRL."""
    series, ends = [], []
    for arm in store.trained:
        curves = store.curves(arm, "eval/validation/accuracy_t2")
        if not curves:
            continue
        mean = over_seeds(curves, store.names[arm])
        fit = fit_sigmoid(np.array(mean.x), np.array(mean.y))
        if fit is not None:
            x = np.geomspace(max(1.0, mean.x[1]), mean.x[-1], 60)
            series.append(Series(store.names[arm], mean.x[1:], mean.y[1:], mark=Mark.POINTS))
            series.append(Series(store.names[arm], x.tolist(), fit(x).tolist()))
            steep = (
                f"B = {fixed(fit.steepness, 2)}" if fit.steepness < MAX_STEEPNESS - 0.01 else "B without bound (a step)"
            )
            ends.append(f"{store.names[arm]} A = {fixed(fit.ceiling)} %, {steep}")
    if not series:
        raise MissingError("no curve is long enough: at least 6 validations and a rise of 5 points (validate_every)")
    caption = (
        f"{store.env}, acc@t2 of {_VALIDATION}{_n(store)}, mean over seeds, with least-squares fits of "
        f"R0 + (A - R0) / (1 + (C / n)^B) (arXiv 2510.13786): {'; '.join(ends)}. Arms with fewer than 6 validations or "
        "a rise below 5 points are not fitted."
    )
    panel = Panel("", _EPISODES, "accuracy of attempt 2 (%)", series, log_x=10)
    return Figure("F13", "Fit of accuracy over episodes", caption, [panel])


def _n(store: Store) -> str:
    for arm in store.trained:
        curves = store.curves(arm, "eval/validation/n")
        if curves:
            return f" (n = {curves[0].y[0]:.0f})"
    return ""
