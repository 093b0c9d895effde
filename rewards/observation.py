"""Text about a program's run that the policy may see: it covers public tests only and is safe to show in a chat.

The output of an untrusted program may contain anything: bytes that are not UTF-8, terminal escapes, a forged end of
turn. This module turns it into plain text of bounded length that contains no special token of a chat template.
"""

import re
from collections.abc import Sequence
from typing import Any

from rewards.asserts import Case
from rewards.sandbox import Ending, Outcome
from rewards.sandbox.candidate import MAX_FRAMES
from rewards.sandbox.codec import show
from rewards.wording import counted

HEAD = TAIL = 1500
_SHOWN_VALUE = 500
# Terminal escapes: colours, titles, cursor movements.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# Control characters other than tab and line feed; characters without width or that change the direction of text; lone
# surrogates.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_NAMES = (
    "s|bos|eos|pad|unk|think|start_of_turn|end_of_turn|im_start|im_end|system|user|assistant|tool|begin_of_text|eot_id"
)
_MARKERS = re.compile(
    rf"<(?=[|\uff5c])|<(?=/?(?:{_NAMES})\b)|[|\uff5c](?=>)|\[(?=/?(?:INST|SYS|gMASK|TOOL|AVAILABLE))|(?m:^)(?=\[sandbox\])",
    re.IGNORECASE,
)
"""A space after each match breaks a special token: after ``<`` of ``<|im_end|>``, before its ``>``, and so on."""


def clean_text(text: str | bytes, head: int = HEAD, tail: int = TAIL) -> str:
    """Text that a program wrote, cleaned so that it can be shown to the policy.

    Undecodable bytes are replaced; control characters and terminal escapes are removed. Special tokens of common chat
    templates and forged ``[sandbox]`` lines are broken by a space. Memory addresses are masked, so that repeated runs
    give the same text. Text longer than ``head + tail`` characters loses its middle.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = shorten(text, 4 * head, 4 * tail)  # first, so that the patterns below never search megabytes
    text = _CONTROL.sub("", _ANSI.sub("", text.replace("\r\n", "\n")))
    return shorten(_MARKERS.sub(lambda match: match[0] + " ", _ADDRESS.sub("0x...", text)), head, tail)


def shorten(text: str, head: int, tail: int) -> str:
    """The first ``head`` and the last ``tail`` characters, with a note of how many characters were cut between them."""
    if len(text) <= head + tail:
        return text
    cut = counted(len(text) - head - tail, "character")
    return f"{text[:head]}\n...[cut {cut}]...\n{text[len(text) - tail :]}"


def of_calls(
    program: str, cases: Sequence[Case], results: Sequence[Any], passed: Sequence[bool], outcome: Outcome
) -> str:
    """The first failure of the program or of a public test, and what the program printed until then.

    Args:
        program: Source of the program.
        cases: The public cases.
        results: Replies to the calls that were answered, in order of the cases.
        passed: Whether each of these replies is correct.
        outcome: Outcome of the process that ran the calls.
    """
    # The replies come from an untrusted process: they may be missing or of any type.
    loaded = outcome.replies[0] if outcome.replies else None
    if not (isinstance(loaded, dict) and loaded.get("loaded") is True):
        lines = ["The program could not be loaded.", *_what_happened(program, loaded, outcome)]
    elif all(passed) and len(passed) == len(cases):
        shown = "The shown test passes." if len(cases) == 1 else f"All {len(cases)} shown tests pass."
        lines = [shown if cases else "The program was loaded without an error. No test is shown for it."]
    else:
        # The first wrong answer, or the first call that was not answered at all.
        failed = list(passed).index(False) if False in passed else len(passed)
        case, result = cases[failed], results[failed] if failed < len(results) else None
        lines = [f"Input: {case.call_text()}", f"Expected: {case.expected!r}"]
        if isinstance(result, dict) and "value" in result:
            lines.append(f"Got: {show(result['value'], _SHOWN_VALUE)}")
        else:
            lines += _what_happened(program, result, outcome)
    return _framed(lines, outcome.output)


def of_script(tests: Sequence[tuple[str, str]], outcomes: Sequence[Outcome], passed: Sequence[bool]) -> str:
    """The first public test that a whole program failed: input, expected and actual output, standard error."""
    for (stdin, expected), outcome, right in zip(tests, outcomes, passed, strict=True):
        if right:
            continue
        lines = [f"Standard input:\n{stdin}", f"Expected output:\n{expected}"]
        if outcome.ending is not Ending.FINISHED:
            lines += _what_happened("", None, outcome)
        elif outcome.exit:
            lines.append(f"The program ended with status {outcome.exit}.")
        # Only the first failing pair is shown. Each pair has a run of its own, so the output belongs to this pair.
        return _framed(lines, outcome.output or b"(nothing)", outcome.errors)
    return f"All {len(passed)} shown tests pass." if passed else "No test is shown."


def _framed(lines: list[str], output: bytes, errors: bytes = b"") -> str:
    body = [clean_text("\n".join(lines))]
    for name, text in (("output", output), ("error", errors)):
        if text.strip():
            body += [f"[sandbox] standard {name}:", clean_text(text).rstrip()]
    return "\n".join(body)


def _what_happened(program: str, reply: Any, outcome: Outcome) -> list[str]:
    if isinstance(reply, dict) and isinstance(reply.get("raised"), dict):
        return _traceback(program, reply["raised"])
    if isinstance(reply, dict) and "unusable" in reply:
        return [f"The result is no plain data: {reply['unusable']}"]
    if outcome.ending is Ending.TIMEOUT:
        return ["Timeout: the program was stopped at its time limit."]
    if outcome.signal:
        return [f"The program was killed by signal {outcome.signal}."]
    return ["The program ended before it answered." if reply is None else "The program sent no answer."]


def _traceback(program: str, raised: dict[str, Any]) -> list[str]:
    """A traceback of the program's own frames, with source lines from ``program``; type and message are as sent."""
    lines = program.splitlines()
    text = []
    frames = raised.get("frames")
    for frame in frames[:MAX_FRAMES] if isinstance(frames, list) else []:
        # Frames come from the program's process, which may send anything.
        if not (isinstance(frame, list) and len(frame) == 2 and isinstance(frame[0], int)):
            continue
        number, name = frame
        text.append(f'  File "solution.py", line {number}, in {str(name)[:100]}')
        if 0 < number <= len(lines):
            text.append(f"    {lines[number - 1].strip()[:200]}")
    message = str(raised.get("message", ""))
    return [
        "Traceback:",
        *text,
        f"{raised.get('type', 'Exception')}: {message}" if message else str(raised.get("type")),
    ]
