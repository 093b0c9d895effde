"""Episodes to tensors. The only place where turns become rows; a row is the last turn's prompt and action, which by
the append-only rule contains every earlier turn verbatim."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rl.types import Episode, Finish, RolloutBatch, TrainBatch


def to_rollout_batch(
    episodes: Sequence[Episode], pad_id: int, max_turns: int, mask_cut_off: bool = False
) -> RolloutBatch:
    """Right-padded rows of episodes.

    Args:
        episodes: Episodes with at least one turn each, none of them failed. A process may have none.
        pad_id: Fills rows to the longest.
        max_turns: K, the number of reward columns.
        mask_cut_off: Leave answers that the token limit cut off out of the loss; their rewards stay in the baselines.

    Raises:
        ValueError: If an episode failed, has no turn, or has more turns than ``max_turns``.
    """
    for episode in episodes:
        if episode.failed or not 1 <= len(episode.turns) <= max_turns:
            raise ValueError(
                f"task {episode.task_id}: {len(episode.turns)} turns, failed={episode.failed}; only finished episodes "
                f"of 1 to {max_turns} turns can be trained on"
            )
    n_rows = len(episodes)
    width = max((len(e.turns[-1].prompt_ids) + len(e.turns[-1].action_ids) for e in episodes), default=2)
    input_ids = np.full((n_rows, width), pad_id, dtype=np.int64)
    attention_mask = np.zeros((n_rows, width), dtype=bool)
    turn_ids = np.full((n_rows, width), -1, dtype=np.int64)
    logprobs = np.zeros((n_rows, width), dtype=np.float32)
    rewards = np.zeros((n_rows, max_turns), dtype=np.float32)
    for row, episode in enumerate(episodes):
        last = episode.turns[-1]
        ids = last.prompt_ids + last.action_ids
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = True
        for k, turn in enumerate(episode.turns):
            start = len(turn.prompt_ids)
            span = slice(start, start + len(turn.action_ids))
            rewards[row, k] = turn.reward
            if turn.trained and not (mask_cut_off and turn.finish is Finish.LENGTH):
                turn_ids[row, span] = k
                logprobs[row, span] = turn.sampler_logprobs
    return RolloutBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        response_mask=torch.from_numpy(turn_ids >= 0),
        turn_ids=torch.from_numpy(turn_ids),
        sampler_logprobs=torch.from_numpy(logprobs),
        rewards=torch.from_numpy(rewards),
        n_turns=torch.tensor([len(episode.turns) for episode in episodes], dtype=torch.long),
        group_ids=torch.tensor([episode.group_id for episode in episodes], dtype=torch.long),
    )


def placeholder(pad_id: int, max_turns: int) -> TrainBatch:
    """One row without a response: what a process runs when others still have micro-batches and it has none left."""
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
    )
    return TrainBatch(rollout, nothing, nothing, nothing, nothing, nothing)


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
    lengths = lengths_B.numpy()
    _, groups = np.unique(group_ids_B.numpy(), return_inverse=True)
    longest = np.zeros(len(lengths), dtype=np.int64)
    np.maximum.at(longest, groups, lengths)
    order = np.lexsort((groups, -longest[groups]))
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


def minibatches(n_rows: int, n_minibatches: int, generator: torch.Generator) -> list[Tensor]:
    """A random partition of the rows into parts of nearly equal size, one per optimiser step; some may be empty."""
    if n_minibatches == 1:
        return [torch.arange(n_rows)]
    return list(torch.randperm(n_rows, generator=generator).tensor_split(n_minibatches))
