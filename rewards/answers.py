r"""Extracts the final answers from a response.

A task names the form in which it accepts an answer, or several forms in order of preference; a response in any other
form is ``no_answer``. Guessing which number is meant would reward a policy for text that contains many numbers.
Further forms can be registered in ``ANSWER_FORMS``: a form is a function that takes the text after the reasoning and
returns every final answer in the text, in order.
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
"""Marks around the reasoning of current models: text between two marks, or after an unclosed one, is a draft."""

# The start of a box, any escaped character (so that ``\{`` does not count as a brace), or a brace.
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([^\s{}$\\]+)")
# Base models that are prompted with examples often continue with further invented questions and their answers.
_NEXT_QUESTION = re.compile(r"^[*#\s]*(?:Q|Question|Problem|Human|User)(?: \d+)?\**\s*:", re.MULTILINE)
# Digits with the marks between them are one number, so that the last number of "1{,}234" is not 234, nor that of 7e-05
# the 5.
_NUMBER = re.compile(
    r"(?<![\w.])([-\u2212\u2010\u2011\u2013]?)"
    r"((?:\d(?:\d|[.,:](?=\d)|(?:\{,\}|,?\\[,!]|['\u2019\u00a0\u2009\u202f])(?=\d{3}(?!\d)))*|\.\d+)(?:/\d+)?"
    r"(?:[eE][-+]?\d+|\s?(?:\\times|\\cdot|[*\u00d7\u00b7])\s?10\^\{?[-\u2212]?\d+\}?)?(?: ?\\?%)?)"
)
# A sign that stands apart from its number; "- 12" at the beginning of a line is an item of a list.
_SIGN_APART = re.compile(
    r"(?:[=(:\u2248]|\b(?:is|are|be|equals|get|to))[ $]*(?:[-\u2212\u2013]|minus|negative) *$"
    r"|^(?:\u2212|minus) +$|\bnegative +$|(?<![\w.])[-\u2212\u2013] ?\\?[$€£]$",
    re.IGNORECASE | re.MULTILINE,
)
# "The answer is", "the answer (in cm) would be", "the answer to the question is therefore". Repetitions inside are
# bounded, so that matching stays fast on long texts.
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
# The end of a stated answer: a full stop that is neither a decimal point nor part of an abbreviation (a lower-case
# letter follows, as after "p.m."), the end of the line, a special token, or a word that begins an explanation.
_STOP = re.compile(
    r"(?<!\\)[.!](?!\S)(?!\s+[a-z])|\n|$|<\||</?[a-z_]{1,12}>"
    r"|,? (?:because|since|as (?:we|the|it|claimed|required|desired)|which|so that|I hope|and (?:we|this|that))\b"
)
# A formula between delimiters, which may contain full stops and commas; it must end the statement.
_DELIMITED = re.compile(
    r"\s*(?:\$\$(.+?)\$\$|\$((?:[^$\\\n]|\\.|\n(?!\n))+)\$(?=[\s.,;:!?)*]*(?:\s|$))|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*([^*\n]+)\*\*"
    r"|`([^`\n]+)`)[.\s*]*(?=\n|$|[A-Z]|, (?:as|since|because)\b)",
    re.DOTALL,
)
MAX_STATEMENT, MAX_STATEMENTS = 1000, 8
"""Characters after "the answer is" that are searched for its end; statements read at either end of a response."""


@ANSWER_FORMS.register("boxed")
def boxed(text: str) -> list[str]:
    r"""The content of every outermost ``\boxed{...}`` or ``\fbox{...}``; an unclosed box is not an answer.

    Escaped braces do not count, as in TeX. The text is scanned once, so that a megabyte of open boxes costs no more
    than a megabyte of prose.
    """
    found: list[tuple[int, int, int, int]] = []  # start of the command, start and end of its content, end of the box
    open_braces: list[tuple[int, int]] = []  # starts of a box's command and content; (-1, -1) for a brace without box
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
            # Only the outer box of \boxed{1 \boxed{2}} counts, or a policy could offer two answers in one box. The
            # content of \boxed{\boxed{7}} is 7. Inner boxes close before outer ones, so they are at the end of found.
            while found and found[-1][0] >= start:
                inner_command, inner_start, inner_end, box_end = found.pop()
                if not text[start:inner_command].strip() and not text[box_end : match.start()].strip():
                    content = inner_start, inner_end
            found.append((command, *content, match.end()))
    values = [text[start:end].strip() for _, start, end, _ in found]
    return values or [match[1] for match in _BARE_BOX.finditer(text)]


@ANSWER_FORMS.register("tagged")
def tagged(text: str) -> list[str]:
    """The content of every ``<answer>...</answer>``."""
    lowered, values, start = text.lower(), [], 0
    while (opening := lowered.find("<answer>", start)) >= 0:
        closing = lowered.find("</answer>", opening)
        if closing < 0:
            break
        # From the last opening tag before the closing tag, since a response may mention ``<answer>`` in prose.
        values.append(text[lowered.rfind("<answer>", opening, closing) + len("<answer>") : closing].strip())
        start = closing
    return values


@ANSWER_FORMS.register("sentence")
def sentence(text: str) -> list[str]:
    """The text after "the answer is", up to the end of the sentence or of the formula."""
    return _statements(text, _SENTENCE)


@ANSWER_FORMS.register("answer_line")
def answer_line(text: str) -> list[str]:
    """The text after "Answer:" at the beginning of a line or sentence, or below a heading "Answer"."""
    return _statements(text, _LINE) or _statements(text, _HEADING)


@ANSWER_FORMS.register("hash")
def hash_line(text: str) -> list[str]:
    """The text after ``####`` at the beginning of a line, as in GSM8K."""
    return [match[1].strip().strip("*_`") for match in _HASH.finditer(text)]


