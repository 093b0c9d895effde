"""Tables and figures of a comparison, by id, all from its folder: T1-T5, F1-F13, C1-C3."""

from collections.abc import Callable, Sequence

from experiments.evidence import controls, curves, distributions, tables
from experiments.evidence.model import Absent, Exhibit, MissingError
from experiments.evidence.store import Store
from rl.analysis.rows import Control

EXHIBITS: dict[str, tuple[str, Callable[[Store], Exhibit]]] = {
    "T1": ("Main results", tables.main_table),
    "T2": ("What SCoRe's parts are worth", tables.ablations),
    "T3": ("Elsewhere", tables.transfer),
    "T4": ("What it cost", tables.compute),
    "T5": ("Every seed", tables.every_seed),
    "F1": ("Learning", curves.dynamics),
    "F2": ("How often the answer changes", curves.change_rate),
    "F3": ("How far the second attempt is from the first", distributions.edit_distance),
    "F4": ("Whose attempts are corrected", curves.mismatch),
    "F5": ("Who corrects whom", distributions.cross_matrix),
    "F6": ("Parallel or sequential", distributions.inference_scaling),
    "F7": ("More attempts", distributions.attempts),
    "F8": ("By difficulty", distributions.difficulty),
    "F9": ("Correction against first-attempt KL", curves.kl_frontier),
    "F10": ("The two weights of SCoRe", distributions.sweeps),
    "F11": ("What is trained on", curves.data_mode),
    "F12": ("Changing wrong and right answers", curves.calibration),
    "F13": ("Fit of accuracy over episodes", curves.scaling_fit),
    "C1": ("Without a first attempt", controls.control(Control.WITHOUT_FIRST)),
    "C2": ("With its first attempt at another task", controls.control(Control.OTHERS_FIRST)),
    "C3": ("Told whether it was right", controls.control(Control.TOLD_VERDICT)),
}


def build(store: Store, ids: Sequence[str] = ()) -> list[Exhibit]:
    """Exhibits by id, all of them without one; what the folder cannot show says what is missing.

    Raises:
        KeyError: For an id that does not exist.
    """
    for one in ids:
        if one not in EXHIBITS:
            raise KeyError(f"only={one}: there is no such table or figure; known: {', '.join(EXHIBITS)}")
    made: list[Exhibit] = []
    for one in ids or EXHIBITS:
        title, make = EXHIBITS[one]
        try:
            made.append(make(store))
        except MissingError as error:
            made.append(Absent(one, title, str(error)))
    return made
