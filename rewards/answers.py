r"""Where in a response is the final answer?

Extraction is strict: a task names the one form in which it accepts an answer, and anything else is ``no_answer``.
Guessing at the last number of a sentence pays a policy for text that contains many numbers.
"""

import re
import textwrap
from collections.abc import Collection
from enum import StrEnum

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
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


_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([^\s{}$\\]+)")


def boxed(text: str) -> list[str]:
    r"""Contents of every outermost ``\boxed{...}`` or ``\fbox{...}``; an unclosed box is not an answer.

    Escaped braces do not count, as in TeX. One pass, so that a megabyte of open boxes costs no more than one of prose.
    """
    found: list[tuple[int, int, int, int]] = []  # where the command, its content, the end of both are
    open_braces: list[tuple[int, int]] = []  # command and content of a box, or -1 twice for a brace that is none
    for match in _BOX_TOKEN.finditer(text):
        token = match[0]
        if token == "{":
            open_braces.append((-1, -1))
        elif token[-1] == "{" and len(token) > 2:
            open_braces.append((match.start(), match.end()))
        elif token == "}" and open_braces:
            command, start = open_braces.pop()
            if start < 0:
                continue
            content = start, match.start()
            while found and found[-1][0] >= start:  # boxes within this one; one that is all of it stands for it
                inner_command, inner_start, inner_end, box_end = found.pop()
                if not text[start:inner_command].strip() and not text[box_end : match.start()].strip():
                    content = inner_start, inner_end
            found.append((command, *content, match.end()))
    values = [text[start:end].strip() for _, start, end, _ in found]
    return values or [match[1] for match in _BARE_BOX.finditer(text)]


def _tagged(text: str) -> list[str]:
    """Contents of every ``<answer>...</answer>``, in one pass."""
    lowered, values, start = text.lower(), [], 0
    while (opening := lowered.find("<answer>", start)) >= 0:
        closing = lowered.find("</answer>", opening)
        if closing < 0:
            break
        values.append(text[lowered.rfind("<answer>", opening, closing) + len("<answer>") : closing].strip())
        start = closing
    return values


def final_part(text: str) -> str:
    """What follows the reasoning of a model that marks it with ``<think>...</think>``; boxes in there are drafts."""
    return text.rpartition("</think>")[2]


def candidates(text: str, form: AnswerForm) -> list[str]:
    """Every value that the response offers as final in the given form, in order; empty if none."""
    text = final_part(text)
    if form is AnswerForm.BOXED:
        values = boxed(text)
    elif form is AnswerForm.TAGGED:
        values = _tagged(text)
    elif form is AnswerForm.SENTENCE:
        values = [(boxed(value) or [value.strip()])[-1] for value in _SENTENCE.findall(text)]
    elif form is AnswerForm.LAST_NUMBER:
        values = _NUMBER.findall(text)[-1:]
    else:
        values = [text.strip()]
    return [value for value in values if value]


_FENCE = re.compile(r"[ \t]*```[ \t]*([\w+-]*)[^`]*")
_PYTHON = {"", "python", "py", "python3"}


def code_blocks(text: str) -> list[str]:
    """Contents of the closed fenced blocks whose language is Python or not said; a block that is cut off is none."""
    blocks: list[str] = []
    lines: list[str] | None = None
    language = ""
    for line in text.splitlines(keepends=True):
        fence = _FENCE.fullmatch(line.rstrip()) if "```" in line else None
        if lines is None and fence:
            lines, language = [], fence[1].lower()
        elif lines is not None and fence and not fence[1]:
            if language in _PYTHON:
                blocks.append("".join(lines))
            lines = None
        elif lines is not None:
            lines.append(line)
    return blocks


def program_in(response: str, defines: Collection[str] = ()) -> str | None:
    """The program that a response offers: the last closed fenced Python block, ``None`` if there is none.

    Args:
        response: What the policy wrote.
        defines: Functions of which the program must define one; the last block that does is taken, so that an example
            of use after the solution is not mistaken for it. Without such a block it is the last one all the same.
    """
    blocks = [body for body in code_blocks(final_part(response)) if body.strip()]
    if not blocks:
        return None
    patterns = [re.compile(rf"^[ \t]*(?:def|class)[ \t]+{re.escape(name)}\b|^{re.escape(name)}[ \t]*=", re.MULTILINE)
                for name in defines]  # fmt: skip
    for body in reversed(blocks):
        if any(pattern.search(body) for pattern in patterns):
            return textwrap.dedent(body)
    return textwrap.dedent(blocks[-1])
