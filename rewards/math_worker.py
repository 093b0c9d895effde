"""The worker process behind :mod:`rewards.math`: answers one JSON line per request with math-verify's verdict.

Its time-outs are switched off here on purpose: they rest on SIGALRM, which cannot interrupt a C call. The pool kills.
"""

import json
import sys

from rewards.pool import limit_memory


def main() -> None:
    """Serves requests from standard input until it closes."""
    limit_memory()
    from math_verify import parse, verify  # 0.6 s of import, paid once per worker

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        gold = parse(f"\\boxed{{{request['gold']}}}", parsing_timeout=0)
        answer = parse(f"\\boxed{{{request['answer']}}}", parsing_timeout=0)
        equal = bool(gold) and bool(answer) and verify(gold, answer, timeout_seconds=0)
        print(json.dumps({"gold_parsed": bool(gold), "equal": bool(equal)}), flush=True)


if __name__ == "__main__":
    main()
