r"""Where in a response is the final answer?

Extraction is strict: a task names the one form in which it accepts an answer, and anything else is ``no_answer``.
Guessing at the last number of a sentence pays a policy for text that contains many numbers.
"""

import re
import textwrap
from collections.abc import Collection
from enum import StrEnum

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_SENTENCE = re.compile(r"(?:final )?answer is:?\s*(.+?)(?:\.\s|\.$|\n|$)", re.IGNORECASE)


class AnswerForm(StrEnum):
    """The form in which a task accepts its final answer."""

    BOXED = "boxed"
    """The content of ``\\boxed{...}``."""
    TAGGED = "tagged"
    """The content of ``<answer>...</answer>``."""
    SENTENCE = "sentence"
    """What follows "the answer is"."""
    LAST_NUMBER = "last_number"
    """The last number of the response; only for tasks whose responses are nothing but an answer."""
    WHOLE = "whole"
    """The whole response, stripped."""


def boxed(text: str) -> list[str]:
    r"""Contents of every ``\boxed{...}`` or ``\fbox{...}``, with balanced braces; an unclosed box is not an answer."""
    found: list[str] = []
    for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text):
        depth, start = 1, match.end()
        for i in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                found.append(text[start:i].strip())
                break
    return found


def candidates(text: str, form: AnswerForm) -> list[str]:
    """Every value that the response offers as final in the given form, in order; empty if none."""
    if form is AnswerForm.BOXED:
        values = boxed(text)
    elif form is AnswerForm.TAGGED:
        values = [value.strip() for value in _TAGGED.findall(text)]
    elif form is AnswerForm.SENTENCE:
        values = [(boxed(value) or [value.strip()])[-1] for value in _SENTENCE.findall(text)]
    elif form is AnswerForm.LAST_NUMBER:
        values = _NUMBER.findall(text)[-1:]
    else:
        values = [text.strip()]
    return [value for value in values if value]


_FENCE = re.compile(r"^[ \t]*```([\w+-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_PYTHON = {"", "python", "py", "python3"}


def program_in(response: str, defines: Collection[str] = ()) -> str | None:
    """The program that a response offers: the last closed fenced Python block, ``None`` if there is none.

    Args:
        response: What the policy wrote.
        defines: Functions of which the program must define one; the last block that does is taken, so that an example
            of use after the solution is not mistaken for it. Without such a block it is the last one all the same.
    """
    blocks = [body for language, body in _FENCE.findall(response) if language.lower() in _PYTHON and body.strip()]
    if not blocks:
        return None
    patterns = [re.compile(rf"^[ \t]*(?:def|class)[ \t]+{re.escape(name)}\b|^{re.escape(name)}[ \t]*=", re.MULTILINE)
                for name in defines]  # fmt: skip
    for body in reversed(blocks):
        if any(pattern.search(body) for pattern in patterns):
            return textwrap.dedent(body)
    return textwrap.dedent(blocks[-1])
