"""Tables T1 to T6: main results, ablations, transfer, compute, every seed, and differences between folders."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.evidence.comparison import ArmLine, compare
from experiments.evidence.model import MissingError, Table, exhibit
from experiments.evidence.store import BASE, Store
from rewards.wording import counted
from rl.analysis.printing import fixed, percent
from rl.analysis.rates import Rate, Where, named
from rl.analysis.rows import TRANSFER
from rl.analysis.significance import holm
from rl.analysis.statistics import Interval

FULL = "score"
ABLATIONS = ("single_turn", "score_no_stage1", "score_no_shaping", "score_star_stage2", "score_offline_first")
"""Arms that lack one part of SCoRe, as in Table 4 of arXiv 2409.12917, whose first row is single-turn RL."""


@exhibit("T1", "Main results")
def main_table(store: Store) -> Table:
    """Every rate of every arm with its interval, in every mode (greedy, sampled), and what its training cost."""
    lead: dict[str, Rate] = {}
    rates: dict[str, Rate] = {}
    for mode in store.modes:
        lead |= store.rates(mode, Where.HEADLINE)
        rates |= store.rates(mode, Where.TABLES)
    rates = lead | rates  # headline rates become the first columns
    rows, views, values = [], [], {}
    for mode in store.modes:
        for arm in (arm for arm in store.arms if arm in store.tables(mode)):
            known = store.rates(mode, Where.TABLES)
            found = {name: store.interval(arm, mode, name) for name in rates if name in known}
            results = [store.runs[arm, seed].result for seed in store.seeds(arm)] if arm in store.trained else []
            spent = {
                what: fixed(float(np.mean([_COST[what](one) for one in results])), 0) for what in _BUDGET if results
            }
            cells = [cell(found[one], rate) if one in found else "-" for one, rate in rates.items()]
            rows.append([store.names[arm], *cells, *(spent.get(what, "-") for what in _BUDGET)])
            views.append(mode)
            name = store.names[arm] if mode == store.mode else f"{store.names[arm]}, {mode}"
            values[name] = {rate: numbers(one) for rate, one in found.items()}
    caption = (
        f"{store.env}, {'; '.join(_sample(store, mode) for mode in store.modes)}. Each cell is a mean over seeds, and "
        "below it the 95 % interval of a bootstrap over seeds, then tasks. Delta is acc@t2 minus acc@t1. The columns "
        "i->c and c->i are shares of all tasks: wrong at first and then right, right at first and then wrong. What a "
        f"run spent on training is a mean over seeds. {_tuned(store)}"
    )
    header = ["arm", *(rate.header for rate in rates.values()), *_BUDGET]
    return Table(caption, header, rows, values, views, lead=1 + len(lead))


_BUDGET = ("sampled episodes", "sampled tokens", "optimiser steps", "gradient tokens")
"""The training costs that T1 shows beside the rates; T4 shows all of them."""


def _tuned(store: Store) -> str:
    """Sentence on how the trained arms were tuned."""
    records = store.setting("tuning", {}) or {}
    found = {arm: records[arm] for arm in store.trained if arm in records}
    if not found:
        return "No tuning is recorded: the values are those of the config files, configs/tuned included."
    trials = sorted({record["trials"] for record in found.values()})
    seeds = sorted({seed for record in found.values() for seed in record["seeds"]})
    others = [store.names[arm] for arm in store.trained if arm not in found]
    each = " or ".join([*map(str, trials[:-1]), counted(trials[-1], "trial")])
    sentence = f"Tuned on validation tasks with {each} each, training seed {', '.join(map(str, seeds))}"
    settings = sorted({record.get("setting") or "" for record in found.values()} - {""})
    sentence += f", for {'; '.join(settings)}" if settings else ""
    return f"{sentence}; not tuned: {', '.join(others)}." if others else f"{sentence}."


@exhibit("T2", "Ablations of SCoRe")
def ablations(store: Store) -> Table:
    """SCoRe compared with arms that lack one of its parts."""
    parts = [arm for arm in store.trained if arm in ABLATIONS or arm.startswith("score_no_")]
    if FULL not in store.arms or not parts or store.attempts(store.mode) < 2:
        raise MissingError(f"needs {FULL} and at least one of {', '.join(ABLATIONS)} among the arms (include=[...])")
    mode, boot = store.mode, store.bootstrap(store.mode)
    header, rows, values = ["arm"], [[store.names[FULL]], *([store.names[arm]] for arm in parts)], {}
    for name in ("accuracy_t2", "delta"):
        rate = named(name)
        # Paired differences: SCoRe and each ablation are evaluated on the same resampled seeds and tasks.
        full, *others = (store.cells(arm, mode, name) for arm in (FULL, *parts))
        adjusted = holm([boot.p_value(full, other) for other in others])
        header += [rate.header, "SCoRe minus this arm", "p (Holm)"]
        rows[0] += [cell(boot.interval(full), rate), "", ""]
        for row, other, p in zip(rows[1:], others, adjusted, strict=True):
            difference = boot.difference(full, other)
            row += [cell(boot.interval(other), rate), cell(difference, named("delta")), f"{p:.2g}"]
            values.setdefault(row[0], {}).update({f"{name} difference": numbers(difference), f"{name} p": p})
    caption = (
        f"{store.env}, {_sample(store, mode)}. Differences are paired over seeds and tasks, with 95 % bootstrap "
        f"intervals; p-values are adjusted for {counted(len(parts), 'comparison')} (Holm). "
    )
    if 0 < len(store.complete) < 5:
        caption += f"With {store.said_seeds} a bootstrap over seeds is rough; T5 shows every seed."
    return Table(caption, header, rows, values)


@exhibit("T3", "Transfer, and repair of the base's attempts")
def transfer(store: Store) -> Table:
    """Rates in other environments, and how many of the base's wrong first attempts each arm fixes."""
    modes = sorted({row.mode for row in store.rows if row.mode.startswith(TRANSFER)})
    repaired = _repair_rates(store)
    if not modes and not repaired:
        raise MissingError("needs evaluation.transfer={name: {options: ...}} or cross=<tasks>, and a run")
    header, rows, values = ["arm"], [[store.names[arm]] for arm in store.arms], {}
    for mode in modes:
        where, rates = mode.removeprefix(TRANSFER), ("accuracy_t1", "accuracy_t2", "delta")
        rates = tuple(rate for rate in rates if rate in store.rates(mode, Where.HEADLINE))
        header += [f"{where}: {named(rate).header}" for rate in rates]
        for row, arm in zip(rows, store.arms, strict=True):
            found = {rate: store.interval(arm, mode, rate) for rate in rates}
            row += [cell(one, named(rate)) for rate, one in found.items()]
            values.setdefault(row[0], {})[where] = {rate: numbers(one) for rate, one in found.items()}
    if repaired:
        header.append("base's wrong attempts fixed (%)")
        for row, arm in zip(rows, store.arms, strict=True):
            row.append(percent(repaired[arm]) if arm in repaired else "-")
            values.setdefault(row[0], {})["repair"] = repaired.get(arm)
    asked = ", ".join(f"{mode.removeprefix(TRANSFER)}: n = {counted(store.n_tasks(mode), 'task')}" for mode in modes)
    caption = (
        f"Arms trained on {store.env} and evaluated on other environments, greedy decoding. "
        f"{asked or 'No other environment was asked for'}. 95 % bootstrap intervals over seeds, then tasks."
    )
    if repaired:
        caption += (
            f" The last column is the share of the base's wrong first attempts at tasks of {store.env} that an arm's "
            "second attempt fixes: a mean over seeds, without an interval."
        )
    return Table(caption, header, rows, values)


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
    "seconds in total": lambda r: r["seconds"],
    "peak memory (GiB)": lambda r: r.get("peak_memory", float("nan")),
}


