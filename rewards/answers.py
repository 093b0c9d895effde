r"""Where in a response is the final answer?

Extraction is strict: a task names the one form in which it accepts an answer, and anything else is ``no_answer``.
Guessing at the last number of a sentence pays a policy for text that contains many numbers.
"""

import re
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
