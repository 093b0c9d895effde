"""Writes and finds a run's files: config, metrics, episodes. Reports and figures are made from its JSON lines."""

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rl.analysis.metrics import describe

if TYPE_CHECKING:  # reports read and write files without torch
    from rl.types import Episode

_PACKAGES = ("torch", "transformers", "trl", "accelerate", "vllm", "sympy", "hydra-core", "math-verify", "gymnasium")


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name and then renames it, so that readers never see an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with removed_on_error(temporary):
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


@contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Context in which a file or folder is written; removes the incomplete file or folder if an error occurs."""
    try:
        yield
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error was caused by a full disk or an exhausted disk quota."""
    # Libraries wrap such an error in one of their own, as its cause or its context, so both chains are followed.
    seen: list[BaseException] = [error]
    for one in seen:  # grows as it is read
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # The last message is that of torch's archive writer if a write was incomplete; that error has no errno.
        if any(said in str(one) for said in ("No space left on device", "Disk quota exceeded", "unexpected pos")):
            return True
        seen += [inner for inner in (one.__cause__, one.__context__) if inner is not None and inner not in seen]
    return False


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON with :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def describe_run(folder: Path, resolved_config: str, argv: Sequence[str] | None = None) -> None:
    """Writes ``config.yaml`` and ``run.json``: the command, versions, commit and machine.

    Args:
        folder: Folder of the run.
        resolved_config: The resolved config as YAML.
        argv: The command with its arguments; ``None`` takes those of this process.
    """
    write_text(folder / "config.yaml", resolved_config)
    info = {
        "command": list(argv if argv is not None else sys.argv),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
    }
    write_json(folder / "run.json", info)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    # The suffix "-dirty" marks uncommitted changes. Without git, or outside of a repository, the commit is unknown.
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


class JsonLines:
    """Appends one JSON object per line.

    Args:
        path: Path of the file.
        size: Truncate the file to this many bytes first, which removes rows written after the resumed checkpoint;
            ``None`` keeps all rows.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A resumed run repeats the steps since the checkpoint, so without truncation they would be in the file twice.
        if size is not None and path.exists():
            os.truncate(path, min(size, path.stat().st_size))
        self._file = path.open("a", encoding="utf-8")

    def write(self, *rows: Mapping[str, Any]) -> None:
        """Writes rows and flushes."""
        self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._file.flush()

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._file.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Mirror(Protocol):
    """A further destination of metrics, besides the run's folder."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a step."""
        ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Logs a table; all rows have the same columns."""
        ...

    def close(self) -> None:
        """Flushes everything that was logged."""
        ...


class Tracker:
    """Writes ``metrics.jsonl``, ``metrics.json`` (what each metric means) and ``episodes.jsonl`` of one run.

    ``conversations.jsonl`` is created by the first call of :meth:`conversations`.

    Args:
        folder: Folder of the run.
        sizes: Value of :attr:`sizes` at the checkpoint from which the run resumes; ``None`` for a new run.
        mirror: Further destination of metrics, such as :class:`rl.backends.trackers.Trackers`.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int] | None = None, mirror: Mirror | None = None) -> None:
        self.folder, self._mirror = folder, mirror
        self._conversations: JsonLines | None = None
        # A checkpoint from before the first table has no size for this file, which is then emptied.
        path = folder / "conversations.jsonl"
        if sizes is not None and path.exists():
            self._conversations = JsonLines(path, sizes.get("conversations", 0))
        sizes, self._described = sizes or {}, {}
        self._metrics = JsonLines(folder / "metrics.jsonl", sizes.get("metrics"))
        self._episodes = JsonLines(folder / "episodes.jsonl", sizes.get("episodes"))

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes written so far, for a checkpoint."""
        conversations = self._conversations.size if self._conversations is not None else 0
        return {"metrics": self._metrics.size, "episodes": self._episodes.size, "conversations": conversations}

    def log(self, step: int, metrics: Mapping[str, float], errors: Mapping[str, int] | None = None) -> None:
        """Writes one line of metrics.

        Args:
            step: Step at which the metrics were measured.
            metrics: Values of the metrics by name.
            errors: Number of wrong first attempts by kind of error: among the episodes trained on since the previous
                line, or, with validation rates, among those of the validation.

        Raises:
            KeyError: If a metric is not declared.
        """
        if new := [name for name in metrics if name not in self._described]:
            self._described |= {name: asdict(describe(name)) for name in new}
            write_json(self.folder / "metrics.json", self._described)  # so that files can be read without this code
        counted = {} if errors is None else {"errors": dict(errors)}
        self._metrics.write({"step": step, **{name: _rounded(value) for name, value in metrics.items()}, **counted})
        if self._mirror is not None:
            self._mirror.log(step, {name: value for name, value in metrics.items() if value == value})

    def episodes(
        self,
        step: int,
        episodes: Sequence["Episode"],
        advantages: Mapping[int, Sequence[Sequence[float]]] | None = None,
    ) -> None:
        """Writes whole episodes, including token ids and log-probs.

        Args:
            step: Step at which the episodes were sampled.
            episodes: The episodes.
            advantages: For some episodes, by their index: for each turn the advantage of every sampled token.
        """
        known = advantages or {}
        self._episodes.write(*({"step": step, **asdict(e), "advantages": known.get(i)} for i, e in enumerate(episodes)))

    def conversations(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a human-readable table of turns to its file and to the mirror."""
        if self._conversations is None:
            self._conversations = JsonLines(self.folder / "conversations.jsonl")
        rows = [{"step": step, **row} for row in rows]
        self._conversations.write(*rows)
        if self._mirror is not None and rows:
            self._mirror.table("conversations", rows, step)

    def close(self) -> None:
        """Closes the files and the mirror."""
        self._metrics.close()
        self._episodes.close()
        if self._conversations is not None:
            self._conversations.close()
        if self._mirror is not None:
            self._mirror.close()


def _rounded(value: float) -> float | None:
    return None if value != value else float(f"{value:.6g}")  # JSON has no nan


IDENTITY = "identity.json"
"""File in a run's folder with the identity that is compared when the run is resumed (:mod:`rl.checkpoint`)."""
DEPTH = 4
"""Number of folder levels below a given folder in which runs are searched for."""


def files_below(folder: Path, name: str, depth: int = DEPTH) -> list[Path]:
    """Files with a given name in a folder and the levels below it, the nearest first; links to folders are followed.

    Other runs may remove checkpoints during the search. ``Path.glob`` raises if a folder vanishes; here such a folder
    is skipped. Folders of checkpoints are not searched.
    """
    found: list[tuple[int, Path]] = []
    for at, folders, files in os.walk(folder, followlinks=True):
        level = len(Path(at).relative_to(folder).parts)
        folders[:] = [one for one in folders if one != "checkpoints"] if level < depth else []
        found += [(level, Path(at) / name)] * (name in files)
    return [path for _, path in sorted(found)]


def oldest_first(folder: Path, name: str) -> list[Path]:
    """:func:`files_below` sorted by the start of their runs, so that rewriting a report does not change the order."""

    def started(path: Path) -> float:
        run = path.with_name("run.json")
        if not run.exists():
            return path.stat().st_mtime
        return datetime.fromisoformat(json.loads(run.read_text(encoding="utf-8"))["started"]).timestamp()

    return sorted(files_below(folder, name), key=lambda path: (started(path), str(path)))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads all rows of a JSON Lines file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
