"""Exports episodes and tables for other tools: ``python -m experiments.export run=<folder> to=jsonl``.

The folder is a run, a comparison, a sweep, a study, or a folder of several. A format is a function in :data:`FORMATS`;
a module named by ``plugins`` may register further formats.
"""

import csv
import io
import json
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.cli import console, entry_point
from experiments.conversations import SOLVER, Conversation, Reply, conversations
from experiments.evidence import build, ids, load_rows
from experiments.evidence.draw import in_lines
from experiments.evidence.frames import study_seeds
from experiments.evidence.latex import tabulars, tex
from experiments.evidence.model import Table
from experiments.evidence.store import Store
from experiments.schema import ExportConfig
from rewards.lookup import Lookup
from rl.tracking import JsonLines, files_below, write_json, write_text

Format = Callable[[Path, Path], list[Path]]
"""``(folder, out) -> files``: exports the runs below ``folder`` to the empty folder ``out``; returns what it wrote."""

FORMATS: Lookup[Format] = Lookup("to")
"""Formats by name."""


def record(told: Conversation) -> dict[str, Any]:
    """A conversation as a row: ``messages`` first; ``replies`` has the scores of the messages that the policy wrote."""
    row = asdict(told)
    return row if told.more else {name: value for name, value in row.items() if name != "more"}


@FORMATS.register("jsonl")
def to_jsonl(folder: Path, out: Path) -> list[Path]:
    """Conversations as JSON Lines, one per line, in ``conversations.jsonl``."""
    path = out / "conversations.jsonl"
    file = JsonLines(path, 0)  # truncates the file, which an interrupted export may have left half written
    for told in conversations(folder):
        file.write(record(told))
    file.close()
    return [path]


@FORMATS.register("datasets")
def to_datasets(folder: Path, out: Path) -> list[Path]:
    """Conversations as a data set for ``datasets.load_from_disk``; ``more`` has a study's further columns as JSON."""
    import datasets  # imported here because it takes seconds

    rows = [asdict(told) | {"more": json.dumps(told.more, ensure_ascii=False)} for told in conversations(folder)]
    datasets.Dataset.from_list(rows).save_to_disk(str(out / "conversations"))
    return [out / "conversations"]


@FORMATS.register("inspect")
def to_inspect(folder: Path, out: Path) -> list[Path]:
    """Logs for Inspect (version 2, JSON), one per run, arm and mode; ``inspect view --log-dir <out>`` opens them."""
    paths = []
    for run, told in groupby(conversations(folder), key=lambda one: one.run):
        logs: dict[tuple[str, str], list[Conversation]] = {}
        for one in told:  # grouped by arm, too: in a study, all arms with one seed share a folder
            logs.setdefault((one.arm, one.mode), []).append(one)
        for (arm, mode), of_one in logs.items():
            log = _log(of_one, folder / run)
            # Inspect lists only files whose names have the form of its own logs: <time>_<task>_<id>.
            task = re.sub(r"[^A-Za-z0-9.]+", "-", f"{run}-{arm}-{mode}").strip("-.")
            when = log["eval"]["created"][:19].replace(":", "-")
            paths.append(out / f"{when}_{task}_{log['eval']['task_id']}.json")
            write_json(paths[-1], log)
    return paths


_INSPECT = {"correct": "C", "no_answer": "N", "unscored": "N", None: "N"}
"""Inspect's score for each verdict; all verdicts that are not listed count as incorrect, ``I``."""


def _log(told: Sequence[Conversation], run: Path) -> dict[str, Any]:
    """An ``EvalLog`` of the conversations of one run, arm and mode."""
    first, seen = told[0], Counter[str]()
    model = f"errata/{first.arm}"
    samples = []
    for one in told:
        # Inspect numbers the samples of a task as epochs. An episode has one conversation per role. The conversations
        # of other roles than the solver get sample names of their own, so that they are not counted as further epochs.
        name = one.task_id if one.role == SOLVER else f"{one.task_id} ({one.role})"
        seen[name] += 1
        samples.append(_sample(one, name, seen[name], model))
    # The accuracy of each attempt, over episodes that did not fail and attempts that were verified.
    scored: dict[str, list[bool]] = {}
    for one, sample in zip(told, samples, strict=True):
        for name, score in sample["scores"].items() if not one.failed else ():
            if score["metadata"]["verdict"] not in (None, "unscored"):
                scored.setdefault(name, []).append(score["value"] == "C")
    result = run / "result.json"
    created = datetime.fromtimestamp(result.stat().st_mtime, UTC).isoformat(timespec="seconds")
    about = {"arm": first.arm, "seed": first.seed, "mode": first.mode, "run": first.run}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": _id(*about.values()),
            "run_id": _id(first.run),
            "created": created,
            "task": f"{first.arm}, seed {first.seed}, {first.mode}",
            "task_id": _id(first.run, first.arm, first.mode),
            "dataset": {"name": first.mode, "samples": len(seen), "sample_ids": list(seen), "shuffled": False},
            "model": model,
            "config": {"epochs": max(seen.values())},
            "metadata": about,
        },
        "plan": {"name": "plan", "steps": [], "config": {}},  # Inspect cannot read the log's header without it
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples) - sum(one.failed for one in told),
            "scores": [
                {"name": name, "scorer": name, "metrics": {"accuracy": {"name": "accuracy", "value": mean(values)}}}
                for name, values in scored.items()
            ],
        },
        "stats": {"started_at": created, "completed_at": created},
        "samples": samples,
    }


