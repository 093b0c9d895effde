"""The parts of a user's data, each with a name that may be that of a split, and the splits that such names mean."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from envs.base import Split
from envs.published import read_data_set
from envs.rows import SUFFIXES, Fault, Row, is_parquet, no_such_path, read_table
from envs.tasks.columns import cell_at

USUAL = {
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), Split.VALIDATION),
    **dict.fromkeys(("test", "eval", "evaluation"), Split.TEST),
}
"""The split that a usual name means; case is ignored."""
_SHARD = re.compile(r"(.+?)[-.](\d+)-of-(\d+)(?:-[0-9a-f]{8,})?")
"""The name of one of several files of a split, as the hub delivers them: ``train-00000-of-00002``."""


class SplitNames:
    """The split that a name in the data means: the one that a config assigns it to, else its usual meaning.

    Args:
        assigned: By split, its name in the data or a list of such names.

    Raises:
        ValueError: If there is no such split, or a name is no text or is assigned to two splits.
    """

    def __init__(self, assigned: Mapping[str, Any] | None) -> None:
        self._assigned: dict[str, Split] = {}
        if not isinstance(assigned, Mapping | None):
            raise ValueError(f"env.options.splits={assigned}: a mapping is needed, as in {{train: {assigned}}}")
        for split, names in (assigned or {}).items():
            if split not in set(Split):
                raise ValueError(f"env.options.splits.{split}: no such split; use {', '.join(Split)}")
            listed = [names] if isinstance(names, str | int | float) else names
            if not isinstance(listed, Sequence) or not all(isinstance(one, str | int | float) for one in listed):
                raise ValueError(f"env.options.splits.{split}={names}: a name, or a list of names, is needed")
            for name in map(str, listed):
                other = self._assigned.setdefault(name, Split(split))
                if other != split:
                    raise ValueError(f"env.options.splits: {name} is assigned to both {other} and {split}")

    def find(self, name: str) -> Split | None:
        """The split that a name means; ``None`` if the name is neither assigned nor usual."""
        return self._assigned.get(name) or USUAL.get(name.lower())

    def found(self, names: Iterable[str]) -> set[Split]:
        """The splits that some names mean."""
        return {split for name in names if (split := self.find(name)) is not None}

    def left_out(self, sizes: Mapping[str, int], path: str) -> list[str]:
        """The names in the data that mean no split, although the config assigns some names.

        Args:
            sizes: Number of rows by each name in the data.
            path: The data, for error messages.

        Raises:
            ValueError: If the data lack an assigned name, or a name means no split and the config assigns none.
        """
        for name, split in self._assigned.items():
            if name not in sizes:
                there = f"they have {', '.join(sorted(sizes))}" if sizes else "they name no splits"
                raise ValueError(f"env.options.splits.{split}={name}: the data have no such split; {there}")
        unknown = [name for name in sizes if self.find(name) is None]
        if unknown and not self._assigned:
            one = len(unknown) == 1
            said = f"name {unknown[0]!r} is" if one else f"names {', '.join(map(repr, unknown))} are"
            wanted = unknown[0] if one else f"[{', '.join(unknown)}]"
            raise ValueError(
                f"{path}: the split {said} not known; say which split is meant, as in "
                f"'env.options.splits={{train: {wanted}}}'"
            )
        return unknown


def read_parts(
    path: str, subset: str | None, encoding: str | None, names: SplitNames
) -> tuple[dict[str, list[Row]], list[Fault]]:
    """Rows by the name of their part, which is empty if the data are one part without a name; and the unreadable rows.

    Args:
        path: A file, a folder of files, a folder saved by ``datasets``, or a data set's id on the hub.
        subset: Configuration of a data set on the hub.
        encoding: Encoding of text files.
        names: The names of splits.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If a file cannot be read, files contradict each other, one is missing, or an option has no effect.
    """
    place = Path(path).expanduser()
    if not place.exists() and (place.suffix in SUFFIXES or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", path)):
        raise FileNotFoundError(no_such_path(path))
    if subset is not None and place.exists():
        what = "file" if place.is_file() else "folder"
        raise ValueError(f"env.options.subset={subset}: has no effect, because {path} is a {what}; remove it")
    if place.is_file():
        files = {"": [place]}
    elif not place.exists() or any((place / name).exists() for name in ("dataset_dict.json", "dataset_info.json")):
        if encoding is not None:
            raise ValueError(
                f"env.options.encoding={encoding}: has no effect, because {path} is a data set, not a text file; "
                "remove it"
            )
        return _of_data_set(path, subset), []
    else:
        files = _files_by_part(path, place, names.find)
    if encoding is not None and all(is_parquet(one) for part in files.values() for one in part):
        raise ValueError(f"env.options.encoding={encoding}: has no effect, because {path} is Parquet; remove it")
    tables = {name: [read_table(one, encoding) for one in part] for name, part in files.items()}
    rows = {name: [row for found, _ in part for row in found] for name, part in tables.items()}
    return rows, [fault for part in tables.values() for _, faults in part for fault in faults]


def _of_data_set(path: str, subset: str | None) -> dict[str, list[Row]]:
    parts = read_data_set(path, subset)
    where = {name: f"{path}, split {name}" if name else path for name in parts}
    return {
        name: [Row(f"{where[name]}, row {number}", row) for number, row in enumerate(part, 1)]
        for name, part in parts.items()
    }


def _files_by_part(path: str, place: Path, find: Callable[[str], Split | None]) -> dict[str, list[Path]]:
    """The files of a folder by the name of their part. A single part keeps its name only if that is a split's name."""
    files = sorted(one for one in place.iterdir() if one.name.removesuffix(".gz").endswith(SUFFIXES))
    if not files:
        said = f"no file in this folder ends in {', '.join(SUFFIXES)}"
        below = {one.parent.name for one in place.glob("*/*") if one.name.removesuffix(".gz").endswith(SUFFIXES)}
        if below:
            said += (
                f"; there are some in {', '.join(sorted(below))}: name one of these folders, as in env.options.path="
                f"{place / min(below)}, or put the files of all splits into one folder, as train.jsonl and test.jsonl"
            )
        raise FileNotFoundError(f"env.options.path={path}: {said}")
    parts: dict[str, list[tuple[int, int, Path]]] = {}
    for one in files:
        shard = _SHARD.fullmatch(Path(one.name.removesuffix(".gz")).stem)
        name = (shard[1] if shard else one.name).partition(".")[0]
        number, of = (int(shard[2]), int(shard[3])) if shard else (0, 1)
        parts.setdefault(name, []).append((number, of, one))
    ordered = {name: _in_order(path, name, shards) for name, shards in parts.items()}
    if len(ordered) == 1 and find(name := next(iter(ordered))) is None:
        return {"": ordered[name]}
    return ordered


