"""Tables and figures of a folder of runs, by id: T1 to T6, F0 to F14, C1 to C5, and those that plugins register."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.evidence import (  # noqa: F401  importing a module registers its exhibits
    controls,
    curves,
    distributions,
    errors,
    overview,
    tables,
)
from experiments.evidence.frames import load_rows as load_rows
from experiments.evidence.model import EXHIBITS, Absent, Exhibit, Figure, MissingError
from experiments.evidence.store import Store
from experiments.refusals import refuse_other_kind


def ids() -> list[str]:
    """Every id in the order of the page: tables, figures, controls, then other registered exhibits."""
    kinds = {kind: place for place, kind in enumerate("TFC")}

    def place(one: str) -> tuple[int, int]:
        return kinds.get(one[0], len(kinds)), int(one[1:]) if one[1:].isdigit() else 0

    return sorted(EXHIBITS, key=place)


def build(store: Store, only: Sequence[str] | str = ()) -> list[Exhibit]:
    """Makes the exhibits named in ``only``, or all; an exhibit without data becomes an :class:`Absent` with the reason.

    Args:
        store: The folder's runs.
        only: Ids as a list, or as a text with commas; empty for all.

    Raises:
        TypeError: If ``store`` is no store.
        UnknownNameError: If ``only`` has an id that is not registered.
    """
    refuse_other_kind(store, Store, "build", "make one with Store(<folder of runs>)")
    only = [one.strip() for one in only.split(",") if one.strip()] if isinstance(only, str) else only
    entries = {one: EXHIBITS[one] for one in only or ids()}
    made: list[Exhibit] = []
    for one, entry in entries.items():
        try:
            found: Exhibit = entry.make(store)
        except MissingError as error:
            found = Absent(str(error))
        more = {"order": [store.names[arm] for arm in store.arms]} if isinstance(found, Figure) else {}
        made.append(replace(found, id=one, title=entry.title, **more))
    return made
