"""Golds with decimal commas, such as 0,5, which mathematics would read as the two numbers 0 and 5."""

import re
from collections.abc import Sequence
from contextlib import suppress

from envs.rows import Row
from envs.tasks.columns import cell_at
from rewards.answers import boxed

_SINGLE = re.compile(r"[+-]?\d+,\d+")
_THOUSAND = re.compile(r"[1-9]\d{0,2},\d{3}")
# These are not two numbers: in 3,05 the second would begin with 0, in 1,50 € both would have one unit, and LaTeX writes
# 0{,}5 for one number.
_CLEAR = re.compile(
    r"[+-]?\d+,0\d+|(?:\\?\$|[€£])\s*[+-]?\d+,\d+|[+-]?\d+,\d+\s*(?:\\?%|[€£]|EUR|euros?|percent)|[+-]?\d+\{,\}\d+",
    re.IGNORECASE,
)
# 1,234,567 or 12,34,567 or 1,234.5, in which commas separate thousands.
_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:(?:,\d{2,3})+,\d{3}(?!\d)|(?:,\d{3})+\.\d+)")
# (1,2), [0,1) or \{1,2\}, in which commas separate numbers.
_LISTED = re.compile(r"\\\{[^{}]*\\\}|[(\[][^()\[\]]*[)\]]")
_LATEX = re.compile(r"(?<=\d)\{,\}(?=\d)(?!\d{3}(?!\d))")


def has_decimal_commas(rows: Sequence[Row], column: str) -> bool:
    """Whether one of the answers has a decimal comma beyond doubt, so that the others have decimal commas too.

    Beyond doubt is 0,5 where semicolons separate the cells; elsewhere it may be two numbers, but 3,05 or 0,5 % may not.
    """
    for row in rows:
        cell = None
        with suppress(ValueError):  # a row without an answer is reported later
            cell = cell_at(row.values, column)
        text = cell.rpartition("####")[2].strip() if isinstance(cell, str) else ""
        text = found[0] if len(found := boxed(text)) == 1 else text
        text = text[1:-1] if re.fullmatch(r"\$[^$]+\$", text) else text
        is_decimal = _CLEAR.fullmatch(text) or (row.semicolons and _SINGLE.fullmatch(text))
        if is_decimal and not _THOUSAND.fullmatch(re.sub(r"[^\d,]", "", text)):
            return True
    return False


def refuse_decimal_comma(gold: str, has_others: bool) -> None:
    """Raises ValueError for a gold such as 0,5 or 1,500, in a file where a comma may be the decimal mark.

    Args:
        gold: The gold, which mathematics would read as two numbers, or as 1500.
        has_others: Whether the file has decimal commas beyond doubt, so that points as in 1.500 separate thousands.
    """
    found = re.search(r"\d+,\d+", _THOUSANDS.sub("0", _LISTED.sub("", _LATEX.sub(",", gold))))
    if found:
        one, two = repr(found[0].replace(",", ".")), found[0].replace(",", ", ")
        one += f" or {found[0].replace(',', '')!r}" if _THOUSAND.fullmatch(found[0]) else ""
        raise ValueError(
            f"the answer {gold[:40]!r} has a comma that may be a decimal mark: write {one} for one number, or {two!r} "
            "for two"
        )
    if has_others and re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", gold.strip()):
        raise ValueError(
            f"the answer {gold[:40]!r} has a point that may separate thousands, as other answers have decimal commas: "
            f"write {gold.strip().replace('.', '')!r} or {gold.strip() + '0'!r}"
        )
