"""The data types refuse inconsistent values; a row holds every turn token by token."""

from dataclasses import replace

import pytest
import torch

from envs import StopReason
from rl.batching import micro_batches, placeholder, to_rollout_batch
from rl.types import Episode, Finish, RolloutBatch, Turn
from tests.helpers import batch, episode, turn


def test_an_episode_ends_in_exactly_one_way():
    with pytest.raises(ValueError, match="either terminates or is truncated"):
        Episode("a", 0, 0, 0, (turn(),), True, True, StopReason.ATTEMPTS_USED)
    with pytest.raises(ValueError, match="error needs its message"):
        Episode("a", 0, 0, 0, (turn(),), False, True, StopReason.ENV_ERROR)


def test_a_prompt_must_extend_the_turn_before():
    with pytest.raises(ValueError, match="does not extend"):
        Episode("a", 0, 0, 0, (turn((1, 2), (3,)), turn((1, 2, 9), (4,))), True, False, StopReason.ATTEMPTS_USED)


def test_a_turn_has_a_logprob_per_action():
    with pytest.raises(ValueError, match="log-probs"):
        Turn((1,), (2, 3), (-0.1,), "x", turn().finish, turn().score, 0.0)


def test_rows_hold_every_turn_verbatim():
    # prompt 1 2 | action 10 20 | 5 | action 11 21
    rows = to_rollout_batch([episode((0.0, 1.0)), episode((1.0,), group_id=3)], pad_id=0, max_turns=2)
    assert rows.input_ids.tolist() == [[1, 2, 10, 20, 5, 11, 21], [1, 2, 10, 20, 0, 0, 0]]
    assert rows.turn_ids.tolist() == [[-1, -1, 0, 0, -1, 1, 1], [-1, -1, 0, 0, -1, -1, -1]]
    assert rows.response_mask.tolist() == (rows.turn_ids >= 0).tolist()
    assert rows.attention_mask.sum(1).tolist() == [7, 4]
    assert rows.rewards.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert rows.n_turns.tolist() == [2, 1]
    assert rows.group_ids.tolist() == [0, 3]
    assert rows.sampler_logprobs[0].tolist() == [0, 0, -0.5, -0.5, 0, -0.5, -0.5]


def test_failed_episodes_cannot_be_batched():
    with pytest.raises(ValueError, match="only finished episodes"):
        to_rollout_batch([episode(error="boom")], 0, 2)


def test_a_process_without_episodes_has_an_empty_batch():
    rows = to_rollout_batch([], 0, 2)
    assert len(rows) == 0
    assert list(micro_batches(rows.lengths, rows.group_ids, 100)) == []
    stand_in = placeholder(7, 2)
    assert len(stand_in) == 1
    assert not stand_in.rollout.response_mask.any()


def test_an_untrained_turn_is_read_but_not_trained_on():
    played = episode((0.0, 1.0))
    masked = replace(played, turns=(replace(played.turns[0], trained=False), played.turns[1]))
    rows = to_rollout_batch([masked], 0, 2)
    assert rows.turn_ids[0].tolist() == [-1, -1, -1, -1, -1, 1, 1]
    assert rows.rewards.tolist() == [[0.0, 1.0]]


def test_a_cut_off_answer_can_be_left_out_of_the_loss():
    played = episode((0.0, 1.0))
    cut = replace(played, turns=(played.turns[0], replace(played.turns[1], finish=Finish.LENGTH)))
    assert to_rollout_batch([cut], 0, 2).turn_ids[0].tolist() == [-1, -1, 0, 0, -1, 1, 1]
    rows = to_rollout_batch([cut], 0, 2, mask_cut_off=True)
    assert rows.turn_ids[0].tolist() == [-1, -1, 0, 0, -1, -1, -1]
    assert rows.rewards.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("response_mask", torch.ones(2, 3, dtype=torch.bool), ValueError),  # position 0 cannot be a response
        ("response_mask", torch.zeros(2, 3), TypeError),
        ("turn_ids", torch.zeros(2, 4, dtype=torch.long), ValueError),
        ("attention_mask", torch.zeros(2, 3, dtype=torch.bool), ValueError),  # responses on padding
    ],
)
def test_a_batch_checks_itself(name, value, error):
    good = batch([[0.0, 1.0], [1.0, 1.0]])
    fields = {field: getattr(good, field) for field in RolloutBatch.__dataclass_fields__}
    with pytest.raises(error):
        RolloutBatch(**(fields | {name: value}))


def test_rows_selects_and_cuts_tokens_but_not_rewards():
    part = batch([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).rows([2, 0], n_tokens=2)
    assert part.input_ids.shape == (2, 2)
    assert part.rewards.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def test_micro_batches_cover_every_row_within_the_budget():
    lengths = torch.tensor([3, 10, 4, 4, 25])
    pieces = list(micro_batches(lengths, torch.arange(len(lengths)), token_budget=20))
    assert sorted(i for rows, _ in pieces for i in rows.tolist()) == [0, 1, 2, 3, 4]
    for rows, width in pieces:
        assert width == lengths[rows].max()
        assert len(rows) * width <= 20 or len(rows) == 1  # the row of 25 gets a piece of its own
