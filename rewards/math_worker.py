"""The worker process behind :mod:`rewards.math`: answers one JSON line per request with math-verify's verdict.

Its time-outs are switched off here on purpose: they rest on SIGALRM, which cannot interrupt a C call. The pool kills.
"""

import json
import os
import sys
from functools import lru_cache
from typing import Any

from rewards.pool import confine_worker

FLOAT_DIGITS = 12
"""math-verify's own 6 digits call 1/2004! and 1/2006! equal."""


def main() -> None:
    """Serves requests from standard input until it closes."""
    from math_verify import parse, verify  # 0.6 s of import, paid once per worker

    reply, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # nothing but replies may get onto the line

    @lru_cache(maxsize=4096)
    def parse_gold(gold: str) -> list[Any]:
        return parse(f"\\boxed{{{gold}}}", parsing_timeout=0)

    parse_gold("\\frac{1}{2}")  # loads the grammar before the first request is timed
    confine_worker()
    print(json.dumps({"ready": True}), file=reply, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        gold = parse_gold(request["gold"])
        answer = parse(f"\\boxed{{{request['answer']}}}", parsing_timeout=0)
        understood = any(not isinstance(reading, str) for reading in gold)  # a string is its way to give up
        same = understood and bool(answer) and verify(gold, answer, float_rounding=FLOAT_DIGITS, timeout_seconds=0)
        print(json.dumps({"gold_parsed": understood, "equal": bool(same)}), file=reply, flush=True)


if __name__ == "__main__":
    main()
