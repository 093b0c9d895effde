"""Figures of evaluated episodes: F3, F5 to F8 and F10."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.evidence.model import Figure, Heat, Mark, MissingError, Panel, Series, exhibit, spread
from experiments.evidence.store import BASE, Store
from rewards.wording import counted
from rl.analysis.rates import edit_ratio, named
from rl.analysis.revisions import EDIT_BINS
from rl.analysis.rows import LONGER
from rl.analysis.statistics import by_responses

_TRANSITIONS = {(False, True): "i->c", (True, False): "c->i", (True, True): "c->c", (False, False): "i->i"}
_EDGES = [i / EDIT_BINS for i in range(EDIT_BINS)]
DIFFICULTY = ((0.0, 0.0), (0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
"""Bins of the base's pass rate, open below and closed above; the first bin holds tasks that the base never solves."""


@exhibit("F3", "Edit ratio of first and second attempt")
def edit_distance(store: Store) -> Figure:
    """Edit ratio between first and second attempt by transition, in evaluation and in training; one panel per arm."""
    mode = store.modes[-1]
    panels = []
    for arm in store.arms:
        counts = {name: np.zeros(EDIT_BINS) for name in _TRANSITIONS.values()}
        for row in store.rows_of(arm, mode):
            second = row.at(2)
            counts[_TRANSITIONS[row.correct[0], row.correct[second]]][_bin(row.texts[0], row.texts[second])] += 1
        # The areas of the four transitions add up to 1: normalised one by one, a rare transition would look as large as
        # a frequent one.
        total = max(1.0, sum(float(found.sum()) for found in counts.values()))
        series = [_density(name, found, total) for name, found in counts.items() if found.sum()]
        trained = _trained_on(store, arm)
        if trained.sum():
            series.append(_density("training samples", trained, float(trained.sum())))
        panels.append(Panel(store.names[arm], "edit ratio", "density", series))
    n = len(store.rows_of(store.arms[0], mode)) // max(1, len(store.seeds(store.arms[0])))
    caption = (
        f"{store.env}, {mode} episodes (n = {n} for each run): histogram of the edit ratio of first and second "
        "attempt, all seeds together. The edit ratio is the number of characters to delete and insert, over the sum of "
        "both lengths: 0 is a copy, 1 has nothing in common. Curves are by transition (i->c: first attempt incorrect, "
        "second correct); the four of an arm together have area 1. The curve of the training samples also has area 1: "
        "these are the samples that an offline arm's rule kept, or the stored part of an online arm's episodes. If it "
        "differs from the others, the arm makes other revisions than it was trained on (SCoRe, Figure 3)."
    )
    return Figure(caption, panels)


def _density(name: str, counts: np.ndarray, total: float) -> Series:
    return Series(name, _EDGES, (EDIT_BINS * counts / total).tolist(), mark=Mark.STEPS)


def _bin(first: str, second: str) -> int:
    return min(EDIT_BINS - 1, int(edit_ratio(first, second) * EDIT_BINS))


def _trained_on(store: Store, arm: str) -> np.ndarray:
    counts = np.zeros(EDIT_BINS)
    for seed in store.seeds(arm):
        rounds = store.rounds(arm, seed)
        for row in rounds:
            counts += np.sum(list(row.get("edits", {}).values()) or [np.zeros(EDIT_BINS)], axis=0)
        # An offline arm logs the edits of what its rule kept in each round. An online arm trains on all its episodes
        # but stores only some of them, so its curve is computed from the stored episodes.
        for episode in [] if rounds else store.episodes(arm, seed):
            texts = [turn["text"] for turn in episode["turns"]]
            if len(texts) > 1 and episode["error"] is None:
                counts[_bin(texts[0], texts[-1])] += 1
    return counts


@exhibit("F5", "Who corrects whom")
def cross_matrix(store: Store) -> Figure:
    """Share of wrong first attempts of every arm that every arm fixes, as a heat map."""
    tables = store.cross()
    if not tables:
        raise MissingError("needs cross=<tasks>")
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for table in tables:
        for one in table["cells"]:
            if one["n_wrong"]:
                rates[one["corrector"], one["author"]].append(100 * one["n_fixed"] / one["n_wrong"])
    arms = [arm for arm in store.arms if any(arm in table["arms"] for table in tables)]
    means = {pair: float(np.mean(found)) for pair, found in rates.items()}
    names = [store.names[arm] for arm in arms]
    heat = Heat(names, names, [[means.get((row, column)) for column in arms] for row in arms])
    trained = [arm for arm in arms if arm != BASE and (arm, arm) in means and (arm, BASE) in means]
    gaps = [means[arm, arm] - means[arm, BASE] for arm in trained]
    shift = Series("own minus base's", list(range(len(trained))), gaps, mark=Mark.POINTS)
    n = sum(one["n"] for one in tables[0]["cells"]) // len(tables[0]["cells"])
    caption = (
        f"{store.env}, greedy, mean over {counted(len(tables), 'seed')}. Heat map: share of the wrong first attempts "
        "of one arm (author, column) that are right after a second attempt of another (corrector, row); n = "
        f"{counted(n, 'task')} per cell, of which only those that the author got wrong count. Points: the share that "
        "an arm fixes of its own wrong attempts, minus the share that it fixes of the base's. Below zero, the arm "
        "corrects the base's errors better than its own."
    )
    panels = [
        Panel("share of wrong first attempts fixed (%)", "author of the first attempt", "corrector", heat=heat),
        Panel(
            "distribution shift", "corrector", "own minus base's (points)", [shift], zero=True,
            ticks=[store.names[arm] for arm in trained],
        ),
    ]  # fmt: skip
    return Figure(caption, panels)


