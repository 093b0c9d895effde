"""Figures of evaluated episodes: F3, F5 to F8 and F10."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.analysis import BASE
from experiments.evidence.model import Figure, Heat, Mark, MissingError, Panel, Series
from experiments.evidence.store import Store
from rl.analysis.revisions import EDIT_BINS, edit_ratio
from rl.analysis.rows import EvalRow
from rl.analysis.statistics import scaling

_TRANSITIONS = {(False, True): "i->c", (True, False): "c->i", (True, True): "c->c", (False, False): "i->i"}
_EDGES = [i / EDIT_BINS for i in range(EDIT_BINS)]
DIFFICULTY = ((0.0, 0.0), (0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
"""Bins of the base's pass rate, open below and closed above; the first one is "never"."""


def edit_distance(store: Store) -> Figure:
    """F3: how far second attempts are from first ones, by transition, in evaluation and in training; a panel an arm."""
    mode = store.modes[-1]
    panels = []
    for arm in store.arms:
        counts = {name: np.zeros(EDIT_BINS) for name in _TRANSITIONS.values()}
        for row in store.rows_of(arm, mode):
            counts[_TRANSITIONS[row.correct[0], row.correct[-1]]][_bin(row.texts)] += 1
        total = max(1.0, sum(float(found.sum()) for found in counts.values()))
        series = [_density(name, found, total) for name, found in counts.items() if found.sum()]
        trained = _trained_on(store, arm)
        if trained.sum():
            series.append(_density("what was trained on", trained, float(trained.sum())))
        panels.append(Panel(store.names[arm], "edit ratio", "density", series))
    n = len(store.rows_of(store.arms[0], mode))
    caption = (
        f"{store.env}, {mode} episodes (n = {n} for each run). Edit ratio: 1 minus the ratio of matching characters to "
        "the characters of both texts; 0 is a copy. The four transitions of an arm together integrate to 1 over [0, "
        "1], and so does what it was trained on: kept rows of offline arms, the stored sample of episodes of online "
        "arms. Where the two differ, training and use differ (SCoRe, Figure 3)."
    )
    return Figure("F3", "How far the second attempt is from the first", caption, panels)


def _density(name: str, counts: np.ndarray, total: float) -> Series:
    return Series(name, _EDGES, (EDIT_BINS * counts / total).tolist(), mark=Mark.STEPS)


def _bin(texts: Sequence[str]) -> int:
    return min(EDIT_BINS - 1, int(edit_ratio(texts[0], texts[-1]) * EDIT_BINS))


def _trained_on(store: Store, arm: str) -> np.ndarray:
    counts = np.zeros(EDIT_BINS)
    for seed in store.seeds(arm):
        rounds = store.rounds(arm, seed)
        for row in rounds:
            counts += np.sum(list(row.get("edits", {}).values()) or [np.zeros(EDIT_BINS)], axis=0)
        for episode in [] if rounds else store.episodes(arm, seed):
            texts = [turn["text"] for turn in episode["turns"]]
            if len(texts) > 1 and episode["error"] is None:
                counts[_bin(texts)] += 1
    return counts


def cross_matrix(store: Store) -> Figure:
    """F5: every arm corrects every arm's first attempts."""
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
        f"{store.env}: wrong first attempts that are fixed (%), correctors as rows, authors of the first attempts as "
        f"columns; greedy, n = {n} tasks per cell, of which the author's wrong ones count, mean over {len(tables)} "
        "seeds. Right: the diagonal minus the base's column, the shift between whose attempts were learned and one's "
        "own."
    )
    panels = [
        Panel("fixed, of the author's wrong attempts (%)", "author of the first attempt", "corrector", heat=heat),
        Panel(
            "distribution shift", "corrector", "own minus base's (points)", [shift], zero=True,
            ticks=[store.names[arm] for arm in trained],
        ),
    ]  # fmt: skip
    return Figure("F5", "Who corrects whom", caption, panels)


