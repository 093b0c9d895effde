"""What an exhibit is: numbers and words, not pixels. One drawing for paper and one for the browser are made from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.lookup import Lookup
from rl.analysis.printing import html_table

if TYPE_CHECKING:
    from experiments.evidence.store import Store


COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
    *("#5b9bd5", "#c98a3c", "#6cbf6c", "#e07b7b", "#b195d1", "#b08a80"),
)
"""Of curves, by their number; told apart on white and on black."""


def plain(value: Any) -> Any:
    """Types that JSON has: ``nan`` becomes ``None``, arrays and ranges become lists, NumPy numbers Python's."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Mark(StrEnum):
    """How a series is drawn."""

    LINE = "line"
    POINTS = "points"
    STEPS = "steps"
    """A histogram: ``x`` are the left edges of equal bins."""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Args:
        name: In the legend; the same arm has the same name, and therefore the same look, in all panels.
        x: N positions.
        y: N values.
        low: N lower ends of an interval or band; empty for none.
        high: N upper ends.
        runs: Single training runs, as thin curves: one (x, y) each.
        mark: How it is drawn.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    runs: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    mark: Mark = Mark.LINE


def spread(name: str, x: Any, values_SX: np.ndarray, runs: Sequence[Any] = ()) -> Series:
    """Mean over seeds and a band from the smallest to the largest; positions that lack a value are left out."""
    known = ~np.isnan(values_SX).any(axis=0)
    values = values_SX[:, known]
    places: Any = np.asarray(x)[known]
    return Series(name, places, values.mean(0), values.min(0), values.max(0), runs)


@dataclass(frozen=True, slots=True)
class Heat:
    """A matrix.

    Args:
        rows: R names, the upper row first.
        columns: C names.
        values: ``[R][C]``; ``None`` where nothing is known.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes; labels name the unit."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series] = ()
    heat: Heat | None = None
    log_x: int = 0
    """Base of a logarithmic x axis; 0 for a linear one."""
    diagonal: bool = False
    """Draw y = x."""
    zero: bool = False
    """Draw y = 0."""
    ticks: Sequence[str] = ()
    """Names for x = 0, 1, 2 ..."""


class _Shown:
    """What exhibits have in common; ``id``, such as ``F1``, and the short ``title`` come from the registration."""

    __slots__ = ()

    def to_json(self: Any) -> dict[str, Any]:
        """As JSON types, with ``kind``."""
        return {"kind": type(self).__name__.lower(), **plain(asdict(self))}


def _on_paper(figure: Any) -> str:
    """What a notebook shows."""
    from experiments.evidence.draw import svg

    return svg(figure)


@dataclass(frozen=True, slots=True)
class Figure(_Shown):
    """A figure of one or more panels.

    Args:
        caption: What is shown, n, and what the intervals are.
        panels: Its axes.
        id: Such as ``F1``.
        title: Short.
        order: Names that are numbered before all others, drawn here or not, so that an arm looks alike in all figures.
    """

    caption: str
    panels: Sequence[Panel]
    id: str = ""
    title: str = ""
    order: Sequence[str] = ()
    _repr_svg_ = _on_paper


def looks(figure: Figure) -> dict[str, int]:
    """A number for every name, the same in all panels: it decides colour, line style and marker."""
    names = list(dict.fromkeys(series.name for panel in figure.panels for series in panel.series))
    # A figure whose names are no arms (transitions, rates) begins at the first look; one with arms keeps the number
    # that each has in the comparison, also where some are missing.
    known = [*figure.order, *(name for name in names if name not in figure.order)]
    place = known if any(name in figure.order for name in names) else names
    return {name: place.index(name) for name in names}


@dataclass(frozen=True, slots=True)
class Badge:
    """A finding in two or three words.

    Args:
        text: The words.
        tone: ``good``, ``bad``, ``doubt``, or empty.
    """

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    """One row of a dot plot.

    Args:
        name: Of the row.
        mean: Its value.
        low: Lower end of its interval.
        high: Upper end.
        seeds: The value of every training run.
        badges: What was found, in few words.
        said: The same in sentences.
        view: Rows of one view are shown together; empty where there is one view.
    """

    name: str
    mean: float
    low: float
    high: float
    seeds: Sequence[float]
    badges: Sequence[Badge] = ()
    said: str = ""
    view: str = ""


@dataclass(frozen=True, slots=True)
class Dots(_Shown):
    """A dot plot: a row each with its interval and every seed. The first thing that a page shows.

    Args:
        caption: What is shown, n, and what the intervals are.
        x_label: Of the axis, with its unit.
        rows: In their order, view by view.
        lead: What is to be seen, in a sentence or two, by view.
        shared: Whether all rows are in one unit and share an axis.
        digits: Of the numbers, behind the point.
        id: Such as ``F0``.
        title: Short.
    """

    caption: str
    x_label: str
    rows: Sequence[Dot]
    lead: dict[str, str] = field(default_factory=dict)
    shared: bool = True
    digits: int = 1
    id: str = ""
    title: str = ""
    _repr_svg_ = _on_paper

    @property
    def views(self) -> list[str]:
        """Names of the views."""
        return list(dict.fromkeys(row.view for row in self.rows))


@dataclass(frozen=True, slots=True)
class Table(_Shown):
    """A table.

    Args:
        caption: What is shown, n, and what the intervals are.
        header: Of the columns; the first one names the rows.
        rows: Cells as they are printed. A second line of a cell, its interval, comes after a line break.
        values: The numbers behind, by row name and by rate or column.
        views: The view of each row, such as ``greedy``: the page shows one at a time; empty where there is one.
        lead: How many columns say the most; the page shows the others on demand. 0 for all.
        id: Such as ``T1``.
        title: Short.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: Sequence[str] = ()
    lead: int = 0
    id: str = ""
    title: str = ""

    def flat(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows in one piece: the views of the rows, where there are several, as the second column."""
        if len(set(self.views)) < 2:
            return list(self.header), [list(row) for row in self.rows]
        rows = [[row[0], view, *row[1:]] for row, view in zip(self.rows, self.views, strict=True)]
        return [self.header[0], "episodes", *self.header[1:]], rows

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_table(*self.flat(), self.caption, f"{self.title} ({self.id})")


@dataclass(frozen=True, slots=True)
class Absent(_Shown):
    """An exhibit that the folder's runs cannot show.

    Args:
        reason: What is missing, and what to run for it.
        id: Such as ``F10``.
        title: Short.
    """

    reason: str
    id: str = ""
    title: str = ""


Exhibit = Figure | Dots | Table | Absent


class MissingError(Exception):
    """Raised by an exhibit whose data are not there; its text becomes :attr:`Absent.reason`."""


Make = Callable[["Store"], Figure | Dots | Table]


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered exhibit: its title, and the function from a folder's runs to numbers and words."""

    title: str
    make: Make


EXHIBITS: Lookup[Entry] = Lookup("only")
"""Tables and figures by id; another module registers its own with :func:`exhibit`."""


def exhibit(id: str, title: str) -> Callable[[Make], Make]:
    """A decorator that registers an exhibit.

    Args:
        id: Such as ``F14``: names its files, and ``only=`` asks for it. Ids that begin with F are shown among figures.
        title: Short; comes before the id wherever it is shown.
    """

    def add(make: Make) -> Make:
        EXHIBITS.register(id)(Entry(title, make))
        return make

    return add
