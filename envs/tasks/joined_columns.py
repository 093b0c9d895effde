"""Joins columns of a user's file that are a question, or the choices, only together."""

import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from envs.rows import Row
from envs.tasks.columns import NAMES, paths


def join_columns(rows: Sequence[Row], named: Mapping[str, str | None]) -> dict[str, str | None]:
    """Joins, in place, columns that are a question or the choices only together; returns the names with theirs.

    A task in ``instruction`` with its ``input`` is one question. With ``verify=choice``, columns ``A``, ``B``, ... (or
    ``option_a``, ...) are the choices, as are ``choice1``, ``choice2``, ... and ``ending0``, ``ending1``, ..., whose
    labels are these numbers. A column that the data call by a usual name, or a config names, comes first.

    Args:
        rows: All rows of the data.
        named: For each kind to look for, the column that a config names, or ``None``.
    """
    there = {path.rpartition(".")[2].lower() for row in rows[:1000] for path in paths(row.values)}
    own = {str(name).lower(): str(name) for row in rows[:1000] for name in row.values}
    found = dict(named)
    parts = [own[name] for name in ("instruction", "input") if name in own]
    texts = all(isinstance(row.values.get(part), str | None) for row in rows for part in parts)
    if named["question"] is None and len(parts) == 2 and texts and not there & {"question", "prompt", "problem"}:
        found["question"] = _join(rows, parts, lambda cells: "\n\n".join(filter(None, map(str.strip, cells))))
    if named.get("choices", "") is None and not there & set(NAMES["choices"]):
        found["choices"] = _join_choices(rows, own)
    return found


def _join_choices(rows: Sequence[Row], own: Mapping[str, str]) -> str | None:
    """Joins the choices under the first naming that at least two columns follow; ``None`` if none is followed."""
    words = ("option", "choice", "opt", "op", "ending", "sol")
    prefixes = [f"{word}{gap}" for word in words for gap in ("", "_", " ")]
    letters = string.ascii_lowercase
    numbers = [list(map(str, range(first, first + len(letters)))) for first in (0, 1)]
    for labels, usual in ((letters, ["", *prefixes]), *((labels, prefixes) for labels in numbers)):
        for prefix in usual:
            parts = list(takewhile(bool, (own.get(f"{prefix}{label}", "") for label in labels)))
            if len(parts) >= 2:
                return _join(rows, parts, partial(_labelled, labels=[label.upper() for label in labels]))
    return None


def _join(rows: Sequence[Row], parts: Sequence[str], join: Callable[[list[Any]], Any]) -> str:
    name = ", ".join(parts)
    for row in rows:
        cells = [row.values.pop(part, None) for part in parts]
        row.values[name] = join(["" if cell is None or cell != cell else cell for cell in cells])
    return name


def _labelled(cells: list[Any], labels: Sequence[str]) -> dict[str, Any] | None:
    """Choices by label, of which the last ones may be missing; ``None`` if one is missing between others."""
    texts = [str(cell).strip() for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return dict(zip(labels, texts, strict=False)) if len(texts) > 1 and all(texts) else None
