"""T1 to T5: what came out, what the parts are worth, elsewhere, at what cost, and every seed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.analysis import BASE, ArmLine
from experiments.evidence.model import MissingError, Table
from experiments.evidence.store import Store
from rl.analysis.printing import fixed, percent
from rl.analysis.rows import TRANSFER
from rl.analysis.significance import holm
from rl.analysis.statistics import Interval

FULL = "score"
ABLATIONS = ("single_turn", "score_no_stage1", "score_no_shaping", "score_star_stage2", "score_offline_first")
"""Arms that lack one part of SCoRe (arXiv 2409.12917, Table 4); its first row is single-turn RL."""
_MEANS = {
    "acc@t1 (%)": "accuracy_t1",
    "acc@t2 (%)": "accuracy_t2",
    "delta (points)": "delta",
    "i->c (%)": "delta_i_to_c",
    "c->i (%)": "delta_c_to_i",
}
_MORE = {"answer changed (%)": "changed_answer", "truncated (%)": "truncated_fraction"}


def main_table(store: Store) -> Table:
    """T1: every rate of every arm with its interval, greedy and sampled."""
    rows, values = [], {}
    for mode in store.modes:
        for arm in store.arms:
            found = _rates(store, arm, mode)
            name = store.names[arm] if mode == store.mode else f"{store.names[arm]}, {mode}"
            rows.append([name, *(cell(one, 1 if "tokens" in rate else 100) for rate, one in found.items())])
            values[name] = {rate: numbers(one) for rate, one in found.items()}
    caption = (
        f"{store.env}, {'; '.join(_sample(store, mode) for mode in store.modes)}. Mean over seeds; below it the 95 % "
        "interval of a bootstrap over seeds, then tasks. Delta is acc@t2 minus acc@t1; i->c and c->i are shares of all "
        "tasks."
    )
    return Table("T1", "Main results", caption, ["arm", *next(iter(values.values()))], rows, values)


def _rates(store: Store, arm: str, mode: str) -> dict[str, Interval]:
    table, boot = store.tables(mode)[arm], store.bootstrap(mode)

    def mean(rate: str) -> Interval:
        return boot.interval(store.paired(table, rate))

    first = store.paired(table, "accuracy_t1")
    return {
        **{name: mean(rate) for name, rate in _MEANS.items()},
        "fixed, of wrong (%)": boot.quotient(store.paired(table, "delta_i_to_c"), 1.0 - first),
        "broken, of right (%)": boot.quotient(store.paired(table, "delta_c_to_i"), first),
        **{name: mean(rate) for name, rate in _MORE.items()},
        "tokens per episode": mean("response_tokens"),
    }


def ablations(store: Store) -> Table:
    """T2: SCoRe minus each part."""
    parts = [arm for arm in store.trained if arm in ABLATIONS or arm.startswith("score_no_")]
    if FULL not in store.arms or not parts:
        raise MissingError(f"needs {FULL} and at least one of {', '.join(ABLATIONS)} among the arms (run=[...])")
    mode = store.mode
    tables, boot = store.tables(mode), store.bootstrap(mode)
    header, rows, values = ["arm"], [[store.names[FULL]]], {}
    for name, rate in {"acc@t2 (%)": "accuracy_t2", "delta (points)": "delta"}.items():
        full = store.paired(tables[FULL], rate)
        others = [store.paired(tables[arm], rate) for arm in parts]
        adjusted = holm([boot.p_value(full, other) for other in others])
        header += [name, "full minus this", "p (Holm)"]
        rows[0] += [cell(boot.interval(full)), "", ""]
        for i, (arm, other, p) in enumerate(zip(parts, others, adjusted, strict=True)):
            if len(rows) <= i + 1:
                rows.append([store.names[arm]])
            difference = boot.difference(full, other)
            rows[i + 1] += [cell(boot.interval(other)), cell(difference, signed=True), f"{p:.2g}"]
            key = values.setdefault(store.names[arm], {})
            key |= {f"{rate} difference": numbers(difference), f"{rate} p": p}
    caption = (
        f"{store.env}, {_sample(store, mode)}. Differences are paired over seeds and tasks, 95 % bootstrap intervals; "
        f"p-values are adjusted for {len(parts)} comparisons (Holm). {_rough(store)}"
    )
    return Table("T2", "What SCoRe's parts are worth", caption, header, rows, values)


def transfer(store: Store) -> Table:
    """T3: other environments, and repairing the base's attempts."""
    modes = sorted({row.mode for row in store.rows if row.mode.startswith(TRANSFER)})
    repaired = _repair_rates(store)
    if not modes and not repaired:
        raise MissingError("needs evaluation.transfer={name: {options: ...}} or cross=<tasks>, and a run")
    header, rows, values = ["arm"], [[store.names[arm]] for arm in store.arms], {}
    for mode in modes:
        tables, boot = store.tables(mode), store.bootstrap(mode)
        where = mode.removeprefix(TRANSFER)
        header += [f"{where}: acc@t1 (%)", "acc@t2 (%)", "delta (points)"]
        for row, arm in zip(rows, store.arms, strict=True):
            found = {r: boot.interval(store.paired(tables[arm], r)) for r in ("accuracy_t1", "accuracy_t2", "delta")}
            row += [cell(one) for one in found.values()]
            values.setdefault(row[0], {})[where] = {rate: numbers(one) for rate, one in found.items()}
    if repaired:
        header.append("base's wrong attempts fixed (%)")
        for row, arm in zip(rows, store.arms, strict=True):
            row.append(percent(repaired[arm]) if arm in repaired else "-")
            values.setdefault(row[0], {})["repair"] = repaired.get(arm)
    sizes = {mode.removeprefix(TRANSFER): len(next(iter(store.tables(mode).values())).task_ids) for mode in modes}
    asked = ", ".join(f"{name}: n = {n} tasks" for name, n in sizes.items())
    caption = (
        f"Trained on {store.env}, greedy decoding. {asked or 'No other environment was asked for'}. 95 % bootstrap "
        "intervals over seeds, then tasks. The last column has every arm correct the base's first attempts, mean over "
        "seeds, without an interval."
    )
    return Table("T3", "Elsewhere", caption, header, rows, values)