@ANSWER_FORMS.register("last_number")
def last_number(text: str) -> list[str]:
    """The last number of the response; only suitable for tasks whose responses contain little else."""
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 - only the last one counts
        pass
    if found is None:
        return []
    is_negative = found[1] or _SIGN_APART.search(text[max(0, found.start() - 30) : found.start()])
    return [("-" if is_negative else "") + found[2]]


@ANSWER_FORMS.register("whole")
def whole(text: str) -> list[str]:
    """The whole response."""
    return [text.strip()]


def _statements(text: str, opening: re.Pattern[str]) -> list[str]:
    """The answer behind each opening: a delimited formula or the rest of the sentence; if it has a box, the content."""
    openings = list(opening.finditer(text))
    # Statements at both ends are kept, so that a hedge between the first and the last answer is noticed.
    if len(openings) > 2 * MAX_STATEMENTS:
        openings = openings[:MAX_STATEMENTS] + openings[-MAX_STATEMENTS:]
    values = []
    for match in openings:
        rest = text[match.end() : match.end() + MAX_STATEMENT]
        delimited, stop = _DELIMITED.match(rest), _STOP.search(rest)
        if not delimited and stop and stop.start() == MAX_STATEMENT:  # no end found in reach: take the whole line
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
"""Template of a response for each form; in forms that are not listed, the answer stands alone."""


def in_form(answer: str, form: str | Sequence[str]) -> str:
    """A response that states an answer in the given form, or in the first of several forms."""
    return STATED.get(form if isinstance(form, str) else form[0], "{}").format(answer)


def without_drafts(text: str, reasoning: Sequence[tuple[str, str]] = REASONING) -> str:
    """The text after a model's marked reasoning, and before reasoning that was cut off and so is never closed."""
    text = final_part(text, reasoning)
    for opening, _ in reasoning:
        text = text.partition(opening)[0]
    return text


def final_part(text: str, reasoning: Sequence[tuple[str, str]] = REASONING) -> str:
    """The text after a model's marked reasoning; boxes inside the reasoning are drafts."""
    # After the last closing mark of any kind, since a model may think several times.
    return text[max((text.rfind(close) + len(close) for _, close in reasoning if close in text), default=0) :]


def candidates(
    text: str, form: str | Sequence[str] = "boxed", reasoning: Sequence[tuple[str, str]] = REASONING
) -> list[str]:
    """Every final answer in the response, in order; empty if there is none.

    Args:
        text: The response. If it goes on with a next "Question:", only the first part that has an answer counts.
        form: A name in ``ANSWER_FORMS``, or several names: the first form with an answer counts.
        reasoning: Pairs of opening and closing marks of drafts; a draft that is never closed extends to the end.

    Raises:
        UnknownNameError: If a form is unknown; the message names the nearest known form.
        ValueError: If ``form`` is an empty list.
        TypeError: If ``text`` is not a string, or ``form`` neither a name nor a list of names.
    """
    if not isinstance(text, str):
        raise TypeError(f"a response must be text, got {text!r}")
    finders = answer_forms(form)
    text = without_drafts(text, reasoning)
    starts = [0, *(match.start() for match in _NEXT_QUESTION.finditer(text)), len(text)]
    # The first form that finds an answer counts, and in that form the first part, from one question to the next.
    for find in finders:
        for start, end in pairwise(starts):
            if values := [value for value in find(text[start:end]) if value]:
                return values
    return []


def answer_forms(form: str | Sequence[str]) -> list[Callable[[str], list[str]]]:
    """The functions of one or several forms.

    Raises:
        UnknownNameError: If a form is unknown.
        ValueError: If no form is given.
        TypeError: If ``form`` is neither a name nor a list of names.
    """
    if not isinstance(form, str) and not (isinstance(form, Sequence) and all(isinstance(one, str) for one in form)):
        raise TypeError(f"form={form!r:.80}: name a form, as 'boxed', or several, as ['boxed', 'sentence']")
    names = [form] if isinstance(form, str) else list(form)
    if not names:
        raise ValueError("answer_form=[]: name at least one form")
    return [ANSWER_FORMS[name] for name in names]
