"""Episodes to tensors: the only place where turns become rows.

A row is a conversation. Its last prompt and action contain every earlier turn verbatim, by the append-only rule; an
episode of several roles has a row for each. Where a prompt was rendered anew (``Turn.restarts``) a new row begins: it
knows the rewards of the whole conversation, holds the tokens of its own turns, and is compared at these alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rewards.wording import counted
from rl.types import Episode, Finish, RolloutBatch, RunStoppedError, TrainBatch


class Row(NamedTuple):
    """Where a row comes from.

    Args:
        episode: Its place in the list.
        role: Who speaks.
        turns: Which turns of the episode the row holds.
        first: The column of the first of them: how many turns of the role come before it.
    """

    episode: int
    role: str
    turns: list[int]
    first: int = 0


def conversations(episodes: Sequence[Episode]) -> list[Row]:
    """The rows of episodes, in order; the roles of an episode in the order in which they spoke."""
    rows = []
    for place, episode in enumerate(episodes):
        spoken: dict[str, list[list[int]]] = {}
        for index, turn in enumerate(episode.turns):
            # Turns that extend each other share a row; a prompt that was rendered anew begins the next one.
            parts = spoken.setdefault(turn.role, [])
            if turn.restarts or not parts:
                parts.append([])
            parts[-1].append(index)
        for role, parts in spoken.items():
            starts = accumulate(map(len, parts), initial=0)
            rows += [Row(place, role, turns, first) for turns, first in zip(parts, starts, strict=False)]
    return rows


def refuse_untrainable(episodes: Sequence[Episode], version: int | None) -> None:
    """Raises for an episode that failed, has no turn, or was sampled by other weights; see :func:`to_rollout_batch`."""
    for episode in episodes:
        if episode.failed or not episode.turns:
            raise ValueError(
                f"task {episode.task_id}: {counted(len(episode.turns), 'turn')}, failed={episode.failed}; "
                "only finished episodes can be trained on"
            )
        # Stale weights would sample off-policy in silence; an episode that only read its attempt sampled nothing.
        if version is not None and len(episode.turns) > episode.given and episode.policy_version != version:
            raise RunStoppedError(
                f"task {episode.task_id} was sampled by version {episode.policy_version} of the weights, but the "
                f"trainer is at version {version}: the engine did not take the last update"
            )


def to_rollout_batch(
    episodes: Sequence[Episode],
    pad_id: int,
    max_turns: int,
    mask_cut_off: bool = False,
    version: int | None = None,
) -> RolloutBatch:
    """Right-padded rows of episodes, one per :func:`conversations`.

    Args:
        episodes: Episodes with at least one turn each, none of them failed. A process may have none.
        pad_id: Fills rows to the longest.
        max_turns: K, the number of reward columns.
        mask_cut_off: Leave answers that the token limit cut off out of the loss; their rewards stay in the baselines.
        version: Of the weights that must have sampled them; ``None`` for any.

    Raises:
        ValueError: If an episode failed, has no turn, or a role in it more turns than ``max_turns``.
        RunStoppedError: If one was sampled by another version.
    """
    refuse_untrainable(episodes, version)
    rows = conversations(episodes)
    roles = sorted({row.role for row in rows})
    lasts = [episodes[row.episode].turns[row.turns[-1]] for row in rows]
    # The last prompt and action of a row hold all its tokens, so their length is the row's. Arrays, converted once at
    # the end: many small assignments are slow on tensors.
    width = max((len(last.prompt_ids) + len(last.action_ids) for last in lasts), default=2)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), width), dtype=bool)
    turn_ids = np.full((len(rows), width), -1, dtype=np.int64)
    logprobs = np.zeros((len(rows), width), dtype=np.float32)
    rewards = np.zeros((len(rows), max_turns), dtype=np.float32)
    group_ids = np.zeros(len(rows), dtype=np.int64)
    compared = np.ones((len(rows), max_turns), dtype=bool)
    n_turns = np.zeros(len(rows), dtype=np.int64)
    for i, (row, last) in enumerate(zip(rows, lasts, strict=True)):
        episode, ids = episodes[row.episode], last.prompt_ids + last.action_ids
        of_role = [turn for turn in episode.turns if turn.role == row.role]
        n_turns[i], end = len(of_role), row.first + len(row.turns)
        if len(of_role) > max_turns:
            raise ValueError(
                f"task {episode.task_id}: {counted(len(of_role), 'turn')} of {row.role}, more than {max_turns}"
            )
        input_ids[i, : len(ids)] = ids
        attention_mask[i, : len(ids)] = True
        # Roles are never compared with each other: each has a group of its own, the task's where there is only one.
        group_ids[i] = episode.group_id * len(roles) + roles.index(row.role)
        rewards[i, : len(of_role)] = [turn.reward for turn in of_role]
        # Of a conversation in several rows each turn is compared once, in the row that holds it. Past its end an
        # episode is compared with the return 0, once too: in its last row.
        compared[i, : row.first] = False
        compared[i, end:] = end == len(of_role)
        for k, index in enumerate(row.turns, row.first):
            turn = episode.turns[index]
            # A masked reward says nothing and enters no baseline; a turn that was only read was paid like any other.
            compared[i, k] = turn.trained or index < episode.given
            if turn.trained and not (mask_cut_off and turn.finish is Finish.LENGTH):
                span = slice(len(turn.prompt_ids), len(turn.prompt_ids) + len(turn.action_ids))
                turn_ids[i, span] = k
                logprobs[i, span] = turn.sampler_logprobs
    return RolloutBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        response_mask=torch.from_numpy(turn_ids >= 0),
        turn_ids=torch.from_numpy(turn_ids),
        sampler_logprobs=torch.from_numpy(logprobs),
        rewards=torch.from_numpy(rewards),
        n_turns=torch.from_numpy(n_turns),
        group_ids=torch.from_numpy(group_ids),
        compared=torch.from_numpy(compared),
    )


def join_rows(batches: Sequence[Any]) -> Any:
    """Batches of the same kind below each other, padded to the longest row of them."""
    values = []
    for item in fields(batches[0]):  # a batch may hold another one, as TrainBatch does
        parts = [getattr(batch, item.name) for batch in batches]
        if not isinstance(parts[0], Tensor):
            values.append(join_rows(parts))
            continue
        if parts[0].ndim == 2:
            width, empty = max(part.shape[1] for part in parts), -1 if item.name == "turn_ids" else 0
            parts = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=empty) for part in parts]
        values.append(torch.cat(parts))
    return type(batches[0])(*values)


def placeholder(pad_id: int, max_turns: int) -> TrainBatch:
    """One row without a response: what a process runs when others still have micro-batches and it has none left."""
    # Two tokens, since a row of one predicts nothing.
    off, nothing = torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    rollout = RolloutBatch(
        input_ids=torch.full((1, 2), pad_id),
        attention_mask=torch.ones(1, 2, dtype=torch.bool),
        response_mask=off,
        turn_ids=torch.full((1, 2), -1),
        sampler_logprobs=nothing,
        rewards=torch.zeros(1, max_turns),
        n_turns=torch.zeros(1, dtype=torch.long),
        group_ids=torch.zeros(1, dtype=torch.long),
        compared=torch.ones(1, max_turns, dtype=torch.bool),
    )
    return TrainBatch(rollout, nothing, nothing, nothing, nothing, nothing, off)


def micro_batches(lengths_B: Tensor, group_ids_B: Tensor, token_budget: int) -> Iterator[tuple[Tensor, int]]:
    """Rows of similar length, so that rows times longest row stays within the budget.

    Groups stay together where they can, because their rows share a prompt that is then read once: groups are ordered by
    their longest row.

    Args:
        lengths_B: ``[B]`` number of tokens per row.
        group_ids_B: ``[B]``.
        token_budget: Upper limit of padded tokens; a single longer row gets a micro-batch of its own.

    Yields:
        Row indices and the width that they need.
    """
    # numpy's sorts: torch's stable argsort costs 50 ms for a thousand rows on a CPU.
    # ``longest[g]`` is the length of a group's longest row; sorting by it, then by group, puts rows of similar length
    # and of the same group next to each other.
    lengths = lengths_B.numpy()
    _, groups = np.unique(group_ids_B.numpy(), return_inverse=True)
    longest = np.zeros(len(lengths), dtype=np.int64)
    np.maximum.at(longest, groups, lengths)
    order = np.lexsort((groups, -longest[groups]))
    # Take rows as long as all of them, padded to the longest one taken, fit into the budget.
    start = 0
    while start < len(order):
        size, width = 0, 0
        while start + size < len(order):
            wider = max(width, int(lengths[order[start + size]]))
            if size and (size + 1) * wider > token_budget:
                break
            size, width = size + 1, wider
        yield torch.from_numpy(order[start : start + size]), width
        start += size


def sum_of_turns(values_BT: Tensor, turn_ids_BT: Tensor, n_columns: int) -> Tensor:
    """The sum over each turn's tokens, ``[B, K]``."""
    column = torch.where(turn_ids_BT >= 0, turn_ids_BT, n_columns)  # what is no response goes into a spare column
    sums = torch.zeros(len(values_BT), n_columns + 1, dtype=values_BT.dtype, device=values_BT.device)
    return sums.scatter_add(1, column, values_BT)[:, :n_columns]


def to_tokens(values_BK: Tensor, turn_ids_BT: Tensor) -> Tensor:
    """Every response token gets its turn's value; everything else 0. ``[B, T]``."""
    values_BT = values_BK.gather(1, turn_ids_BT.clamp(min=0))
    return torch.where(turn_ids_BT >= 0, values_BT, torch.zeros_like(values_BT))


def turn_starts(turn_ids_BT: Tensor) -> Tensor:
    """``[B, T]`` bool: True at the first token of every turn."""
    before = torch.cat([torch.full_like(turn_ids_BT[:, :1], -1), turn_ids_BT[:, :-1]], dim=1)
    return (turn_ids_BT >= 0) & (turn_ids_BT != before)


def first_of_turns(values_BT: Tensor, turn_ids_BT: Tensor, n_columns: int) -> Tensor:
    """Every turn's value at its first token, ``[B, K]``; 0 for turns that were not played."""
    starts = turn_starts(turn_ids_BT)
    out = torch.zeros(len(values_BT), n_columns + 1, dtype=values_BT.dtype, device=values_BT.device)
    column = torch.where(starts, turn_ids_BT, n_columns)  # everything but a turn's start goes into a spare column
    return out.scatter(1, column, values_BT)[:, :n_columns]
