"""Finds the columns of a user's file by their usual names or by given names, and reads their cells."""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from envs.rows import Row
from rewards import nearest

NAMES = {
    "question": ("question", "prompt", "problem", "input", "query", "instruction"),
    "answer": ("answer", "solution", "gold", "target", "label", "ground_truth", "answerkey", "output"),
    "tests": ("tests", "test_list", "input_output"),
    "choices": ("choices", "options"),
    "split": ("split",),
}
"""Usual names of columns in order of preference; case is ignored, and a column may be nested (``extra.answer``)."""


class UnfitError(ValueError):
    """An answer is of a kind that the verifier does not grade; if all are, another verifier is meant."""


def find_columns(
    rows: Sequence[Row], named: Mapping[str, str | None], needed: Sequence[str], where: str
) -> tuple[dict[str, str], str]:
    """The column for each kind of :data:`NAMES`, and a sentence that says which columns were taken.

    Args:
        rows: All rows of the data.
        named: For each kind to look for, the column that a config names, or ``None`` to find it by its usual names.
        needed: Kinds that must be found.
        where: Name of the data, for error messages.

    Raises:
        ValueError: If a named column does not exist, or no column has a usual name of a needed kind.
    """
    there = dict.fromkeys(path for row in rows for path in paths(row.values))
    own = list(dict.fromkeys(str(name) for row in rows for name in row.values))
    lowered: dict[str, list[str]] = {}
    # A column takes precedence over a nested one; of columns whose names differ in case alone, the first one is taken.
    for path in sorted(there, key=lambda path: path not in own):
        lowered.setdefault(path.rpartition(".")[2].lower(), []).append(path)
    columns, words = {}, []
    for what, name in named.items():
        alike = [path for usual in NAMES[what] for path in lowered.get(usual, [])]
        if name is not None and name not in there and name.partition(".")[0] not in there:
            raise ValueError(
                f"env.options.{what}={name}: there is no such column{nearest(name, list(there))} {where} has "
                f"{', '.join(own)}"
            )
        if name is None and not alike:
            if what in needed:
                raise ValueError(_not_found(what, own, lowered, where, rows[0].values))
            continue
        columns[what] = name or alike[0]
        others = [path for path in alike[1:] if name is None and path in own]
        words.append(f"{what} from {columns[what]!r}" + (f" (also there: {', '.join(others)})" if others else ""))
    return columns, ", ".join(words)


def _not_found(
    what: str, own: Sequence[str], lowered: Mapping[str, Sequence[str]], where: str, row: Mapping[str, Any]
) -> str:
    tests = next((lowered[name][0] for name in NAMES["tests"] if name in lowered), None)
    hint = f" It has tests ({tests}): did you mean env.options.verify=code?" if what == "answer" and tests else ""
    taken = {name.lower() for key, names in NAMES.items() if key != what for name in names}
    # Of columns with unusual names, the first one is most likely the question and the last one the answer.
    free = [name for name in own if name.lower() not in taken]
    likely = free[0 if what == "question" else -1] if free else ""
    for name, cell in row.items():
        if isinstance(cell, list) and cell and isinstance(cell[0], Mapping):
            part = next((one for one in ("content", "value", "text") if one in cell[0]), next(iter(cell[0]), "0"))
            likely = f"{name}.{0 if what == 'question' else len(cell) - 1}.{part}"
    if Path(where.removesuffix(".gz")).suffix in (".csv", ".tsv"):
        hint += " The first line of such a file names its columns."
    named = f"env.options.{what}={likely or '<column>'}"
    remedy = f"say which column holds the {what}, as in {named}" if likely else f"add one, or name it by {named}"
    return f"{where}: no column is called {', '.join(NAMES[what])}. It has {', '.join(own)}; {remedy}.{hint}"


def paths(values: Mapping[str, Any]) -> Iterator[str]:
    """Names of the columns, and paths such as ``extra.answer`` of the entries of cells that are objects."""
    for name, value in values.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in value)


def cell_at(values: Mapping[str, Any], path: str) -> Any:
    """The cell of a column, or a part of a cell by a path such as ``a.b`` or ``a.0``; raises ValueError if missing."""
    if path in values:
        return values[path]
    found: Any = values
    for name in path.split("."):
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise ValueError(f"column {path!r} is missing; the row has {', '.join(map(str, values))}")
    return found


