"""Data sets from files that the user has: JSON Lines, plain or gzipped."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
    place = Path(path).expanduser()
    found = [place] if place.is_file() else [place / name for name in names if (place / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"env.options.path={path}: no {' or '.join(names)} there. "
            f"Get it from {source} and name the file or its folder"
        )
    rows = []
    with (gzip.open if found[0].suffix == ".gz" else open)(found[0], "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{found[0]}, line {number}: no JSON ({error})") from None
            if missing := [column for column in columns if column not in row]:
                raise ValueError(
                    f"{found[0]}, line {number}: column {missing[0]!r} is missing; it has {', '.join(row)}"
                )
            rows.append(row)
    return rows
