"""Compares our math grader with plain math-verify: agreement, speed and hangs."""

import json
import logging
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.math_pairs import Pair, distinct_pairs, load_golds, rl_stream
from rewards.math import score_answer, score_math, submit_answer
from rewards.score import Score

UNEXPLAINED = "UNEXPLAINED"
_EXPLANATIONS = {
    ("correct", "exact"): "the same once spacing, braces and full stops are gone; math-verify does not read that form",
    ("correct", "rational"): "exactly the same number; math-verify does not read that form",
    (
        "correct",
        "exact_value",
    ): "exactly the same value: a name, a separator or a percent sign that math-verify does not read",
    (
        "correct",
        "structure",
    ): "the same value with its name, or the same set in another notation: not read by math-verify",
    ("correct", "words"): "the same words",
    ("correct", "list"): "the values of the list",
    ("correct", "choice"): "the same letter of a choice",
    ("wrong", "unit"): "two different units, which math-verify drops",
    ("wrong", "words"): "words that are no unit, which math-verify drops",
    ("wrong", "rational"): "different numbers, which math-verify rounds",
    ("wrong", "exact_value"): "different values: a number base or a symbol's name, which math-verify ignores",
    ("wrong", "structure"): "different kinds (point, set, list, number), which math-verify calls equal",
    ("wrong", "unevaluated"): "a calculation that leads to the gold, which math-verify carries out",
    ("wrong", "unfinished"): "a sum, product, integral or factorial, which math-verify carries out",
    ("wrong", "guard"): "refused unread: a huge number, tower or factorial, which math-verify rounds",
}
HOSTILE = (
    "9^{9^{9^9}}",
    "((9!)!)!",
    r"\binom{1000000000}{500000000}",
    r"\sum_{k=1}^{1000000000} k^{20}",
    r"\int_0^1 x^{x^{x^{x}}} dx",
    r"\sqrt{1+\sqrt{2+\sqrt{3+\sqrt{4+\sqrt{5+\sqrt{6+\sqrt{7}}}}}}}",
    r"\cosh(\sinh(\cosh(\sinh(10^{9}))))",
    r"(x+y+z+w)^{400}",
    "9" * 50_000,
    "{" * 20_000,
)
_KILL_S = 12.0


def compare(data: Path, n_tasks: int, n_pairs: int) -> dict[str, Any]:
    """Runs both graders on an RL-like stream, on distinct pairs, on the tests' tables and on hostile answers."""
    # An RL-like stream repeats answers, as samples of one policy do, so a cache helps; on distinct pairs it does not.
    golds = load_golds(data)
    distinct = list(distinct_pairs(golds, seed=0))
    random.Random(1).shuffle(distinct)
    streams = {"RL-like, 8 answers a task": rl_stream(golds, n_tasks, seed=0), "all distinct": distinct[:n_pairs]}
    score_answer(
        r"\int_0^1 2x\,dx", r"\int_0^1 x+x\,dx", deadline_s=60
    )  # starts the workers, which are already running after the first step of a training run
    rows, found = {}, defaultdict(list)
    for name, pairs in streams.items():
        ours, ours_s = _ours(pairs)
        theirs, theirs_s = _theirs(pairs)
        for pair, score, equal in zip(pairs, ours, theirs, strict=True):
            if (score.value == 1.0) != equal:
                found[score.verdict.value, score.reason].append(pair)
        disagree = sum((score.value == 1.0) != equal for score, equal in zip(ours, theirs, strict=True))
        rows[name] = {
            "pairs": len(pairs),
            "ours_per_second": len(pairs) / ours_s,
            "theirs_per_second": len(pairs) / theirs_s,
            "agree": len(pairs) - disagree,
            "disagree": disagree,
            "slow": sum(score.reason in ("math_verify", "timeout", "crash") for score in ours),
        }
    return {
        "streams": rows,
        "tables": on_tables(),
        "disagreements": _explain(found),
        "hangs": [_hang(answer) for answer in HOSTILE],
    }


