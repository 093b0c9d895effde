"""Sampling: seeds decide, batches do not; log-probs are those of the trainer."""

import numpy as np
import pytest
import torch

from envs import Message
from rl.backends.engine_hf import HFEngine, draw
from rl.rollout import complete
from rl.seeding import derive_seed, uniforms
from rl.types import Finish, Request


@pytest.fixture
def engine(modchain):
    model, _, renderer = modchain
    return HFEngine(model, renderer.end_id, renderer.pad_id)


def requests(renderer, n=12, temperature=1.0):
    texts = ["3 +4 *7 =2 +5 _", "9 +1 _ _ _ _", "5"]  # of different length, so that rows are padded
    return [
        Request(i, renderer.opening([Message("user", texts[i % 3])]), 7, temperature, derive_seed(0, "test", i))
        for i in range(n)
    ]


def test_samples_depend_on_seeds_not_on_the_batch(modchain, engine):
    asked = requests(modchain[2])
    together = complete(engine, asked)
    alone = [complete(engine, [request])[0] for request in reversed(asked)][::-1]
    for left, right in zip(together, alone, strict=True):
        assert left.action_ids == right.action_ids
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-5)
    assert len({completion.action_ids for completion in together}) > 1


def test_small_batches_give_the_same_samples(modchain, engine):
    model, _, renderer = modchain
    small = HFEngine(model, renderer.end_id, renderer.pad_id, max_batch_size=5)
    asked = requests(renderer)
    assert [c.action_ids for c in complete(engine, asked)] == [c.action_ids for c in complete(small, asked)]


def test_logprobs_are_those_of_a_full_forward_pass(modchain, engine):
    model, _, renderer = modchain
    for request, completion in zip(requests(renderer), complete(engine, requests(renderer)), strict=True):
        ids = torch.tensor([request.prompt_ids + completion.action_ids])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits.log_softmax(-1)[0, len(request.prompt_ids) - 1 : -1]
        expected = logprobs.gather(1, torch.tensor(completion.action_ids)[:, None]).squeeze(1)
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_greedy_takes_the_most_likely_token_and_limits_hold(modchain, engine):
    _, _, renderer = modchain
    greedy = complete(engine, requests(renderer, temperature=0.0))
    assert greedy[0].action_ids == greedy[3].action_ids  # same prompt, other seed
    assert all(completion.finish is Finish.STOP for completion in greedy)
    assert all(completion.action_ids[-1] == renderer.end_id for completion in greedy)
    cut = complete(engine, [Request(0, requests(renderer)[0].prompt_ids, 1, 0.0, 1)])[0]
    assert (len(cut.action_ids), cut.finish) == (1, Finish.LENGTH)


def test_drawing_follows_the_distribution():
    n = 20_000
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(n, 3)
    tokens, logprobs = draw(logits, torch.ones(n), uniforms(np.arange(n, dtype=np.uint64), 0))
    expected = logits[0].softmax(-1)
    counts = torch.bincount(tokens, minlength=3) / n
    assert counts.tolist() == pytest.approx(expected.tolist(), abs=0.015)
    assert logprobs[0].item() == pytest.approx(expected.log()[tokens[0]].item())


def test_temperature_sharpens():
    logits = torch.tensor([[0.0, 1.0]])
    _, hot = draw(logits, torch.tensor([2.0]), np.array([0.99]))
    assert hot.item() == pytest.approx(torch.tensor([0.0, 0.5]).log_softmax(-1)[1].item())


def test_uniforms_are_uniform_and_positions_differ():
    seeds = np.arange(50_000, dtype=np.uint64)
    first, second = uniforms(seeds, 0), uniforms(seeds, 1)
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert first.min() >= 0
    assert first.max() < 1


def test_loaded_weights_are_seen_and_stamped(modchain):
    from copy import deepcopy

    model, _, renderer = modchain
    own = HFEngine(deepcopy(model), renderer.end_id, renderer.pad_id)
    asked = requests(renderer, n=3, temperature=0.0)
    before = complete(own, asked)
    own.load_weights(((name, -tensor) for name, tensor in model.named_parameters()), version=4)
    after = complete(own, asked)
    assert [c.policy_version for c in before + after] == [0, 0, 0, 4, 4, 4]
    assert [c.action_ids for c in before] != [c.action_ids for c in after]
    with pytest.raises(KeyError, match="unknown parameter: nonsense"):
        own.load_weights([("nonsense", torch.zeros(1))], 5)
