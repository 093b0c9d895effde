"""Figure F0, the first on a page: every arm's delta with its interval, every seed, and the findings as badges."""

from experiments.evidence.comparison import Comparison, compare
from experiments.evidence.model import Dot, Dots, exhibit
from experiments.evidence.store import Store
from experiments.evidence.verdicts import badges, lead, of_arm, without_mean
from rewards.wording import counted
from rl.analysis.rates import named


@exhibit("F0", "Who gets better")
def overview(store: Store) -> Dots:
    """Every arm's mean of the comparison's goal, with its interval and seeds; the best arm comes first."""
    found = {mode: compare(store, mode) for mode in store.modes}
    best = found[store.mode]
    means = {line.arm: line.rates[best.goal].mean for line in best.arms}
    # The mean is nan if every episode of an arm failed; nan does not equal itself, so such arms are sorted last.
    order = sorted(store.arms, key=lambda arm: -means[arm] if means.get(arm, 0.0) == means.get(arm) else float("inf"))
    rows = [dot for mode in store.modes for dot in _rows(found[mode], order)]
    rate = named(best.goal)
    what = {"delta": "delta, acc@t2 minus acc@t1: what a second attempt adds"}.get(best.goal, rate.meaning)
    caption = (
        f"{store.env}, {' and '.join(store.modes)} episodes, n = {counted(best.n_tasks, 'task')}, "
        f"{store.said_seeds}: {what}. The large dot is the mean, the bar its 95 % bootstrap interval over "
        "seeds, then tasks; each small dot is a training run. An arm corrects if it answers better the second time "
        "and loses that when its attempt is taken away or exchanged (C1, C2, C5); it answers anew if it does not. The "
        "controls are played on greedy episodes."
    )
    return Dots(caption, rate.header, rows, {mode: lead(one) for mode, one in found.items()})


def _rows(comparison: Comparison, order: list[str]) -> list[Dot]:
    lines, rate = {line.arm: line for line in comparison.arms}, named(comparison.goal)
    made = []
    for line in (lines[arm] for arm in order if arm in lines):
        goal = line.rates[comparison.goal]
        mean, low, high = (rate.scale * value for value in (goal.mean, goal.low, goal.high))
        seeds = [rate.scale * seed.rates[comparison.goal] for seed in line.seeds]
        known = goal.mean == goal.mean
        said = of_arm(comparison, line) if known else without_mean(comparison, line)
        made.append(Dot(line.name, mean, low, high, seeds, badges(comparison, line), said, comparison.mode))
    return made
