"""The episodes that a page carries: evaluated ones of every arm, and training ones with their tokens."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

from experiments.evidence.store import Store
from rl.analysis.rows import EvalRow

TRAINING = "training"
TRAINING_PER_RUN = 64
MAX_CHARACTERS = 40_000_000
"""Of all attempts' texts together: what a browser still opens at once."""


def pack(store: Store, limit: int) -> dict[str, Any]:
    """Episodes as small lists, names by index; see ``report.js`` for the order.

    Args:
        store: The comparison.
        limit: Most evaluated episodes; greedy ones come first, then the other modes, evenly thinned.
    """
    packer = _Packer(store)
    chosen = choose(store, limit)
    episodes = [packer.evaluated(row, line) for row, line in chosen]
    n_all = sum(1 for row in store.rows if not row.failed)
    episodes += list(packer.training())
    note = (
        f"{len(chosen):,} of {n_all:,} evaluated ones, and up to {TRAINING_PER_RUN} of each online run's stored "
        "training episodes with tokens and advantages; all of them are in arms/*/seed_*/rows.jsonl and episodes.jsonl."
    )
    return packer.names() | {"episodes": episodes, "note": note}


def packed(content: dict[str, Any]) -> str:
    """Gzip, base64: what stands in the page."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def choose(store: Store, limit: int) -> list[tuple[EvalRow, int]]:
    """Rows with their line in their file, failed ones left out, at most ``limit`` and :data:`MAX_CHARACTERS`."""
    lines: dict[tuple[str, int], int] = {}
    found: list[tuple[EvalRow, int]] = []
    for row in store.rows:
        line = lines[row.arm, row.seed] = lines.get((row.arm, row.seed), 0) + 1
        if not row.failed and row.arm in store.arms:
            found.append((row, line))
    first = [pair for pair in found if pair[0].mode == store.mode]
    rest = [pair for pair in found if pair[0].mode != store.mode]
    chosen = _thin(first, limit)
    chosen += _thin(rest, limit - len(chosen))
    characters = sum(len(text) for row, _ in chosen for text in row.texts)
    return _thin(chosen, int(len(chosen) * min(1.0, MAX_CHARACTERS / max(1, characters))))


def _thin(items: list[Any], n: int) -> list[Any]:
    """``n`` of the items, evenly spread; all of them if there are no more."""
    if n <= 0:
        return []
    return items if len(items) <= n else [items[i * len(items) // n] for i in range(n)]


class _Packer:
    def __init__(self, store: Store) -> None:
        self._store, self._tasks = store, store.tasks()
        self._arms = {arm: i for i, arm in enumerate(store.arms)}
        self._modes: dict[str, int] = {}
        self._verdicts: dict[str, int] = {}
        self._task_rows: dict[str, int] = {}
        self._token_ids: set[int] = set()

    def names(self) -> dict[str, Any]:
        """What the indices mean."""
        return {
            "keys": list(self._arms),
            "arms": [self._store.names[arm] for arm in self._arms],
            "modes": list(self._modes),
            "verdicts": list(self._verdicts),
            "tasks": [self._task(task_id) for task_id in self._task_rows],
            "tokens": self._store.token_texts(sorted(self._token_ids)),
        }

    def _task(self, task_id: str) -> list[str | None]:
        known = self._tasks.get(task_id)
        return [task_id, known["question"], known["gold"]] if known else [task_id, task_id, None]

    def evaluated(self, row: EvalRow, line: int) -> list[Any]:
        """One evaluated episode."""
        return self._episode(
            (row.arm, row.seed, row.mode, row.task_id, line),
            row.verdicts,
            row.texts,
            row.answers,
            row.rewards,
            row.n_tokens,
        )

    def training(self) -> Iterator[list[Any]]:
        """A sample of every online run's stored episodes."""
        for arm in self._store.trained:
            for seed in self._store.seeds(arm):
                stored = [pair for pair in enumerate(self._store.episodes(arm, seed), 1) if _complete(pair[1])]
                for line, episode in _thin(stored, TRAINING_PER_RUN):
                    yield self._with_tokens((arm, seed, TRAINING, episode["task_id"], line), episode)

    def _with_tokens(self, place: tuple[str, int, str, str, int], episode: dict[str, Any]) -> list[Any]:
        turns = episode["turns"]
        for turn in turns:
            self._token_ids.update(turn["prompt_ids"], turn["action_ids"])
        row = self._episode(
            place,
            [turn["score"]["verdict"] if turn["score"] else "unscored" for turn in turns],
            [turn["text"] for turn in turns],
            [turn["score"]["answer"] if turn["score"] else None for turn in turns],
            [turn["reward"] for turn in turns],
            [len(turn["action_ids"]) for turn in turns],
        )
        tokens = [[t["prompt_ids"], t["action_ids"], [round(p, 4) for p in t["sampler_logprobs"]]] for t in turns]
        advantages = [[round(value, 4) for value in turn] for turn in episode["advantages"]]
        return [*row, {"step": episode["step"], "turns": tokens, "advantages": advantages}]

    def _episode(self, place: tuple[str, int, str, str, int], verdicts: Any, *attempts: Any) -> list[Any]:
        arm, seed, mode, task, line = place
        found = [self._verdicts.setdefault(verdict, len(self._verdicts)) for verdict in verdicts]
        texts, *others = attempts
        return [
            self._arms[arm],
            seed,
            self._modes.setdefault(mode, len(self._modes)),
            self._task_rows.setdefault(task, len(self._task_rows)),
            line,
            found,
            list(texts),
            *(list(values) for values in others),
        ]


def _complete(episode: dict[str, Any]) -> bool:
    return episode["error"] is None and bool(episode.get("advantages")) and len(episode["turns"]) > 0
