"""Repeated batches of 500 items, 50 of them hostile, are graded correctly and leave nothing behind."""

import os
import random
from pathlib import Path

import pytest

from rewards import math, pool
from rewards.asserts import Case
from rewards.code import FunctionTests, score_program
from rewards.sandbox import Limits, Sandbox
from tests.rewards.programs import HONEST, MARKER, PROGRAMS

ITEMS, HOSTILE = 500, 50
CPU_S = 1.0
WRITTEN = (MARKER, "/tmp/a", "/tmp/big", "/tmp/l", "/tmp/seen", "/tmp/0")
"""Files that the hostile programs try to write."""
TESTS = FunctionTests((Case("double", (2,), 4),), (Case("double", (21,), 42), Case("double", ("ab",), "abab")))
WRONG = "def double(x):\n    return x + 1\n"


def descendants():
    """Ids of all processes that descend from this one."""
    children, found = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def resources():
    """Counts of what could be left behind: processes, descriptors, files, and megabytes of memory."""
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    files = sum(os.path.exists(path) for path in WRITTEN)
    return {"processes": len(descendants()), "descriptors": len(os.listdir("/proc/self/fd")), "files": files, "mb": rss}


def assert_nothing_grew(first, last):
    assert last["processes"] <= first["processes"]
    assert last["descriptors"] <= first["descriptors"]
    assert last["files"] <= first["files"]
    assert last["mb"] <= first["mb"] + 50


@pytest.fixture(params=[4, pytest.param(20, marks=pytest.mark.soak)])
def rounds(request):
    """Number of rounds: the first allocates what is needed anyway, and leaks of the later rounds add up."""
    return request.param


@pytest.mark.slow
def test_programs(rounds):
    from concurrent.futures import ThreadPoolExecutor

    hostile = [row for row in PROGRAMS if row.category not in ("honest", "broken") and "N" in row.modes]
    rng = random.Random(0)
    n_workers = (os.cpu_count() or 1) + 1
    before = resources()
    with Sandbox(n_workers=n_workers) as sandbox, ThreadPoolExecutor(16) as threads:
        settled = None
        for _ in range(rounds):
            attackers = rng.sample(hostile, HOSTILE)
            items = [(row.source, None) for row in attackers]
            items += [(HONEST, "correct") if i % 2 else (WRONG, "wrong") for i in range(ITEMS - HOSTILE)]
            rng.shuffle(items)
            scores = list(
                threads.map(lambda item: score_program(item[0], TESTS, Limits(cpu_s=CPU_S), sandbox=sandbox), items)
            )
            for (source, verdict), score in zip(items, scores, strict=True):
                if verdict is not None:
                    assert score.verdict == verdict, (source, score)
            settled = settled or resources()
        assert_nothing_grew(settled, resources())
        assert sandbox.counts["broken"] == 0
    after = resources()
    assert after["processes"] == before["processes"]
    assert after["descriptors"] <= before["descriptors"] + 2  # two belong to the queue of the thread pool
    assert after["files"] == before["files"]


HANGS = [
    r"\sqrt{1+\sqrt{2+\sqrt{3+\sqrt{4+\sqrt{5+\sqrt{6+\sqrt{7}}}}}}}",
    r"\cosh(\sinh(\cosh(\sinh(10^{9}))))",
    r"\log_{2}(\log_{3}(\log_{5}(10^{999})))",
    r"\sin(\cos(\sin(\cos(10^{60}))))^{99}",
    r"\tan(\tan(\tan(\tan(\tan(7^{90})))))",
]
REFUSED = ["9^{9^{9^9}}", "((9!)!)!", "9" * 100_000, r"\binom{10^9}{5}", r"\sqrt{" * 300 + "2" + "}" * 300, "{" * 9999]


@pytest.mark.slow
def test_math_answers(rounds):
    rng = random.Random(0)
    deadline_s = 1.0
    before = resources()
    settled = None
    for round_ in range(rounds):
        items = [(rng.choice(HANGS + REFUSED) + f"+{round_}" * rng.randint(0, 1), None) for _ in range(HOSTILE)]
        items += [
            (r"2\sqrt{2}", "correct") if i % 2 else (rf"\sqrt{{{3 + i % 5}}}", "wrong") for i in range(ITEMS - HOSTILE)
        ]
        items.append((r"\sqrt{8}\cdot(\sin^2 x+\cos^2 x)", None))  # an honest answer for sympy among the hostile ones
        rng.shuffle(items)
        futures = [math.submit_math(f"\\boxed{{{answer}}}", r"2\sqrt{2}", deadline_s=deadline_s) for answer, _ in items]
        scores = [future.result() for future in futures]
        for (answer, verdict), score in zip(items, scores, strict=True):
            if verdict is not None:
                assert score.verdict == verdict, (answer, score)
            assert score.verdict != "error", score
        settled = settled or resources()
    # For a moment, a killed worker and its replacement are both counted, or neither is. The first count is therefore
    # raised to the regular number of processes; a count that is too low would look like growth later.
    settled["processes"] = max(settled["processes"], before["processes"] + 1 + (os.cpu_count() or 1))
    assert_nothing_grew(settled, resources())
    pool.shared_pool("rewards.math_worker").close()
    pool._shared.clear()
    assert resources()["processes"] <= before["processes"]
