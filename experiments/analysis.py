"""From a comparison's folder to the numbers that its tables, sentences and figures show."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rl.analysis.printing import percent
from rl.analysis.rows import Control, EvalRow
from rl.analysis.significance import detectable_delta, holm, iqm, newcombe_paired
from rl.analysis.statistics import ArmTable, Bootstrap, Interval, mcnemar, tabulate
from rl.tracking import read_jsonl

SHOWN = ("accuracy_t1", "accuracy_t2", "delta", "delta_i_to_c", "delta_c_to_i", "edit_rate")
FAILED_BELOW = 0.01
"""A training run whose delta is at most this counts as a seed that did not learn to correct itself."""
BASE = "base"
ENOUGH_SEEDS = 5
"""With fewer, resampling seeds says little about seeds that were not run."""


@dataclass(frozen=True, slots=True)
class SeedLine:
    """One training run: its rates, and the evidence that it changes anything.

    Args:
        seed: Which.
        rates: In [0, 1].
        p_value: Of "no correction", exact McNemar.
        delta_interval: Newcombe's paired interval of delta; over tasks, so it says nothing about other seeds.
        failed: Whether delta is at most :data:`FAILED_BELOW`.
    """

    seed: int
    rates: dict[str, float]
    p_value: float
    delta_interval: tuple[float, float]
    failed: bool


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One row of the table."""

    arm: str
    name: str
    rates: dict[str, Interval]
    against: dict[str, Interval]
    """Difference in delta, this arm minus another, by the other's key."""
    p_against: dict[str, float]
    """Two-sided bootstrap p-values of these differences, not adjusted."""
    delta_iqm: float
    """Interquartile mean of delta over seeds."""
    detectable: float
    """The delta that this many tasks would show in 80 % of cases, were as many to change as did."""
    seeds: list[SeedLine]
    crashed: list[int]
    controls: dict[str, Interval]
    """Accuracy of the second attempt under each control (:mod:`rl.controls`); empty if they were not played."""
    losses: dict[str, Interval]
    """What the second attempt loses under each control: accuracy_t2 minus the control's."""
    episodes: int
    sampled_tokens: int
    gradient_tokens: int
    seconds: float

    @property
    def trained(self) -> bool:
        """Whether anything was sampled to learn from."""
        return self.episodes > 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything computed from a comparison's folder."""

    env: str
    n_tasks: int
    mode: str
    arms: list[ArmLine]
    missing: list[str]
    """Names of arms without a finished run."""

    def arm(self, key: str) -> ArmLine:
        """An arm by its key."""
        return next(line for line in self.arms if line.arm == key)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def load_rows(folder: Path) -> list[EvalRow]:
    """Every stored evaluation row of the finished jobs."""
    rows = []
    for result in sorted(folder.glob("arms/*/*/result.json")):
        rows += [EvalRow.from_json(row) for row in read_jsonl(result.parent / "rows.jsonl")]
    return rows


