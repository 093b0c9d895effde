"""Verdicts of programs, remembered by all processes of a machine.

During training most programs have been seen before: by another sample of the group, another seed, another arm. A file
of SQLite in the user's cache folder (``$ERRATA_CACHE``, or ``~/.cache/errata``) holds their scores, keyed by what was
run: the *parsed* program, so that comments and layout do not count, its tests, its limits and what the sandbox allows.
A verdict that was read says ``cached`` in its reason. A timeout is never kept, because a busy machine may have caused
it, nor is an error.

A program whose result depends on chance or time would get its first verdict for ever: use it for tasks whose programs
are deterministic.
"""

import ast
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from rewards.parsing import parse
from rewards.score import Score, Verdict

FORMAT = 2
"""Part of every key: raise it when the same program and tests may get another score than before."""


class VerdictCache:
    """Scores on disk, shared by processes and threads.

    Args:
        path: The file; ``None`` takes the user's cache folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        folder = Path(os.environ.get("ERRATA_CACHE") or Path.home() / ".cache" / "errata")
        self.path = path or folder / "verdicts.sqlite"
        self.counts = {"read": 0, "run": 0}
        """How many verdicts were read, and how many programs were run."""
        self._local = threading.local()

    def score(self, program: str, tests: object, settings: object, run: Callable[[], Score]) -> Score:
        """The score of a program, read or else made by ``run`` and kept.

        Args:
            program: Its text.
            tests: What it must do; two tests are the same if they print the same.
            settings: Limits and whatever else decides the score; likewise.
            run: Grades it.
        """
        try:
            # What does not parse is keyed by its text: it fails, but with a message that names the place.
            meaning = ast.dump(parse(program))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            meaning = program
        # A lone surrogate, which a program may hold, has no UTF-8.
        key = hashlib.sha256(repr((FORMAT, meaning, tests, settings)).encode("utf-8", "replace")).digest()
        file = self._connection()
        found = file.execute("SELECT score FROM verdicts WHERE key = ?", (key,)).fetchone()
        if found is not None:
            self.counts["read"] += 1
            score = Score(**json.loads(found[0]))
            return replace(score, verdict=Verdict(score.verdict), reason=f"{score.reason}, cached")
        self.counts["run"] += 1
        score = run()
        if score.verdict not in (Verdict.ERROR, Verdict.TIMEOUT):
            kept = {name: value for name, value in asdict(score).items() if name != "error"}  # follows from the rest
            with file:
                file.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, json.dumps(kept)))
        return score

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection; a forked process must not use its parent's."""
        if getattr(self._local, "pid", None) != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = sqlite3.connect(self.path, timeout=60)
            # Readers do not wait for a writer; several training runs share the file.
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = OFF")  # a lost verdict is made again
            file.execute("CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, score TEXT) WITHOUT ROWID")
            self._local.file, self._local.pid = file, os.getpid()
        return self._local.file