def _in_order(path: str, name: str, shards: list[tuple[int, int, Path]]) -> list[Path]:
    """The files of one part by their numbers; raises ValueError if one is missing or two hold the same rows."""
    shards = sorted(shards)
    for (number, of, one), (next_number, next_of, other) in pairwise(shards):
        if of != next_of or number == next_number:
            raise ValueError(
                f"env.options.path={path}: both {one.name} and {other.name} are there for {name!r}: rename one, "
                "or move it out of the folder"
            )
    numbers, (_, of, one) = {number for number, _, _ in shards}, shards[0]
    first = 1 if of in numbers and 0 not in numbers else 0  # the hub counts from 0, some programs count from 1
    if missing := sorted(set(range(first, first + of)) - numbers):
        lacking = re.sub(r"\d+(?=-of-\d)", lambda found: f"{missing[0]:0{len(found[0])}d}", one.name)
        others = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise FileNotFoundError(
            f"env.options.path={path}: {lacking}{others} missing: {one.name} is one of {of} files, and all are needed"
        )
    return [file for _, _, file in shards]


def split_name(row: Row, part: str, columns: Mapping[str, str]) -> str:
    """The data's name of a row's split: its cell in a split column, else the name of its part, which may be empty.

    Raises:
        ValueError: If there is a split column and the row's cell is missing or empty.
    """
    if "split" not in columns:
        return part
    cell = cell_at(row.values, columns["split"])
    name = "" if cell is None else str(cell).strip()
    if not name:
        raise ValueError(
            f"the split is empty: fill in column {columns['split']!r}, take another one by env.options.split=<column>, "
            "or rename it, if the rows are to be cut by their questions"
        )
    return name


def split_sizes(parts: Mapping[str, Sequence[Row]], columns: Mapping[str, str]) -> dict[str, int]:
    """Number of rows by the data's names of splits."""
    sizes: Counter[str] = Counter()
    for part, rows in parts.items():
        for row in rows:
            with suppress(ValueError):  # an empty cell is reported with its row
                sizes[split_name(row, part, columns)] += 1
    return {name: n for name, n in sizes.items() if name}


def shares_of(validation: float, test: float) -> dict[Split, float]:
    """The shares of the rows by split, for splits that the data lack; raises ValueError for impossible shares."""
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"env.options.{name}={share}: a share of the rows is needed, from 0 to less than 1")
    if validation + test >= 1:
        raise ValueError(
            f"env.options.validation={validation} and env.options.test={test} leave no rows for training: their sum "
            "must be less than 1"
        )
    return {Split.VALIDATION: validation, Split.TEST: test}
