"""Reads rows from users' files: JSON Lines, JSON, CSV, TSV, Parquet; plain or gzipped, in the usual encodings.

A row that cannot be read becomes a :class:`Fault` with its line, and the rows after it are still read: the caller
decides whether rows may be missing.
"""

import codecs
import csv
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # must stand before UTF-16, because UTF-16's mark is a prefix of this mark
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHERS = (
    (b"pk\x03\x04", "a workbook or a zip archive", "save the sheet as CSV, or unpack the archive"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel", "save the sheet as CSV"),
    (b"bzh", "compressed by bzip2", "unpack it, or compress it by gzip"),
    (b"\xfd7zxz", "compressed by xz", "unpack it, or compress it by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it, or compress it by gzip"),
    (b"arrow1", "an Arrow file", "write it as Parquet"),
    (b"sqlite format", "a database", "export the table as CSV"),
    (b"%pdf", "a PDF", "copy its questions into a CSV"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the data", "fetch them with `git lfs pull`"),
    (b"<!doctype", "a web page", "download the file itself, not the page that shows it"),
    (b"<html", "a web page", "download the file itself, not the page that shows it"),
)
"""Files of other formats: their first bytes in lower case, a name of the format, and how to convert such a file."""
_LINE_END = re.compile(r"\r*\n|\r")  # not splitlines(), which would also split at a U+2028 within a JSON string
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Suffixes of the files that can be read; ``.gz`` may follow."""
QUESTIONS = {"question", "problem", "prompt", "text"}
"""Columns of published data sets whose cells must be text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its place, such as ``my.jsonl, line 3``, and its values by column."""

    where: str
    values: dict[str, Any]
    semicolons: bool = False
    """Whether semicolons separate the cells of its file, as programs write it where the comma is the decimal mark."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be used: its place, and the reason as a message."""

    where: str
    said: str


def find_file(path: str, names: Sequence[str], source: str) -> Path:
    """The file at a path, or the first of the named files in the folder at the path.

    Raises:
        FileNotFoundError: If there is no such file; the message says where it is published.
    """
    place = Path(str(path)).expanduser()  # str(), because YAML reads a folder called 2024 as a number
    found = [place] if place.is_file() else [place / name for name in names if (place / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"env.options.path={path}: no {' or '.join(names)} there. "
            f"Get it from {source} and name the file or its folder, or take the hub's copy with path=hub. "
            "For a file of your own use env=rows"
        )
    return found[0]


def no_such_path(path: str) -> str:
    """The error message for a path that does not exist, with the most similar name in the same folder."""
    place = Path(path).expanduser()
    there = [one.name for one in place.parent.iterdir()] if place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, there, n=1, cutoff=0.6)
    hint = f"; did you mean {str(place.parent / near[0])!r}?" if near else ""
    # A relative path needs the working directory, and a path with ~ its expansion, to show where the file was expected.
    where = f" in {Path.cwd()}" if not place.is_absolute() else f": {place}" if str(place) != path else ""
    return f"env.options.path={path}: there is no such file or folder{where}{hint}"


def refuse_missing_columns(rows: Sequence[dict[str, Any]], columns: Sequence[str], where: str) -> None:
    """Raises ValueError for the first row that lacks a column, or whose question is not text."""
    for number, row in enumerate(rows, 1):
        if missing := [column for column in columns if column not in row]:
            at = where if len(rows) == 1 else f"{where}, row {number}"
            raise ValueError(f"{at}: column {missing[0]!r} is missing; it has {', '.join(row)}")
        for column in QUESTIONS.intersection(columns):
            if not isinstance(row[column], str):
                at = where if len(rows) == 1 else f"{where}, row {number}"
                raise ValueError(f"{at}: column {column!r} must be text, got {row[column]!r:.60}")


def read_rows(path: str, names: Sequence[str], columns: Sequence[str], source: str) -> list[dict[str, Any]]:
    """The rows of a published file.

    Args:
        path: The file, or a folder that holds it under one of the names.
        names: File names to look for in a folder.
        columns: Columns that every row must have.
        source: Where the data set is published, for error messages.

    Raises:
        FileNotFoundError: If there is no such file; the message says where it is published.
        ValueError: If a row cannot be parsed or lacks a column, or its question is not text; the message names the row.
    """
    rows, faults = read_table(find_file(path, names, source))
    if faults:
        raise ValueError(f"{faults[0].where}: {faults[0].said}")
    for row in rows:
        refuse_missing_columns([row.values], columns, row.where)
    return [row.values for row in rows]


def read_table(place: Path, encoding: str | None = None) -> tuple[list[Row], list[Fault]]:
    """The rows of a file and the faults of the rows that could not be read, each in the order of the file.

    Args:
        place: The file. Its suffix decides the format; every file that is neither CSV, TSV nor Parquet is read as JSON
            Lines or as one JSON list of objects. Compression by gzip is recognised by the content.
        encoding: Encoding of a text file; ``None`` detects UTF-8, UTF-16 and UTF-32 by their byte order marks, and
            UTF-8 and UTF-16 without one.

    Raises:
        ValueError: If the encoding does not fit, or the file as a whole is not of the format that its name says.
    """
    kind = Path(place.name.removesuffix(".gz")).suffix.lower()
    if is_parquet(place):
        return _parquet(place), []
    with place.open("rb") as file:
        start = file.read(64)
    for begins, what, remedy in _OTHERS:
        if start.lstrip().lower().startswith(begins):
            raise ValueError(f"{place} is {what}: {remedy}")
    data = place.read_bytes()
    if start.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{place}: the gzip archive is damaged ({error}): get or write it again") from None
    text = decoded(data, str(place), encoding)
    if kind in (".csv", ".tsv"):
        read = _csv(text, str(place), "\t" if kind == ".tsv" else None)
    else:
        read = _json_document(text, str(place), kind) or _json_lines(text, str(place))
    found = list(read)
    return [one for one in found if isinstance(one, Row)], [one for one in found if isinstance(one, Fault)]


def is_parquet(place: Path) -> bool:
    """Whether a file is Parquet by its name or by its first bytes."""
    with place.open("rb") as file:
        return place.name.removesuffix(".gz").lower().endswith(".parquet") or file.read(4) == b"PAR1"


def decoded(data: bytes, where: str, encoding: str | None = None) -> str:
    """Decodes bytes; raises ValueError with the file, the line and a remedy if the encoding does not fit."""
    marked, is_given = next((name for mark, name in _MARKS if data.startswith(mark)), None), encoding is not None
    if encoding is None:
        # In UTF-16, every second byte of text in a European language is 0; text in UTF-8 has no zero bytes.
        start = data[:400]
        halves = {"utf-16-le": start[1::2], "utf-16-be": start[::2]}
        bare = next((name for name, half in halves.items() if half and half.count(0) > len(half) // 2), None)
        encoding = marked or bare or "utf-8"
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ValueError(f"env.options.encoding={encoding}: Python knows no encoding of this name") from None
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = max(before.count(b"\n"), before.count(b"\r")) + 1
        raise ValueError(
            f"{where}, line {line}: byte {data[error.start]:#04x} is not {encoding}. Save the file as UTF-8, or say "
            "what it is, as in env.options.encoding=cp1252 (Windows, Western Europe) or latin-1"
        ) from None
    if is_given and marked and text != data.decode(marked, errors="replace"):
        raise ValueError(
            f"env.options.encoding={encoding}: {where} begins with the mark of {marked}: remove this option"
        )
    return text


def _json_lines(text: str, place: str) -> Iterator[Row | Fault]:
    for number, line in enumerate(_LINE_END.split(text), 1):
        if not line.strip():
            continue
        where = f"{place}, line {number}"
        try:
            values = _json(line)
        except ValueError as error:
            yield Fault(where, f"no JSON ({_said(error)}): {line.strip()[:60]}{_remedy(line.strip())}")
            continue
        except RecursionError:
            yield Fault(where, "JSON that is nested too deeply")
            continue
        yield _row(values, where)


def _json(text: str) -> Any:
    """Parses JSON and refuses objects with a repeated name, of which ``json.loads`` silently keeps the last value."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} appears twice in an object")
        return values

    return json.loads(text, object_pairs_hook=unique)


def _said(error: ValueError) -> str:
    return (
        f"{error.msg.removesuffix(' at')} at column {error.colno}"
        if isinstance(error, json.JSONDecodeError)
        else str(error)
    )


def _remedy(line: str) -> str:
    """A hint for the common mistakes in JSON Lines; empty if the line shows none of them."""
    if line in ("{", "["):
        return ". Write each object on one line, or all of them as one list, [{...}, {...}]"
    if line.endswith(","):
        return ". Remove the comma at the end of the line: the lines form no list"
    return ". This is Python's notation: write it with json.dumps" if line.startswith("{'") else ""


def _json_document(text: str, place: str, kind: str) -> list[Row | Fault] | None:
    """The rows of a file that is one JSON list of objects; ``None`` if the file is to be read as JSON Lines.

    Raises:
        ValueError: If the list cannot be parsed, or if the file is one object that holds the rows or whole columns.
    """
    first = next((line for line in _LINE_END.split(text) if line.strip()), "").strip()
    if not (first.startswith("[") or (first.startswith("{") and kind == ".json")):
        return None
    try:
        whole = _json(text)
    except RecursionError:
        return None  # _json_lines then reports the line
    except ValueError as error:
        # If the first line is an object or a whole list, the file is JSON Lines, whose faults are reported by line.
        if first.startswith("{") or _is_json(first) or not isinstance(error, json.JSONDecodeError):
            return None
        rest = text[error.pos :]
        comma = re.match(r"\s*,?\s*[\]}]", rest) and (rest.startswith(",") or text[: error.pos].rstrip().endswith(","))
        said = "remove the comma before the bracket" if comma else "correct the list, or write one object per line"
        raise ValueError(f"{place}, line {error.lineno}: no JSON ({_said(error)}): {said}") from None
    if isinstance(whole, list):
        return [_row(values, f"{place}, row {number}") for number, values in enumerate(whole, 1)]
    for name, cell in whole.items():
        if isinstance(cell, list) and cell and all(isinstance(one, dict) and "content" not in one for one in cell):
            raise ValueError(
                f"{place} is one object, with the rows in {name!r}: save that list alone, [{{...}}, {{...}}]"
            )
    sizes = {len(cell) if isinstance(cell, list | dict) else -1 for cell in whole.values()}
    if len(whole) > 1 and len(sizes) == 1 and sizes.isdisjoint((-1, 0)):
        inner = {str(name) for cell in whole.values() if isinstance(cell, dict) for name in cell}
        # The rows of whole columns are numbered; otherwise what is called like a question tells columns from rows.
        if inner and not all(map(str.isdigit, inner)) and QUESTIONS.isdisjoint(map(str.lower, whole)):
            raise ValueError(
                f"{place} is one object, with a row under each name: save a list of them, [{{...}}, {{...}}]"
            )
        raise ValueError(
            f"{place} holds whole columns, not rows: write one object per row; in pandas that is "
            "to_json(path, orient='records', lines=True)"
        )
    return None


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _row(values: Any, where: str) -> Row | Fault:
    if isinstance(values, dict):
        return Row(where, values)
    return Fault(where, f"an object with names is needed, {{...}}; this is {str(values)[:60]}")


def _csv(text: str, place: str, delimiter: str | None) -> Iterator[Row | Fault]:
    """Reads CSV: cells stay text, so that 007 is not 7; a quoted cell may span lines; empty rows are skipped.

    Raises:
        ValueError: If the header cannot be used, or a badly quoted row may end on any line, so that leaving it out
            might leave out rows after it that nobody counts.
    """
    csv.field_size_limit(2**31 - 1)
    lines, names, skipped = io.StringIO(text, newline="").readlines(), list[str](), 0
    if told := re.match(r"sep=(.)(?:\r?\n|\r)", text):  # Excel may state the delimiter in a first line
        delimiter, skipped = told[1], 1
    delimiter = delimiter or _delimiter(lines)
    reader = _cells(lines[skipped:], delimiter)
    while True:
        # The line on which the row begins; reader.line_num is the last line that the reader has consumed so far.
        line = reader.line_num + skipped + 1
        where, said = f"{place}, line {line}", ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, said = [], f'no CSV ({error}): write a quote within quotes twice, as in "Say ""hi"""'
        taken = lines[line - 1 : reader.line_num + skipped]
        if not (said or any(cells)):
            continue
        if not names and not said:
            names = _names(cells, where)
            continue
        # On a single line, an even number of quotes closes all that it opens.
        is_whole = len(taken) == 1 and bool(names) and not (said and taken[0].count('"') % 2)
        if not said and len(cells) != len(names):
            said = f"more or fewer cells than the {len(names)} of {', '.join(names)}"
        if _are_rows(taken, delimiter, len(names)):
            said = said or (
                f"a quoted cell as far as line {line + len(taken) - 1}, though each line has the cells of a row (if it "
                "is one cell, save the file as JSON Lines)"
            )
        if said and not is_whole:
            raise ValueError(
                f"{where}: {said}. A quote is missing or too many, so that no row below can be told: on_bad_rows=skip "
                "cannot leave this row out"
            )
        yield Fault(where, said) if said else Row(where, dict(zip(names, cells, strict=True)), delimiter == ";")


def _cells(lines: Sequence[str], delimiter: str) -> Any:
    # Space in front of a cell is skipped because a quote behind it, as in "question", "1", begins a quoted cell.
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter by which most of the first rows have as many cells as the header; quoted cells may hold others."""

    def fit(delimiter: str) -> tuple[int, int]:
        reader, sizes = _cells(lines[:200], delimiter), list[int]()
        while True:
            try:
                sizes += [size] if (size := len(next(reader))) else []
            except StopIteration:
                return (sizes.count(sizes[0]), sizes[0]) if sizes and sizes[0] > 1 else (0, 0)
            except csv.Error:  # the row is reported when it is read
                continue

    return max("\t;|,", key=fit)  # of equal ones the comma comes last, as it is common in texts


def _names(cells: Sequence[str], where: str) -> list[str]:
    """The names of columns in a header; raises ValueError if two of them are the same or two are missing."""
    names = [cell.strip() for cell in cells]
    if twice := [name for name in names if names.count(name) > 1]:
        places = " and ".join(str(place) for place, name in enumerate(names, 1) if not name)
        said = f"two columns are called {twice[0]!r}" if twice[0] else f"columns {places} have no name"
        raise ValueError(f"{where}: {said}: rename or remove one")
    return names


def _are_rows(lines: Sequence[str], delimiter: str, n_columns: int) -> bool:
    """Whether lines that a quoted cell joins seem to be rows of their own, because each has the cells of a row.

    Commas are common in texts, so that up to four such lines may be one cell.
    """
    least = 5 if delimiter == "," else 2
    return len(lines) >= least and n_columns > 1 and all(one.count(delimiter) == n_columns - 1 for one in lines)


def _parquet(place: Path) -> list[Row]:
    import pyarrow  # takes half a second, so it is imported only if a file needs it
    from pyarrow import parquet

    try:
        rows = parquet.read_table(place).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{place}: no Parquet file ({error})") from None
    return [Row(f"{place}, row {number}", values) for number, values in enumerate(rows, 1)]
