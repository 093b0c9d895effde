"""The policy module: heads, adapters, gradient checkpointing, shared prompts, loading and saving of weights."""

import json
import shutil
import sys
from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl.backends.distributed import Distributed
from rl.backends.policy import Actor, Critic, References, load_policy
from rl.backends.tiny import tiny_llama
from rl.backends.weights import decoder_layers, full_state, full_weights, load_pretrained
from rl.checkpoint import save_policy
from rl.config import AlgorithmConfig, LoraConfig, ModelConfig, OptimConfig
from rl.learner import Learner
from tests.conftest import ROOT
from tests.helpers import build_trainer, log_step, modchain_config
from tests.rl.test_distributed import rollout_batch

PATH = str(ROOT / "models" / "modchain")


def model_with_lora(rank=4, seed=0):
    model, tokenizer = load_policy(ModelConfig(path=PATH, lora=LoraConfig(rank=rank)))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    return model, tokenizer


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_fused_head_equals_the_plain_one(temperature):
    """TRL's fused head gives the log-probs, entropies, values and gradients of the plain head."""
    batch, results = rollout_batch(), []
    for fused in (None, temperature):
        model, _ = load_policy(ModelConfig(path=PATH))
        actor = Actor(model, value_head=True, fused_temperature=fused)
        torch.nn.init.ones_(actor.value_head.weight)
        stats = actor(batch, temperature)
        (stats.logprobs.sum() + stats.values.square().sum()).backward()
        gradient = torch.cat([p.grad.flatten() for p in actor.parameters()])
        results.append((stats.logprobs, stats.entropy, stats.values, gradient / gradient.abs().max()))
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain, atol=5e-5, rtol=1e-4)


def test_a_fused_head_has_one_temperature():
    actor = Actor(load_policy(ModelConfig(path=PATH))[0], fused_temperature=1.0)
    with pytest.raises(ValueError, match=r"temperature 1\.0, not 0\.5"):
        actor(rollout_batch(), 0.5)


def test_the_fused_head_cannot_give_whole_distributions():
    with pytest.raises(ValueError, match=r"kl=full.*fused_head"):
        AlgorithmConfig(name="x", kl="full", fused_head=True)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"fused_head": True}])
def test_saving_memory_does_not_change_the_update(changes):
    """Memory-saving options leave the direction of the update unchanged.

    Single parameters may differ: Adam turns even the rounding error of a gradient near 0 into a full step.
    """

    def change_of_a_step(**optim):
        trainer, bench = build_trainer(modchain_config(**optim))
        before = torch.cat([p.detach().flatten() for p in bench.model.parameters()])
        trainer.train_step()
        return torch.cat([p.detach().flatten() for p in bench.model.parameters()]) - before

    cosine = torch.nn.functional.cosine_similarity(change_of_a_step(**changes), change_of_a_step(), dim=0)
    assert cosine > 0.9999


def test_values_are_read_before_the_token_and_start_at_zero():
    """A value must not depend on the token whose baseline it is; before training it is 0."""
    model, _ = load_policy(ModelConfig(path=PATH))
    for module, read in (
        (Actor(model, value_head=True), lambda m, b: m(b, 1.0).values),
        (Critic(model), lambda m, b: m(b)),
    ):
        batch = rollout_batch()
        with torch.no_grad():
            assert (read(module, batch) == 0).all()
            torch.nn.init.ones_(module.value_head.weight)
            before = read(module, batch)
            last = batch.response_mask[0].nonzero()[-1].item()
            batch.input_ids[0, last] = (batch.input_ids[0, last] + 1) % 20
            assert torch.equal(read(module, batch), before)
            batch.input_ids[0, last - 1] = (batch.input_ids[0, last - 1] + 1) % 20
            assert not torch.equal(read(module, batch), before)


def test_a_detached_value_head_leaves_the_trunk_alone():
    for detach in (True, False):
        actor = Actor(load_policy(ModelConfig(path=PATH))[0], value_head=True, detach_values=detach)
        torch.nn.init.ones_(actor.value_head.weight)
        actor(rollout_batch(), 1.0).values.sum().backward()
        trunk = [p.grad for p in actor.model.parameters() if p.grad is not None]
        assert (not trunk or max(g.abs().max() for g in trunk) == 0) == detach
        assert actor.value_head.weight.grad.abs().max() > 0


def test_entropy_has_a_gradient_only_where_it_is_asked_for():
    actor = Actor(load_policy(ModelConfig(path=PATH))[0])
    assert not actor(rollout_batch(), 1.0).entropy.requires_grad
    assert actor(rollout_batch(), 1.0, entropy_gradient=True).entropy.requires_grad


