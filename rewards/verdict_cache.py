"""A cache of the scores of programs, shared by all processes of a machine.

During training most programs have been seen before: in another sample of the group, with another seed, in another arm.
An SQLite file in the user's cache folder (``$ERRATA_CACHE``, or ``~/.cache/errata``) holds their scores. The key of a
score is made of the program's text, its tests, its limits, what the sandbox allows and the version of Python. It is not
the parsed program, because a score quotes the text: its answer is the program, and a traceback shows lines and their
numbers. The reason of a score that was read from the cache ends with ``cached``. Timeouts and errors are never stored,
because a busy machine may have caused them. A file that cannot be read or written costs time and nothing else: a
warning says so, and every program is run.

Use the cache only for deterministic programs: if the result of a program depends on chance or time, its first score
would be returned forever.
"""

import hashlib
import json
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from rewards.score import Score, Verdict

FORMAT = 3
"""Part of every key; increase it when a change of the code may give the same program and tests another score."""
_log = logging.getLogger(__name__)


class VerdictCache:
    """Scores on disk, shared by processes and threads.

    Args:
        path: The SQLite file; ``None`` uses ``verdicts.sqlite`` in the user's cache folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        folder = Path(os.environ.get("ERRATA_CACHE") or Path.home() / ".cache" / "errata")
        self.path = path or folder / "verdicts.sqlite"
        self.counts = {"read": 0, "run": 0}
        """Number of scores that were read from the cache, and of programs that were run."""
        self._local, self._fails = threading.local(), False

    def score(self, program: str, tests: object, settings: object, run: Callable[[], Score]) -> Score:
        """The score of a program, from the cache if it is there; otherwise computed by ``run`` and stored.

        Args:
            program: Text of the program.
            tests: Tests of the program; tests count as the same if their ``repr`` is the same.
            settings: Limits and everything else that affects the score; compared by ``repr``, too.
            run: Function that grades the program.
        """
        # A program may contain a lone surrogate, which UTF-8 cannot encode; hence "replace".
        seen = repr((FORMAT, sys.version_info[:3], program, tests, settings))
        key = hashlib.sha256(seen.encode("utf-8", "replace")).digest()
        if (score := self._read(key)) is not None:
            self.counts["read"] += 1
            return replace(score, reason=f"{score.reason}, cached")
        self.counts["run"] += 1
        score = run()
        if score.verdict not in (Verdict.ERROR, Verdict.TIMEOUT):
            self._write(key, score)
        return score

    def _read(self, key: bytes) -> Score | None:
        if self._fails:
            return None
        try:
            found = self._connection().execute("SELECT score FROM verdicts WHERE key = ?", (key,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            return None
        return Score(**json.loads(found[0])) if found else None

    def _write(self, key: bytes, score: Score) -> None:
        if self._fails:
            return
        # ``error`` is not stored: it is derived again from the verdict and the reason.
        kept = {name: value for name, value in asdict(score).items() if name != "error"}
        try:
            with self._connection() as file:
                file.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, json.dumps(kept)))
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Stops using the file: its errors would otherwise break off the episodes of all programs that it lacks."""
        if not self._fails:
            _log.warning(
                "%s: the cache of verdicts cannot be used (%s), so every program is run from now on. Delete the file, "
                "make room for it, name another folder by ERRATA_CACHE, or switch the cache off (sandbox.cache=false)",
                self.path,
                error,
            )
        self._fails = True

    def _connection(self) -> sqlite3.Connection:
        """The connection of this thread; a forked process opens its own, since SQLite forbids sharing across forks."""
        if getattr(self._local, "pid", None) != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = sqlite3.connect(self.path, timeout=60)
            # Several training runs share the file: with a write-ahead log, readers do not wait for a writer.
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = OFF")  # faster; a score that is lost in a crash is computed again
            file.execute("CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, score TEXT) WITHOUT ROWID")
            self._local.file, self._local.pid = file, os.getpid()
        return self._local.file
