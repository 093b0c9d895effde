"""C1 to C3: what a second attempt is worth without one's own first one, with another's, and with the verdict."""

from collections.abc import Callable

from experiments.analysis import Comparison, does_it_correct, points
from experiments.evidence.model import MissingError, Table
from experiments.evidence.store import Store
from experiments.evidence.tables import cell, numbers
from rl.analysis.rows import Control

_TITLES = {
    Control.WITHOUT_FIRST: ("C1", "Without a first attempt", "an empty answer in place of its first attempt"),
    Control.OTHERS_FIRST: ("C2", "With its first attempt at another task", "its first attempt at another task"),
    Control.TOLD_VERDICT: ("C3", "Told whether it was right", "its own first attempt and whether it was right"),
}


def control(which: Control) -> Callable[[Store], Table]:
    """The table of one control."""
    exhibit_id, title, reads = _TITLES[which]

    def build(store: Store) -> Table:
        comparison = store.comparisons.get("greedy")
        lines = [line for line in comparison.arms if line.controls] if comparison else []
        if not lines:
            raise MissingError("needs evaluation.controls=true and two attempts")
        rows, values = [], {}
        for line in lines:
            own, there, lost = line.rates["accuracy_t2"], line.controls[which.value], line.losses[which.value]
            says = does_it_correct(line.losses) if line.rates["delta"].low > 0 else "No correction to explain."
            rows.append([line.name, cell(own), cell(there), cell(lost, signed=True), says])
            values[line.name] = {"own": numbers(own), "control": numbers(there), "lost": numbers(lost)}
        caption = (
            f"Greedy second attempts after {reads}; n = {comparison.n_tasks if comparison else 0} tasks, 95 % "
            "bootstrap intervals over seeds, then tasks, differences paired. An arm corrects if taking its first "
            "attempt away (C1) and exchanging it (C2) both cost accuracy; one that loses nothing answers anew."
        )
        header = ["arm", "acc@t2 (%)", f"acc@t2 under {exhibit_id} (%)", "lost (points)", "what C1 and C2 say"]
        return Table(exhibit_id, title, caption, header, rows, values)

    return build


CONTROL_NAMES = {
    "without_first": "C1: no first attempt",
    "others_first": "C2: its first attempt at another task",
    "told_verdict": "C3: told whether it was right",
}


def control_cells(comparison: Comparison) -> list[list[str]]:
    """Rows of one table for all three: arm, acc@t2 as it is and under each control."""
    rows = []
    for line in comparison.arms:
        if line.controls:
            values = [line.rates["accuracy_t2"], *(line.controls[name] for name in CONTROL_NAMES)]
            rows.append([line.name, *(points(value, False) for value in values)])
    return rows
