"""The episodes that a page carries: evaluated ones of every arm, and training ones with their tokens."""

import base64
import gzip
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
        store: The runs.
        limit: Most evaluated episodes; greedy ones come first, then the other modes, evenly thinned.
    """
    arms = {arm: i for i, arm in enumerate(store.arms)}
    modes, verdicts, tasks = _Index(), _Index(), _Index()
    token_ids: set[int] = set()
    chosen = choose(store, limit)
    episodes: list[list[Any]] = []
    for row, line in chosen:
        place = [arms[row.arm], row.seed, modes[row.mode], tasks[row.task_id], line]
        attempts = (row.texts, row.answers, row.rewards, row.n_tokens)
        episodes.append([*place, [verdicts[one] for one in row.verdicts], *map(list, attempts)])
    for run in store.runs.values():
        stored = [pair for pair in enumerate(store.episodes(run.arm, run.seed), 1) if _complete(pair[1])]
        for line, episode in _thin(stored, TRAINING_PER_RUN):
            turns, scores = episode["turns"], [turn["score"] or {} for turn in episode["turns"]]
            token_ids.update(i for turn in turns for i in (*turn["prompt_ids"], *turn["action_ids"]))
            tokens = [[t["prompt_ids"], t["action_ids"], [round(p, 4) for p in t["sampler_logprobs"]]] for t in turns]
            advantages = [[round(value, 4) for value in turn] for turn in episode["advantages"]]
            episodes.append([
                *(arms[run.arm], run.seed, modes[TRAINING], tasks[episode["task_id"]], line),
                [verdicts[score.get("verdict", "unscored")] for score in scores],
                [turn["text"] for turn in turns],
                [score.get("answer") for score in scores],
                [turn["reward"] for turn in turns],
                [len(turn["action_ids"]) for turn in turns],
                {"step": episode["step"], "turns": tokens, "advantages": advantages},
            ])  # fmt: skip
    n_all, known = sum(not row.failed for row in store.rows), store.tasks()
    places = {(arms[run.arm], run.seed): run.folder.relative_to(store.folder) for run in store.runs.values()}
    return {
        "places": {f"{arm}/{seed}": place.as_posix() for (arm, seed), place in places.items()},
        "arms": [store.names[arm] for arm in arms],
        "modes": list(modes),
        "verdicts": list(verdicts),
        "tasks": [[i, known[i]["question"], known[i]["gold"]] if i in known else [i, i, None] for i in tasks],
        "tokens": store.token_texts(sorted(token_ids)),
        "episodes": episodes,
        "note": f"{len(chosen):,} of {n_all:,} evaluated and up to {TRAINING_PER_RUN} of each online run's stored "
        "training episodes with tokens and advantages; all are in the runs' rows.jsonl and episodes.jsonl.",
    }


class _Index(dict[str, int]):
    """Numbers names in the order of their first use."""

    def __missing__(self, name: str) -> int:
        return self.setdefault(name, len(self))


def packed(text: str) -> str:
    """Gzip, base64: what stands in the page."""
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


def _complete(episode: dict[str, Any]) -> bool:
    return episode["error"] is None and bool(episode.get("advantages")) and len(episode["turns"]) > 0