@exhibit("F6", "Parallel or sequential")
def parallel_or_sequential(store: Store) -> Figure:
    """Accuracy of a majority vote if the same number of responses is spent on parallel samples or on corrections."""
    by_kind: dict[str, list[Series]] = {"majority": [], "sequential": []}
    by_tokens: dict[str, list[Series]] = {"majority": [], "sequential": []}
    for arm in store.arms:
        rows = store.rows_of(arm, "sampled")
        if not rows:
            continue
        seeds = dict.fromkeys(row.seed for row in rows)
        per_seed = [by_responses([row for row in rows if row.seed == seed]) for seed in seeds]
        first = float(np.mean([row.n_tokens[0] for row in rows]))
        # Mean tokens of one response: of a first attempt for parallel samples, of any attempt for corrected ones.
        whole = float(np.mean([sum(row.n_tokens) for row in rows])) / rows[0].attempts
        for kind, tokens in (("majority", first), ("sequential", whole)):
            n = min(len(points) for points in per_seed)
            values = 100 * np.array([[point[kind] for point in points[:n]] for points in per_seed])
            found = spread(store.names[arm], range(1, n + 1), values)
            if len(found.x):
                by_kind[kind].append(found)
                by_tokens[kind].append(replace(found, x=tokens * np.asarray(found.x)))
    if not by_kind["majority"]:
        raise MissingError("needs evaluation.samples_per_task of at least 2")
    titles = {"majority": "parallel: majority of first attempts", "sequential": "sequential: majority of last attempts"}
    panels = [Panel(titles[k], "responses per task", "accuracy (%)", found, log_x=2) for k, found in by_kind.items()]
    panels += [
        Panel(titles[k], "sampled tokens per task", "accuracy (%)", found, log_x=2) for k, found in by_tokens.items()
    ]
    caption = (
        f"{store.env}, n = {counted(store.n_tasks('sampled'), 'task')}, {counted(_per_task(store), 'sampled episode')} "
        f"each at temperature {store.setting('evaluation.temperature', 1.0)}: accuracy of a majority vote over the "
        "number of responses, and of tokens, sampled per task. Parallel: every response is a first attempt. "
        "Sequential: the responses are whole episodes, a first attempt and its corrections, of which the last attempts "
        "vote (SCoRe, Figure 1). Mean over seeds; band: smallest to largest seed."
    )
    return Figure(caption, panels)


def _per_task(store: Store) -> int:
    return max(row.sample for row in store.rows if row.mode == "sampled") + 1


@exhibit("F7", "More attempts")
def more_attempts(store: Store) -> Figure:
    """Accuracy of each attempt when episodes have more attempts than in training."""
    series = []
    for arm in store.arms:
        if arm in store.tables(LONGER):
            cells, ks = store.tables(LONGER)[arm].cells, range(1, store.attempts(LONGER) + 1)
            values = 100 * np.array([cells[f"accuracy_t{k}"].per_seed() for k in ks]).T
            series.append(spread(store.names[arm], ks, values))
    if not series:
        raise MissingError("needs evaluation.max_attempts of at least 3, and a context that holds them")
    caption = (
        f"{store.env}, greedy episodes of more attempts than in training, n = {counted(store.n_tasks(LONGER), 'task')}"
        ": accuracy of each attempt, mean over seeds; band: smallest to largest seed. Training had "
        f"{counted(store.attempts(store.mode), 'attempt')}; later attempts were not trained (SCoRe, Figure 8)."
    )
    return Figure(caption, [Panel("", "attempt", "accuracy (%)", series)])


