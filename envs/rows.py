"""Data sets from files that the user has: JSON Lines, plain or gzipped."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def find_file(path: str, names: Sequence[str], source: str) -> Path:
    """The file at a path, or in it under one of the names.

    Raises:
        FileNotFoundError: If there is no such file; says where it is published.
    """
    place = Path(path).expanduser()
    found = [place] if place.is_file() else [place / name for name in names if (place / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"env.options.path={path}: no {' or '.join(names)} there. "
            f"Get it from {source} and name the file or its folder, or take the hub's copy with path=hub"
        )
    return found[0]


def refuse_missing_columns(rows: Sequence[dict[str, Any]], columns: Sequence[str], where: str) -> None:
    """Raises ValueError for the first row that lacks a column."""
    for number, row in enumerate(rows, 1):
        if missing := [column for column in columns if column not in row]:
            at = where if len(rows) == 1 else f"{where}, row {number}"
            raise ValueError(f"{at}: column {missing[0]!r} is missing; it has {', '.join(row)}")


def read_rows(path: str, names: Sequence[str], columns: Sequence[str], source: str) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file.

    Args:
        path: The file, or a folder that holds it under one of the names.
        names: File names to look for in a folder.
        columns: Columns that every row must have.
        source: Where the data set is published, for the message.

    Raises:
        FileNotFoundError: If there is no such file; says where it is published.
        ValueError: If a line is no JSON or lacks a column; names the line.
    """
    place = find_file(path, names, source)
    rows = []
    with (gzip.open if place.suffix == ".gz" else open)(place, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{place}, line {number}: no JSON ({error})") from None
            refuse_missing_columns([row], columns, f"{place}, line {number}")
            rows.append(row)
    return rows