def test_without_its_adapters_the_model_is_the_base():
    model, _ = model_with_lora()
    base, _ = load_policy(ModelConfig(path=PATH))
    batch = rollout_batch()
    with torch.no_grad():
        expected = Actor(base)(batch, 1.0).logprobs
        assert not torch.allclose(Actor(model)(batch, 1.0).logprobs, expected, atol=1e-2)
        with model.disable_adapter():
            torch.testing.assert_close(Actor(model)(batch, 1.0).logprobs, expected)


def test_adapters_are_merged_into_what_the_engine_and_the_disk_get(tmp_path):
    model, tokenizer = model_with_lora()
    base, _ = load_policy(ModelConfig(path=PATH))
    weights = dict(full_weights(model))
    assert weights.keys() == dict(base.named_parameters()).keys()
    batch = rollout_batch()
    with torch.no_grad():
        expected = Actor(model)(batch, 1.0).logprobs
        for name, parameter in base.named_parameters():
            parameter.copy_(weights[name])
        torch.testing.assert_close(Actor(base)(batch, 1.0).logprobs, expected, atol=1e-5, rtol=1e-5)
        save_policy(tmp_path / "policy", model, tokenizer)
        stored = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
        torch.testing.assert_close(Actor(stored)(batch, 1.0).logprobs, expected, atol=1e-5, rtol=1e-5)
        fresh, _ = model_with_lora(seed=1)
        load_pretrained(fresh, tmp_path / "policy")
        torch.testing.assert_close(Actor(fresh)(batch, 1.0).logprobs, expected, atol=1e-5, rtol=1e-5)


