"""The episodes of a page: an index that is loaded when the page opens, and shards of texts that are read on demand."""

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from experiments.evidence.asked import asked_in
from experiments.evidence.store import Store
from rl.analysis.controls import CONTROLS, short
from rl.analysis.rows import LONGER, EvalRow

TRAINING = "training"
TRAINING_PER_RUN = 64
MAX_CHARACTERS = 100_000_000
"""Most characters of all attempts' texts together; a browser must be able to hold them in memory during a search."""
SHARD_CHARACTERS = 1_000_000
"""Approximate number of characters of a shard; the browser reads a whole shard to show one of its episodes."""
RIGHT = "correct"


class Packed:
    """Episodes in the format of the page: columns to filter by, and texts in shards.

    Args:
        arms: Names of the arms by key.
    """

    def __init__(self, arms: dict[str, str]) -> None:
        self._arms, self._names = list(arms), list(arms.values())
        self._modes, self._verdicts, self._tasks = _Index(), _Index(), _Index()
        names = ("arm", "seed", "mode", "task", "line", "verdict", "path", "reward", "tokens")
        self.columns: dict[str, list[Any]] = {name: [] for name in names}
        self.bodies: list[list[Any]] = []
        self.note = ""
        self.tasks: dict[str, tuple[str, str | None]] = {}
        """Question and gold answer by task id; the question of a task without an entry is its id."""
        self.tokens: dict[int, str] = {}
        self.places: dict[str, str] = {}
        """Path of each run's folder relative to the page, by ``<number of its arm>/<seed>``."""

    def __len__(self) -> int:
        return len(self.bodies)

    def add(
        self,
        place: tuple[str, int, str, str, int],
        verdicts: Sequence[str],
        texts: Sequence[str],
        answers: Sequence[Any],
        rewards: Sequence[float],
        n_tokens: Sequence[int],
        more: dict[str, Any] | None = None,
    ) -> None:
        """Adds an episode of K attempts.

        Args:
            place: Key of the arm, seed, mode, task id, and line number of the episode in the file that it is from.
            verdicts: K verdicts.
            texts: K texts.
            answers: K answers, ``None`` where the attempt has no answer.
            rewards: K rewards.
            n_tokens: K lengths in tokens.
            more: Data of a training episode only: its step, the tokens of its turns, and its advantages.
        """
        arm, seed, mode, task, line = place
        # The page filters by transition: 1 for right and 0 for wrong, at the first and at the last attempt.
        path = [int(one == RIGHT) for one in (verdicts[0], verdicts[-1])][: len(verdicts)]
        found = (
            *(self._arms.index(arm), seed, self._modes[mode], self._tasks[task], line, self._verdicts[verdicts[-1]]),
            *("".join(map(str, path)), round(rewards[-1], 4), sum(n_tokens)),
        )
        for column, value in zip(self.columns.values(), found, strict=True):
            column.append(value)
        body = [list(verdicts), list(texts), list(answers), list(rewards), list(n_tokens)]
        self.bodies.append([*body, more] if more else body)

    def index(self) -> dict[str, Any]:
        """The index as JSON types: everything that the page needs except the episodes' texts."""
        known = [[task, *self.tasks.get(task, (task, None))] for task in self._tasks]
        return {
            **{
                "arms": self._names,
                "modes": list(map(_kind, self._modes)),
                "verdicts": list(self._verdicts),
                "tasks": known,
            },
            **{"tokens": self.tokens, "places": self.places, "note": self.note, "columns": self.columns},
            "starts": [start for start, _ in self._cut()],
        }

    def shards(self) -> list[str]:
        """The packed texts; shard k begins with episode ``index()["starts"][k]``."""
        return [
            packed(json.dumps(self.bodies[start:end], ensure_ascii=False, separators=(",", ":")))
            for start, end in self._cut()
        ]

    def _cut(self) -> list[tuple[int, int]]:
        starts, size = [0], 0
        for i, body in enumerate(self.bodies):
            # Estimated size: the texts, 100 characters for the other values, and for training episodes 30 characters
            # for the id, log-probability and advantage of each token.
            length = sum(map(len, body[1])) + 100 + (30 * sum(body[4]) if len(body) > 5 else 0)
            if size and size + length > SHARD_CHARACTERS:
                starts.append(i)
                size = 0
            size += length
        return list(zip(starts, [*starts[1:], len(self.bodies)], strict=True))