def on_tables() -> list[dict[str, Any]]:
    """Runs both graders on the tests' tables of hand-written verdicts, without responses of 300 or more characters."""
    from tests.rewards import math_rows, math_rows_kinds, math_rows_pairs

    groups = {
        name.lower(): rows
        for module in (math_rows, math_rows_kinds, math_rows_pairs)
        for name, rows in vars(module).items()
        if name.isupper() and isinstance(rows, list) and name not in ("ROWS", "KINDS", "PAIRS")
    }
    table = []
    for name, rows in groups.items():
        kept = [row for row in rows if len(row.response) < 300]
        with get_context("spawn").Pool() as pool:
            theirs = pool.starmap(_grade, [(row.gold, row.response) for row in kept], chunksize=10)
        ours = [score_math(row.response, row.gold, deadline_s=30).value == 1.0 for row in kept]
        labels = [row.verdict == "correct" for row in kept]
        told = [[row.gold, row.response, row.why] for row in kept]
        paid = list(zip(told, theirs, labels, strict=True))
        table.append(
            {
                "group": name,
                "rows": len(kept),
                "ours_wrong": sum(a != b for a, b in zip(ours, labels, strict=True)),
                "theirs_pays_wrongly": [row for row, pays, right in paid if pays and not right],
                "theirs_refuses_wrongly": [row for row, pays, right in paid if right and not pays],
            }
        )
    return table


def _grade(gold: str, response: str) -> bool:
    from math_verify import parse, verify

    logging.disable(logging.ERROR)
    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(response)))


def _ours(pairs: Sequence[Pair]) -> tuple[list[Score], float]:
    started = time.perf_counter()
    # All pairs are submitted before the first result is awaited, as a rollout does with a batch, so that our workers
    # grade in parallel.
    futures = [submit_answer(pair.answer, pair.gold) for pair in pairs]
    scores = [future.result() for future in futures]
    return scores, time.perf_counter() - started


def _theirs(pairs: Sequence[Pair]) -> tuple[list[bool], float]:
    """Grades with math-verify in its usual way: parse both, then verify, default time-outs, one process per core."""
    with get_context("spawn").Pool() as pool:
        pool.starmap(_grade, [("1", "1")] * 8, chunksize=1)  # the imports are not timed
        started = time.perf_counter()
        verdicts = pool.starmap(_grade, [(pair.gold, f"\\boxed{{{pair.answer}}}") for pair in pairs], chunksize=25)
        return verdicts, time.perf_counter() - started


def _explain(found: dict[tuple[str, str], list[Pair]]) -> list[dict[str, Any]]:
    rows = []
    for key, pairs in sorted(found.items(), key=lambda item: -len(item[1])):
        shortest = min(pairs, key=lambda pair: len(pair.gold) + len(pair.answer))
        rows.append(
            {
                "verdict": key[0],
                "reason": key[1],
                "n": len(pairs),
                "why": _EXPLANATIONS.get(key, UNEXPLAINED),
                "example": f"{shortest.gold} | {shortest.answer}".replace("\n", " "),
                "pairs": [[pair.gold, pair.answer] for pair in pairs],
            }
        )
    return rows


def _hang(answer: str) -> dict[str, Any]:
    started = time.perf_counter()
    score = score_answer(answer, r"\sqrt{2}", deadline_s=3.0)
    ours_s = time.perf_counter() - started
    shown = answer if len(answer) < 50 else f"{answer[:40]}... ({len(answer)} characters)"
    return {"answer": shown, "theirs": _hang_of_theirs(answer), "ours_s": ours_s, "ours": score.verdict.value}


def _hang_of_theirs(answer: str) -> str:
    """Runs math-verify in its own process, which is killed after 12 s: nothing else stops it if its time-out fails."""
    code = (
        "import sys, json, time, logging\nlogging.disable(logging.ERROR)\nfrom math_verify import parse, verify\n"
        "answer = json.loads(sys.stdin.read())\nstarted = time.time()\n"
        "result = verify(parse('\\\\boxed{\\\\sqrt{2}}'), parse(f'\\\\boxed{{{answer}}}'), timeout_seconds=3)\n"
        "print(f'{time.time() - started:.2f} ({result})')\n"
    )
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command, input=json.dumps(answer), capture_output=True, text=True, timeout=_KILL_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"killed at {_KILL_S:.0f}"
    return done.stdout.strip() or f"died: {done.stderr.strip().splitlines()[-1][:60]}"