@exhibit("T4", "Cost of training")
def compute(store: Store) -> Table:
    """What every arm spent on training, and which budget is the same for all arms."""
    rows, values = [], {}
    for arm in store.arms:
        runs = [store.runs[arm, seed].result for seed in store.seeds(arm)]
        spent = {name: float(np.mean([of(run) for run in runs])) for name, of in _COST.items()}
        rows.append([store.names[arm], *(fixed(one, 2 if "GiB" in name else 0) for name, one in spent.items())])
        values[store.names[arm]] = spent
    caption = (
        f"What a run of each arm spent, mean over {store.said_seeds}. {matched(store)} Seconds are wall-clock time on "
        "a machine that other runs may have shared. Peak memory is GPU memory, or the resident memory of the process "
        "if the run used no GPU."
    )
    return Table(caption, ["arm", *_COST], rows, values)


def matched(store: Store) -> str:
    """Sentence on which budget is the same for all arms of a comparison."""
    if not store.is_comparison:
        return "These runs were not started as one comparison, so their budgets may differ."
    match = store.setting("match", "samples")
    what = {
        "samples": "sampled episodes",
        "tokens": "sampled tokens (a run ends with the first batch that reaches the budget)",
        "updates": "optimiser steps",
    }
    return f"Arms are matched on {what.get(match, match)}; no other cost was held equal."


