"""Sampling with transformers: samples depend on seeds and not on batches, and log-probs equal the trainer's."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from envs import Message
from rl.backends import attention
from rl.backends.attention import attend_grouped
from rl.backends.engine_hf import SHARED_PREFIX, HFEngine, draw, uniforms
from rl.backends.tiny import tiny_gpt2, tiny_tokenizer
from rl.backends.trunk import key_width
from rl.rollout import complete
from rl.types import Finish, Request, derive_seed


@pytest.fixture
def engine(modchain):
    model, _, renderer = modchain
    return HFEngine(model, renderer.end_ids, renderer.pad_id)


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
    small = HFEngine(model, renderer.end_ids, renderer.pad_id, max_batch_size=5)
    asked = requests(renderer)
    assert [c.action_ids for c in complete(engine, asked)] == [c.action_ids for c in complete(small, asked)]


def test_rows_that_do_not_fit_into_memory_together_are_decoded_after_each_other(modchain, engine, monkeypatch):
    from rl.backends import engine_hf

    asked = requests(modchain[2])
    together = [c.action_ids for c in complete(engine, asked)]
    longest = max(len(request.prompt_ids) + request.max_new_tokens for request in asked)
    config = modchain[0].config
    row = 2 * 4 * config.num_hidden_layers * key_width(config) * longest
    monkeypatch.setattr(engine_hf, "BATCH_BYTES", 3 * row)
    engine.submit(asked)
    sizes, found = [], {}
    while engine.pending:
        done = engine.step()
        sizes.append(len(done))
        found |= {completion.request_id: completion.action_ids for completion in done}
    assert sum(sizes) == len(asked)
    assert len(sizes) > 1
    assert all(n >= 3 for n in sizes[:-1])  # three rows of the longest prompts fit, and more of shorter ones
    assert [found[request.id] for request in asked] == together
    monkeypatch.setattr(engine_hf, "BATCH_BYTES", 1)
    engine.submit(asked[:2])
    assert len(engine.step()) == 1  # a batch always has at least one row


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
    own = HFEngine(deepcopy(model), renderer.end_ids, renderer.pad_id)
    asked = requests(renderer, n=3, temperature=0.0)
    before = complete(own, asked)
    own.load_weights(((name, -tensor) for name, tensor in model.named_parameters()), version=4)
    after = complete(own, asked)
    assert [c.policy_version for c in before + after] == [0, 0, 0, 4, 4, 4]
    assert [c.action_ids for c in before] != [c.action_ids for c in after]
    with pytest.raises(KeyError, match="unknown parameter: nonsense"):
        own.load_weights([("nonsense", torch.zeros(1))], 5)


def test_a_second_turn_reads_only_what_is_new(modchain):
    """A second turn gets the samples of an engine that reads everything again, also in a batch with a new prompt."""
    model, _, renderer = modchain
    kept, fresh = (HFEngine(model, renderer.end_ids, renderer.pad_id) for _ in range(2))
    n_read = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: n_read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        first = requests(renderer, n=9)
        answers = complete(kept, first)
        second = [
            Request(r.id, r.prompt_ids + c.action_ids + (renderer.end_id,) * (1 + r.id % 3), 7, 1.0, 50 + r.id)
            for r, c in zip(first, answers, strict=True)
        ]
        stranger = Request(100, (*first[0].prompt_ids, 9, 9, 9), 7, 1.0, 3)
        n_read.clear()
        with_memory = complete(kept, [*second, stranger])
        assert n_read[0] == len(stranger.prompt_ids)  # all of the new prompt has to be read
        third = [
            Request(r.id, r.prompt_ids + c.action_ids + (renderer.end_id,), 7, 1.0, 90 + r.id)
            for r, c in zip(second, with_memory, strict=False)
        ]
        n_read.clear()
        with_memory += complete(kept, third)
        assert n_read[0] == 2  # the last sampled token, which was never read, and the token after it
        without = complete(fresh, [*second, stranger]) + complete(fresh, third)
    finally:
        hook.remove()
    for a, b in zip(with_memory, without, strict=True):
        assert a.action_ids == b.action_ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_what_was_kept_is_forgotten_when_weights_change(modchain):
    model, _, renderer = modchain
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id)
    complete(engine, requests(renderer, n=3))
    assert engine._store.kept
    engine.load_weights((), 1)
    assert not engine._store.kept
    complete(engine, requests(renderer, n=3))
    engine.sleep()  # stored keys must not take memory while the trainer updates
    assert not engine._store.kept


def test_what_is_kept_is_bounded_and_freed_with_its_last_row(modchain, monkeypatch):
    from rl.backends import engine_hf

    model, _, renderer = modchain
    first = requests(renderer, n=6)

    def held(engine):
        caches = {id(kept.layers): kept.layers for kept in engine._store.kept.values()}
        return sum(x.nbytes for layers in caches.values() for pair in layers for x in pair)

    def second(engine):
        answers = complete(engine, first)
        before = held(engine)
        asked = [Request(r.id, r.prompt_ids + c.action_ids, 7, 1.0, r.id) for r, c in zip(first, answers, strict=True)]
        engine._store.take(asked)
        return before, held(engine), [c.action_ids for c in answers]

    before, after, answers = second(HFEngine(model, renderer.end_ids, renderer.pad_id))
    assert before > 0 == after
    monkeypatch.setattr(engine_hf, "MAX_BYTES", before - 1)
    less, _, same = second(HFEngine(model, renderer.end_ids, renderer.pad_id))
    assert less < before
    assert same == answers


def test_equal_prompts_are_read_once(modchain):
    model, _, renderer = modchain
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id)
    one, other = requests(renderer, n=2)
    asked = [Request(i, (one if i % 2 else other).prompt_ids, 7, 1.0, i) for i in range(8)]
    n_rows = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: n_rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    try:
        together = complete(engine, asked)
    finally:
        hook.remove()
    assert n_rows[:2] == [2, 8]
    alone = [complete(engine, [request])[0] for request in asked]
    assert [c.action_ids for c in together] == [c.action_ids for c in alone]


@pytest.mark.parametrize("equal", [False, True], ids=["different", "in groups"])
@pytest.mark.parametrize("replays", [False, True])
def test_what_all_prompts_begin_with_is_read_once(modchain, equal, replays):
    """Answers and log-probs of both turns equal those of prompts that are read alone and in full."""
    model, _, renderer = modchain
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id, replays=replays)
    prefix = (requests(renderer, n=1)[0].prompt_ids * SHARED_PREFIX)[:SHARED_PREFIX]
    prompts = [(*prefix, *(5 + (i + k) % 7 for k in range(1 + i % 4))) for i in range(6)]
    asked = [Request(i, prompts[i // 2 if equal else i], 5, 1.0, i) for i in range(6)]
    read = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        together = complete(engine, asked)
        assert read[:2] == [(1, SHARED_PREFIX), (3, 3) if equal else (6, 4)]
        read.clear()
        second = [
            Request(r.id, r.prompt_ids + c.action_ids + (renderer.end_id,), 5, 1.0, 70 + r.id)
            for r, c in zip(asked, together, strict=True)
        ]
        together += complete(engine, second)
        assert read[0] == (6, 2)  # the last sampled token and the token after it, as without a common beginning
    finally:
        hook.remove()
    alone = [complete(HFEngine(model, renderer.end_ids, renderer.pad_id), [r])[0] for r in [*asked, *second]]
    for a, b in zip(together, alone, strict=True):
        assert a.action_ids == b.action_ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def columns(n, rows=2, start=0.0):
    return start + torch.arange(rows * 3 * n * 4, dtype=torch.float32).reshape(rows, 3, n, 4)


def test_columns_are_appended_in_place_and_what_was_seen_stays(engine):
    cache, _ = engine._store.take([])
    first = columns(5)
    held = [cache.update(first, -first, 0)]
    expected = first
    for step in range(40):
        new = columns(1, start=100.0 * step)
        held.append(cache.update(new, -new, 0))
        expected = torch.cat([expected, new], dim=2)
    keys, values = held[-1]
    assert torch.equal(keys, expected)
    assert torch.equal(values, -expected)
    for n, (keys, values) in enumerate(held):
        assert torch.equal(keys, expected[:, :, : 5 + n])
        assert torch.equal(values, -expected[:, :, : 5 + n])
    places = {keys.data_ptr() for keys, _ in held}
    assert len(places) < 5  # most steps wrote into spare columns without a copy


def test_selected_rows_go_on_by_themselves(engine):
    cache, _ = engine._store.take([])
    whole = columns(5, rows=3)
    before, _ = cache.update(whole, whole, 0)
    cache.reorder_cache(torch.tensor([2, 0]))
    new = columns(1, start=-50.0)
    keys, values = cache.update(new, new, 0)
    assert torch.equal(keys, torch.cat([whole[[2, 0]], new], dim=2))
    assert torch.equal(values, keys)
    assert torch.equal(before, whole)


@pytest.mark.parametrize(("heads_of_keys", "expected"), [(1, True), (2, False)])
def test_shared_keys_are_read_where_they_lie(heads_of_keys, expected, monkeypatch):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 11}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=heads_of_keys, pad_token_id=0)
    engine, calls = HFEngine(LlamaForCausalLM(config).eval(), [10], 0), []
    monkeypatch.setattr(attention, "attend_grouped", lambda *args, **kw: calls.append(1) or attend_grouped(*args, **kw))
    complete(engine, [Request(0, (1, 2, 3), 4, 0.0, 1)])
    assert bool(calls) is expected


def over_two_turns(engine, renderer, temperature=1.0):
    """Completions of two turns: second prompts contain the first answers; lengths and token limits differ by row."""
    asked = [Request(one.id, one.prompt_ids, 9 + 5 * (one.id % 3), temperature, one.seed) for one in requests(renderer)]
    first = complete(engine, asked)
    then = [
        Request(one.id, one.prompt_ids + answer.action_ids + one.prompt_ids, 12, temperature, one.seed + 1)
        for one, answer in zip(asked, first, strict=True)
    ]
    return first + complete(engine, then)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_steps_of_a_fixed_shape_sample_the_same(modchain, temperature):
    """Steps of a fixed shape, which a GPU captures and replays, sample the same as steps with a growing cache."""
    model, tokenizer, renderer = modchain
    ends = tokenizer.convert_tokens_to_ids(["3", "7"])  # so that rows end at different steps
    grown, fixed = (HFEngine(model, ends, renderer.pad_id, replays=replays) for replays in (False, True))
    found = [over_two_turns(engine, renderer, temperature) for engine in (grown, fixed)]
    assert fixed._replays.possible
    assert len({len(one.action_ids) for one in found[0]}) > 3
    for left, right in zip(*found, strict=True):
        assert left.action_ids == right.action_ids
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-5)


@pytest.mark.parametrize("fault", ["forgets its mask", "takes no such mask"])
def test_a_model_that_reads_its_mask_otherwise_decodes_as_before(modchain, monkeypatch, fault):
    from rl.backends.replay import FixedStep

    model, _, renderer = modchain
    asked = [Request(one.id, one.prompt_ids, 12, 1.0, one.seed) for one in requests(renderer)]
    expected = complete(HFEngine(model, renderer.end_ids, renderer.pad_id, replays=False), asked)
    engine, step = HFEngine(model, renderer.end_ids, renderer.pad_id, replays=True), FixedStep._step

    def faulty(self):
        if fault == "takes no such mask":
            raise ValueError("too many values to unpack")
        self._mask_BT[:] = True
        return step(self)

    monkeypatch.setattr(FixedStep, "_step", faulty)
    with pytest.warns(UserWarning, match="LlamaForCausalLM decodes without CUDA graphs"):
        found = complete(engine, asked)
    assert [one.action_ids for one in found] == [one.action_ids for one in expected]


@pytest.mark.parametrize("replays", [False, True])
def test_rows_that_are_done_do_not_leave_the_context(replays):
    """Positions of a finished row must stay in the context, though it is decoded until half of its batch is done.

    The model has learned position embeddings, so a position beyond its context would be an error.
    """
    tokenizer = tiny_tokenizer([str(i) for i in range(9)], spaced=True)
    model = tiny_gpt2(tokenizer, hidden_size=8, n_layers=1, n_heads=2, context=24).eval()
    asked = [Request(0, (5,) * 22, 2, 1.0, 1), Request(1, (5, 6), 22, 1.0, 2), Request(2, (5, 7), 22, 1.0, 3)]
    found = complete(HFEngine(model, [99], 0, replays=replays), asked)
    assert [len(one.action_ids) for one in found] == [2, 22, 22]
    for request, one in zip(asked, found, strict=True):
        alone = complete(HFEngine(model, [99], 0, replays=False), [request])[0]
        assert one.action_ids == alone.action_ids
        assert one.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


class Recording:
    """A stand-in for a decoding step; each capture raises the next of the given faults, or succeeds at ``None``."""

    def __init__(self, *faults):
        self.faults = list(faults)

    def record(self, tokens):
        fault = self.faults.pop(0)
        if isinstance(fault, tuple):  # an error within a capture makes its end fail too
            try:
                raise fault[0]
            finally:
                raise fault[1]
        if fault is not None:
            raise fault


def test_a_capture_that_fails_is_tried_again_only_for_want_of_memory(modchain):
    from rl.backends.replay import Replays

    replays, full = Replays(modchain[0]), torch.OutOfMemoryError("full")
    replays._record(Recording(full, None), torch.zeros(1))
    with pytest.warns(UserWarning, match="not enough GPU memory to capture"):
        replays._record(Recording(full, full), torch.zeros(1))
    assert replays.possible
    with pytest.warns(UserWarning, match=r"a captured step fails or differs \(the cause\)"):
        replays._record(Recording((RuntimeError("the cause"), RuntimeError("capture invalidated"))), torch.zeros(1))
    assert not replays.possible
