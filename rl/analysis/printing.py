"""Formatting of numbers, the same in the terminal, tables, captions, sentences and notebooks."""

from collections.abc import Sequence
from html import escape


def fixed(value: float, digits: int = 1, signed: bool = False) -> str:
    """Formats a number with a fixed number of decimals; ``nan`` is shown as ``-``.

    A number that rounds to zero is shown without a sign, as ``0.0``, because the sign of a rounding error depends on
    the processor.

    Args:
        value: Number to format.
        digits: Decimals after the point.
        signed: Whether positive numbers get a plus sign.
    """
    if value != value:
        return "-"
    text = f"{value:z,.{digits}f}"
    return f"+{text}" if signed and float(text.replace(",", "")) > 0 else text


def percent(share: float, digits: int = 1, signed: bool = False) -> str:
    """Formats a share in percent, without the percent sign."""
    return fixed(100 * share, digits, signed)


def duration(seconds: float) -> str:
    """Formats a duration in a suitable unit: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{fixed(seconds, 0)} s"
    return f"{fixed(seconds / 60, 0)} min" if seconds < 5400 else f"{fixed(seconds / 3600)} h"


SHORT = 24
"""A table cell of at most this many characters is not wrapped; only its own line breaks are kept."""


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", title: str = "") -> str:
    """Formats a table as HTML for notebooks; line breaks and spaces are kept, and long cells are wrapped.

    Args:
        header: Headers of the columns.
        rows: Cells of each row.
        caption: Text below the table.
        title: Text above the table, in bold.
    """

    def cell(text: str, tag: str) -> str:
        wrap = "pre" if tag == "td" and len(text) <= SHORT else "pre-wrap"  # an interval must stay on one line
        style = f'style="text-align:left;vertical-align:top;white-space:{wrap};max-width:36em"'
        return f"<{tag} {style}>{escape(text)}</{tag}>"

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(cell(str(one), tag) for one in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    above = f"<b>{escape(title)}</b>" if title else ""
    below = f"<p><small>{escape(caption)}</small></p>" if caption else ""
    return f"{above}<table><thead>{row(header, 'th')}</thead><tbody>{body}</tbody></table>{below}"