def load_results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """``result.json`` by arm and seed."""
    results = {}
    for path in sorted(folder.glob("arms/*/*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        results[result["arm"], result["seed"]] = result
    return results


def analyse(
    folder: Path,
    order: list[str],
    names: dict[str, str],
    env: str,
    mode: str = "greedy",
    rows: list[EvalRow] | None = None,
) -> Comparison:
    """Statistics of a comparison.

    Args:
        folder: A comparison's folder.
        order: Keys of the arms, in the order of the table.
        names: Their names in tables.
        env: Name of the environment.
        mode: ``greedy`` or ``sampled`` episodes.
        rows: What :func:`load_rows` returned, if it was called already.

    Raises:
        FileNotFoundError: If no arm has finished rows of this mode.
    """
    rows, results = load_rows(folder) if rows is None else rows, load_results(folder)
    if not any(row.mode == mode for row in rows):
        raise FileNotFoundError(f"{folder}: no finished arm with {mode} episodes, so there is nothing to report")
    tables = tabulate(rows, mode)
    present = [arm for arm in order if arm in tables]
    # Arms are paired over the seeds that all of them finished; what is not trained has one run, which stands for all.
    learners = [arm for arm in present if is_trained(arm, results)]
    complete = complete_seeds({arm: tables[arm].seeds for arm in learners})
    boot = Bootstrap(max(1, len(complete)), len(next(iter(tables.values())).task_ids))
    controls = {control.value: tabulate(rows, control.value) for control in Control} if mode == "greedy" else {}
    by_arm: dict[str, list[EvalRow]] = {arm: [] for arm in present}
    for row in rows:
        if row.mode == mode and row.arm in by_arm:
            by_arm[row.arm].append(row)
    lines = [
        _arm_line(arm, names, tables, controls, complete, boot, by_arm[arm], results, present, _crashed(folder, arm))
        for arm in present
    ]
    missing = [names.get(arm, arm) for arm in order if arm not in tables]
    return Comparison(env, len(next(iter(tables.values())).task_ids), mode, lines, missing)


def is_trained(arm: str, results: dict[tuple[str, int], dict[str, Any]]) -> bool:
    """Whether an arm learns: the base and arms that only ask in other words do not."""
    return any(result["totals"]["episodes"] for (name, _), result in results.items() if name == arm)


def complete_seeds(seeds: dict[str, Sequence[int]]) -> list[int]:
    """Seeds that all of these arms finished."""
    known = sorted({seed for of_arm in seeds.values() for seed in of_arm})
    return [seed for seed in known if all(seed in of_arm for of_arm in seeds.values())]


def _crashed(folder: Path, arm: str) -> list[int]:
    return sorted(int(path.parent.name.removeprefix("seed_")) for path in folder.glob(f"arms/{arm}/*/error.txt"))


def _paired(table: ArmTable, name: str, complete: list[int]) -> Any:
    values = table.rate(name)
    if len(table.seeds) == 1 or not complete:
        return values[:1]
    return values[[table.seeds.index(seed) for seed in complete]]


def _arm_line(
    arm: str,
    names: dict[str, str],
    tables: dict[str, ArmTable],
    controls: dict[str, dict[str, ArmTable]],
    complete: list[int],
    boot: Bootstrap,
    rows: list[EvalRow],
    results: dict[tuple[str, int], dict[str, Any]],
    present: list[str],
    crashed: list[int],
) -> ArmLine:
    table = tables[arm]
    mine = [result for (name, _), result in results.items() if name == arm]
    return ArmLine(
        arm=arm,
        name=names.get(arm, arm),
        rates={name: boot.interval(_paired(table, name, complete)) for name in SHOWN},
        against={
            other: boot.difference(_paired(table, "delta", complete), _paired(tables[other], "delta", complete))
            for other in present
            if other != arm
        },
        p_against={
            other: boot.p_value(_paired(table, "delta", complete), _paired(tables[other], "delta", complete))
            for other in present
            if other != arm
        },
        delta_iqm=iqm(table.per_seed("delta")),
        detectable=_detectable(table),
        seeds=[_seed_line(table, i, rows) for i in range(len(table.seeds))],
        crashed=crashed,
        controls={
            control: boot.interval(_paired(by_arm[arm], "accuracy_t2", complete))
            for control, by_arm in controls.items()
            if arm in by_arm
        },
        losses=_control_losses(arm, table, controls, complete, boot),
        episodes=max(result["totals"]["episodes"] for result in mine),
        sampled_tokens=round(sum(result["totals"]["sampled_tokens"] for result in mine) / len(mine)),
        gradient_tokens=round(sum(result["totals"]["gradient_tokens"] for result in mine) / len(mine)),
        seconds=sum(result["seconds"] for result in mine) / len(mine),
    )


def _control_losses(
    arm: str,
    table: ArmTable,
    controls: dict[str, dict[str, ArmTable]],
    complete: list[int],
    boot: Bootstrap,
) -> dict[str, Interval]:
    own, losses = _paired(table, "accuracy_t2", complete), {}
    for control, by_arm in controls.items():
        if arm in by_arm:
            values = _in_order_of(table, by_arm[arm], _paired(by_arm[arm], "accuracy_t2", complete))
            losses[control] = boot.difference(own, values)
    return losses


def _in_order_of(table: ArmTable, other: ArmTable, values: Any) -> Any:
    """Columns of another table in the order of this one's tasks, so that differences are paired."""
    places = {task: i for i, task in enumerate(other.task_ids)}
    return values[:, [places[task] for task in table.task_ids]]


def _seed_line(table: ArmTable, index: int, rows: list[EvalRow]) -> SeedLine:
    seed = table.seeds[index]
    good = [row for row in rows if row.seed == seed and not row.failed]
    fixed = sum(row.correct[-1] and not row.correct[0] for row in good)
    broken = sum(row.correct[0] and not row.correct[-1] for row in good)
    rates = {name: table.per_seed(name)[index] for name in SHOWN}
    both = sum(row.correct[0] and row.correct[-1] for row in good)
    interval = newcombe_paired(both, broken, fixed, len(good) - both - broken - fixed)
    return SeedLine(seed, rates, mcnemar(fixed, broken), interval, rates["delta"] <= FAILED_BELOW + 1e-9)


def _detectable(table: ArmTable) -> float:
    changing = sum(sum(table.per_seed(name)) for name in ("delta_i_to_c", "delta_c_to_i")) / len(table.seeds)
    return detectable_delta(changing, len(table.task_ids))


def verdicts(comparison: Comparison) -> list[str]:
    """What the intervals say, one sentence an arm, best correction first; nothing that they do not say."""
    sentences = []
    for line in sorted(comparison.arms, key=lambda line: -line.rates["delta"].mean):
        delta = line.rates["delta"]
        if delta.mean != delta.mean:
            sentences.append(f"{line.name}: every episode failed, so there is nothing to compare.")
            continue
        if delta.low > 0:
            claim = "answers better the second time"
        elif delta.high < 0:
            claim = "makes its answers worse"
        else:
            claim = "shows no change that the interval can tell from zero"
        each = ", ".join(percent(seed.rates["delta"], signed=True) for seed in line.seeds)
        sentence = f"{line.name}: {claim}; delta {points(delta)} points"
        sentence += f" (per seed {each})." if len(line.seeds) > 1 else "."
        n_failed = sum(seed.failed for seed in line.seeds)
        if line.trained and n_failed:
            sentence += f" {n_failed} of {len(line.seeds)} seeds failed (delta of at most 1 point)."
        if delta.low > 0 and line.losses:
            sentence += " " + does_it_correct(line.losses)
        if line.crashed:
            sentence += f" Seeds {line.crashed} crashed and are missing."
        sentences.append(sentence)
    sentences += [f"{name}: no finished run, so it is missing here." for name in comparison.missing]
    return sentences + _ranking(comparison)


def does_it_correct(losses: dict[str, Interval]) -> str:
    """What the second attempt owes to the first: it corrects if taking it away and exchanging it both cost accuracy.

    An empty first attempt is unlike anything in training, so a loss under C1 alone shows no use of what was written.
    """
    taken, exchanged = losses[Control.WITHOUT_FIRST.value], losses[Control.OTHERS_FIRST.value]
    if exchanged.low > 0 and taken.low > 0:
        return (
            f"It uses what it wrote: acc@t2 is {points(taken, False)} points lower without a first attempt (control "
            f"C1) and {points(exchanged, False)} lower with its first attempt at another task (C2)."
        )
    if taken.low > 0:
        return (
            "It answers anew rather than corrects: with its first attempt at another task acc@t2 is no lower "
            f"(difference {points(exchanged)}, control C2); it needs a first attempt before it, not its own (without "
            f"any {points(taken, False)} points lower, C1)."
        )
    return (
        "It answers anew rather than corrects: without a first attempt acc@t2 is no lower (difference "
        f"{points(taken)}, control C1)."
    )


def _ranking(comparison: Comparison) -> list[str]:
    trained = [
        line for line in comparison.arms if line.trained and line.rates["delta"].mean == line.rates["delta"].mean
    ]
    if len(trained) < 2:
        return []
    best = max(trained, key=lambda line: line.rates["delta"].mean)
    others = [line for line in trained if line is not best]
    adjusted = holm([best.p_against[other.arm] for other in others])
    beaten = [o.name for o, p in zip(others, adjusted, strict=True) if p < 0.05 and best.against[o.arm].mean > 0]
    level = [o.name for o in others if o.name not in beaten]
    sentence = _largest(trained, best)
    if beaten:
        sentence += (
            f" {best.name}'s is larger than that of {', '.join(beaten)} (paired bootstrap, Holm-adjusted p < 0.05)."
        )
        n_seeds = min(len(line.seeds) for line in trained)
        if n_seeds < ENOUGH_SEEDS:
            counted = f"{n_seeds} seeds" if n_seeds > 1 else "one seed"
            sentence += f" With {counted} that is rough: a single failed run can carry it, so read every seed."
    if level:
        sentence += f" {best.name}'s cannot be told from that of {', '.join(level)}."
    final = max(comparison.arms, key=lambda line: line.rates["accuracy_t2"].mean)
    if len(shared := _sharing(comparison.arms, final, "accuracy_t2")) > 1:
        return [sentence, f"{_and(shared)} share the best acc@t2: {points(final.rates['accuracy_t2'], False)} %."]
    return [sentence, f"The best acc@t2 is {final.name}'s: {points(final.rates['accuracy_t2'], False)} %."]


def _sharing(lines: Sequence[ArmLine], best: ArmLine, rate: str) -> list[str]:
    """Names of the arms whose rate prints like the best one's: what cannot be read apart is not ranked."""
    return [line.name for line in lines if percent(line.rates[rate].mean) == percent(best.rates[rate].mean)]


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _largest(trained: Sequence[ArmLine], best: ArmLine) -> str:
    """Who has the largest delta, whatever its sign and however many share it."""
    value, shared = percent(best.rates["delta"].mean, signed=True), _sharing(trained, best, "delta")
    if float(value) > 0:
        if len(shared) == 1:
            return f"The largest delta is {best.name}'s."
        return f"{_and(shared)} share the largest delta, {value} points."
    whose = f"{_and(shared)}'s" if len(shared) == 1 else f"that of {_and(shared)}"
    if float(value) == 0:
        return f"No trained arm has a delta above zero; the largest is 0.0 points, {whose}."
    return f"Every trained arm has a delta below zero; the one nearest to zero is {whose}, {value} points."


def points(interval: Interval, signed: bool = True) -> str:
    """``+57.3 [53.1, 60.9]``: percentage points."""
    mean, low, high = (percent(value, signed=signed) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"
