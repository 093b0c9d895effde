"""Tests the thesis on the results of all studies: ``python -m experiments.thesis``, after ``make studies``.

*Self-generated data works precisely when the generation stays anchored to a verifiable reality.* Reads the newest run
of each study and the newest comparison of self-correcting arms. Plots held-out gain against the accuracy of the signal
before training, and the gate's predictions against the outcomes. Lists every system with its anchor, its gain and those
of its claims that do not hold. The sentence at the top of the page is computed from the results.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cli import UserError, console, entry_point
from experiments.evidence.model import Exhibit, Figure, Mark, Panel, Series, Table, plain
from experiments.evidence.page import assemble
from experiments.evidence.studies import gate_table, no_samples
from experiments.report import write_exhibits
from experiments.schema import ThesisConfig
from experiments.studies import STUDIES, load
from rewards.wording import counted
from rl.analysis.claims import Row, grown
from rl.analysis.gate import with_outcome
from rl.analysis.printing import fixed
from rl.analysis.thesis import (
    KINDS,
    WORDS,
    Interval,
    Line,
    Point,
    Thesis,
    Trained,
    Within,
    line,
    points,
    pooled,
    sentence,
    shown,
    within_studies,
)
from rl.tracking import oldest_first, write_json

THESIS = "Self-generated data works precisely when the generation stays anchored to a verifiable reality."
SIGNAL = (
    "The accuracy of the signal is measured before training, on training questions: of the pairs of answers of which "
    "one is truly better, the share that the signal puts in the right order; a tie counts half, so scoring all answers "
    "alike gives 0.5. In collapse and instruction_extraction answers are not scored; there it is the share of training "
    "texts that are right."
)
"""Definition of the accuracy of a signal (:func:`rl.analysis.gate.signal_accuracy`), which several captions share."""
SELF_CORRECTION = "self_correction"
"""Name under which the comparison is listed among the studies."""


@entry_point("thesis", runs=False)
def main(cfg: ThesisConfig) -> None:
    """Reads the results, writes the page, and prints the computed sentence."""
    found = read_studies(Path(cfg.studies), cfg.size)
    if cfg.size == "tiny" and (corrects := read_comparison(Path(cfg.comparisons))):
        found[SELF_CORRECTION] = corrects
    if not found:
        raise UserError(f"studies={cfg.studies}: no finished study of size {cfg.size} below it; make studies runs all")
    told = write_thesis(found, Path(cfg.output))
    console.print(f'"{THESIS}"\n{told}', highlight=False, markup=False)
    console.print(f"page: {Path(cfg.output) / 'report.html'}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Read:
    """One study's results: how the thesis interprets it, its rows, its claims' verdicts by name, and its folder."""

    thesis: Thesis | None
    rows: list[Row]
    claims: dict[str, str]
    folder: Path


def read_studies(root: Path, size: str) -> dict[str, Read]:
    """Reads the newest run of the given size of each study below a folder; returns them by the study's name."""
    found: dict[str, Read] = {}
    for path in oldest_first(root, "study.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["size"] != size or result["study"] not in STUDIES:
            continue
        if result.get("dry_run"):
            said = f"{path.parent}: left out, a dry run on random weights says nothing about {result['study']}"
            console.print(said, highlight=False, markup=False, soft_wrap=True)
            continue
        claims = {one["name"]: one["verdict"] for one in result["claims"]}
        thesis = getattr(load(result["study"], size), "THESIS", None)
        found[result["study"]] = Read(thesis, result["rows"], claims, path.parent)
    return dict(sorted(found.items()))


def read_comparison(root: Path) -> Read | None:
    """Reads the newest comparison below a folder as a study: an online arm is the system, offline arms are compared.

    The gain is the greedy accuracy of the last attempt on test tasks, minus that of the base. ``None`` if there is no
    comparison, or it lacks the base or an online arm.
    """
    paths = oldest_first(root, "comparison.json")
    if not paths:
        return None
    comparison = json.loads(paths[-1].read_text(encoding="utf-8"))["greedy"]
    name, rows = f"accuracy_t{comparison['attempts']}", list[Row]()
    base = next((one["rates"][name]["mean"] for one in comparison["arms"] if not one["trained"]), None)
    arms = [one["arm"] for one in comparison["arms"] if one["trained"]]
    online = next((arm for arm in ("score", "naive_multiturn", "ppo") if arm in arms), None)
    if base is None or online is None:
        return None
    for one in comparison["arms"]:
        for seed in one["seeds"] if one["trained"] else ():
            row = {"arm": one["arm"], "seed": seed["seed"], "step": 0, "accuracy": base}
            rows += [row, row | {"step": 1, "accuracy": seed["rates"][name]}]
    named = [online, *(arm for arm in ("star", "pair_sft") if arm in arms and arm != online)]
    trained = tuple(Trained(arm, "oracle", grown(arm, "accuracy")) for arm in named)
    signal = "its second attempts, and whether they are right"
    measure = "last attempt, minus the base"
    thesis = Thesis("SCoRe", signal, "a verifier of answers", True, online, trained, measure)
    return Read(thesis, rows, {}, paths[-1].parent)


def write_thesis(found: Mapping[str, Read], folder: Path) -> str:
    """Writes ``thesis.json``, exhibits and the page; returns the computed sentence."""
    read = [(name, one.thesis, one.rows, one.claims) for name, one in found.items() if one.thesis is not None]
    lines = [line(name, thesis, rows, claims) for name, thesis, rows, claims in read]
    every = [point for name, thesis, rows, _ in read for point in points(name, thesis, rows)]
    # The signal of an oracle is right by definition, so including its points would produce a correlation by
    # construction.
    unsure = [point for point in every if point.kind != "oracle"]
    within, of_own = within_studies(unsure), within_studies([point for point in every if point.kind == "self"])
    all_at_once = pooled(unsure)
    told = sentence(lines, within, of_own, all_at_once, len(unsure))
    gate_rows = [dict(row, gate_cell=f"{name}: {row['gate_cell']}")
                 for name, one in found.items() for row in one.rows if row.get("gate_cell")]  # fmt: skip
    tables = [systems_table(lines), within_table(within, of_own, all_at_once), *gate_table(gate_rows)]
    made: list[Exhibit] = [*tables, points_table(every)]
    titles = ["The systems", "Within studies", *["The gate"] * bool(gate_rows), "Every arm"]
    made = [replace(one, id=f"T{i}", title=title) for i, (one, title) in enumerate(zip(made, titles, strict=True), 1)]
    drawn = [*gain_figures(every, within, of_own, all_at_once), *gate_figure(gate_rows)]
    made = [*(replace(one, id=f"F{i}") for i, one in enumerate(drawn, 1)), *made]
    missing = [name for name in (*STUDIES, SELF_CORRECTION) if name not in found or found[name].thesis is None]
    result = {
        "thesis": THESIS,
        "sentence": told,
        "correlation_within_studies": asdict(within),
        "correlation_within_studies_of_self_reward": asdict(of_own),
        "correlation_of_all_points": all_at_once,
        "missing": missing,
        "read": {name: str(one.folder) for name, one in found.items()},
        "systems": [asdict(one) | {"thesis": about(one.thesis), "verdict": one.verdict} for one in lines],
        "points": [asdict(one) for one in every],
    }
    write_json(folder / "thesis.json", plain(result))
    write_exhibits(made, folder)
    note = f"<p class='caption'>Not run: {html.escape(', '.join(missing))}.</p>" if missing else ""
    folders = "".join(f"<li>{html.escape(f'{name}: {one.folder}')}</li>" for name, one in found.items())
    note += f"<details><summary><h2>What was read</h2></summary><ul>{folders}</ul></details>"
    verdict = f"<p><q>{html.escape(THESIS)}</q></p><p><b>{html.escape(told)}</b></p>{note}"
    assemble("The thesis", verdict, made, no_samples()).write(folder / "report.html")
    return told


def about(thesis: Thesis) -> dict[str, Any]:
    """The descriptive fields of a system, without the functions that read its rows."""
    return {name: getattr(thesis, name) for name in ("system", "signal", "anchor", "anchored", "headline", "measure")}


def systems_table(lines: Sequence[Line]) -> Table:
    """A table with a row for each system: verdict, gain, oracle, signal and claims."""
    cells = [
        [
            f"{one.thesis.system}\n{one.study}",
            WORDS[one.verdict] + ("\nanchored" if one.thesis.anchored else "\nnot anchored"),
            f"{shown((one.mean, one.low, one.high), 3)}\n"
            + "; ".join([" ".join(fixed(value, 3, signed=True) for value in one.by_seed.values()), *one.remarks]),
            fixed(one.oracle, 3, signed=True) if one.oracle == one.oracle else "-",
            f"{one.thesis.signal}\n{one.thesis.anchor}",
            one.thesis.measure,
            one.standing if one.claims else "-",
        ]
        for one in lines
    ]
    caption = (
        "The gain is that of the arm that is the published system: mean over seeds with its 95 % Student-t interval, "
        "and below it each seed; then, if they exist, other measures of the gain and the gain of an arm without what "
        "is studied. An anchored system fits the thesis if it gains (interval above 0), one that is not anchored if it "
        "does not (interval below 0). The oracle column is the mean gain of the first oracle arm beside it. Below what "
        "a system learns from stands what anchors that to the truth."
    )
    header = ["system", "the thesis", "gain", "oracle", "learns from", "gain of what", "claims"]
    return Table(caption, header, cells, lead=5)


def within_table(within: Within, of_own: Within, all_at_once: Interval) -> Table:
    """A table of the rank correlation of gain and signal accuracy within each study."""
    both = (within, of_own)
    cells = [[study, *(fixed(one.by_study.get(study, np.nan), 2, signed=True) for one in both)]
             for study in within.by_study]  # fmt: skip
    cells.append(["mean over studies", *(shown((one.mean, one.low, one.high)) for one in both)])
    caption = (
        "Rank correlation of gain with the accuracy of the signal before training, over the arms and seeds of a study "
        "without its oracles; 95 % Student-t intervals over studies. Studies in which gain or accuracy is constant are "
        "left out. "
        f"{SIGNAL}"
    )
    if not np.isnan(all_at_once[0]):
        caption += (
            f" Over the points of all studies together it is {shown(all_at_once)}, which mixes different scales: the "
            "gain of a student is measured against its teacher, that of other models against their own start."
        )
    return Table(caption, ["study", "all but oracles", "self-reward arms"], cells)


def points_table(every: Sequence[Point]) -> Table:
    """A table of the numbers behind the gain figure, with a row for each arm."""
    cells = []
    for study, arm, kind in dict.fromkeys((one.study, one.arm, one.kind) for one in every):
        mine = [one for one in every if (one.study, one.arm) == (study, arm)]
        values = [[fixed(one.reward_accuracy, 2) for one in mine], [fixed(one.gain, 3, signed=True) for one in mine]]
        cells.append([study, arm, kind, " ".join(str(one.seed) for one in mine), *map(" ".join, values)])
    header = ["study", "arm", "kind", "seeds", "accuracy of the signal before training", "held-out gain"]
    return Table(f"One point of the figure for each seed, in the order of the seeds. {SIGNAL}", header, cells)


def gain_figures(every: Sequence[Point], within: Within, of_own: Within, all_at_once: Interval) -> list[Figure]:
    """Figures of gain against the accuracy of the signal, by study and by what an arm is trained on."""

    def cloud(name: str, mine: Sequence[Point], lines: Sequence[tuple[list[float], list[float]]] = ()) -> Series:
        x, y = [one.reward_accuracy for one in mine], [one.gain for one in mine]
        return Series(name, x, y, runs=lines, mark=Mark.POINTS)

    of_study = []
    for study in dict.fromkeys(one.study for one in every):
        mine = [one for one in every if one.study == study]
        of_study.append(cloud(study, mine, fitted([one for one in mine if one.kind != "oracle"])))
    kinds = [cloud(kind, mine) for kind in KINDS if (mine := [one for one in every if one.kind == kind])]
    axes = ("accuracy of the signal before training (share)", "gain (share)")
    said = [shown((one.mean, one.low, one.high)) for one in (within, of_own)]
    caption = (
        f"{counted(len(every), 'arm and seed', 'arms and seeds')} of {counted(len(of_study), 'study', 'studies')}. An "
        "oracle's signal is right by definition; a line is the least-squares line of a study's other arms. Their rank "
        f"correlation within a study is {said[0]} on average over {counted(len(within.by_study), 'study', 'studies')}, "
        f"that of self-reward arms alone {said[1]} over {len(of_own.by_study)}. Gains of different studies are on "
        f"different scales, so compare points within a study only. {SIGNAL}"
    )
    title = "Gain against the accuracy of the signal"
    same = "The same points, by the kind of signal that an arm is trained on."
    return [
        Figure(caption, [Panel("", *axes, of_study, zero=True)], title=title),
        Figure(same, [Panel("", *axes, kinds, zero=True)], title=f"{title}, by what is trained on"),
    ]


def fitted(mine: Sequence[Point]) -> list[tuple[list[float], list[float]]]:
    """Both ends of the least-squares line through points; empty if all points have the same x value."""
    x, y = (np.array([getattr(one, name) for one in mine]) for name in ("reward_accuracy", "gain"))
    if not mine or np.ptp(x) == 0:
        return []
    slope = np.cov(x, y)[0, 1] / x.var(ddof=1)
    ends = np.array([x.min(), x.max()])
    return [(ends.tolist(), (y.mean() + slope * (ends - x.mean())).tolist())]


def gate_figure(rows: Sequence[Row]) -> list[Figure]:
    """A figure of the gate's estimate before each training against the gain of the training."""
    if not (rows := with_outcome(rows)):
        return []
    series = []
    for expects, name in ((True, "improvement was expected"), (False, "none was expected")):
        mine = [row for row in rows if bool(row["gate_expects"]) is expects]
        if mine:
            gaps, gains = ([row[column] for row in mine] for column in ("gate_gap", "gate_gain"))
            series.append(Series(name, gaps, gains, mark=Mark.POINTS))
    hits = float(np.mean([row["gate_hit"] for row in rows]))
    caption = (
        f"{counted(len(rows), 'training')}; the prediction was right in {fixed(100 * hits, 0)} % of them. Each point "
        "is one training: the gap that the gate measured before it, and the gain that it brought."
    )
    axes = ("what the signal would add to accuracy, before training (share)", "gain (share)")
    return [Figure(caption, [Panel("", *axes, series, zero=True)], title="The gate's predictions")]


if __name__ == "__main__":
    main()
