"""Tables C1 to C5: accuracy of the second attempt when the first attempt or its feedback is removed or exchanged."""

from functools import partial

from experiments.evidence.comparison import Comparison, compare
from experiments.evidence.model import MissingError, Table, exhibit
from experiments.evidence.store import Store
from experiments.evidence.tables import cell, numbers
from experiments.evidence.verdicts import does_it_correct, points
from rewards.wording import counted
from rl.analysis.controls import CONTROLS, short
from rl.analysis.rates import named


def control_table(store: Store, name: str) -> Table:
    """Accuracy of every arm's second attempt without and with one control.

    Args:
        store: The runs.
        name: Name of the control in :data:`rl.analysis.controls.CONTROLS`.

    Raises:
        MissingError: If no run was evaluated with this control.
    """
    comparison = compare(store, "greedy") if "greedy" in store.modes else None
    lines = [line for line in comparison.arms if name in line.controls] if comparison else []
    if not comparison or not lines:
        raise MissingError("needs evaluation.controls=true, two attempts, and a prompt that this control can change")
    rows, values, rate, told = [], {}, named("accuracy_t2"), ""
    for line in lines:
        own, there, lost = line.rates["accuracy_t2"], line.controls[name], line.losses[name]
        says = (
            does_it_correct(line.losses, line.mending) if line.rates["delta"].low > 0 else "No correction to explain."
        )
        n, of = unchanged(store, line.arm, name)
        if n:
            says, told = f"{says} This control changes nothing in {n:,} of {counted(of, 'episode')}.", SAME
        rows.append([line.name, cell(own, rate), cell(there, rate), cell(lost, named("delta")), says])
        values[line.name] = {"own": numbers(own), "control": numbers(there), "lost": numbers(lost)}
        values[line.name] |= {"unchanged": n} if n else {}
    caption = (
        f"Greedy second attempts; what the policy reads before them is {CONTROLS.fact(name, 'reads')}. n = "
        f"{counted(comparison.n_tasks, 'task')}, 95 % bootstrap intervals over seeds, then tasks; differences are "
        "paired. An arm uses its attempt if it loses accuracy when that is taken away (C1) and when it is exchanged "
        "(C2, C5); it uses the error if it loses accuracy when that alone is exchanged (C4). An arm that loses "
        "nothing answers anew; one that loses nothing where its own first attempt was wrong keeps right attempts and "
        f"tries again otherwise. It corrects if it loses accuracy there, too.{told}"
    )
    header = ["arm", "acc@t2 (%)", "acc@t2 under this control (%)", "lost (points)", "what the controls say"]
    return Table(caption, header, rows, values)


SAME = (
    " An episode in which a control changes nothing counts the same with and without it, so that the loss is "
    "smaller than over the other episodes."
)
"""Added to the caption if there are such episodes."""


def unchanged(store: Store, arm: str, name: str) -> tuple[int, int]:
    """In how many of an arm's episodes a control changed nothing, and how many episodes its accuracy is from."""
    seeds = store.seeds(arm) if len(store.seeds(arm)) == 1 else store.complete or store.seeds(arm)[:1]
    found = [row.unchanged for row in store.rows_of(arm, name) if row.seed in seeds]
    return sum(found), len(found)


for _name in CONTROLS:
    exhibit(CONTROLS.fact(_name, "id"), CONTROLS.fact(_name, "title"))(partial(control_table, name=_name))


def control_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one table for all controls: arm, acc@t2 without a control, and acc@t2 under each control."""
    lines = [line for line in comparison.arms if line.controls]
    played = [name for name in CONTROLS if any(name in line.controls for line in lines)]
    rows = []
    for line in lines:
        there = [points(line.controls[name], False) if name in line.controls else "-" for name in played]
        rows.append([line.name, points(line.rates["accuracy_t2"], False), *there])
    return ["arm", "acc@t2", *map(short, played)], rows
