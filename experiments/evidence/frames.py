"""Every episode of a folder as a pandas frame, for further analysis; needs neither torch nor transformers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.evidence.asked import Asked, asked_in
from experiments.evidence.store import Store
from rl.analysis.controls import CONTROLS
from rl.analysis.rows import EvalRow
from rl.tracking import files_below, read_jsonl

if TYPE_CHECKING:  # importing pandas takes half a second, so functions that need it import it when they are called
    import pandas

TRAINING = "training"
"""The mode of training episodes; the modes of evaluated episodes are listed in :class:`rl.analysis.rows.EvalRow`."""
_OF_ATTEMPTS = {
    "correct": "correct",
    "rewards": "reward",
    "verdicts": "verdict",
    "answers": "answer",
    "texts": "text",
    "n_tokens": "tokens",
    "truncated": "truncated",
    "errors": "error",
}
"""Fields of a row that have one value per attempt, each with its column's name without the number of the attempt."""
_LATER = re.compile(r"accuracy_t(?!1$)\d+")
"""Names of the rates that do not depend on an episode's first attempt."""


def load_rows(folder: Path | str) -> "pandas.DataFrame":
    """Loads every episode below a folder into a frame with one row per episode.

    Args:
        folder: A run, a comparison, a sweep, a study, or a folder that contains several of these.

    Returns:
        A frame with ``run`` (the run's folder, relative to ``folder``), ``arm``, ``seed``, ``mode``, ``step`` (of
        training episodes), ``task_id``, ``question``, ``gold``, ``sample``, ``attempts`` (how many were made),
        ``stop_reason``, ``failed`` and ``broken_by``; for attempt k ``correct_k``, ``reward_k``, ``verdict_k``,
        ``answer_k``, ``text_k``, ``tokens_k``, ``truncated_k``, ``error_k``, and ``advantage_k`` (the mean over the
        attempt's tokens) if the attempt was trained on; then one column for each rate of
        :data:`rl.analysis.rates.RATES`, missing where the rate is undefined. ``mode`` is one of
        :class:`rl.analysis.rows.EvalRow`, such as ``greedy`` or a control's name, or ``training`` for the training
        episodes that a run stored. Samples of a study have ``study``, ``arm``, ``seed``, ``step``, and the columns that
        the study wrote.

    Raises:
        FileNotFoundError: If the folder holds no finished run and no finished seed of a study.
        NotADirectoryError: If ``folder`` is a file.
        TypeError: If ``folder`` is neither a path nor a string.
    """
    if not isinstance(folder, Path | str):
        raise TypeError(f"load_rows takes the folder of runs, got {folder!r:.100}")
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file: load_rows takes the folder of runs that it is in")
    records = [
        {"study": study_of(seed), **row} for seed in study_seeds(folder) for row in read_jsonl(seed / "rows.jsonl")
    ]
    try:
        records += _episodes(Store(folder))
    except FileNotFoundError:
        if not records:
            raise
    return _frame(records)


def _frame(records: list[dict[str, Any]]) -> "pandas.DataFrame":
    """Builds the frame: columns are grouped by attempt, rates come last, and missing cells keep a column's type."""
    import pandas as pd

    rates = dict.fromkeys(name for record in records for name in record.get("values", ()))
    frame = pd.DataFrame.from_records([record | record.pop("values", {}) for record in records])
    # Episodes with fewer attempts have missing cells. With NumPy's types these would turn a column of integers into
    # floats, so pandas' nullable types are used.
    kinds = {"correct": "boolean", "truncated": "boolean", "tokens": "Int64", "step": "Int64"}
    names = [*_OF_ATTEMPTS.values(), "advantage"]
    most = max((record.get("attempts", 0) for record in records), default=0)
    of_attempts = [f"{name}_{k}" for k in range(1, most + 1) for name in names if f"{name}_{k}" in frame]
    about = [column for column in frame if column not in of_attempts and column not in rates]
    frame = frame.reindex(columns=[*about, *of_attempts, *rates])
    typed = {one: kinds[name] for one in of_attempts if (name := one.rpartition("_")[0]) in kinds}
    return frame.astype(typed | ({"step": kinds["step"]} if "step" in frame else {}))


def study_seeds(folder: Path) -> list[Path]:
    """Folders of the finished seeds of studies: they have a ``rows.jsonl``, and a ``result.json`` without an arm."""
    found = files_below(folder, "result.json")
    return sorted(path.parent for path in found if (path.parent / "rows.jsonl").exists() and "arm" not in _json(path))


