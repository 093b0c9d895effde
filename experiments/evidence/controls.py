"""Tables C1 to C3: a second attempt without one's own first one, with another's, and with the verdict."""

from experiments.evidence.comparison import Comparison, compare
from experiments.evidence.model import MissingError, Table, exhibit
from experiments.evidence.store import Store
from experiments.evidence.tables import cell, numbers
from experiments.evidence.verdicts import does_it_correct, points
from rl.analysis.rates import named
from rl.analysis.rows import Control

SHORT = {
    Control.WITHOUT_FIRST: "no first attempt (C1)",
    Control.OTHERS_FIRST: "its first attempt at another task (C2)",
    Control.TOLD_VERDICT: "told whether it was right (C3)",
}


def _table(store: Store, which: Control, reads: str) -> Table:
    comparison = compare(store, "greedy") if "greedy" in store.modes else None
    lines = [line for line in comparison.arms if which.value in line.controls] if comparison else []
    if not comparison or not lines:
        raise MissingError("needs evaluation.controls=true and two attempts")
    rows, values, rate = [], {}, named("accuracy_t2")
    for line in lines:
        own, there, lost = line.rates["accuracy_t2"], line.controls[which.value], line.losses[which.value]
        says = does_it_correct(line.losses) if line.rates["delta"].low > 0 else "No correction to explain."
        rows.append([line.name, cell(own, rate), cell(there, rate), cell(lost, named("delta")), says])
        values[line.name] = {"own": numbers(own), "control": numbers(there), "lost": numbers(lost)}
    caption = (
        f"Greedy second attempts after {reads}; n = {comparison.n_tasks} tasks, 95 % bootstrap intervals over seeds, "
        "then tasks; differences are paired. An arm corrects if it loses accuracy both when its first attempt is taken "
        "away (C1) and when it is exchanged (C2). An arm that loses nothing answers anew."
    )
    header = ["arm", "acc@t2 (%)", "acc@t2 under this control (%)", "lost (points)", "what C1 and C2 say"]
    return Table(caption, header, rows, values)


@exhibit("C1", "Without a first attempt")
def without_first(store: Store) -> Table:
    """The second attempt after an empty first one."""
    return _table(store, Control.WITHOUT_FIRST, "an empty answer in place of its first attempt")


@exhibit("C2", "With its first attempt at another task")
def others_first(store: Store) -> Table:
    """The second attempt after an exchanged first one."""
    return _table(store, Control.OTHERS_FIRST, "its first attempt at another task")


@exhibit("C3", "Told whether it was right")
def told_verdict(store: Store) -> Table:
    """The second attempt after one's own first one and its verdict."""
    return _table(store, Control.TOLD_VERDICT, "its own first attempt and whether it was right")


def control_cells(comparison: Comparison) -> list[list[str]]:
    """Rows of one table for all three: arm, acc@t2 as it is and under each control."""
    rows = []
    for line in comparison.arms:
        if line.controls:
            there = [points(line.controls[name.value], False) if name.value in line.controls else "-" for name in SHORT]
            rows.append([line.name, points(line.rates["accuracy_t2"], False), *there])
    return rows