def pack(store: Store, limit: int) -> Packed:
    """Packs evaluated episodes, and stored training episodes with their tokens.

    Args:
        store: The runs.
        limit: Most evaluated episodes; those of the store's main mode come first, then the other modes, evenly thinned.
    """
    found, token_ids = Packed({arm: store.names[arm] for arm in store.arms}), set[int]()
    chosen = choose(store, limit)
    tasks = {task: one for asked in store.asked.values() for task, one in asked.items()}
    for row, line in chosen:
        # A task of another data set may have the id of a task of the run's own; the page then tells them apart.
        own = row.task_id in asked_in(store, row.arm, row.seed, row.mode) or row.task_id not in tasks
        place = (row.arm, row.seed, row.mode, row.task_id if own else f"{row.task_id} ({row.mode})", line)
        found.add(place, row.verdicts, row.texts, row.answers, row.rewards, row.n_tokens)
    # Training episodes come with their tokens and the advantage of each token.
    for run in store.runs.values():
        stored = [pair for pair in enumerate(store.episodes(run.arm, run.seed), 1) if _complete(pair[1])]
        for line, episode in _thin(stored, TRAINING_PER_RUN):
            turns, scores = episode["turns"], [turn["score"] or {} for turn in episode["turns"]]
            token_ids.update(i for turn in turns for i in (*turn["prompt_ids"], *turn["action_ids"]))
            tokens = [[t["prompt_ids"], t["action_ids"], [round(p, 4) for p in t["sampler_logprobs"]]] for t in turns]
            advantages = [[round(value, 4) for value in turn] for turn in episode["advantages"]]
            found.add(
                (run.arm, run.seed, TRAINING, episode["task_id"], line),
                [score.get("verdict", "unscored") for score in scores],
                [turn["text"] for turn in turns],
                [score.get("answer") for score in scores],
                [turn["reward"] for turn in turns],
                [len(turn["action_ids"]) for turn in turns],
                {"step": episode["step"], "turns": tokens, "advantages": advantages},
            )
    n_all = sum(not row.failed for row in store.rows)
    found.tasks = {task: (one["question"], one["gold"]) for task, one in tasks.items()}
    found.tokens = _token_texts(store, sorted(token_ids))
    found.places = {f"{store.arms.index(run.arm)}/{run.seed}": store.place(run) for run in store.runs.values()}
    found.note = (
        f"the page has {len(chosen):,} of {n_all:,} evaluated episodes, and up to {TRAINING_PER_RUN} of the training "
        "episodes that each online run stored, with tokens and advantages; all are in the runs' rows.jsonl and "
        "episodes.jsonl."
    )
    return found


def _token_texts(store: Store, ids: list[int]) -> dict[int, str]:
    """The text of each token id; empty if no run saved its tokenizer."""
    for run in store.runs.values():
        if (path := run.folder / "policy" / "tokenizer.json").exists():
            tokenizer = Tokenizer.from_file(str(path))
            decoder = tokenizer.decoder
            spelt = {i: token for i in ids if (token := tokenizer.id_to_token(i)) is not None}
            return {i: decoder.decode([token]) if decoder else token for i, token in spelt.items()}
    return {}


def _kind(mode: str) -> str:
    """Name of a mode as the page shows it."""
    return short(mode) if mode in CONTROLS else {LONGER: "more attempts"}.get(mode, mode)


class _Index(dict[str, int]):
    """Assigns numbers to names in the order of their first use."""

    def __missing__(self, name: str) -> int:
        return self.setdefault(name, len(self))


def packed(text: str) -> str:
    """A text compressed with gzip and encoded as base64, the format in which the page holds data."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def choose(store: Store, limit: int) -> list[tuple[EvalRow, int]]:
    """Chooses rows for the page, without failed episodes, up to ``limit`` rows and :data:`MAX_CHARACTERS` characters.

    Returns:
        The chosen rows, each with its line number in its run's ``rows.jsonl``.
    """
    lines: dict[tuple[str, int], int] = {}
    found: list[tuple[EvalRow, int]] = []
    for row in store.rows:
        line = lines[row.arm, row.seed] = lines.get((row.arm, row.seed), 0) + 1
        if not row.failed and row.arm in store.arms:
            found.append((row, line))
    # Episodes of the mode that the figures show have priority; the other modes share the remaining places.
    first = [pair for pair in found if pair[0].mode == store.mode]
    rest = [pair for pair in found if pair[0].mode != store.mode]
    chosen = _thin(first, limit)
    chosen += _thin(rest, limit - len(chosen))
    # If responses are long, episodes are dropped rather than shortened: a search would miss text that was cut off.
    characters = sum(len(text) for row, _ in chosen for text in row.texts)
    return _thin(chosen, int(len(chosen) * min(1.0, MAX_CHARACTERS / max(1, characters))))


def _thin(items: list[Any], n: int) -> list[Any]:
    """``n`` items, evenly spaced over the list; all items if there are at most ``n``."""
    if n <= 0:
        return []
    return items if len(items) <= n else [items[i * len(items) // n] for i in range(n)]


def _complete(episode: dict[str, Any]) -> bool:
    return episode["error"] is None and bool(episode.get("advantages")) and len(episode["turns"]) > 0
