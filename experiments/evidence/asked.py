"""What runs were asked: the questions and gold answers that each run stored, and whether runs agree on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import UserError
from rl.analysis.rows import TRANSFER

if TYPE_CHECKING:  # that module imports this one
    from experiments.evidence.store import Store

Asked = dict[str, dict[str, str]]
"""The lines of a run's ``tasks.jsonl``, with question and gold answer, by task id."""
_OTHER_TASKS = {"id", "name", "dataset", "options", "seeds"}
"""Keys of ``env`` that decide which tasks there are."""


def refuse_other_tasks(asked: Mapping[Path, Asked]) -> None:
    """Raises UserError if one task id stands for different questions or answers in different runs' folders.

    Rows are paired by task id. The ids of a file's rows are its name and the line, so two files of one name, or a file
    before and after a change, would be paired although other questions were asked.
    """
    first: dict[str, tuple[Path, dict[str, str]]] = {}
    for folder, tasks in asked.items():
        for name, now in tasks.items():
            other, before = first.setdefault(name, (folder, now))
            if (now["question"], now["gold"]) != (before["question"], before["gold"]):
                raise UserError(
                    f"task {name!r} asked {before['question'][:60]!r} with the answer {before['gold'][:40]!r} in "
                    f"{other}, but {now['question'][:60]!r} with the answer {now['gold'][:40]!r} in {folder}: the data "
                    "were changed between these runs, so they cannot be compared. Report them separately, or evaluate "
                    "both on the same data"
                )


def asked_in(store: "Store", arm: str, seed: int, mode: str) -> Asked:
    """What a run was asked in a mode; empty for transfer to other tasks, which ``tasks.jsonl`` does not hold.

    Tasks of another data set may have the ids of the run's own tasks.
    """
    if mode.startswith(TRANSFER):
        own = store.runs[arm, seed].config
        evaluation = (own if own.get("env") else store.config).get("evaluation") or {}
        changes = (evaluation.get("transfer") or {}).get(mode.removeprefix(TRANSFER))
        if changes is None or _OTHER_TASKS & set(changes):
            return {}
    return store.asked[arm, seed]
