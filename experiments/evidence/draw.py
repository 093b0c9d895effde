"""Writes exhibits for paper: figures as SVG and PNG, readable in black and white; tables as CSV and Markdown."""

import csv
import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evidence.model import COLOURS, Dots, Exhibit, Figure, Mark, Panel, Series, Table, looks
from rl.analysis.printing import fixed
from rl.tracking import write_text

_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 5)))
_MARKERS = "osD^vPX*<>hd"
_PER_ROW = 3
_WIDTH = {1: 8.0, 2: 6.5, 3: 5.4}
"""Width of a panel in inches, by the number of panels in a row."""
_LEGEND = {1: 3, 2: 4, 3: 5}
"""Number of columns of the legend, by the number of panels in a row."""
_DPI = 130


def write(exhibit: Exhibit, folder: Path) -> list[Path]:
    """Writes an exhibit's files; an absent exhibit has none.

    Returns:
        Paths of the written files: ``<id>.svg`` and ``<id>.png`` with the caption below the figure, or ``<id>.csv`` and
        ``<id>.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Without this, an exhibit that is absent now would still have the files of an earlier report.
    for old in folder.glob(f"{exhibit.id}.*"):
        old.unlink()
    if isinstance(exhibit, Figure | Dots):
        canvas = _drawn(exhibit)
        paths = [folder / f"{exhibit.id}.svg", folder / f"{exhibit.id}.png"]
        write_text(paths[0], _svg(canvas, exhibit))
        canvas.savefig(paths[1], dpi=_DPI)
        return paths
    if isinstance(exhibit, Table):
        return _write_table(exhibit, folder)
    return []


def in_lines(table: Table) -> list[list[str]]:
    """Header and rows of a table with each cell on one line; the interval below a value is put in brackets after it."""
    header, rows = table.flat()
    cells = ([cell.split("\n") for cell in row] for row in rows)
    return [header, *([value + "".join(f" [{one}]" for one in below) for value, *below in row] for row in cells)]


def _write_table(table: Table, folder: Path) -> list[Path]:
    header, *rows = in_lines(table)
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    lines = [" | ".join(["", *row, ""]).strip() for row in (header, ["---"] * len(header), *rows)]
    text = "\n".join([f"**{table.title} ({table.id}).** {table.caption}", "", *lines, ""])
    paths = [folder / f"{table.id}.csv", folder / f"{table.id}.md"]
    write_text(paths[0], out.getvalue())
    write_text(paths[1], text)
    return paths


def svg(figure: Figure | Dots) -> str:
    """A figure with its caption below as SVG text, the same as in the file that :func:`write` makes."""
    return _svg(_drawn(figure), figure)


def _svg(canvas: Any, figure: Figure | Dots) -> str:
    import matplotlib

    out = io.StringIO()
    # A fixed salt and no date: the same data give the same file.
    with matplotlib.rc_context({"svg.hashsalt": figure.id, "svg.fonttype": "none"}):
        canvas.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _drawn(figure: Figure | Dots) -> Any:
    canvas, n_columns = _dots(figure) if isinstance(figure, Dots) else _panels(figure)
    text = textwrap.fill(f"{figure.title} ({figure.id}). {figure.caption}", 34 * n_columns + 50)
    canvas.supxlabel(text, fontsize=8)
    # Solves the constrained layout once, with room for the caption, and then turns it off: otherwise every call of
    # savefig would solve it again.
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    return canvas


def _dots(figure: Dots) -> tuple[Any, int]:
    """Draws one panel for each view, or for each row if rows have different units; badges are to the right of a row."""
    import matplotlib.figure

    if figure.shared:
        parts = [(view, [row for row in figure.rows if row.view == view]) for view in figure.views]
    else:
        parts = [("", [row]) for row in figure.rows]
    heights = [0.32 * len(rows) + (1.0 if figure.shared else 0.5) for _, rows in parts]
    canvas = matplotlib.figure.Figure(figsize=(9.5, sum(heights) + 1.2), layout="constrained")
    axes = canvas.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis, (view, rows) in zip(axes.flat, parts, strict=True):
        for y, row in enumerate(rows):
            axis.plot([row.low, row.high], [y, y], color="0.3", linewidth=2)
            axis.plot(row.seeds, [y + 0.28] * len(row.seeds), "o", mfc="none", mec="0.4", markersize=3)
            axis.plot(row.mean, y, "o", color="0.1", markersize=6)
            words = ", ".join(badge.text for badge in row.badges)
            axis.annotate(words, (1.01, y), xycoords=("axes fraction", "data"), fontsize=7, va="center")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
        axis.set(title=view, ylim=(len(rows) - 0.4, -0.6))
        axis.grid(axis="x", alpha=0.3)
    axes.flat[-1].set_xlabel(figure.x_label)
    return canvas, 2


def _panels(figure: Figure) -> tuple[Any, int]:
    import matplotlib.figure  # imported here since it is slow, and most commands draw nothing

    n = len(figure.panels)
    n_columns = 2 if n == 4 else min(_PER_ROW, n)
    n_rows = -(-n // n_columns)
    look = looks(figure)
    tall = max((len(panel.heat.rows) for panel in figure.panels if panel.heat), default=0)
    height = max(4.2, 0.42 * tall + 2.5)
    size = (_WIDTH[n_columns] * n_columns, height * n_rows + 1.6)
    canvas = matplotlib.figure.Figure(figsize=size, layout="constrained")  # no pyplot: no global state, no window
    axes = canvas.subplots(n_rows, n_columns, squeeze=False)
    for axis, panel in zip(axes.flat, figure.panels, strict=False):
        _draw_panel(axis, panel, look)
    for axis in list(axes.flat)[n:]:
        axis.axis("off")
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if handles:
        columns = min(_LEGEND[n_columns], len(handles))
        canvas.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, fontsize=8)
    return canvas, n_columns


def _draw_panel(axis: Any, panel: Panel, look: dict[str, int]) -> None:
    if panel.heat is not None:
        _draw_heat(axis, panel)
        return
    if panel.log_x:
        axis.set_xscale("log", base=panel.log_x)
    if panel.zero:
        axis.axhline(0, color="black", linewidth=0.8)
    for series in panel.series:
        _draw_series(axis, series, look[series.name])
    if panel.diagonal:
        axis.axline((0, 0), slope=1, color="grey", linewidth=0.8, linestyle=":")
    if panel.ticks:
        axis.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=30, ha="right", fontsize=7)
    elif not panel.log_x and all(float(x).is_integer() for series in panel.series for x in series.x):
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axis.grid(alpha=0.3)


def _draw_series(axis: Any, series: Series, index: int) -> None:
    colour = COLOURS[index % len(COLOURS)]
    style, marker = _STYLES[index % len(_STYLES)], _MARKERS[index % len(_MARKERS)]
    if series.mark is Mark.STEPS:
        # `series.x` are the left edges of bins of equal width; stairs also needs the right edge of the last bin.
        edges = [*series.x, 2 * series.x[-1] - series.x[-2]]
        axis.stairs(series.y, edges, color=colour, linestyle=style, linewidth=1.4, label=series.name)
        return
    for x, y in series.runs:
        axis.plot(x, y, color=colour, linewidth=0.5, alpha=0.5)
    if len(series.low):
        axis.fill_between(series.x, series.low, series.high, color=colour, alpha=0.12, linewidth=0)
    look = {"linestyle": style, "markersize": 3.5} if series.mark is Mark.LINE else {"linestyle": "none", "mfc": "none"}
    axis.plot(series.x, series.y, color=colour, marker=marker, label=series.name, **look)


def _draw_heat(axis: Any, panel: Panel) -> None:
    heat = panel.heat
    assert heat is not None
    values = np.array([[np.nan if v is None else v for v in row] for row in heat.values], dtype=float)
    axis.imshow(values, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value == value:
                axis.text(j, i, fixed(value, 0), ha="center", va="center", fontsize=7, color="w" if value > 55 else "k")
    axis.set_xticks(range(len(heat.columns)), heat.columns, rotation=40, ha="right", fontsize=7)
    axis.set_yticks(range(len(heat.rows)), heat.rows, fontsize=7)
    axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
