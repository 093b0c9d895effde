r"""Tables as LaTeX with booktabs. The page copies tables by the same rules (``assets/page.js``)."""

from collections.abc import Sequence
from math import ceil

from experiments.evidence.model import Table

TEX = {one: f"\\{one}" for one in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "->": r"$\to$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "\u2212": "--",
}
"""Characters that text in LaTeX writes otherwise; one that begins another, such as ``-``, comes after it."""
SHEET = 7
"""Number of columns beside the names of the rows that fit a page."""
WORDS = 40
"""A column with a longer cell holds sentences, and is broken into lines."""


def tabulars(table: Table) -> list[str]:
    """The table as one ``tabular`` for each part whose columns fit a page; every part names the rows."""
    header, rows = table.flat()
    names = len(header) - len(table.header) + 1  # the second column names the episodes if there are several views
    n = max(1, len(header) - names)
    step = ceil(n / ceil(n / SHEET))
    parts = []
    for start in range(names, max(len(header), names + 1), step):
        picked = [*range(names), *range(start, min(start + step, len(header)))]
        parts.append(_tabular([[row[i] for i in picked] for row in (header, *rows)], names))
    return parts


def _tabular(lines: Sequence[Sequence[str]], names: int) -> str:
    header, *rows = [" & ".join(map(tex, line)) + r" \\" for line in lines]
    in_words = [any(len(line[i].split("\n")[0]) > WORDS for line in lines[1:]) for i in range(len(lines[0]))]
    columns = ["p{6cm}" if words else "l" if i < names else "r" for i, words in enumerate(in_words)]
    begin = rf"\begin{{tabular}}{{{''.join(columns)}}}"
    return "\n".join([begin, r"\toprule", header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"])


def tex(cell: str) -> str:
    """A cell as LaTeX; further lines of the cell, such as an interval, follow the value in small type and brackets."""
    value, *below = (_escaped(line) for line in str(cell).split("\n"))
    return value + "".join(rf" {{\scriptsize [{one}]}}" for one in below)


def _escaped(text: str) -> str:
    return "".join(TEX.get(one, one) if one != "\0" else TEX["->"] for one in text.replace("->", "\0"))