def inference_scaling(store: Store) -> Figure:
    """F6: the same number of responses spent on parallel samples or on corrections."""
    by_kind: dict[str, list[Series]] = {"majority": [], "sequential": []}
    by_tokens: dict[str, list[Series]] = {"majority": [], "sequential": []}
    for arm in store.arms:
        per_seed = [scaling(rows) for rows in _by_seed(store.rows_of(arm, "sampled")).values()]
        rows = store.rows_of(arm, "sampled")
        if not rows:
            continue
        first = float(np.mean([row.n_tokens[0] for row in rows]))
        whole = float(np.mean([sum(row.n_tokens) for row in rows])) / len(rows[0].correct)
        for kind, tokens in (("majority", first), ("sequential", whole)):
            x, y, low, high = _across(per_seed, kind)
            if x:
                by_kind[kind].append(Series(store.names[arm], x, y, low, high))
                by_tokens[kind].append(Series(store.names[arm], [tokens * k for k in x], y, low, high))
    if not by_kind["majority"]:
        raise MissingError("needs evaluation.samples_per_task of at least 2")
    titles = {"majority": "parallel: majority of first attempts", "sequential": "majority of corrected attempts"}
    panels = [Panel(titles[k], "responses per task", "accuracy (%)", found, log_x=2) for k, found in by_kind.items()]
    panels += [
        Panel(titles[k], "sampled tokens per task", "accuracy (%)", found, log_x=2) for k, found in by_tokens.items()
    ]
    config = store.config.evaluation
    n = len(next(iter(store.tables("sampled").values())).task_ids)
    caption = (
        f"{store.env}, n = {n} tasks, {config.samples_per_task} sampled episodes each at temperature "
        f"{config.temperature}; 2K responses are 2K first attempts on the left, K first attempts with their "
        "corrections on the right (SCoRe, Figure 1). Mean over seeds, band: smallest to largest seed."
    )
    return Figure("F6", "Parallel or sequential", caption, panels)


def _by_seed(rows: Sequence[EvalRow]) -> dict[int, list[EvalRow]]:
    found: dict[int, list[EvalRow]] = defaultdict(list)
    for row in rows:
        found[row.seed].append(row)
    return found


def _across(per_seed: list[list[dict[str, float]]], kind: str) -> tuple[list[float], ...]:
    x, y, low, high = [], [], [], []
    for at_k in zip(*per_seed, strict=False):
        values = [100 * point[kind] for point in at_k if point[kind] == point[kind]]
        if values:
            x.append(at_k[0]["responses"])
            y.append(float(np.mean(values)))
            low.append(min(values))
            high.append(max(values))
    return x, y, low, high


def attempts(store: Store) -> Figure:
    """F7: accuracy over further attempts."""
    series = []
    for arm in store.arms:
        per_seed = [
            [100 * float(np.mean([row.correct[k] for row in rows])) for k in range(min(len(r.correct) for r in rows))]
            for rows in _by_seed(store.rows_of(arm, "attempts")).values()
        ]
        if per_seed:
            n = min(len(values) for values in per_seed)
            values = np.array([one[:n] for one in per_seed])
            x = list(range(1, n + 1))
            series.append(
                Series(store.names[arm], x, values.mean(0).tolist(), values.min(0).tolist(), values.max(0).tolist())
            )
    if not series:
        raise MissingError("needs evaluation.attempts of at least 3, and a context that holds them")
    n_tasks = len({row.task_id for row in store.rows_of(store.arms[0], "attempts")})
    caption = (
        f"{store.env}, greedy, n = {n_tasks} tasks, mean over seeds, band: smallest to largest seed. Training had "
        f"{store.config.env.attempts} attempts, so what comes later was never trained (SCoRe, Figure 8)."
    )
    return Figure("F7", "More attempts", caption, [Panel("", "attempt", "accuracy (%)", series)])


