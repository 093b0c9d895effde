r"""Where in a response is the final answer?

A task names the form in which it accepts an answer, or several in order of preference, and anything else is
``no_answer``: guessing pays a policy for text that contains many numbers. ``ANSWER_FORMS`` is open; a form is a
function from the text after the reasoning to every value that it offers as final, in order.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from rewards.lookup import Lookup

ANSWER_FORMS: Lookup[Callable[[str], list[str]]] = Lookup("answer_form")
REASONING = (
    *(("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"), ("[THINK]", "[/THINK]")),
    *(("<reasoning>", "</reasoning>"), ("<seed:think>", "</seed:think>"), ("<reflection>", "</reflection>")),
    *(("<|begin_of_thought|>", "<|end_of_thought|>"), ("\u25c1think\u25b7", "\u25c1/think\u25b7")),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Marks around the reasoning of today's models: what stands between, or after an opening one alone, is a draft."""

# A box that opens, any escaped character (so that ``\{`` does not count as a brace), or a brace.
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([^\s{}$\\]+)")
# Base models, shown examples, go on to invent further questions and answer those too.
_NEXT_QUESTION = re.compile(r"^[*#\s]*(?:Q|Question|Problem|Human|User)(?: \d+)?\**\s*:", re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?")
# "The answer is", "the answer (in cm) would be", "the answer to the question is therefore"; repetitions inside are
# bounded.
_SENTENCE = re.compile(
    r"\b(?:answers?|ANSWERS?)\b(?: \([^()\n]{1,40}\)| (?:to|for|of|in) [^.\n:]{1,40}?)?\**\s+"
    r"(?:is|are|(?:should|must|would|will) be|equals)\b(?: (?:therefore|thus|hence|simply|then))?[\s,:]*\**:?\s*",
    re.IGNORECASE,
)
_LINE = re.compile(
    r"(?:^[^\w\n\\]*|(?<=[.!?)$] ))(?:(?:the|my|final|correct)\s+)*ans(?:wer)?[*_#\s]*[:=][*_\s]*",
    re.MULTILINE | re.IGNORECASE,
)
_HEADING = re.compile(r"^[*#_ ]*(?:the )?(?:final )?answer[*#_ ]*$\s*", re.MULTILINE | re.IGNORECASE)
_HASH = re.compile(r"^[ \t]*####(?!#)[ \t]*(.+)$", re.MULTILINE)
# The end of a stated answer: a full stop that is no decimal point and no abbreviation (a small letter follows "p.m."),
# the line, a special token, or a word that begins the reason.
_STOP = re.compile(
    r"(?<!\\)[.!](?!\S)(?!\s+[a-z])|\n|$|<\||</?[a-z_]{1,12}>"
    r"|,? (?:because|since|as (?:we|the|it|claimed|required|desired)|which|so that|I hope|and (?:we|this|that))\b"
)
# A formula between its own marks, which may hold full stops and commas; only where nothing but the end follows it.
_DELIMITED = re.compile(
    r"\s*(?:\$\$(.+?)\$\$|\$((?:[^$\\\n]|\\.|\n(?!\n))+)\$(?=[\s.,;:!?)*]*(?:\s|$))|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*([^*\n]+)\*\*"
    r"|`([^`\n]+)`)[.\s*]*(?=\n|$|[A-Z]|, (?:as|since|because)\b)",
    re.DOTALL,
)
MAX_STATEMENT, MAX_STATEMENTS = 1000, 8
"""Characters behind "the answer is" in which its end is looked for, and how many such from either end."""


@ANSWER_FORMS.register("boxed")
def boxed(text: str) -> list[str]:
    r"""The content of every outermost ``\boxed{...}`` or ``\fbox{...}``; an unclosed box is not an answer.

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
            # Only the outer box of \boxed{1 \boxed{2}} counts, or a policy could offer two answers in one; of
            # \boxed{\boxed{7}} the content is 7. Inner boxes close first, so they are the last that were found.
            while found and found[-1][0] >= start:
                inner_command, inner_start, inner_end, box_end = found.pop()
                if not text[start:inner_command].strip() and not text[box_end : match.start()].strip():
                    content = inner_start, inner_end
            found.append((command, *content, match.end()))
    values = [text[start:end].strip() for _, start, end, _ in found]
    return values or [match[1] for match in _BARE_BOX.finditer(text)]


@ANSWER_FORMS.register("tagged")
def tagged(text: str) -> list[str]:
    """The content of every ``<answer>...</answer>``, in one pass."""
    lowered, values, start = text.lower(), [], 0
    while (opening := lowered.find("<answer>", start)) >= 0:
        closing = lowered.find("</answer>", opening)
        if closing < 0:
            break
        # From the last opening before the closing one: a response may mention the tag in prose.
        values.append(text[lowered.rfind("<answer>", opening, closing) + len("<answer>") : closing].strip())
        start = closing
    return values


@ANSWER_FORMS.register("sentence")
def sentence(text: str) -> list[str]:
    """What follows "the answer is", up to the end of the sentence or of the formula."""
    return _statements(text, _SENTENCE)


@ANSWER_FORMS.register("answer_line")
def answer_line(text: str) -> list[str]:
    """What follows "Answer:" at the beginning of a line, or stands below such a heading."""
    return _statements(text, _LINE) or _statements(text, _HEADING)


@ANSWER_FORMS.register("hash")
def hash_line(text: str) -> list[str]:
    """What follows ``####`` at the beginning of a line, as in GSM8K."""
    return [match[1].strip().strip("*_`") for match in _HASH.finditer(text)]


@ANSWER_FORMS.register("last_number")
def last_number(text: str) -> list[str]:
    """The last number of the response; only for tasks whose responses hold little else."""
    return _NUMBER.findall(text)[-1:]


@ANSWER_FORMS.register("whole")
def whole(text: str) -> list[str]:
    """The whole response."""
    return [text.strip()]


def _statements(text: str, opening: re.Pattern[str]) -> list[str]:
    """What stands behind each opening: a formula between its marks, or the rest of the sentence; a box in it counts."""
    openings = list(opening.finditer(text))
    # Both ends, so that what is offered first and last shows a hedge, whatever is repeated between.
    if len(openings) > 2 * MAX_STATEMENTS:
        openings = openings[:MAX_STATEMENTS] + openings[-MAX_STATEMENTS:]
    values = []
    for match in openings:
        rest = text[match.end() : match.end() + MAX_STATEMENT]
        delimited, stop = _DELIMITED.match(rest), _STOP.search(rest)
        if not delimited and stop and stop.start() == MAX_STATEMENT:  # longer than that: all of its line, unsearched
            rest, stop = text[match.end() :].partition("\n")[0], None
        stated = next(filter(None, delimited.groups()), "") if delimited else rest[: stop.start() if stop else None]
        values.append((boxed(stated) or [stated.strip().strip("*_`").strip()])[-1])
    return values


STATED = {
    "boxed": "\\boxed{{{}}}",
    "tagged": "<answer>{}</answer>",
    "sentence": "The answer is {}.",
    "answer_line": "Answer: {}",
    "hash": "#### {}",
}
"""How an answer is given in a form; in the others it stands alone."""


def in_form(answer: str, form: str | Sequence[str]) -> str:
    """A response that gives an answer in a form, or in the first one of several."""
    return STATED.get(form if isinstance(form, str) else form[0], "{}").format(answer)


def final_part(text: str, reasoning: Sequence[tuple[str, str]] = REASONING) -> str:
    """What follows the reasoning of a model that marks it; what is boxed in there is a draft."""
    # Behind the last closing mark, of whatever kind: a model may think several times.
    return text[max((text.rfind(close) + len(close) for _, close in reasoning if close in text), default=0) :]


def candidates(
    text: str, form: str | Sequence[str] = "boxed", reasoning: Sequence[tuple[str, str]] = REASONING
) -> list[str]:
    """Every value that the response offers as final, in order; empty if none.

    Args:
        text: The response. What a base model writes after its answer, from the next "Question:" on, does not count.
        form: A name of ``ANSWER_FORMS``, or several: the first one in which anything is offered counts.
        reasoning: Opening and closing marks of what is a draft; one that is never closed runs to the end.

    Raises:
        UnknownNameError: For an unknown form; names the nearest one.
        TypeError: If the text is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"a response must be text, got {text!r}")
    finders = answer_forms(form)
    text = final_part(text, reasoning)
    # A mark that opens after that is never closed: the response was cut off while the model still thought.
    for opening, _ in reasoning:
        text = text.partition(opening)[0]
    starts = [0, *(match.start() for match in _NEXT_QUESTION.finditer(text)), len(text)]
    # The first form in which anything is offered, and of it the first part up to the next question.
    for find in finders:
        for start, end in pairwise(starts):
            if values := [value for value in find(text[start:end]) if value]:
                return values
    return []


def answer_forms(form: str | Sequence[str]) -> list[Callable[[str], list[str]]]:
    """The functions behind one name or several; raises ``UnknownNameError`` for an unknown one."""
    names = [form] if isinstance(form, str) else list(form)
    if not names:
        raise ValueError("answer_form=[]: name at least one form")
    return [ANSWER_FORMS[name] for name in names]
