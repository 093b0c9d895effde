"""Figures for the browser: input for plotly.js, made from the same :class:`Figure` as the files for paper."""

from typing import Any

from experiments.evidence.model import COLOURS, Figure, Mark, Panel, Series, looks, plain

_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")


def to_plotly(figure: Figure) -> dict[str, Any]:
    """Converts a figure to JSON types: each panel becomes a separate plot with its ``data`` and ``layout``."""
    look = looks(figure)
    panels = [{"data": _traces(panel, look), "layout": _layout(panel)} for panel in figure.panels]
    words = {"kind": "figure", "id": figure.id, "title": figure.title, "caption": figure.caption}
    return words | {"panels": plain(panels), "looks": {n: [_colour(i), _dash(i)] for n, i in look.items()}}


def _traces(panel: Panel, look: dict[str, int]) -> list[dict[str, Any]]:
    if panel.heat is not None:
        heat, scale = panel.heat, [[0, "rgba(36,87,197,0.05)"], [1, "rgba(36,87,197,0.95)"]]
        shown = {"texttemplate": "%{z:.0f}", "colorscale": scale, "zmin": 0, "zmax": 100, "showscale": False}
        return [{"type": "heatmap", "x": heat.columns, "y": heat.rows, "z": heat.values, **shown}]
    return [trace for series in panel.series for trace in _curve(series, look[series.name])]


def _curve(series: Series, index: int) -> list[dict[str, Any]]:
    """Traces of one series in drawing order: the runs as thin lines, the band, and on top the curve itself."""
    colour = _colour(index)
    line = {"color": colour, "width": 2, "dash": _dash(index)}
    quiet = {"name": series.name, "mode": "lines", "hoverinfo": "skip", "meta": "spread"}
    thin = {"color": colour, "width": 0.6}
    traces = [{**quiet, "x": x, "y": y, "line": thin, "opacity": 0.5} for x, y in series.runs]
    if len(series.low):
        band = {"fill": "toself", "fillcolor": colour, "opacity": 0.15, "line": {"width": 0}}
        traces.append({**quiet, **band, "x": [*series.x, *series.x[::-1]], "y": [*series.high, *series.low[::-1]]})
    curve: dict[str, Any] = {"name": series.name, "x": series.x, "y": series.y, "line": line, "meta": series.mark.value}
    if series.mark is Mark.STEPS:
        # plotly's steps hold a value up to the next x. Without a repeated value at its right edge, the last bin would
        # have no width.
        edges = [*series.x, 2 * series.x[-1] - series.x[-2]]
        curve |= {"x": edges, "y": [*series.y, series.y[-1]], "mode": "lines", "line": line | {"shape": "hv"}}
    elif series.mark is Mark.POINTS:
        # plotly's symbols from 100 on are open markers, which stay readable where points overlap.
        curve |= {"mode": "markers", "marker": {"color": colour, "symbol": index % 8 + 100, "size": 8}}
    else:
        curve |= {"mode": "lines+markers", "marker": {"color": colour, "size": 5}}
    return [*traces, curve]


def _layout(panel: Panel) -> dict[str, Any]:
    x: dict[str, Any] = {"title": {"text": panel.x_label}}
    y: dict[str, Any] = {"title": {"text": panel.y_label}, "rangemode": "tozero" if panel.zero else "normal"}
    if panel.log_x:
        x |= {"type": "log"}
    if panel.log_x == 2:
        x |= {"tickvals": [2**e for e in range(21)]}
    if panel.ticks:
        x |= {"tickvals": list(range(len(panel.ticks))), "ticktext": panel.ticks, "tickangle": 30}
    if panel.heat is not None:
        x, y = x | {"showgrid": False}, y | {"showgrid": False, "autorange": "reversed"}  # first row on top
    layout: dict[str, Any] = {"title": {"text": panel.title}, "xaxis": x, "yaxis": y}
    if panel.diagonal:
        ends = [value for series in panel.series for value in (*series.x, *series.y)]
        low, high = min(ends, default=0), max(ends, default=1)
        layout["shapes"] = [
            {"type": "line", "x0": low, "y0": low, "x1": high, "y1": high, "line": {"dash": "dot", "color": "grey"}}
        ]
    return layout


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _dash(index: int) -> str:
    return _DASHES[index % len(_DASHES)]