def _repair_rates(store: Store) -> dict[str, float]:
    rates: dict[str, list[float]] = {}
    for table in store.cross():
        for one in table["cells"]:
            if one["author"] == BASE and one["n_wrong"]:
                rates.setdefault(one["corrector"], []).append(one["n_fixed"] / one["n_wrong"])
    return {arm: float(np.mean(found)) for arm, found in rates.items()}


_COST: dict[str, Callable[[dict[str, Any]], float]] = {
    "sampled responses": lambda r: r["totals"].get("responses", float("nan")),
    "sampled episodes": lambda r: r["totals"]["episodes"],
    "sampled tokens": lambda r: r["totals"]["sampled_tokens"],
    "gradient tokens": lambda r: r["totals"]["gradient_tokens"],
    "optimiser steps": lambda r: r["totals"].get("updates", float("nan")),
    "seconds of training": lambda r: sum(r["totals"]["seconds"].values()),
    "seconds in all": lambda r: r["seconds"],
    "peak memory (GiB)": lambda r: r.get("peak_memory", float("nan")),
}


def compute(store: Store) -> Table:
    """T4: what every arm spent, and on what they are matched."""
    rows, values = [], {}
    for arm in store.arms:
        runs = [store.results[arm, seed] for seed in store.seeds(arm)]
        spent = {name: float(np.mean([of(run) for run in runs])) for name, of in _COST.items()}
        rows.append([store.names[arm], *(count(value, name) for name, value in spent.items())])
        values[store.names[arm]] = spent
    caption = (
        f"Mean over {_n_seeds(store)}. {matched(store)} Seconds are wall clock on the machine of the run, with other "
        "runs beside it; peak memory is the process's resident memory, or the GPU's where there is one."
    )
    return Table("T4", "What it cost", caption, ["arm", *_COST], rows, values)


def matched(store: Store) -> str:
    """The sentence that says on what arms are matched."""
    sentence = {
        "samples": "Arms are matched on sampled episodes",
        "tokens": "Arms are matched on sampled tokens (a run ends with the first batch that reaches the budget)",
        "updates": "Arms are matched on optimiser steps",
    }[store.config.get("match", "samples")]
    return f"{sentence}; everything else is as it came."


def every_seed(store: Store) -> Table:
    """T5: one row per training run."""
    comparison = store.comparisons[store.mode]
    rows: list[list[str]] = []
    values: dict[str, dict[str, Any]] = {}
    for line in comparison.arms:
        for seed in line.seeds:
            low, high = seed.delta_interval
            cells = [percent(seed.rates[rate]) for rate in _MEANS.values()]
            fate = "failed" if seed.failed and line.trained else ""
            name = f"{line.name}, seed {seed.seed}"
            rows.append(
                [
                    name,
                    *cells,
                    f"{percent(low, signed=True)}, {percent(high, signed=True)}",
                    f"{seed.p_value:.2g}",
                    fate,
                ]
            )
            values[name] = {**seed.rates, "newcombe": [low, high], "mcnemar": seed.p_value, "failed": seed.failed}
    caption = (
        f"{store.env}, {_sample(store, store.mode)}. The interval of delta is Newcombe's for paired proportions (95 %, "
        "over tasks only), p is exact McNemar. A run failed if its delta is at most 1 point: "
        f"{failures(comparison.arms)}."
    )
    header = ["run", *_MEANS, "delta, Newcombe", "McNemar p", ""]
    return Table("T5", "Every seed", caption, header, rows, values)


def failures(lines: Sequence[ArmLine]) -> str:
    """``STaR 2 of 3, SCoRe 0 of 3``."""
    trained = [line for line in lines if line.trained]
    return ", ".join(f"{line.name} {sum(s.failed for s in line.seeds)} of {len(line.seeds)}" for line in trained)


def cell(interval: Interval, scale: float = 100, signed: bool = False) -> str:
    """Mean, and on a second line its interval."""
    if np.isnan(interval.mean):
        return "-"
    mean, low, high = (scale * value for value in numbers(interval))
    return f"{fixed(mean, signed=signed)}\n{fixed(low)}, {fixed(high)}"


def numbers(interval: Interval) -> list[float]:
    """Mean and ends."""
    return [interval.mean, interval.low, interval.high]


def count(value: float, name: str) -> str:
    """A cost in its unit."""
    return fixed(value, 2 if "GiB" in name else 0)


def _sample(store: Store, mode: str) -> str:
    table = next(iter(store.tables(mode).values()))
    per_task = store.config.evaluation.samples_per_task if mode == "sampled" else 1
    episodes = f"{per_task} episode{'s' * (per_task > 1)}"
    return f"{mode} decoding, n = {len(table.task_ids)} tasks x {episodes}, {_n_seeds(store)}"


def _n_seeds(store: Store) -> str:
    n = len(store.complete)
    return f"{n} seed{'s' * (n != 1)}"


def _rough(store: Store) -> str:
    if len(store.complete) >= 5:
        return ""
    return f"With {_n_seeds(store)} a bootstrap over seeds is rough: read T5 beside it."