def _sample(told: Conversation, name: str, epoch: int, model: str) -> dict[str, Any]:
    own = {reply.message for reply in told.replies}
    # Inspect's ``input`` holds the messages before the first generated one; ``messages`` holds the whole conversation,
    # including these.
    opening = [one for i, one in enumerate(told.messages) if i < min(own)]
    messages = [
        one | ({"model": model, "source": "generate"} if i in own else {}) for i, one in enumerate(told.messages)
    ]
    return {
        "id": name,
        "epoch": epoch,
        "input": opening,
        "target": told.gold or "",
        "messages": messages,
        "output": {
            "model": model,
            "choices": [
                {"message": messages[max(own)], "stop_reason": "max_tokens" if told.replies[-1].truncated else "stop"}
            ],
        },
        "scores": {f"attempt_{k}": _score(one) for k, one in enumerate(told.replies, 1)},
        "metadata": {
            "question": told.question,
            "stop_reason": told.stop_reason,
            "failed": told.failed,
            **({"step": told.step} if told.step is not None else {}),
            **told.more,
        },
    }


def _score(reply: Reply) -> dict[str, Any]:
    about: dict[str, Any] = {"reward": reply.reward, "verdict": reply.verdict, "tokens": reply.tokens}
    if reply.advantages:
        about["advantages"] = reply.advantages
    return {"value": _INSPECT.get(reply.verdict, "I"), "answer": reply.answer, "metadata": about}


def _id(*words: Any) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, words))).hex  # exporting again gives the same id


@FORMATS.register("csv")
def to_csv(folder: Path, out: Path) -> list[Path]:
    """Every table as ``<id>.csv``, and all episodes in ``episodes.csv``, one per line."""
    paths = []
    for name, table in tables(folder):
        text = io.StringIO()
        csv.writer(text).writerows(in_lines(table))
        paths.append(out / f"{name}.csv")
        write_text(paths[-1], text.getvalue())
    paths.append(out / "episodes.csv")
    write_text(paths[-1], load_rows(folder).to_csv(index=False))
    return paths


@FORMATS.register("latex")
def to_latex(folder: Path, out: Path) -> list[Path]:
    r"""Every table as ``<id>.tex``, to be read by ``\input``; the document needs ``\usepackage{booktabs}``."""
    paths = []
    for name, table in tables(folder):
        parts = r"\par\bigskip".join(f"\n{one}\n" for one in tabulars(table)).strip("\n")
        caption = rf"\caption{{{tex(table.title)}. {tex(table.caption)}}}"
        lines = [r"\begin{table}", r"\centering", caption, rf"\label{{tab:{name}}}", parts, r"\end{table}"]
        paths.append(out / f"{name}.tex")
        write_text(paths[-1], "\n".join(lines) + "\n")
    return paths


def tables(folder: Path | str) -> Iterator[tuple[str, Table]]:
    """Every table below a folder, with a name for its file: the tables that studies wrote, then those of the runs.

    Raises:
        FileNotFoundError: If the folder holds neither finished runs nor a finished study.
    """
    folder = Path(folder)
    studies = sorted(path.parent for path in files_below(folder, "study.json"))
    for study in studies:
        name = json.loads((study / "study.json").read_text(encoding="utf-8"))["study"]
        place = f"{name}_{study.name}" if len(studies) > 1 else name
        for path in sorted(study.glob("exhibits/*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("kind") == "table":
                yield f"{place}_{path.stem}", Table(**found)
    try:
        store = Store(folder)
    except FileNotFoundError:
        if not studies and not study_seeds(folder):
            raise
        return
    for exhibit in build(store, [one for one in ids() if not one.startswith("F")]):
        if isinstance(exhibit, Table):
            yield exhibit.id, exhibit


def export(folder: Path | str, to: str, out: Path | str | None = None) -> list[Path]:
    """Exports the runs below a folder in a format, and returns the files written.

    Args:
        folder: A run, a comparison, a sweep, a study, or a folder of several.
        to: Name of the format in :data:`FORMATS`.
        out: Folder to write to; ``None`` for ``export/<format>`` below ``folder``. Files of an earlier export in it are
            replaced.

    Raises:
        UnknownNameError: If there is no such format.
        FileNotFoundError: If there is no such folder, or it holds no finished run or study.
        FileExistsError: If ``out`` is not empty and no export has written to it.
    """
    folder = Path(folder)
    write, place = FORMATS[to], Path(out) if out else folder / "export" / to
    if not folder.is_dir():
        raise FileNotFoundError(f"run={folder}: there is no such folder; use runs/<name>/<time>")
    # The mark file lists what the last export wrote, so that a new export removes nothing else. A folder without the
    # mark holds files that must not be touched.
    mark = place / ".exported"
    if place.exists() and any(place.iterdir()):
        if not mark.exists():
            raise FileExistsError(f"out={place}: it holds files that no export has written; name an empty folder")
        for name in mark.read_text(encoding="utf-8").splitlines():
            _remove(place / name)
    made = [one for one in (place, *place.parents) if not one.exists()]
    place.mkdir(parents=True, exist_ok=True)
    try:
        write_text(mark, "")
        paths = write(folder, place)
    except BaseException:
        if made:  # remove the folders that this failed export has created
            shutil.rmtree(made[-1])
        raise
    write_text(mark, "".join(f"{path.relative_to(place).as_posix()}\n" for path in paths))
    return paths


def _remove(path: Path) -> None:
    for inner in path.iterdir() if path.is_dir() else ():
        _remove(inner)
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


@entry_point("export", runs=False)
def main(cfg: ExportConfig) -> None:
    """Exports a folder and prints the paths of the files written."""
    paths = export(cfg.run, cfg.to, cfg.out)
    for path in paths:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
