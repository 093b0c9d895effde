"""Rows of one layout: sampling, supervised steps and the policy gradient, against results worked out by hand."""

import copy
import math

import numpy as np
import pytest
import torch

from rl.backends.blocks import (
    adam,
    as_batch,
    divergence,
    fit,
    held_out,
    learn_last,
    next_logprobs,
    policy_loss,
    sample,
    take_step,
    token_losses,
)
from rl.backends.tiny import tiny_llama, tiny_tokenizer

END = 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_llama(tiny_tokenizer(list("abcdef"), True), 16, 1, 2, 16)


def test_samples_stop_at_the_end_token_and_greedy_is_the_mode(model):
    prompts = torch.tensor([[1, 4, 5], [1, 6, 7]]).repeat(40, 1)
    rows = sample(model, prompts, 6, 1.0, torch.Generator().manual_seed(0), end_id=END)
    ended = (rows == END).any(1)
    assert rows.shape == (80, 6)
    assert ended.any()
    assert not ended.all()
    after = (rows == END).cumsum(1) - (rows == END).long() > 0
    assert (rows[after] == 0).all()
    greedy = sample(model, prompts[:2], 2, 0.0, torch.Generator())
    assert greedy[:, 0].tolist() == next_logprobs(model, prompts[:2]).argmax(1).tolist()
    longer = torch.cat([prompts[:2], greedy[:, :1]], 1)
    assert greedy[:, 1].tolist() == next_logprobs(model, longer).argmax(1).tolist()


def test_losses_are_those_of_the_learned_tokens(model):
    ids = torch.tensor([[1, 4, 5, 6], [1, 7, 8, 9]])
    learned = torch.tensor([[False, False, False, True], [False, False, True, False]])
    losses = token_losses(model, ids, learned)
    assert losses[0].item() == pytest.approx(-next_logprobs(model, ids[:1, :3])[0, 6].item(), abs=1e-5)
    assert losses[1].item() == pytest.approx(-next_logprobs(model, ids[1:, :2])[0, 8].item(), abs=1e-5)


def test_the_divergence_is_half_the_squared_log_ratio_and_only_the_policy_has_a_gradient(model):
    ids, learned = torch.tensor([[1, 4, 5, 6]]), torch.tensor([[False, False, True, True]])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    far = (token_losses(model, ids, learned) - token_losses(other, ids, learned)).tolist()
    found = divergence(model, other, ids, learned)
    assert found.item() == pytest.approx(sum(one**2 for one in far) / 4, rel=1e-4)
    assert found.item() > 0
    assert divergence(model, model, ids, learned).item() == 0
    found.backward()
    assert all(one.grad is None for one in other.parameters())
    model.zero_grad(set_to_none=True)


def test_the_last_tokens_are_learned_and_their_losses_are_the_ones_of_these_places(model):
    rows = np.array([[1, 4, 5, 6], [1, 7, 8, 4]])
    ids, learned = learn_last(rows, 2)
    assert ids.tolist() == rows.tolist()
    assert learned.tolist() == [[False, False, True, True]] * 2
    of_all = token_losses(model, ids, torch.ones(2, 4, dtype=torch.bool)).reshape(2, 3)
    assert torch.allclose(token_losses(model, *learn_last(ids, 2)).reshape(2, 2), of_all[:, 1:], atol=1e-5)
    for k in (0, 4):  # no token to learn, or the first one, which nothing predicts
        with pytest.raises(ValueError, match=f"k={k}: use 1 to 3 for rows of 4 tokens"):
            learn_last(ids, k)


def test_a_row_is_held_out_by_what_it_is():
    rows = np.array([(i, j) for i in range(60) for j in range(60)])
    out = held_out(rows)
    assert 0.17 < out.mean() < 0.23
    assert (held_out(rows[::-1]) == out[::-1]).all()
    # 1 + 2 * 37 = 75 and 75 % 101 % 5 = 0; 2 + 2 * 37 = 76 leaves 1.
    assert held_out(np.array([[1, 2], [2, 2]])).tolist() == [True, False]


def test_fitting_learns_what_is_marked_until_it_is_there():
    torch.manual_seed(1)
    model = tiny_llama(tiny_tokenizer(list("abcdef"), True), 16, 1, 2, 16)
    ids, learned = torch.tensor([[1, 4, 5], [1, 6, 7]]), torch.tensor([[False, False, True]]).expand(2, 3)
    known = lambda step: token_losses(model, ids, learned).mean().item() < 0.2  # noqa: E731
    steps = fit(model, lambda step: [(ids, learned)], 300, 1e-2, until=known, warmup=5)
    assert 0 < steps < 300
    assert known(steps)
    assert next_logprobs(model, ids[:, :1])[:, 4:].max() < math.log(0.9)  # the second token was never learned


def test_the_policy_gradient_weighs_logprobs_with_leave_one_out_advantages(model):
    prompts, actions = torch.tensor([[1, 4]] * 4), torch.tensor([[5, END], [6, END], [7, 0], [8, END]])
    rewards, groups = torch.tensor([1.0, 0.0, 0.5, 9.0]), torch.tensor([0, 0, 0, 1])
    compared = torch.tensor([True, True, True, False])
    loss, entropy = policy_loss(model, as_batch(prompts, actions, rewards, groups, compared))
    by_hand = torch.tensor([1 - 0.25, 0 - 0.75, 0.5 - 0.5, 0.0])
    logs = [
        next_logprobs(model, prompts[:1])[0, action[0]] for action in actions
    ]  # the end token's log-prob is added below
    ends = [next_logprobs(model, torch.cat([prompts[i], actions[i, :1]])[None])[0, END] for i in range(2)]
    means = [(logs[0] + ends[0]) / 2, (logs[1] + ends[1]) / 2, logs[2]]
    expected = -sum(a * m for a, m in zip(by_hand, means, strict=False)) / 4
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert 0 < entropy.item() < math.log(10)


def test_what_is_paid_becomes_likelier():
    torch.manual_seed(2)
    model = tiny_llama(tiny_tokenizer(list("abcdef"), True), 16, 1, 2, 16)
    generator, optimizer, prompts = torch.Generator().manual_seed(0), adam(model, 1e-2), torch.tensor([[1, 4]] * 32)
    before = next_logprobs(model, prompts[:1])[0, 7].item()
    for _ in range(20):
        actions = sample(model, prompts, 1, 1.0, generator)
        batch = as_batch(prompts, actions, (actions[:, 0] == 7).float(), torch.arange(32) // 8)
        take_step(model, optimizer, policy_loss(model, batch, "grpo")[0])
    assert next_logprobs(model, prompts[:1])[0, 7].item() > before + 0.5
