"""Published data sets, read from the user's files or from the Hugging Face hub, with licence and content hash.

``env.options.path`` is a file or folder, or ``hub`` for the copy on the Hugging Face hub. Every read is recorded as a
:class:`Provenance`: file, SHA-256, number of rows, licence, and whether the content is the same as the content with
which this project's results were obtained.
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
    """Location of a data set on the Hugging Face hub.

    Args:
        repo: Id of the data set's repository.
        split: Name of the split on the hub.
        configs: Configurations whose rows are concatenated in this order; empty if the data set has only one.
    """

    repo: str
    split: str
    configs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a published data set.

    Args:
        names: File names that are accepted; the first is the published name.
        columns: Columns that every row must have.
        source: Where the file is published.
        licence: Licence as its publisher states it.
        hub: Location of its copy on the hub.
        sha256: First 16 hex digits of the hash of the file with which this project's results were obtained; empty if
            the file was not used for results.
    """

    names: Sequence[str]
    columns: Sequence[str]
    source: str
    licence: str
    hub: HubCopy
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Record of a file or a hub split that was read.

    Args:
        file: Path of the file, or hub id with split.
        sha256: Hash of the file's bytes as stored, or of the rows as JSON lines if they came from the hub.
        rows: Number of rows.
        licence: Licence as its publisher states it.
        source: Where the file is published.
        as_published: Whether the hash is the expected one; ``None`` if no hash is expected.
    """

    file: str
    sha256: str
    rows: int
    licence: str
    source: str
    as_published: bool | None


def read_published(path: str, file: PublishedFile, known: dict[str, Provenance] | None = None) -> list[dict[str, Any]]:
    """The rows of a published file, or of its copy on the hub.

    Args:
        path: ``hub``, the file's path, or a folder that holds the file under one of its names.
        file: Description of the file.
        known: Mapping that receives the provenance, by the file's published name.

    Raises:
        FileNotFoundError: If the file is not there or the hub cannot be read; the message says where it is published.
        ValueError: If the file cannot be parsed, a row lacks a column, or a question is not text.
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
"""``(repository, configuration, split) -> rows``."""
DataSetReader = Callable[[str, str | None], Mapping[str, Sequence[dict[str, Any]]]]
"""``(folder saved by datasets or repository, configuration) -> rows by split``."""
_NO_READER = (
    "from Python, what reads data sets is set first: from rl.backends import hub; hub.register() "
    "(the programs do so themselves)"
)
_reader: HubReader | None = None
_whole_reader: DataSetReader | None = None


def use_hub_reader(reader: HubReader, whole: DataSetReader | None = None) -> None:
    """Sets the functions that read from the hub, as this layer has no client; see :func:`rl.backends.hub.register`."""
    global _reader, _whole_reader
    _reader, _whole_reader = reader, whole


def read_data_set(path: str, subset: str | None) -> Mapping[str, Sequence[dict[str, Any]]]:
    """The rows by split of a folder saved by ``datasets``, or of a data set on the hub.

    Raises:
        FileNotFoundError: If the data set cannot be read, or :func:`use_hub_reader` was not called.
    """
    if _whole_reader is None:
        raise FileNotFoundError(f"env.options.path={path}: {_NO_READER}")
    try:
        return _whole_reader(path, subset)
    except Exception as error:  # datasets and the hub's client raise errors of many types
        kind = "folder" if Path(path).is_dir() else "file or folder here, and not available from the hub"
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"env.options.path={path}: no such {kind} ({why}). Give a file, a folder that datasets saved, or a data "
            "set's id on the hub, which needs a network and, for a private set, a login"
        ) from error


def _from_hub(file: PublishedFile) -> tuple[list[dict[str, Any]], str, str]:
    if _reader is None:
        raise FileNotFoundError(f"env.options.path=hub: {_NO_READER}")
    hub, rows = file.hub, []
    for config in hub.configs or (None,):
        try:
            found = _reader(hub.repo, config, hub.split)
        except Exception as error:  # the hub's client raises many types: no network, no such repository, gated access
            raise FileNotFoundError(
                f"env.options.path=hub: {hub.repo} could not be read from the hub ({error}). "
                f"Get the file from {file.source} and name its folder instead"
            ) from error
        rows += [dict(row) for row in found]
    where = f"{hub.repo}, split {hub.split}"
    refuse_missing_columns(rows, file.columns, where)
    # The hub's client returns rows and no file, so the rows are hashed. Sorted keys make the hash independent of the
    # order of columns and of the hub's file format.
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    return rows, where, hashlib.sha256(lines.encode()).hexdigest()


class Published:
    """Base class for task sets of published files, which records where their data come from.

    Args:
        path: File, folder or ``hub``, as given in ``env.options.path``.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._read: dict[str, Provenance] = {}

    @property
    def provenance(self) -> list[Provenance]:
        """The provenance of every file read so far."""
        return list(self._read.values())

    def _rows(self, file: PublishedFile, below: str = "") -> list[dict[str, Any]]:
        """The rows of a file; ``below`` is a subfolder of the path, for data sets that consist of several folders."""
        path = self._path if self._path == HUB or not below else str(Path(self._path) / below)
        return read_published(path, file, self._read)