def difficulty(store: Store) -> Figure:
    """F8: where answers are mended and broken, by how often the base is right."""
    base = store.of(BASE, "sampled")
    if not base:
        raise MissingError("needs evaluation.samples_per_task of at least 2: difficulty is the base's pass rate")
    rates = {task: float(np.mean([row.correct[0] for row in rows])) for (_, task), rows in base.items()}
    bins = [[task for task, rate in rates.items() if _in_bin(rate, one)] for one in DIFFICULTY]
    ticks = [f"{'never' if high == 0 else f'{low:.0%}-{high:.0%}'} (n={len(tasks)})" for (low, high), tasks in zip(
        DIFFICULTY, bins, strict=True
    )]  # fmt: skip
    panels = []
    for label, first in (("i->c (% of tasks)", False), ("c->i (% of tasks)", True)):
        series = []
        for arm in store.arms:
            rows = store.of(arm, store.mode)
            by_task: dict[str, list[float]] = defaultdict(list)
            for (_, task), found in rows.items():
                by_task[task] += [float(row.correct[0] is first and row.correct[-1] is not first) for row in found]
            points = [(i, [np.mean(by_task[t]) for t in tasks if t in by_task]) for i, tasks in enumerate(bins)]
            known = [(i, 100 * float(np.mean(values))) for i, values in points if values]
            series.append(Series(store.names[arm], [p[0] for p in known], [p[1] for p in known]))
        panels.append(Panel("", "base's pass rate at the first attempt", label, series, ticks=ticks))
    caption = (
        f"{store.env}, {store.mode} episodes, n = {len(rates)} tasks, mean over seeds; tasks are binned by how many of "
        f"the base's {store.config.evaluation.samples_per_task} sampled first attempts are right."
    )
    return Figure("F8", "By difficulty", caption, panels)


def _in_bin(rate: float, edges: tuple[float, float]) -> bool:
    low, high = edges
    return rate == 0 if high == 0 else low < rate <= high


def sweeps(store: Store) -> Figure:
    """F10: what the bonus (alpha) and the first attempt's KL (beta2) do: arms that differ from SCoRe in one of them."""
    found = {arm: _alpha_beta2(store.config.arms[arm]) for arm in store.trained}
    known = {arm: pair for arm, pair in found.items() if pair is not None}
    panels = []
    for index, (name, label) in enumerate((("alpha", "alpha: bonus per unit of progress"), ("beta2", "beta2"))):
        arms = _varying(known, index)
        if len(arms) > 1:
            panels.append(_sweep_panel(store, arms, [known[arm][index] for arm in arms], name, label))
    if not panels:
        raise MissingError("needs arms that differ in alpha or beta2 only, such as run=[score,score_alpha_10,...]")
    caption = (
        f"{store.env}, {store.mode} decoding, n = {store.comparisons[store.mode].n_tasks} tasks, "
        f"{len(store.complete)} seeds, 95 % bootstrap intervals over seeds, then tasks. alpha: stage II's weight of "
        "the improvement over the first attempt; beta2: stage I's weight of the first attempt's KL to the base."
    )
    return Figure("F10", "The two weights of SCoRe", caption, panels)


def _alpha_beta2(arm: Any) -> tuple[float, float] | None:
    """The two weights of an arm with SCoRe's two stages, everything else being as it is in SCoRe."""
    stages = arm.get("stages") if hasattr(arm, "get") else None
    if stages is None or len(stages) != 2 or list(stages[0].reward_weights)[:1] != [0.0]:
        return None
    if any(stage.imitate or stage.offline_first_attempts for stage in stages):
        return None
    return float(stages[1].progress_alpha), float(stages[0].kl_coefs[0])


def _varying(known: dict[str, tuple[float, float]], index: int) -> list[str]:
    """Arms that agree with ``score`` in the other weight, sorted by this one."""
    if "score" not in known:
        return []
    other = known["score"][1 - index]
    return sorted((arm for arm, pair in known.items() if pair[1 - index] == other), key=lambda arm: known[arm][index])


def _sweep_panel(store: Store, arms: list[str], x: list[float], name: str, label: str) -> Panel:
    comparison = store.comparisons[store.mode]
    series = []
    for rate, title in (("accuracy_t1", "acc@t1"), ("accuracy_t2", "acc@t2"), ("delta", "delta")):
        rates = [comparison.arm(arm).rates[rate] for arm in arms]
        y, low, high = ([100 * getattr(one, part) for one in rates] for part in ("mean", "low", "high"))
        series.append(Series(title, x, y, low, high))
    return Panel(name, label, "percent; points for delta", series, log_x=10 if name == "beta2" else 0)
