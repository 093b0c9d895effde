"""Published data sets: from files that the user has, or from the hub; with licence and content hash either way.

``env.options.path`` names a file or folder, or ``hub`` for the copy on the Hugging Face hub. What was read is written
down: file, SHA-256, number of rows, licence, and whether the content is the one that results here were made with.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.rows import find_file, read_rows, refuse_missing_columns

HUB = "hub"


@dataclass(frozen=True, slots=True)
class HubCopy:
    """Where on the hub a data set is.

    Args:
        repo: Its id.
        split: Which split.
        configs: Configurations whose rows are put together, in this order; empty for the only one.
    """

    repo: str
    split: str
    configs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a data set.

    Args:
        names: What it is called; the first is its own name.
        columns: Columns that every row must have.
        source: Where it is published.
        licence: As its publisher states it.
        hub: Its copy on the hub.
        sha256: First 16 digits of the hash of the file that results here were made with; empty if none was.
    """

    names: Sequence[str]
    columns: Sequence[str]
    source: str
    licence: str
    hub: HubCopy
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What was read.

    Args:
        file: Path, or hub id with split.
        sha256: Of the file's bytes as they lie there; of the rows as JSON lines for the hub.
        rows: How many.
        licence: As its publisher states it.
        source: Where it is published.
        as_published: Whether the hash is the known one; ``None`` where none is known.
    """

    file: str
    sha256: str
    rows: int
    licence: str
    source: str
    as_published: bool | None


def read_published(path: str, file: PublishedFile, known: dict[str, Provenance] | None = None) -> list[dict[str, Any]]:
    """Rows of a published file.

    Args:
        path: ``hub``, the file, or a folder that holds it under one of its names.
        file: Which.
        known: Where to write down what was read, by the file's name.

    Raises:
        FileNotFoundError: If it is not there; says where it is published.
        ValueError: If a row lacks a column.
    """
    if path == HUB:
        rows, where, digest = _from_hub(file)
        as_published = None
    else:
        place = find_file(path, file.names, file.source)
        rows = read_rows(path, file.names, file.columns, file.source)
        where, digest = str(place), hashlib.sha256(place.read_bytes()).hexdigest()
        as_published = digest.startswith(file.sha256) if file.sha256 else None
    if known is not None:
        known[file.names[0]] = Provenance(where, digest, len(rows), file.licence, file.source, as_published)
    return rows


HubReader = Callable[[str, str | None, str], Sequence[Mapping[str, Any]]]
"""From repository, configuration and split to rows."""
DataSetReader = Callable[[str, str | None], Mapping[str, Sequence[dict[str, Any]]]]
"""From a folder that ``datasets`` saved, or a repository, and its configuration to the rows of every split."""
_reader: HubReader | None = None
_whole_reader: DataSetReader | None = None


def use_hub_reader(reader: HubReader, whole: DataSetReader | None = None) -> None:
    """What reads from the hub; this layer knows no client of its own. :func:`rl.backends.hub.register` names one."""
    global _reader, _whole_reader
    _reader, _whole_reader = reader, whole


def read_data_set(path: str, subset: str | None) -> Mapping[str, Sequence[dict[str, Any]]]:
    """The rows of every split of a folder that ``datasets`` saved, or of a data set on the hub.

    Raises:
        FileNotFoundError: If it cannot be read, or nobody said what reads it.
    """
    if _whole_reader is None:
        raise FileNotFoundError(f"env.options.path={path}: nothing here reads it; call rl.backends.hub.register()")
    try:
        return _whole_reader(path, subset)
    except Exception as error:  # whatever datasets or the hub's client raise
        kind = "folder" if Path(path).is_dir() else "file or folder here, and not to be had from the hub"
        raise FileNotFoundError(f"env.options.path={path}: no such {kind} ({str(error).splitlines()[0]})") from error


def _from_hub(file: PublishedFile) -> tuple[list[dict[str, Any]], str, str]:
    if _reader is None:
        raise FileNotFoundError(
            "env.options.path=hub: nothing here reads from the hub; call rl.backends.hub.register()"
        )
    hub, rows = file.hub, []
    for config in hub.configs or (None,):
        try:
            found = _reader(hub.repo, config, hub.split)
        except Exception as error:  # whatever the hub's client raises: no network, no such repository, a gate
            raise FileNotFoundError(
                f"env.options.path=hub: {hub.repo} could not be read from the hub ({error}). "
                f"Get the file from {file.source} and name its folder instead"
            ) from error
        rows += [dict(row) for row in found]
    where = f"{hub.repo}, split {hub.split}"
    refuse_missing_columns(rows, file.columns, where)
    # The hub's client gives rows and no file. Their hash depends on the content alone: neither on the order of columns
    # nor on how the hub packs them.
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    return rows, where, hashlib.sha256(lines.encode()).hexdigest()


class Published:
    """What a task set inherits to know where its data come from.

    Args:
        path: ``env.options.path``.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._read: dict[str, Provenance] = {}

    @property
    def provenance(self) -> list[Provenance]:
        """Of every file that was read so far."""
        return list(self._read.values())

    def _rows(self, file: PublishedFile, below: str = "") -> list[dict[str, Any]]:
        """Rows of a file; ``below`` is a folder within the path, for data sets of several folders."""
        path = self._path if self._path == HUB or not below else str(Path(self._path) / below)
        return read_published(path, file, self._read)