@exhibit("T6", "Differences between folders")
def between(store: Store) -> Table:
    """Difference in each headline rate between an arm in another folder and the same arm in the first folder."""
    if len(store.folders) < 2:
        raise MissingError("compares several folders: python -m experiments.report 'run=[<folder>,<folder>]'")
    mode, boot, rates = store.mode, store.bootstrap(store.mode), store.rates(store.mode, Where.HEADLINE)
    # With several folders, arm names end in the folder's letter (see Store); without it, equal names are the same arm.
    first = {arm.removesuffix(" (A)"): arm for arm in store.arms if arm.endswith(" (A)")}
    pairs = [(own, other) for name, own in first.items() for other in store.arms if other[:-4] == name and other != own]
    if not pairs:
        raise MissingError("no arm of the first folder is in another one")
    rows, values = [], {}
    for own, other in pairs:
        found = {name: boot.difference(store.cells(other, mode, name), store.cells(own, mode, name)) for name in rates}
        row = f"{other} minus {own}"
        rows.append([row, *(cell(one, replace(rates[name], unit="points")) for name, one in found.items())])
        values[row] = {name: numbers(one) for name, one in found.items()}
    differ = [f"{key} {' / '.join(map(str, found))}" for key, found in store.config_differences().items()]
    said = f"Their configs differ in {', '.join(differ[:12])}" if differ else "Their configs are the same"
    versions = Counter(one["file"] for one in store.data_files())
    caption = (
        f"{store.env}, {_sample(store, mode)}: rates of an arm in another folder minus those of the same arm in the "
        "first folder, paired over tasks and seeds, with 95 % bootstrap intervals. "
        f"{said}{' and more' * (len(differ) > 12)}."
    )
    if changed := [name for name, n in versions.items() if n > 1]:
        caption += f" Not all runs read the same version of {', '.join(changed)}."
    return Table(caption, ["arm", *(f"{rate.label} (points)" for rate in rates.values())], rows, values)


@exhibit("T5", "Every seed")
def every_seed(store: Store) -> Table:
    """Headline rates of every training run, with tests over tasks; one row per run."""
    comparison, rates = compare(store, store.mode), store.rates(store.mode, Where.HEADLINE)
    rows: list[list[str]] = []
    values: dict[str, dict[str, Any]] = {}
    for line in comparison.arms:
        for seed in line.seeds:
            low, high = seed.delta_interval
            cells = [rate.text(seed.rates[name]) for name, rate in rates.items()]
            if comparison.attempts > 1:
                cells += [f"{percent(low, signed=True)}, {percent(high, signed=True)}", f"{seed.p_value:.2g}"]
                cells += ["failed" if seed.failed and line.trained else ""]
            name = f"{line.name}, seed {seed.seed}"
            rows.append([name, *cells])
            values[name] = {**seed.rates, "newcombe": [low, high], "mcnemar": seed.p_value, "failed": seed.failed}
    header = ["run", *(rate.header for rate in rates.values())]
    caption = f"{store.env}, {_sample(store, store.mode)}, one row per training run."
    if comparison.attempts > 1:
        header += ["delta, 95 % interval", "McNemar p", ""]
        caption += (
            " The interval of delta is Newcombe's for paired proportions; it is over tasks, so it says nothing about "
            "other seeds. p is that of the exact McNemar test that both attempts are right equally often. A run failed "
            "if its delta is at most 1 point: "
            f"{failures(comparison.arms) or 'nothing was trained'}."
        )
    return Table(caption, header, rows, values)


def failures(lines: Sequence[ArmLine]) -> str:
    """Number of failed seeds of every trained arm, such as ``STaR 2 of 3, SCoRe 0 of 3``."""
    trained = [line for line in lines if line.trained]
    return ", ".join(f"{line.name} {sum(s.failed for s in line.seeds)} of {len(line.seeds)}" for line in trained)


def cell(interval: Interval, rate: Rate) -> str:
    """Table cell in the rate's unit: the mean and, on a second line, the interval; ``-`` if the mean is ``nan``."""
    if interval.mean != interval.mean:
        return "-"
    return f"{rate.text(interval.mean)}\n{rate.text(interval.low)}, {rate.text(interval.high)}"


def numbers(interval: Interval) -> list[float]:
    """Mean, lower and upper end of an interval as a list."""
    return [interval.mean, interval.low, interval.high]


def _sample(store: Store, mode: str) -> str:
    per_task = max(row.sample for row in store.rows if row.mode == mode) + 1
    tasks, episodes = counted(store.n_tasks(mode), "task"), counted(per_task, "episode")
    return f"{mode} decoding, n = {tasks} x {episodes}, {store.said_seeds}"
