"""The choices of a multiple-choice question, the right one in a file's answer column, and the one a response names."""

import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from envs.tasks.columns import text_of
from rewards.wording import counted

ANSWERS_AS = ("any", "letter", "text", "place0", "place1")
"""What a cell of the answer column is: ``place0`` and ``place1`` are places counted from 0 and from 1; ``any`` is a
letter, a text, or a place counted from 0."""

_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|rm|it|sf)|mbox|operatorname|boldsymbol|bm|underline)\s*"
    r"\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_PAIRED = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)|^\s*(?:\*\*([^*]+)\*\*|__([^_]+)__|`([^`]+)`)")
_LEAD = re.compile(
    r"(?:(?:the|my|so|final|correct|right|best|answer|option|choice|letter|is|would|be)\b[\s:]*)+(?=\S)", re.IGNORECASE
)
_DENIED = re.compile(r"\W*(?:is\s+)?(?:not|wrong|incorrect|false)\b", re.IGNORECASE)


def choices_of(cell: Any) -> dict[str, str]:
    """Choices by letter from a cell: a list, ``{text: [...], label: [...]}``, ``{A: ..., B: ...}``, or JSON of one.

    Empty texts at the end stand for choices that the question does not have.

    Raises:
        ValueError: If these are no choices, fewer than two, or one between others is empty.
    """
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise ValueError(f"the choices must be a list; this is {cell[:60]}") from None
    if isinstance(cell, Mapping) and {"text", "label"} <= cell.keys():
        cell = _labelled(cell["label"], cell["text"])
    elif isinstance(cell, list) and len(cell) <= len(string.ascii_uppercase):
        cell = dict(zip(string.ascii_uppercase, cell, strict=False))
    if not isinstance(cell, Mapping):
        raise ValueError(f"the choices must be a list of at least two; this is {str(cell)[:60]}")
    texts = {str(label): _text(label, text) for label, text in cell.items()}
    while texts and not texts[next(reversed(texts))]:
        texts.popitem()
    if empty := [label for label, text in texts.items() if not text]:
        raise ValueError(f"the choices have no text for {empty[0]}, but one for {next(reversed(texts))}")
    if len(texts) < 2:
        raise ValueError(f"the choices must be at least two; this row has {counted(len(texts), 'choice')}")
    return texts


def _text(label: str, cell: Any) -> str:
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, Mapping | list | tuple):
        raise ValueError(f"the choices must be texts; {label} is {str(cell)[:60]}")
    # A column of whole numbers with gaps may be one of floats, as in Parquet: 30.0 is shown as 30.
    return (text_of(cell) if isinstance(cell, int | float | bytes) else str(cell)).strip()


def _labelled(labels: Any, texts: Any) -> dict[str, Any]:
    if not isinstance(labels, list) or not isinstance(texts, list):
        raise ValueError("the texts and the labels of the choices must be lists")
    if len(labels) != len(texts):
        raise ValueError(f"the choices have {counted(len(texts), 'text')} but {counted(len(labels), 'label')}")
    if len(set(map(str, labels))) < len(labels):
        raise ValueError(f"two choices have the same label, of {', '.join(map(str, labels))}")
    return dict(zip(map(str, labels), texts, strict=True))


def clash(choices: Mapping[str, str]) -> str:
    """What is wrong if a choice's text is another one's label, so that a response could mean either; else empty."""
    for letter, text in choices.items():
        if (other := _plain(text)) in choices and other != letter:
            return f"choice {letter} has the text {text!r}, which is also the letter of another choice"
    return ""


def letter_of(gold: str, choices: Mapping[str, str], answers_as: str = "any") -> str:
    """The letter of the right choice, which the gold states as a letter, as a place, or as the choice's text.

    Args:
        gold: What the answer column says.
        choices: The texts by their letters.
        answers_as: One of :data:`ANSWERS_AS`.

    Raises:
        ValueError: If the gold is none of the choices, or may be two of them.
    """
    labels = {one: one for one in choices}
    as_letter, as_text = _one_of(gold, labels), _one_of(gold, choices)
    if as_letter is None and as_text is None:  # the name of the choice's own column, such as option_b or choice1
        as_letter = _one_of(re.sub(r"^(?:option|choice|opt|op|ending|sol)[ _]?", "", gold, flags=re.IGNORECASE), labels)
    first = 1 if answers_as == "place1" else 0
    place = int(gold) - first if re.fullmatch(r"\d{1,3}", gold, re.ASCII) else -1
    as_place = list(choices)[place] if 0 <= place < len(choices) else None
    # A number that is a label is no place; a letter, text or place that disagree are refused.
    as_any = as_text if as_letter is None and as_place is None else as_letter or as_place
    found = {"any": as_any, "letter": as_letter, "text": as_text}.get(answers_as, as_place)
    if found is None:
        of = f"the texts of the choices, {'; '.join(choices.values())}"[:120] if answers_as == "text" else (
            f"the choices {', '.join(choices)}" + (f", counted from {first}" if answers_as.startswith("place") else "")
        )  # fmt: skip
        raise ValueError(f"the answer {gold[:40]!r} is not among {of}")
    if answers_as == "any" and as_text not in (None, found):
        how = "letter" if as_letter else "place, counted from 0,"
        raise ValueError(
            f"the answer {gold!r} is the {how} of choice {found} and the text of choice {as_text}: say what it is by "
            f"env.options.verify_options.answers_as, one of {', '.join(ANSWERS_AS[1:])}"
        )
    return found