def question_of(cell: Any) -> str:
    """The question in a cell, which holds a text, a number, or a conversation of one user message.

    Raises:
        ValueError: If the cell is empty or holds anything else.
    """
    if isinstance(cell, list) and cell and all(isinstance(one, Mapping) and "content" in one for one in cell):
        roles = [str(one.get("role")) for one in cell]
        if roles != ["user"]:
            raise ValueError(
                f"the question is a conversation of {', '.join(roles)}: one user message is needed; a system prompt is "
                "env.prompts_text.system, examples are env.options.few_shot"
            )
        cell = cell[0]["content"]
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        raise ValueError("the question is empty")
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise ValueError(f"the question must be text; this is {str(cell)[:60]}{_part_of('question', cell)}")
    return _whole("question", cell if isinstance(cell, str) else text_of(cell))


def text_of(cell: Any) -> str:
    """The answer in a cell as text: numbers by their digits, a list with one element as this element.

    Raises:
        ValueError: If the cell is empty, not a finite number, or nested; then the message says how to name a part.
    """
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, bytes):  # as in a Parquet column without a type
        try:
            cell = cell.decode()
        except UnicodeDecodeError:
            raise ValueError(f"the answer is {str(cell)[:60]}, bytes that are no text in UTF-8") from None
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise ValueError("the answer is empty")
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int | float):
        if cell != cell or cell in (float("inf"), float("-inf")):
            raise ValueError(f"the answer is {cell}, which is no number")
        if isinstance(cell, int) or (cell == int(cell) and abs(cell) < 2**53):
            return str(int(cell))
        # 6.02e+23 and 5e-05 are written out; only numbers with very many digits keep their exponent.
        return format(Decimal(repr(cell)), "f") if 1e-20 < abs(cell) < 1e30 else repr(cell)
    if isinstance(cell, Mapping | list | tuple):
        raise ValueError(
            f"the answer is nested ({str(cell)[:60]}){_part_of('answer', cell)}, or use env.options.verify=json"
        )
    return _whole("answer", str(cell))


def _part_of(what: str, cell: Any) -> str:
    """A hint how to name a part of a nested cell, by the path to its first value that is not nested."""
    path = "<its column>"
    while isinstance(cell, Mapping | list | tuple) and cell:
        name = next(iter(cell)) if isinstance(cell, Mapping) else 0
        path, cell = f"{path}.{name}", cell[name]
    return f": name the part that is meant, as in 'env.options.{what}={path}'"


def _whole(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the {what} holds half a character ({text[error.start]!r} without its other half): write the file again "
            "from text that was not cut within a character"
        ) from None
    return text


def refuse_other_notation(text: str) -> None:
    """Raises ValueError for a gold such as 1.234,50, which would be misread, so that no response would be right."""
    if re.fullmatch(r"[+-]?\d{1,3}(\.\d{3})+,\d+|[+-]?\d{1,3}(\.\d{3}){2,}", text.strip()):
        raise ValueError(f"the answer {text[:40]!r} has points as thousands separators: write it as 1234.50")


MAX_JOINED = 60
"""Characters above which a text is no date, score or telephone number."""
# Whole numbers joined by hyphens, or at least three joined by points or slashes: 2024-01-05, 3-2, 1.2.3, 12/05/2024.
_JOINED = re.compile(r"[-+(]?\d+\)?(?:\s?-\s?\d+)+|[vV]?\d+(?:\.\d+){2,}\.?|\d+(?:\s?/\s?\d+){2,}")
# Digits in groups as of a telephone number; groups of three are thousands.
_PHONE = re.compile(r"(?=(?:\D*\d){7})[+(]?\d+\)?(?:(?:[\s/.-]+\(?|(?<=\)))\d+\)?)+")
_TIME = re.compile(r"[T\s]+\d{1,2}:\d\d(?::\d\d)?(?:\.\d+)?\s?(?:Z|[AaPp]\.?[Mm]\.?|[+-]\d\d:?\d\d)?$")


def refuse_joined_digits(text: str) -> None:
    """Raises UnfitError for a gold such as a date, a score, a version or a telephone number.

    Mathematics would take 2024-01-05 for a calculation, so that 2018 and 2024-05-01 were right. A calculation that is
    meant as one, 10-5, is refused too: its value can be written instead.
    """
    if len(text) > MAX_JOINED:
        return
    plain = _TIME.sub("", re.sub(r"[\u2010-\u2013\u2212]", "-", text).strip().strip("$").strip())
    is_phone = _PHONE.fullmatch(plain) and not re.fullmatch(
        r"[-+]?(?:\d+|\d{1,3}(?:\s\d{3})+)(?:\s*[./]\s*\d+)?", plain
    )
    if _JOINED.fullmatch(re.sub(r"\s(?!pi$)[A-Za-z]{2,}$", "", plain)) or is_phone:
        raise UnfitError(
            f"the answer {text[:40]!r} looks like a date, a score, a range or a telephone number, with which "
            "mathematics would calculate: take env.options.verify=exact (or write the value, if a calculation is meant)"
        )
