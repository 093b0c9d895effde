"""The vLLM engine against the transformers engine, with the model in ``models/modchain``: ``make test-vllm``."""

from copy import deepcopy

import pytest
import torch

from envs import Split
from rl.backends.distributed import Distributed
from rl.config import EngineConfig
from rl.rollout import EpisodePlan, complete
from rl.types import Request
from tests.helpers import build_trainer, log_step, modchain_config

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def bench():
    """A workbench whose engine is vLLM; a test that changes the weights restores those of the base."""
    from rl.workbench import Workbench

    cfg = modchain_config()
    cfg.engine = EngineConfig(name="vllm", max_batch_size=64)
    made = Workbench.build(cfg, Distributed(cpu=True))
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def hf():
    from rl.workbench import Workbench

    return Workbench.build(modchain_config(), Distributed(cpu=True))


def requests(bench, n=16, temperature=1.0, seed=0):
    tasks = bench.tasks(Split.TRAIN)[:n]
    env = bench.rollout(Split.TRAIN)._make_env()
    prompts = [bench.renderer.opening(env.reset(options={"task": task})[0]) for task in tasks]
    return [Request(i, prompt, 7, temperature, seed + i) for i, prompt in enumerate(prompts)]


def plans(bench, n=24):
    return [EpisodePlan(task, i, i) for i, task in enumerate(bench.tasks(Split.TRAIN)[:n])]


def test_logprobs_equal_the_trainers_on_both_turns(bench, hf):
    """Float32 log-probs agree within 1e-4 at temperatures 1 and 0.7; training would measure a difference as a gap."""
    from rl.backends.policy import Actor
    from rl.batching import to_rollout_batch

    for temperature in (1.0, 0.7):
        episodes = bench.rollout(Split.TRAIN).run(plans(bench), temperature)
        rows = to_rollout_batch(episodes, bench.renderer.pad_id, 2)
        with torch.no_grad():
            stats = Actor(hf.model)(rows, temperature)
        gap = (stats.logprobs - rows.sampler_logprobs).abs()
        assert gap[rows.response_mask].max() < 1e-4
        assert {int(k) for k in rows.turn_ids[rows.response_mask]} == {0, 1}


def test_greedy_episodes_are_the_transformers_engines_token_for_token(bench, hf):
    ours = hf.rollout(Split.TRAIN).run(plans(hf), 0.0)
    theirs = bench.rollout(Split.TRAIN).run(plans(bench), 0.0)
    assert [[t.action_ids for t in e.turns] for e in ours] == [[t.action_ids for t in e.turns] for e in theirs]
    for episode in theirs:  # the second prompt begins with the first and the sampled ids, not tokenised again
        first, second = episode.turns
        seen = first.prompt_ids + first.action_ids
        assert second.prompt_ids[: len(seen)] == seen


def test_a_requests_seed_decides_its_sample_whatever_else_runs(bench):
    asked = requests(bench)
    together = complete(bench.engine, asked)
    alone = [complete(bench.engine, [request])[0] for request in reversed(asked)][::-1]
    assert [c.action_ids for c in together] == [c.action_ids for c in alone]
    others = complete(bench.engine, requests(bench, seed=1000))
    assert [c.action_ids for c in together] != [c.action_ids for c in others]


def test_reloaded_weights_are_in_the_next_sample_and_stamped(bench):
    """New weights are used from the next sample on: prefix caching must not reuse prompts that the old weights read."""
    asked = requests(bench, temperature=0.0)
    before = complete(bench.engine, asked)
    original = deepcopy(bench.model.state_dict())
    try:
        with torch.no_grad():
            for parameter in bench.model.parameters():
                parameter.neg_()
        bench.publish(3)
        after = complete(bench.engine, asked)
    finally:
        bench.model.load_state_dict(original)
        bench.publish(0)
    assert [c.policy_version for c in before + after] == [0] * 16 + [3] * 16
    assert [c.action_ids for c in before] != [c.action_ids for c in after]
    assert [c.action_ids for c in complete(bench.engine, asked)] == [c.action_ids for c in before]


def test_weights_do_not_change_under_running_requests(bench):
    bench.engine.submit(requests(bench, n=2))
    with pytest.raises(RuntimeError, match="2 requests are being decoded"):
        bench.publish(1)
    while bench.engine.pending:
        bench.engine.step()


def test_training_through_vllm_measures_no_gap():
    """The sampler gap stays small over three updates; with stale weights it would grow from the first update on."""
    cfg = modchain_config(episodes=96)
    cfg.engine = EngineConfig(name="vllm", max_batch_size=64)
    trainer, bench = build_trainer(cfg)
    while not trainer.is_done:
        metrics, episodes = log_step(trainer)
        assert metrics["policy/sampler_gap"] < 1e-4
        assert {e.policy_version for e in episodes} == {trainer.step - 1}
    assert trainer.step == 3
    bench.engine.close()


def test_a_model_with_tied_embeddings_samples_from_its_own_weights(hf, tmp_path):
    """New weights must reach the output head of a model with tied embeddings, such as SmolLM2, Qwen and Llama 3.2.

    On a CPU vLLM keeps a packed copy of the head, which the weights of a tied embedding would not reach.
    """
    from rl.backends.policy import Actor
    from rl.batching import to_rollout_batch
    from rl.workbench import Workbench

    model = deepcopy(hf.model)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    hf.tokenizer.save_pretrained(tmp_path)
    cfg = modchain_config()
    cfg.model.path = str(tmp_path)
    cfg.engine = EngineConfig(name="vllm", max_batch_size=64)
    tied = Workbench.build(cfg, Distributed(cpu=True))
    try:
        assert tied.model.lm_head.weight is tied.model.model.embed_tokens.weight
        for version in (0, 1):
            episodes = tied.rollout(Split.TRAIN).run(plans(tied), 1.0)
            rows = to_rollout_batch(episodes, tied.renderer.pad_id, 2)
            with torch.no_grad():
                stats = Actor(tied.model)(rows, 1.0)
            assert (stats.logprobs - rows.sampler_logprobs).abs()[rows.response_mask].max() < 1e-4, version
            with torch.no_grad():
                tied.model.model.embed_tokens.weight.mul_(1.1)
            tied.publish(version + 1)
    finally:
        tied.engine.close()