def refuse_other_count(rows: Iterable[tuple[str, str, Mapping[str, str]]], answers_as: str) -> None:
    """Raises ValueError if answers are places that seem to be counted otherwise than they would be read.

    They seem to be counted from 1 if one is the last place and none is 0, and from 0 if one is 0 while the choices are
    labelled from 1 on.

    Args:
        rows: Of each row its place in the data, what its answer column says, and its choices.
        answers_as: How they would be read, one of :data:`ANSWERS_AS`.
    """
    last = ""
    for where, gold, choices in rows:
        if (
            answers_as == "any"
            and gold == "0"
            and {"1", "2"} <= choices.keys()
            and "0" not in (*choices, *choices.values())
        ):
            raise ValueError(
                f"the answers seem to be places counted from 0 ({where} answers 0, and the choices are labelled "
                f"{', '.join(choices)}): set env.options.verify_options.answers_as=place0"
            )
        if not gold.isdigit() or _one_of(gold, {one: one for one in choices}) or _one_of(gold, choices):
            continue
        if int(gold) == 0:
            return
        if int(gold) == len(choices):
            last = last or f"{where} answers {gold} of {counted(len(choices), 'choice')}"
    if last:
        raise ValueError(
            f"the answers seem to be places counted from 1 ({last}, and no row answers 0): set "
            "env.options.verify_options.answers_as=place1"
        )


def choice_said(offered: str, choices: Mapping[str, str]) -> str:
    """The letter of the choice that an answer names by its letter, its text, or both; the answer itself if by neither.

    Args:
        offered: An answer such as ``B``, ``\\textbf{(B)}``, ``Option B``, ``B) Rome``, ``B, Rome`` or ``Rome.``.
        choices: The texts by their letters; empty if only the question shows them.
    """
    said = _plain(offered)
    letters = list(choices) or list(string.ascii_uppercase)
    for found in (_exactly(said, choices), said if said in letters else None, _one_of(said, choices)):
        if found is not None:
            return found
    bare = said[match.end() :] if (match := _LEAD.match(said)) else said
    if bare != said and (found := _one_of(bare, choices)) is not None:
        return found
    names = "|".join(sorted(map(re.escape, letters), key=len, reverse=True))
    match = re.fullmatch(
        rf"([(\[]?)\s*({names})(?!\w)\s*([)\].:]*)\s*([-\u2013\u2014,;(]?)(.*)", bare, re.I | re.DOTALL
    )
    letter = match and _one_of(match[2], {one: one for one in letters})
    if not match or letter is None:
        return said
    rest = match[5].strip()
    rest = rest.removesuffix(")").strip() if match[4] == "(" else rest
    if not re.search(r"\w", rest) or _one_of(rest, choices) == letter:
        return letter
    # Words behind the letter may explain it, but must not name another choice, deny it, or be another choice's text.
    begins_with_another = re.match(rf"\W*(?:{names})(?![\w'])(?! [a-z])", rest)
    another = rf"(?:\b(?:or|and|not|nor|vs)\b|[/&|+,(])\s*(?:option |choice )?[(\[]?(?:{names})(?![\w'])(?! [a-z])"
    if _one_of(rest, choices) or begins_with_another or re.search(another, rest) or _DENIED.match(rest):
        return said
    if match[1] or match[3]:
        return letter
    # "B - Rome" and "B because ..." are a letter only as it is written; "a - dog" or "A dog" may be anything.
    explained = match[4] or re.match(r"(?:because|since|as)\b", rest)
    return letter if explained and match[2] in letters and not _names_any(rest, names) else said


def _names_any(text: str, names: str) -> bool:
    return re.search(rf"(?<![\w'])(?:{names})(?![\w'])(?! [a-z])", text) is not None


def _plain(text: str) -> str:
    """A text without fonts, delimiters of formulas, emphasis around its beginning, and full stops at its end."""
    for _ in range(4):
        simpler = _FONT.sub(r"\1", text)
        simpler = _PAIRED.sub(lambda match: next(filter(None, match.groups())), simpler).strip()
        if simpler == text:
            break
        text = simpler
    return " ".join(re.sub(r"\\[ ,;]|~", " ", text).split()).strip("\"'\u201c\u201d").rstrip(" .,;") or text


def _exactly(said: str, choices: Mapping[str, str]) -> str | None:
    return next((letter for letter, text in choices.items() if _plain(text) == said), None)


def _one_of(said: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the choice with a given text; case is ignored unless two choices differ in nothing else."""
    plain = _plain(said)
    alike = [letter for letter, text in choices.items() if _plain(text).casefold() == plain.casefold()]
    exact = [letter for letter in alike if _plain(choices[letter]) == plain]
    found: Sequence[str] = exact or alike
    return found[0] if len(found) == 1 else None
