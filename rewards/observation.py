"""What an untrusted program wrote, made safe to show to a policy in a chat.

The text may hold anything: bytes that are no utf-8, terminal escapes, a forged end of turn. It leaves here as plain
lines of bounded length in which no chat template finds a marker.
"""

import re

HEAD = TAIL = 1500
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_NAMES = (
    "s|bos|eos|pad|unk|think|start_of_turn|end_of_turn|im_start|im_end|system|user|assistant|tool|begin_of_text|eot_id"
)
_MARKERS = re.compile(
    rf"<(?=[|\uff5c])|<(?=/?(?:{_NAMES})\b)|[|\uff5c](?=>)|\[(?=/?(?:INST|SYS|gMASK|TOOL|AVAILABLE))|(?m:^)(?=\[sandbox\])",
    re.IGNORECASE,
)
"""Where a space breaks a special token: behind ``<`` of ``<|im_end|>``, before its ``>``, and so on."""


def clean_text(text: str | bytes, head: int = HEAD, tail: int = TAIL) -> str:
    """Text of a program as it may be shown.

    Undecodable bytes, control characters and terminal escapes go; special tokens of the usual chat templates and forged
    frame lines are broken by a space; memory addresses are masked, so that the same run gives the same text; what is
    longer than ``head + tail`` characters loses its middle.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = shorten(text, 4 * head, 4 * tail)  # before the patterns, so that megabytes cost nothing
    text = _CONTROL.sub("", _ANSI.sub("", text.replace("\r\n", "\n")))
    return shorten(_MARKERS.sub(lambda match: match[0] + " ", _ADDRESS.sub("0x...", text)), head, tail)


def shorten(text: str, head: int, tail: int) -> str:
    """The first ``head`` and the last ``tail`` characters, with a note of what was cut between."""
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}\n...[cut {len(text) - head - tail} characters]...\n{text[len(text) - tail :]}"
