"""Converts episodes to tensors: the only place where turns become rows.

A row is a conversation. By the append-only rule its last prompt and action contain every earlier turn verbatim. An
episode with several roles has a row for each role. If a prompt was rendered from scratch (``Turn.restarts``), a new row
begins: that row has the rewards of the whole conversation, but only the tokens of its own turns, and enters baselines
only at these turns.
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
    """The episode, role and turns that a row holds.

    Args:
        episode: Index of the episode in the list of episodes.
        role: Role whose turns the row holds.
        turns: Indices of the row's turns within the episode.
        first: Column of the row's first turn: the number of turns of the role before it.
    """

    episode: int
    role: str
    turns: list[int]
    first: int = 0


def conversations(episodes: Sequence[Episode]) -> list[Row]:
    """The rows of episodes, in the order of the episodes; an episode's roles follow the order of their first turns."""
    rows = []
    for place, episode in enumerate(episodes):
        spoken: dict[str, list[list[int]]] = {}
        for index, turn in enumerate(episode.turns):
            # Turns that extend each other share a row; a prompt that was rendered from scratch begins a new row.
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
        # Without this check, an engine with stale weights would sample off-policy unnoticed. An episode whose turns are
        # all given sampled nothing and has no version.
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
    """Right-padded rows of episodes, one per entry of :func:`conversations`.

    Args:
        episodes: Episodes with at least one turn each, none of them failed. The list may be empty.
        pad_id: Token id that pads rows to the length of the longest one.
        max_turns: K, the number of reward columns.
        mask_cut_off: Whether to leave turns that the token limit cut off out of the loss; their rewards still enter
            baselines.
        version: Version of the weights that must have sampled the episodes; ``None`` accepts any.

    Raises:
        ValueError: If an episode failed or has no turn, or if a role has more than ``max_turns`` turns.
        RunStoppedError: If an episode was sampled by another version of the weights.
    """
    refuse_untrainable(episodes, version)
    rows = conversations(episodes)
    roles = sorted({row.role for row in rows})
    lasts = [episodes[row.episode].turns[row.turns[-1]] for row in rows]
    # The last prompt and action of a row hold all its tokens, so their length is that of the row. Rows are filled in
    # numpy and converted once at the end, because many small assignments are slow on tensors.
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
        # Roles are never compared with each other, so each role of a group gets its own group id.
        group_ids[i] = episode.group_id * len(roles) + roles.index(row.role)
        rewards[i, : len(of_role)] = [turn.reward for turn in of_role]
        # If a conversation fills several rows, each turn enters baselines once, in the row that holds it. The columns
        # past its end (return 0) also enter baselines once, in its last row.
        compared[i, : row.first] = False
        compared[i, end:] = end == len(of_role)
        for k, index in enumerate(row.turns, row.first):
            turn = episode.turns[index]
            # A masked reward carries no information and enters no baseline. A given turn is not trained either, but its
            # reward is valid and enters baselines.
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
    """Concatenates the rows of batches of the same kind, padded to the longest row."""
    values = []
    for item in fields(batches[0]):  # a batch may contain another batch, as TrainBatch does
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
    """One row without a response, for a process that has no micro-batches left while other processes still do."""
    # Two tokens, since a row with a single token has no position that predicts another.
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
    """Splits rows into micro-batches of similar length whose padded size stays within a token budget.

    Rows of a group stay together where possible, because their common prompt is then processed only once; groups are
    sorted by their longest row.

    Args:
        lengths_B: ``[B]`` number of tokens per row.
        group_ids_B: ``[B]`` group of each row.
        token_budget: Upper limit of padded tokens (rows times width); a row that exceeds it is a micro-batch by itself.

    Yields:
        Row indices and width (length of the longest row) of each micro-batch.
    """
    # Sorted in numpy, since torch's stable argsort takes 50 ms for a thousand rows on a CPU.
    # ``longest[g]`` is the length of a group's longest row; sorting by it, then by group, puts rows of similar length
    # and of the same group next to each other.
    lengths = lengths_B.numpy()
    _, groups = np.unique(group_ids_B.numpy(), return_inverse=True)
    longest = np.zeros(len(lengths), dtype=np.int64)
    np.maximum.at(longest, groups, lengths)
    order = np.lexsort((groups, -longest[groups]))
    # Add rows while all rows of the micro-batch, padded to the longest one, fit into the budget.
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
    """The sum of values over each turn's tokens, ``[B, K]``."""
    column = torch.where(turn_ids_BT >= 0, turn_ids_BT, n_columns)  # tokens off the response go into a spare column
    sums = torch.zeros(len(values_BT), n_columns + 1, dtype=values_BT.dtype, device=values_BT.device)
    return sums.scatter_add(1, column, values_BT)[:, :n_columns]


def to_tokens(values_BK: Tensor, turn_ids_BT: Tensor) -> Tensor:
    """Copies each turn's value to all of its tokens; 0 off the response. ``[B, T]``."""
    values_BT = values_BK.gather(1, turn_ids_BT.clamp(min=0))
    return torch.where(turn_ids_BT >= 0, values_BT, torch.zeros_like(values_BT))


def turn_starts(turn_ids_BT: Tensor) -> Tensor:
    """``[B, T]`` bool: True at the first token of every turn."""
    before = torch.cat([torch.full_like(turn_ids_BT[:, :1], -1), turn_ids_BT[:, :-1]], dim=1)
    return (turn_ids_BT >= 0) & (turn_ids_BT != before)


def first_of_turns(values_BT: Tensor, turn_ids_BT: Tensor, n_columns: int) -> Tensor:
    """The value at the first token of each turn, ``[B, K]``; 0 for turns without tokens in the row."""
    starts = turn_starts(turn_ids_BT)
    out = torch.zeros(len(values_BT), n_columns + 1, dtype=values_BT.dtype, device=values_BT.device)
    column = torch.where(starts, turn_ids_BT, n_columns)  # tokens that start no turn go into a spare column
    return out.scatter(1, column, values_BT)[:, :n_columns]