@exhibit("F8", "Fixed and broken answers by difficulty")
def difficulty(store: Store) -> Figure:
    """Share of tasks that get fixed and that get broken, by how often the base solves them."""
    base: dict[str, list[bool]] = defaultdict(list)
    for row in store.rows_of(BASE, "sampled"):
        base[row.task_id].append(row.correct[0])
    if not base or store.attempts(store.mode) < 2:
        raise MissingError(
            "needs two attempts, and sampled episodes of the base for its pass rate (evaluation.samples_per_task)"
        )
    rates = {task: float(np.mean(right)) for task, right in base.items()}
    bins = [
        [task for task, rate in rates.items() if (low < rate <= high if high else rate == 0)]
        for low, high in DIFFICULTY
    ]
    ticks = [f"{'never' if high == 0 else f'{low:.0%}-{high:.0%}'} (n={len(tasks)})" for (low, high), tasks in zip(
        DIFFICULTY, bins, strict=True
    )]  # fmt: skip
    panels = []
    for name in ("delta_i_to_c", "delta_c_to_i"):
        series, label = [], f"{named(name).label} (% of tasks)"
        for arm in store.arms:
            table = store.tables(store.mode)[arm]
            places = [[table.task_ids.index(task) for task in tasks if task in table.task_ids] for tasks in bins]
            means = [100 * table.cells[name].take(range(len(table.seeds)), one).mean for one in places]
            known = [i for i, value in enumerate(means) if value == value]
            series.append(Series(store.names[arm], known, [means[i] for i in known]))
        panels.append(Panel("", "base's pass rate at the first attempt", label, series, ticks=ticks, zero=True))
    firsts = counted(_per_task(store), "sampled first attempt")
    caption = (
        f"{store.env}, {store.mode} episodes, n = {counted(len(rates), 'task')}: share of tasks that the second "
        "attempt fixes (i->c) and that it breaks (c->i), mean over seeds, without intervals. Tasks are grouped by the "
        f"base's pass rate, the share of right ones among its {firsts} at the task."
    )
    return Figure(caption, panels)


@exhibit("F10", "The two weights of SCoRe")
def sweeps(store: Store) -> Figure:
    """Rates over the bonus (alpha) and the first attempt's KL weight (beta2), from arms that vary only one of them."""
    found = {arm: _alpha_beta2(store.arm_config(arm)) for arm in store.trained}
    known = {arm: pair for arm, pair in found.items() if pair is not None}
    panels = []
    labels = {"alpha": "alpha: bonus per unit of progress", "beta2": "beta2: weight of the first attempt's KL"}
    for index, (name, label) in enumerate(labels.items()):
        arms = _varying(known, index)
        if len(arms) > 1:
            panels.append(_sweep_panel(store, arms, [known[arm][index] for arm in arms], name, label))
    if not panels:
        raise MissingError("needs arms that differ in alpha or beta2 only, such as include=[score,score_alpha_10,...]")
    caption = (
        f"{store.env}, {store.mode} decoding, n = {counted(store.n_tasks(store.mode), 'task')}, {store.said_seeds}: "
        "rates of arms that differ in one weight only, with 95 % bootstrap intervals over seeds, then tasks. alpha is "
        "the weight of the improvement over the first attempt in stage II; beta2 is the weight of the first attempt's "
        "KL to the base in stage I."
    )
    return Figure(caption, panels)


def _alpha_beta2(arm: Any) -> tuple[float, float] | None:
    """The weights (alpha, beta2) of an arm that has SCoRe's two stages; ``None`` for any other method."""
    stages = [stage for stage in (arm.get("stages") or {}).values() if stage.get("share", 1.0)]
    # In SCoRe, stage I gives the first attempt no reward. An arm that rewards it, or that changes the advantage or the
    # source of first attempts, is another method and does not belong on the curve.
    if len(stages) != 2 or list(stages[0].get("reward_weights", []))[:1] != [0.0]:
        return None
    if any(stage.get("advantage") or stage.get("offline_first_attempts") for stage in stages):
        return None
    return float(stages[1].progress_alpha), float(stages[0].kl_coefs[0])


def _varying(known: dict[str, tuple[float, float]], index: int) -> list[str]:
    """Arms whose other weight is that of ``score``, sorted by the weight ``index`` (0 is alpha, 1 is beta2)."""
    if "score" not in known:
        return []
    other = known["score"][1 - index]
    return sorted((arm for arm, pair in known.items() if pair[1 - index] == other), key=lambda arm: known[arm][index])


def _sweep_panel(store: Store, arms: list[str], x: list[float], name: str, label: str) -> Panel:
    series = []
    for rate, title in (("accuracy_t1", "acc@t1"), ("accuracy_t2", "acc@t2"), ("delta", "delta")):
        rates = [store.interval(arm, store.mode, rate) for arm in arms]
        y, low, high = ([100 * getattr(one, part) for one in rates] for part in ("mean", "low", "high"))
        series.append(Series(title, x, y, low, high))
    return Panel(name, label, "acc@t1, acc@t2 (%), delta (points)", series, log_x=10 if name == "beta2" else 0)
