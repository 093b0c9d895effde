"""Figure F14: the kinds of error that a policy makes, compared with the kinds that it was trained on."""

from collections import Counter

import numpy as np

from experiments.evidence.comparison import compare
from experiments.evidence.curves import over_seeds
from experiments.evidence.model import Figure, Mark, MissingError, Panel, Series, exhibit
from experiments.evidence.store import Curve, Store
from rl.analysis.errors import total_variation
from rl.analysis.printing import fixed

MOST_KINDS = 12
"""Most kinds of error that a panel shows; if there are more, the rarest are shown together as :data:`OTHERS`."""
OTHERS = "other kinds"


@exhibit("F14", "Own errors and those trained on")
def own_and_trained(store: Store) -> Figure:
    """Distance between the policy's errors and those trained on, over training, and both distributions at the end."""
    found = {arm: [store.errors(arm, seed) for seed in store.seeds(arm)] for arm in store.trained}
    found = {arm: runs for arm, runs in found.items() if any(runs)}
    if not found:
        raise MissingError("needs training on second attempts, and training.validate_every")
    series = []
    for arm, runs in found.items():
        curves = [[(at.x, total_variation(at.own, at.seen)) for at in run] for run in runs if run]
        # The total variation is nan where one of the two distributions has no errors.
        known = [[(x, y) for x, y in curve if y == y] for curve in curves]
        if known := [curve for curve in known if curve]:
            series.append(over_seeds([Curve(*np.array(curve, dtype=float).T) for curve in known], store.names[arm], 1))
    panels = [Panel("over training", "sampled training episodes", "total variation", series)]
    panels += [panel for arm in found if (panel := _at_the_end(store, arm)) is not None]
    chances = [
        f"{line.name} {fixed(line.shift.by_chance, 2)}"
        for line in compare(store, store.mode).arms
        if line.shift is not None
    ]
    caption = (
        f"{store.env}: kinds of error of wrong first attempts. Total variation is the distance of two distributions, "
        "half the sum of the absolute differences of their shares: 0 if a policy makes the errors that it is trained "
        "on in the same shares, 1 if it makes none of them. Over training: errors of greedy first attempts at the "
        "validation tasks, compared with the wrong first attempts that were trained on since the validation before "
        "(those that an offline arm's rule kept, or those of all of an online arm's episodes); thick: mean over seeds; "
        "band: smallest to largest seed; thin: every seed. If errors are few, the two distributions differ by chance "
        "alone. For each arm: both distributions at the end of training, all seeds together; the arm's own errors are "
        f"those of its {store.mode} first attempts at the test tasks"
    )
    if chances:
        caption += f". Total variation by chance alone (95 % quantile): {', '.join(chances)}"
    return Figure(f"{caption}. Attempts in training are sampled and err more often than greedy ones.", panels)


def _at_the_end(store: Store, arm: str) -> Panel | None:
    seen: Counter[str] = Counter()
    for seed in store.seeds(arm):
        if runs := store.errors(arm, seed):
            seen.update(runs[-1].seen)
    own = Counter(row.errors[0] for row in store.rows_of(arm, store.mode) if row.errors[0])
    if not own or not seen:
        return None
    n_own, n_seen = own.total(), seen.total()
    # Ordered by the sum of both shares, so that a kind that is frequent in only one distribution is shown too.
    order = sorted({*own, *seen}, key=lambda kind: -(own[kind] / n_own + seen[kind] / n_seen))
    if len(order) > MOST_KINDS:
        for counts in (own, seen):
            counts[OTHERS] = sum(counts.pop(kind, 0) for kind in order[MOST_KINDS - 1 :])
        order = [*order[: MOST_KINDS - 1], OTHERS]
    series = [
        Series(name, list(range(len(order))), [100 * counts[kind] / n for kind in order], mark=Mark.POINTS)
        for name, counts, n in (("trained on", seen, n_seen), ("its own", own, n_own))
    ]
    return Panel(store.names[arm], "kind of error", "share of wrong first attempts (%)", series, ticks=order)