def test_an_engine_beside_sharded_weights_samples_the_merged_adapters():
    """With sharded weights the engine's copy has no adapters, so the published weights must contain them."""
    from rl.backends.engines import ENGINES
    from rl.rendering import Renderer
    from rl.rollout import complete
    from rl.types import Request

    model, tokenizer = model_with_lora()
    renderer, distributed = Renderer(tokenizer), Distributed(cpu=True)
    asked = [Request(i, (1, 13 + i, 2), 5, 1.0, i) for i in range(6)]
    own = ENGINES["hf"](modchain_config(), model, renderer, 64, distributed)
    distributed.shards = True
    copy = ENGINES["hf"](modchain_config(), model, renderer, 64, distributed)
    assert not copy.shares_weights
    assert [c.action_ids for c in complete(copy, asked)] == [c.action_ids for c in complete(own, asked)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.mul_(-3.0)
    own.load_weights((), 1)
    copy.load_weights(full_weights(model), 1)
    for mine, theirs in zip(complete(own, asked), complete(copy, asked), strict=True):
        assert mine.action_ids == theirs.action_ids
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_only_adapters_are_trained_and_the_base_costs_no_copy():
    cfg = modchain_config()
    cfg.model = ModelConfig(path=PATH, lora=LoraConfig(rank=4))
    trainer, bench = build_trainer(cfg)
    before = {name: p.detach().clone() for name, p in bench.model.named_parameters()}
    for _ in range(2):  # adapter matrix B starts at 0, so A moves from the second step on
        metrics, _ = log_step(trainer)
    moved = {name for name, p in bench.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(".lora_" in name for name in moved)
    assert metrics["policy/kl_ref_t1"] > 0
    assert not trainer.learner._references._frozen
    assert metrics["policy/sampler_gap"] < 1e-4


def test_adapters_have_their_scale_and_stand_where_they_were_asked_for():
    model, _ = load_policy(ModelConfig(path=PATH, lora=LoraConfig(rank=2, alpha=6.0, targets=["q_proj"])))
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert adapted
    assert all(name.endswith("q_proj") for name in adapted)
    assert {scale for module in adapted.values() for scale in module.scaling.values()} == {3.0}  # alpha over rank


def test_unknown_adapter_targets_are_named():
    with pytest.raises(ValueError, match=r"model\.lora\.targets=\['nonsense'\]"):
        load_policy(ModelConfig(path=PATH, lora=LoraConfig(rank=2, targets=["nonsense"])))


def test_a_missing_peft_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"model\.lora\.rank=2 needs peft: pip install -e '\.\[lora\]'"):
        load_policy(ModelConfig(path=PATH, lora=LoraConfig(rank=2)))


def test_tied_weights_come_once_and_are_tied_again(tmp_path):
    _, tokenizer = load_policy(ModelConfig(path=PATH))
    tied = tiny_llama(tokenizer, 32, 1, 2)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    assert "lm_head.weight" not in full_state(tied)
    save_policy(tmp_path / "policy", tied, tokenizer)
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert stored.lm_head.weight is stored.model.embed_tokens.weight
    batch = rollout_batch()
    with torch.no_grad():
        first, second = (Actor(m)(batch, 1.0).logprobs for m in (tied, stored))
    assert torch.equal(first, second)


def test_layers_to_shard_are_the_transformer_blocks():
    model, _ = load_policy(ModelConfig(path=PATH))
    assert [type(layer).__name__ for layer in decoder_layers(model)] == ["LlamaDecoderLayer"]


def test_bf16_autocast_keeps_float32_weights_and_stays_near():
    """bf16 autocast changes an update only slightly and keeps float32 weights; a CPU runs the same code, but slowly."""
    cfg = modchain_config()
    model, _ = load_policy(cfg.model)
    results = []
    for precision in ("no", "bf16"):
        cfg.algorithm.optim = OptimConfig(mixed_precision=precision)
        learner = Learner(cfg, deepcopy(model), 0, Distributed(cpu=True, mixed_precision=precision))
        (stage,) = cfg.algorithm.resolved(cfg.env.attempts)
        learner.enter_stage(stage, 1, is_first=True)
        train = learner.score(rollout_batch(), stage)
        learner.update(train, stage)
        results.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
        assert results[-1].dtype is torch.float32
    assert not torch.equal(*results)
    assert torch.nn.functional.cosine_similarity(results[0], results[1], dim=0) > 0.999


def group_batch(n_groups=3, group_size=4):
    """A batch in which the rows of a group have the same prompt; lengths of prompts and responses differ."""
    batch = rollout_batch()
    for row in range(n_groups * group_size):
        owner = row // group_size * group_size
        start = int(batch.response_mask[owner].int().argmax())
        shift = int(batch.response_mask[row].int().argmax()) - start
        for name in ("input_ids", "attention_mask", "response_mask", "turn_ids", "sampler_logprobs"):
            tensor = getattr(batch, name)
            tensor[row] = tensor[row].roll(-shift)
        batch.input_ids[row, :start] = batch.input_ids[owner, :start]
    return batch


def count_tokens(counts):
    """A forward hook that appends the number of input tokens of each call to ``counts``."""
    return lambda _, __, kwargs: counts.append(kwargs["input_ids"].numel())


@pytest.mark.parametrize("value_head", [False, True])
def test_prompts_that_rows_share_are_read_once_with_the_same_result(value_head):
    """Reading a group's prompt once gives the log-probs, values and gradient that reading every row whole gives."""
    batch, results, n_tokens = group_batch(), [], []
    for share in (False, True):
        model, _ = load_policy(ModelConfig(path=PATH))
        actor = Actor(model, value_head=value_head, share_prompts=share)
        counts = []
        hook = count_tokens(counts)
        model.model.register_forward_pre_hook(hook, with_kwargs=True)
        if value_head:
            torch.nn.init.ones_(actor.value_head.weight)
        stats = actor(batch, 0.8)
        weights = torch.linspace(-1, 1, batch.input_ids.numel()).view_as(batch.input_ids)
        ((stats.logprobs + stats.values) * weights).sum().backward()
        results.append((stats.logprobs, stats.values, torch.cat([p.grad.flatten() for p in actor.parameters()])))
        n_tokens.append(sum(counts))
        assert len(counts) == 1 + share
    for whole, shared in zip(*results, strict=True):
        torch.testing.assert_close(shared, whole, atol=2e-5, rtol=1e-4)
    assert n_tokens[1] < n_tokens[0]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("value_head", [False, True])
def test_rows_that_are_the_same_are_read_once_with_the_same_result(value_head, share):
    """Reading rows with equal tokens once changes no result, even if one of the rows is trained on fewer tokens."""
    batch, results, n_tokens = group_batch(), [], []
    for row in (1, 2, 3, 5):
        for name in ("input_ids", "attention_mask", "response_mask", "turn_ids"):
            tensor = getattr(batch, name)
            tensor[row] = tensor[row // 4 * 4]
    last = int(batch.response_mask[3].nonzero()[-1])
    batch.response_mask[3, last], batch.turn_ids[3, last] = False, -1
    for merge in (False, True):
        model, _ = load_policy(ModelConfig(path=PATH))
        actor = Actor(model, value_head=value_head, share_prompts=share, merge_rows=merge)
        counts = []
        model.model.register_forward_pre_hook(count_tokens(counts), with_kwargs=True)
        if value_head:
            torch.nn.init.ones_(actor.value_head.weight)
        stats = actor(batch, 0.8, whole_distribution=True)
        weights = torch.linspace(-1, 1, batch.input_ids.numel()).view_as(batch.input_ids)
        loss = ((stats.logprobs + stats.values) * weights).sum() + stats.distribution[:, :3].exp().sum()
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in actor.parameters()])
        results.append((stats.logprobs, stats.values, stats.entropy, stats.distribution, gradient))
        n_tokens.append(sum(counts))
    for whole, merged in zip(*results, strict=True):
        torch.testing.assert_close(merged, whole, atol=2e-5, rtol=1e-4)
    assert n_tokens[1] < n_tokens[0]


