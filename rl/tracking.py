"""What a run writes: its folder, its metrics, its episodes. JSON lines first; everything else is drawn from them."""

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
    """Writes a file so that a reader never sees half of it: to a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with removed_on_error(temporary):
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


@contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Inside, a file or folder is written; what is half written is removed if that fails."""
    try:
        yield
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error comes from a disk, or one's share of it, that has no room left; libraries wrap it in theirs."""
    # Libraries raise errors of their own from it, or while they handle it; either chain is followed.
    seen: list[BaseException] = [error]
    for one in seen:  # grows as it is read
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # The last is what torch's archive writer says when less was written than it gave; it keeps no errno.
        if any(said in str(one) for said in ("No space left on device", "Disk quota exceeded", "unexpected pos")):
            return True
        seen += [inner for inner in (one.__cause__, one.__context__) if inner is not None and inner not in seen]
    return False


def write_json(path: Path, value: Any) -> None:
    """:func:`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def describe_run(folder: Path, resolved_config: str, argv: Sequence[str] | None = None) -> None:
    """Writes ``config.yaml`` and ``run.json``: the command, versions, commit and machine.

    Args:
        folder: Of the run.
        resolved_config: YAML.
        argv: The command; ``None`` takes this process's.
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
    # "-dirty" says that the code was not what the commit holds. Without git, or outside of a repository, nobody knows.
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


class JsonLines:
    """Appends one JSON object per line.

    Args:
        path: The file.
        size: Cut the file to this many bytes first: what a run wrote after the checkpoint that it goes on from.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A resumed run writes the steps since the checkpoint again; left in the file they would stand there twice.
        if size is not None and path.exists():
            os.truncate(path, min(size, path.stat().st_size))
        self._file = path.open("a", encoding="utf-8")

    def write(self, *rows: Mapping[str, Any]) -> None:
        """Writes rows and flushes."""
        self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._file.flush()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._file.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Mirror(Protocol):
    """Another place that metrics go to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics."""
        ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Rows with the same columns."""
        ...

    def close(self) -> None:
        """Flushes."""
        ...


class Tracker:
    """Metrics and episodes of one run: ``metrics.jsonl``, ``metrics.json`` (what each metric is), ``episodes.jsonl``.

    ``conversations.jsonl`` is there once a table of conversations was asked for.

    Args:
        folder: Of the run.
        sizes: What :attr:`sizes` was at the checkpoint that the run goes on from.
        mirror: Where metrics go besides, such as :class:`rl.backends.trackers.Trackers`.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int] | None = None, mirror: Mirror | None = None) -> None:
        self.folder, self._mirror = folder, mirror
        self._conversations: JsonLines | None = None
        # ``sizes`` without a file's name (a checkpoint from before the first table) cuts that file to nothing.
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
        """One line of metrics.

        Args:
            step: When they were measured.
            metrics: By name.
            errors: How many wrong first attempts of which kind: of what was trained on since the line before, or, in a
                line of validation rates, of the validation.

        Raises:
            KeyError: If a metric is not declared.
        """
        if new := [name for name in metrics if name not in self._described]:
            self._described |= {name: asdict(describe(name)) for name in new}
            write_json(self.folder / "metrics.json", self._described)  # a reader needs no catalogue
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
        """Whole episodes, token ids and log-probs included.

        Args:
            step: When they were sampled.
            episodes: Them.
            advantages: Of some of them, by their index: for each turn the advantage of every sampled token.
        """
        known = advantages or {}
        self._episodes.write(*({"step": step, **asdict(e), "advantages": known.get(i)} for i, e in enumerate(episodes)))

    def conversations(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of turns that a person can read, to its file and to the mirror."""
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
"""In the folder of every run: by what it is known when it is to be gone on with (:mod:`rl.checkpoint`)."""
DEPTH = 4
"""How many folders below a given one a run is looked for."""


def files_below(folder: Path, name: str, depth: int = DEPTH) -> list[Path]:
    """Files of a name in a folder and some folders below it, the nearest first; links to folders are followed.

    Other runs write there and remove their checkpoints while somebody looks. ``Path.glob`` raises when a folder has
    vanished; here it is passed over, and what a run keeps of its weights is not looked into.
    """
    found: list[tuple[int, Path]] = []
    for at, folders, files in os.walk(folder, followlinks=True):
        level = len(Path(at).relative_to(folder).parts)
        folders[:] = [one for one in folders if one != "checkpoints"] if level < depth else []
        found += [(level, Path(at) / name)] * (name in files)
    return [path for _, path in sorted(found)]


def oldest_first(folder: Path, name: str) -> list[Path]:
    """:func:`files_below` by when their runs were started: a report that is written again makes none the newest."""

    def started(path: Path) -> float:
        run = path.with_name("run.json")
        if not run.exists():
            return path.stat().st_mtime
        return datetime.fromisoformat(json.loads(run.read_text(encoding="utf-8"))["started"]).timestamp()

    return sorted(files_below(folder, name), key=lambda path: (started(path), str(path)))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON-lines file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