def study_of(seed: Path) -> str:
    """Name of the study that a seed's folder belongs to, from ``study.json`` or else from the name of the folder."""
    told = (_json(above / "study.json") for above in seed.parents[:2] if (above / "study.json").exists())
    return next((one["study"] for one in told), seed.parent.parent.name)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _episodes(store: Store) -> Iterator[dict[str, Any]]:
    # A control plays again what was played greedily, so one with other first attempts put them there. Where the other
    # attempt happens to have the same text, its row is treated alike: these few rows would give a rate of their own.
    own = {(row.arm, row.seed, row.task_id): row.texts[:1] for row in store.rows if row.mode == "greedy"}
    controls = [row for row in store.rows if row.mode in CONTROLS]
    put = {row.mode for row in controls if row.texts[:1] != own.get((row.arm, row.seed, row.task_id), row.texts[:1])}
    asked = {key: asked_in(store, *key) for key in {(row.arm, row.seed, row.mode) for row in store.rows}}
    for row in store.rows:
        place = store.runs[row.arm, row.seed].folder
        record = _record(row, {"run": _below(place, store.folder)}, asked[row.arm, row.seed, row.mode])
        if row.mode in put:
            record |= dict.fromkeys(f"{name}_1" for name in _OF_ATTEMPTS.values() if name != "text")
            record["values"] = {name: value for name, value in row.values.items() if _LATER.fullmatch(name)}
        yield record
    for (arm, seed), run in store.runs.items():
        for episode in store.episodes(arm, seed):
            row, about = training_row(episode, arm, seed), {"run": _below(run.folder, store.folder)}
            means = [sum(one) / len(one) if one else None for one in episode.get("advantages") or ()]
            attempts = [mean for mean, turn in zip(means, episode["turns"], strict=False) if _answers(turn, episode)]
            paid = {f"advantage_{k}": mean for k, mean in enumerate(attempts, 1)}
            yield _record(row, about | {"step": episode["step"]}, store.asked[arm, seed]) | paid


def _below(place: Path, folder: Path) -> str:
    return place.relative_to(folder).as_posix()


def _record(row: EvalRow, about: dict[str, Any], tasks: Asked) -> dict[str, Any]:
    known = tasks.get(row.task_id, {})
    record = {"run": about["run"], "arm": row.arm, "seed": row.seed, "mode": row.mode, "step": about.get("step")}
    record |= {"task_id": row.task_id, "question": known.get("question"), "gold": known.get("gold")}
    record |= {"sample": row.sample, "attempts": len(row.correct), "stop_reason": row.stop_reason}
    record |= {"failed": row.failed, "broken_by": row.broken_by}
    for name, column in _OF_ATTEMPTS.items():
        record |= {f"{column}_{k}": value for k, value in enumerate(getattr(row, name), 1)}
    return record | {"values": row.values}


def _answers(turn: dict[str, Any], episode: dict[str, Any]) -> bool:
    # If there is a solver, its turns are the attempts, not those of a verifier or critic. Without a solver, every turn
    # is an attempt.
    roles = {one["role"] for one in episode["turns"]}
    return turn["role"] == "solver" or "solver" not in roles


def training_row(episode: dict[str, Any], arm: str, seed: int) -> EvalRow:
    """Converts a training episode from ``episodes.jsonl`` to a row like those of evaluation, with mode ``training``."""
    turns = [turn for turn in episode["turns"] if _answers(turn, episode)]
    scores = [turn["score"] or {"verdict": "unscored"} for turn in turns]
    return EvalRow(
        arm=arm,
        seed=seed,
        mode=TRAINING,
        task_id=episode["task_id"],
        sample=0,
        attempts=len(turns),
        correct=tuple(score["verdict"] == "correct" for score in scores),
        rewards=tuple(turn["reward"] for turn in turns),
        verdicts=tuple(score["verdict"] for score in scores),
        answers=tuple(score.get("answer") for score in scores),
        texts=tuple(turn["text"] for turn in turns),
        n_tokens=tuple(len(turn["action_ids"]) for turn in turns),
        truncated=tuple(turn["finish"] == "length" for turn in turns),
        stop_reason=episode["stop_reason"],
        failed=episode["error"] is not None or not turns,
        answer_keys=tuple(score.get("key", score.get("answer")) for score in scores),
        said=tuple(
            (turn["role"], turn["text"], turn["reward"]) for turn in episode["turns"] if not _answers(turn, episode)
        ),
        errors=tuple(score.get("error") or "" for score in scores) if any(s.get("error") for s in scores) else (),
        broken_by=episode["error"] or "",
        observations=tuple(score.get("observation", "") for score in scores),
    )
