"""How numbers are printed everywhere: in the terminal, in tables, captions and sentences, notebooks."""

from collections.abc import Sequence
from html import escape


def fixed(value: float, digits: int = 1, signed: bool = False) -> str:
    """A number with fixed digits; it is rounded before its sign is chosen, and ``-`` stands for ``nan``.

    A difference that is zero up to rounding has a sign that depends on the processor; it prints as ``0.0``.

    Args:
        value: What to print.
        digits: Behind the point.
        signed: Whether positive numbers get a plus.
    """
    if value != value:
        return "-"
    text = f"{value:z,.{digits}f}"
    return f"+{text}" if signed and float(text.replace(",", "")) > 0 else text


def percent(share: float, digits: int = 1, signed: bool = False) -> str:
    """A share in percent, without the sign of percent."""
    return fixed(100 * share, digits, signed)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{fixed(seconds, 0)} s"
    return f"{fixed(seconds / 60, 0)} min" if seconds < 5400 else f"{fixed(seconds / 3600)} h"


SHORT = 24
"""Characters of a cell that stands on one line, or on the lines that it has itself."""


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", title: str = "") -> str:
    """A table for notebooks: text as it is, line breaks and spaces kept, wrapped where it is long.

    Args:
        header: Of the columns.
        rows: Cells.
        caption: Below the table.
        title: Above it, in bold.
    """

    def cell(text: str, tag: str) -> str:
        wrap = "pre" if tag == "td" and len(text) <= SHORT else "pre-wrap"  # an interval is not torn apart
        style = f'style="text-align:left;vertical-align:top;white-space:{wrap};max-width:36em"'
        return f"<{tag} {style}>{escape(text)}</{tag}>"

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(cell(str(one), tag) for one in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    above = f"<b>{escape(title)}</b>" if title else ""
    below = f"<p><small>{escape(caption)}</small></p>" if caption else ""
    return f"{above}<table><thead>{row(header, 'th')}</thead><tbody>{body}</tbody></table>{below}"