def test_a_reference_reads_rows_that_are_the_same_once_where_the_policy_does():
    model, _ = load_policy(ModelConfig(path=PATH))
    batch = rollout_batch().rows([0, 0, 1])
    found, counts = [], []
    for merge in (False, True):
        actor = Actor(model, share_prompts=False, merge_rows=merge)
        references = References(actor, {"base"}, Distributed(cpu=True))
        counts.append(read := [])
        references._frozen["base"].model.model.register_forward_pre_hook(
            lambda _, __, kwargs, read=read: read.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        found.append(references.stats("base", actor, batch, 1.0).logprobs)
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)
    assert [max(read) for read in counts] == [3, 2]


def test_sharing_is_left_where_it_cannot_pay_or_be_right():
    from rl.backends.trunk import Trunk

    different, none = rollout_batch(), group_batch()
    none.response_mask[0] = False
    none.turn_ids[0] = -1
    model, _ = load_policy(ModelConfig(path=PATH))
    counts = []
    model.model.register_forward_pre_hook(count_tokens(counts), with_kwargs=True)
    trunk = Trunk(model.model, share=True)
    assert trunk.shares
    for batch, passes in ((different, 1), (none, 1), (group_batch(), 2)):
        counts.clear()
        trunk.hidden(batch)
        assert len(counts) == passes
    model.gradient_checkpointing_enable()
    assert not Trunk(model.model, share=True).shares


@pytest.mark.parametrize("n_rows", [0, 1, 7])
def test_log_probs_by_block_equal_log_softmax(n_rows, monkeypatch):
    from rl.backends import policy

    monkeypatch.setitem(policy.BLOCK_ENTRIES, "cpu", 30)  # blocks of three rows
    torch.manual_seed(0)
    values, targets = 3 * torch.randn(n_rows, 10), torch.randint(10, (n_rows,))
    results = []
    for ours in (True, False):
        logits = values.clone().requires_grad_()
        if ours:
            logprobs, entropy = policy.SampledLogprobs.apply(logits, targets)
        else:
            whole = logits.log_softmax(-1)
            logprobs, entropy = whole.gather(1, targets[:, None]).squeeze(1), -(whole.exp() * whole).sum(-1).detach()
        (logprobs * torch.arange(1.0, n_rows + 1)).sum().backward()
        results.append((logprobs.detach(), entropy, logits.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


GENERATION_CONFIGS = {
    "greedy with a temperature": (
        {"temperature": 0.7, "eos_token_id": [2, 5]},
        {"temperature": 0.7, "do_sample": True},
    ),
    "greedy with top-p": ({"do_sample": False, "top_p": 0.9, "top_k": 20}, {"top_p": 0.9, "do_sample": True}),
    "several answers": ({"num_return_sequences": 3, "eos_token_id": 2}, {"num_return_sequences": 3, "do_sample": True}),
    "no room": ({"max_new_tokens": -1, "eos_token_id": 2}, {"max_new_tokens": None, "eos_token_id": 2}),
    "forced and suppressed": (
        {"forced_eos_token_id": 1, "suppress_tokens": [1], "bos_token_id": 1},
        {"bos_token_id": 1},
    ),
    "a bad id": ({"pad_token_id": -3}, {"pad_token_id": None}),
    "a call's argument": ({"streamer": 1, "eos_token_id": 2}, {"eos_token_id": 2}),
    "a word": ({"temperature": "hot"}, {}),
    "right": ({"temperature": 0.7, "do_sample": True}, {"temperature": 0.7, "do_sample": True}),
}


@pytest.mark.parametrize("case", GENERATION_CONFIGS)
def test_a_generation_config_that_transformers_refuses_does_not_cost_a_run(case, tmp_path):
    stored, expected = GENERATION_CONFIGS[case]
    shutil.copytree(ROOT / "models" / "modchain", tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(stored))
    model, tokenizer = load_policy(ModelConfig(path=str(tmp_path / "base")))
    assert {name: getattr(model.generation_config, name) for name in expected} == expected
    save_policy(tmp_path / "policy", model, tokenizer)
    load_policy(ModelConfig(path=str(tmp_path / "policy")))
