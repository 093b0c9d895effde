"""Joins columns of a user's file that are a question, or the choices, only together."""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from envs.rows import Row
from envs.tasks.columns import NAMES, paths, text_of

_PREFIXES = [f"{word}{gap}" for word in ("option", "choice", "opt", "op", "ending", "sol") for gap in ("", "_", " ")]
_LETTERS = list(string.ascii_lowercase)
# The numbers from 0 on stand before those from 1 on, which a file with option0 also has.
_LABELS = [_LETTERS, *(list(map(str, range(first, first + len(_LETTERS)))) for first in (0, 1))]


def join_columns(rows: Sequence[Row], named: Mapping[str, str | None]) -> dict[str, str | None]:
    """Joins, in place, columns that are a question or the choices only together; returns the names with theirs.

    A task in ``instruction`` with its ``input`` is one question. With ``verify=choice``, columns ``A``, ``B``, ... (or
    ``option_a``, ...) are the choices, as are ``choice1``, ``choice2``, ... and ``ending0``, ``ending1``, ..., whose
    labels are these numbers. A column that the data call by a usual name, or a config names, comes first. A config may
    also name the columns to join, ``A, B, C``.

    Args:
        rows: All rows of the data.
        named: For each kind to look for, the column that a config names, or ``None``.

    Raises:
        ValueError: If several groups of columns may be the choices, or one column of such a group is missing.
    """
    there = {path.rpartition(".")[2].lower() for row in rows for path in paths(row.values)}
    names = list(dict.fromkeys(str(name) for row in rows for name in row.values))
    own = {name.lower(): name for name in names}
    found = dict(named)
    parts = [own[name] for name in ("instruction", "input") if name in own]
    texts = all(isinstance(row.values.get(part), str | int | float | None) for row in rows for part in parts)
    is_usual = len(parts) == 2 and texts and not there & {"question", "prompt", "problem"}
    if parts := _named_parts(named["question"], names) or (parts if is_usual and named["question"] is None else []):
        found["question"] = _join(rows, parts, _as_text)
    parts = _named_parts(named.get("choices"), names)
    if named.get("choices", "") is None and not there & set(NAMES["choices"]):
        parts = _parts_of_choices(own)
        alike = [[name for name in names if name.lower() == part.lower()] for part in parts]
        if twice := next((found for found in alike if len(found) > 1), []):
            raise ValueError(
                f"of the columns of choices, {' and '.join(twice)} differ in case alone: name those that are meant, as "
                f"in env.options.choices='{', '.join(map(min, alike))}'"
            )
    if parts:
        found["choices"] = _join(rows, parts, partial(_labelled, labels=_labels_of(parts)))
    return found


def _named_parts(name: str | None, names: Sequence[str]) -> list[str]:
    """The columns that a name such as ``A, B, C`` lists; none if it is a column itself, or lists anything else."""
    own = {one.lower(): one for one in names} | {one: one for one in names}
    parts = [own.get(part.strip(), own.get(part.strip().lower(), "")) for part in (name or "").split(",")]
    return parts if len(parts) > 1 and all(parts) and name not in own else []


def _parts_of_choices(own: Mapping[str, str]) -> list[str]:
    """The columns whose names are labels of choices behind a usual prefix, or letters; none if there are no two."""
    groups: dict[str, list[str]] = {}
    for labels in _LABELS:
        for prefix in ["", *_PREFIXES] if labels is _LETTERS else _PREFIXES:
            parts = list(takewhile(bool, (own.get(f"{prefix}{label}", "") for label in labels)))
            if len(parts) < 2 or any(parts[-1] in group for group in groups.values()):
                continue
            # One column more behind a gap would be a choice that no question shows.
            after = [f"{prefix}{label}" for label in labels[len(parts) : len(parts) + 3]]
            if later := next((own[name] for name in after if name in own), ""):
                raise ValueError(
                    f"the choices are in {', '.join(parts)}, and there is {later}, but none between {parts[-1]} and "
                    f"{later}: rename or name them, as in env.options.choices='{', '.join([*parts, later])}'"
                )
            groups[", ".join(parts)] = parts
    if len(groups) > 1:
        raise ValueError(
            f"the choices may be in {' or in '.join(groups)}: name them, as in env.options.choices='{[*groups][-1]}'"
        )
    return next(iter(groups.values()), [])


def _labels_of(parts: Sequence[str]) -> list[str]:
    """The labels behind the common prefix of some columns, such as 1 and 2 of option1 and option2; else letters."""
    found = [re.fullmatch(r"(.*?)(\d+|[a-z])", part.lower()) for part in parts]
    labels = [match[2].upper() for match in found if match]
    is_common = len({match[1] for match in found if match}) == 1 and len(set(labels)) == len(parts)
    return labels if is_common else list(string.ascii_uppercase)


def _join(rows: Sequence[Row], parts: Sequence[str], join: Callable[[list[Any]], Any]) -> str:
    name = ", ".join(parts)
    for row in rows:
        cells = [row.values.pop(part, None) for part in parts]
        row.values[name] = join(["" if cell is None or cell != cell else cell for cell in cells])
    return name


def _as_text(cells: Sequence[Any]) -> str:
    return "\n\n".join(filter(None, (cell.strip() if isinstance(cell, str) else text_of(cell) for cell in cells)))


def _labelled(cells: Sequence[Any], labels: Sequence[str]) -> dict[str, Any]:
    return dict(zip(labels, cells, strict=False))
