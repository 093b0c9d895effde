"""Exhibits as data: figures, dot plots and tables. Files for paper and the browser page are drawn from this data."""

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
"""Colours of curves, indexed by :func:`looks`; distinguishable on a white and on a black background."""


def plain(value: Any) -> Any:
    """Converts a value to JSON types: non-finite floats become ``None``, arrays and ranges become lists."""
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
    """A histogram: ``x`` holds the left edges of bins of equal width."""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Args:
        name: Name in the legend; an arm has the same name, and therefore the same look, in all panels.
        x: N positions.
        y: N values.
        low: N lower ends of an interval or band; empty if the series has none.
        high: N upper ends of the interval or band.
        runs: One (x, y) pair for each training run, drawn as a thin curve.
        mark: How the series is drawn.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    runs: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    mark: Mark = Mark.LINE


def spread(name: str, x: Any, values_SX: np.ndarray, runs: Sequence[Any] = ()) -> Series:
    """Series of the mean over seeds with a band from the smallest to the largest; skips x where any seed is ``nan``."""
    known = ~np.isnan(values_SX).any(axis=0)
    values = values_SX[:, known]
    places: Any = np.asarray(x)[known]
    return Series(name, places, values.mean(0), values.min(0), values.max(0), runs)


@dataclass(frozen=True, slots=True)
class Heat:
    """A heat map of a matrix.

    Args:
        rows: R row names, the top row first.
        columns: C column names.
        values: ``[R][C]`` cell values; ``None`` where a value is unknown.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes; the labels include the unit."""

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
    """Tick labels for x = 0, 1, 2, ..."""


class _Shown:
    """Base class of all exhibits; ``id``, such as ``F1``, and the short ``title`` come from the registration."""

    __slots__ = ()

    def to_json(self: Any) -> dict[str, Any]:
        """The exhibit as JSON types, with the name of its class as ``kind``."""
        return {"kind": type(self).__name__.lower(), **plain(asdict(self))}


def _on_paper(figure: Any) -> str:
    """The exhibit as SVG, which a notebook displays."""
    from experiments.evidence.draw import svg

    return svg(figure)


@dataclass(frozen=True, slots=True)
class Figure(_Shown):
    """A figure of one or more panels.

    Args:
        caption: What is shown, n, and what the intervals are.
        panels: The panels, in reading order.
        id: Identifier such as ``F1``.
        title: Short title.
        order: Names that are numbered before all others even if this figure does not draw them, so that an arm looks
            the same in all figures.
    """

    caption: str
    panels: Sequence[Panel]
    id: str = ""
    title: str = ""
    order: Sequence[str] = ()
    _repr_svg_ = _on_paper


def looks(figure: Figure) -> dict[str, int]:
    """The number of every series name, the same in all panels; it decides colour, line style and marker."""
    names = list(dict.fromkeys(series.name for panel in figure.panels for series in panel.series))
    # If the names are not arms (but transitions or rates), numbering starts at 0. If they are arms, each keeps its
    # number from the comparison even where other arms are missing, so that it looks the same in all figures.
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
        name: Name of the row.
        mean: The mean, drawn as the large dot.
        low: Lower end of the interval.
        high: Upper end of the interval.
        seeds: The value of every training run.
        badges: The findings in a few words each.
        said: The findings in sentences.
        view: Name of the view that the row belongs to; rows of one view are shown together. Empty if there is one view.
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
    """A dot plot: each row shows a mean, its interval and every seed. It is the first exhibit of a page.

    Args:
        caption: What is shown, n, and what the intervals are.
        x_label: Label of the x axis, with its unit.
        rows: The rows in the order in which they are shown, view by view.
        lead: The main finding in one or two sentences, by view.
        shared: Whether all rows have the same unit and share one x axis.
        digits: Number of decimals of printed values.
        id: Identifier such as ``F0``.
        title: Short title.
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
        """Names of the views, in the order of the rows."""
        return list(dict.fromkeys(row.view for row in self.rows))


@dataclass(frozen=True, slots=True)
class Table(_Shown):
    """A table.

    Args:
        caption: What is shown, n, and what the intervals are.
        header: Column headers; the first column names the rows.
        rows: Cells as printed; a line break separates a value from the interval below it.
        values: The numbers behind the cells, by row name, then by rate or column.
        views: The view of each row, such as ``greedy``; the page shows one view at a time. Empty if there is one view.
        lead: Number of leading columns that the page always shows; it shows the others on demand. 0 shows all columns.
        id: Identifier such as ``T1``.
        title: Short title.
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
        """Header and rows of the whole table; if there are several views, the second column names each row's view."""
        if len(set(self.views)) < 2:
            return list(self.header), [list(row) for row in self.rows]
        rows = [[row[0], view, *row[1:]] for row, view in zip(self.rows, self.views, strict=True)]
        return [self.header[0], "episodes", *self.header[1:]], rows

    def _repr_html_(self) -> str:
        """The table as HTML, which a notebook displays."""
        return html_table(*self.flat(), self.caption, f"{self.title} ({self.id})")


@dataclass(frozen=True, slots=True)
class Absent(_Shown):
    """Placeholder for an exhibit that cannot be made from the folder's runs.

    Args:
        reason: What is missing, and what to run to get it.
        id: Identifier such as ``F10``.
        title: Short title.
    """

    reason: str
    id: str = ""
    title: str = ""


Exhibit = Figure | Dots | Table | Absent


class MissingError(Exception):
    """Raised by an exhibit's function when its data are missing; the message becomes :attr:`Absent.reason`."""


Make = Callable[["Store"], Figure | Dots | Table]


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered exhibit: its title, and the function that makes the exhibit from the store of a folder's runs."""

    title: str
    make: Make


EXHIBITS: Lookup[Entry] = Lookup("only")
"""The registered exhibits by id; any module can add its own with :func:`exhibit`."""


def exhibit(id: str, title: str) -> Callable[[Make], Make]:
    """A decorator that registers an exhibit.

    Args:
        id: Identifier such as ``F14``; it names the exhibit's files, and ``only=`` selects exhibits by it. Exhibits
            whose id begins with F are shown among the figures.
        title: Short title; it is shown before the id.
    """

    def add(make: Make) -> Make:
        EXHIBITS.register(id)(Entry(title, make))
        return make

    return add
