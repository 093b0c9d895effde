"""Every program of ``programs.py`` gets its verdict and does no harm, in every mode that this machine supports."""

import fcntl
import os
import resource
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rewards.asserts import Case
from rewards.code import FunctionTests, score_program
from rewards.sandbox import Limits, Mode, Sandbox, SandboxError
from tests.rewards.programs import DECOY, HONEST, MARKER, PROGRAMS, T

HIDDEN_ARGUMENT, HIDDEN_RESULT = 918273, 1836546
TESTS = FunctionTests(
    public=(Case("double", (2,), 4),),
    hidden=(Case("double", (HIDDEN_ARGUMENT,), HIDDEN_RESULT), Case("double", ("hidden-ab",), "hidden-abhidden-ab")),
)
LIMITS, SHORT = Limits(cpu_s=10.0), Limits(cpu_s=0.25)
"""Limits for programs that end by themselves, and for those that never end.

Programs that end use up to a tenth of a second, so that even a slow machine does not stop them. For programs that never
end, any limit is right.
"""
MEMORY = 2**28
"""Bytes of memory in a sandbox; few enough that a program fills them in a tenth of a second."""
MODES = {"N": Mode.NAMESPACES, "L": Mode.LANDLOCK, "S": Mode.STRICT}


OF_OTHER_TESTS = ("sem.", "plasma", "ray", "psm_", "torch_", "__KMP")
"""Beginnings of names of shared memory that belongs to libraries in other tests that run at the same time."""


def machine():
    """State of the machine that a program could change by escaping from the sandbox."""
    files = {path: os.stat(path) for path in (DECOY, os.__file__, "/dev/null", "/dev/zero", "/var/tmp")}
    return {
        "files": {
            path: (s.st_mode, s.st_uid, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            for path, s in files.items()
        },
        "folders": [
            sorted(name for name in os.listdir(path) if not name.startswith(OF_OTHER_TESTS))
            for path in ("/var/tmp", "/dev/shm")
            if os.path.isdir(path)
        ],
        "content": Path(DECOY).read_text(),
        "limits": resource.getrlimit(resource.RLIMIT_CPU),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
    }


def graded(letter):
    """Runs all rows of a mode at once, in any order, and then an honest program.

    Returns the scores of the rows by name, the score of the honest program, and the machine's state before and after.
    """
    rows = [row for row in PROGRAMS if letter in row.modes]
    # All modes use the same decoy file, so processes that test several modes at the same time must take turns.
    lock = open(Path(tempfile.gettempdir()) / "errata-decoy.lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    Path(DECOY).write_text("decoy")
    before = machine()
    with Sandbox(mode=MODES[letter], memory_bytes=MEMORY) as sandbox, ThreadPoolExecutor(8) as threads:
        limits = (SHORT if row.verdict == T else LIMITS for row in rows)
        scores = list(
            threads.map(lambda row, limits: score_program(row.source, TESTS, limits, sandbox=sandbox), rows, limits)
        )
        again = score_program(HONEST, TESTS, LIMITS, sandbox=sandbox)
    after = machine()
    os.unlink(DECOY)
    lock.close()
    return {f"{row.category}: {row.name}": score for row, score in zip(rows, scores, strict=True)}, again, before, after


def missing(letter):
    """Why this machine does not support a mode; empty if it does."""
    try:
        Sandbox(n_workers=1, mode=MODES[letter]).close()
    except SandboxError as error:
        return str(error)
    return ""


def skip_without(letter):
    if missing(letter):
        pytest.skip(missing(letter))


def test_the_table_is_large_and_names_are_unique():
    hostile = [row for row in PROGRAMS if row.category not in ("honest", "broken", "chat")]
    for letter in MODES:
        assert sum(row.verdict != "correct" and letter in row.modes for row in hostile) >= 120
    assert len({(row.category, row.name) for row in PROGRAMS}) == len(PROGRAMS)
    assert all(row.why for row in PROGRAMS)


def complaint(row, score):
    """What is wrong with the score of a row; empty if nothing is."""
    if score.verdict != row.verdict or score.value != (row.verdict == "correct"):
        return f"{row.category}: {row.name}: {row.why}: {score}"
    forbidden = (str(HIDDEN_ARGUMENT), str(HIDDEN_RESULT), "hidden-ab", "<|im_end|>", "\x1b", "\x00")
    seen = [text for text in forbidden if text in score.observation]
    if seen or len(score.observation) >= 8000:
        return f"{row.category}: {row.name}: its observation has {seen}, {len(score.observation)} characters"
    return ""


# A single test per mode, so that one process runs all rows of the mode, and runs them once.
@pytest.mark.parametrize("letter", MODES)
def test_every_program_gets_its_verdict_and_leaves_the_machine_as_it_was(letter):
    skip_without(letter)
    scores, again, before, after = graded(letter)
    rows = {f"{row.category}: {row.name}": row for row in PROGRAMS}
    complaints = [said for name, score in scores.items() if (said := complaint(rows[name], score))]
    assert len(scores) == sum(letter in row.modes for row in PROGRAMS)
    assert not complaints, "\n".join(complaints)
    assert again.verdict == "correct"
    assert after == before
    assert not os.path.exists(MARKER)
