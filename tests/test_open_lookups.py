"""Losses, advantages, KL terms, engines and the like can be added without changing this project's code.

Registering a function and naming it in a config must suffice.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from rl.advantages import ADVANTAGES, returns_to_go, to_tokens
from rl.backends.engine_hf import HFEngine
from rl.backends.engines import ENGINES
from rl.config import AlgorithmConfig, EngineConfig, StageConfig, TermConfig
from rl.kl import KLS
from rl.losses import IMPORTANCE, LOSSES, NORMALISERS, LossOutput, masked_sum
from tests.helpers import build_trainer, log_step, modchain_config


@dataclass(frozen=True)
class Best:
    margin: float = 0.5


@ADVANTAGES.register("test_best_of_group", options=Best, groups=True)
def best_of_group(rewards_BK, values_BT, batch, sum_over, *, margin):
    """Gives 1 to the best episodes of a group and minus the margin to the others."""
    totals = returns_to_go(rewards_BK, 1.0)[:, :1]
    best = torch.stack([totals[batch.group_ids == group].max() for group in batch.group_ids])
    return to_tokens(torch.where(totals[:, 0] >= best, 1.0, -margin)[:, None].expand_as(rewards_BK), batch.turn_ids)


@LOSSES.register("test_reinforce")
def reinforce(stats, batch, weights):
    """The plain policy gradient."""
    mask = batch.rollout.response_mask
    loss = -masked_sum(weights * batch.advantages * stats.logprobs, mask)
    return LossOutput(loss, {})


@LOSSES.register("test_supervised")
def supervised(stats, batch, weights):
    """Negative log-likelihood of correct turns, added to the policy's loss: reinforcement and supervised learning."""
    right = batch.rollout.rewards.gather(1, batch.rollout.turn_ids.clamp(min=0)) >= 1.0
    return LossOutput(-masked_sum(weights * stats.logprobs, batch.rollout.response_mask & right), {})


@NORMALISERS.register("test_square_root")
def square_root(turn_ids, size):
    """Divides by the square root of the number of tokens, which lies between the sum and the mean."""
    return torch.full(turn_ids.shape, size.tokens**-0.5, device=turn_ids.device)


@KLS.register("test_absolute")
def absolute(stats, reference, old_logprobs, mask):
    """The absolute log-ratio."""
    return torch.where(mask, stats.logprobs - reference.logprobs, 0.0).abs()


@KLS.register("test_symmetric", distribution=True)
def symmetric(stats, reference, old_logprobs, mask):
    """Jeffreys' divergence of the whole distributions."""
    p, q = stats.distribution, reference.distribution
    return torch.zeros_like(stats.logprobs).masked_scatter(mask, ((p.exp() - q.exp()) * (p - q)).sum(-1))


@IMPORTANCE.register("test_half")
def half(log_ratio, mask):
    """Weights every token by one half."""
    return torch.full_like(log_ratio, 0.5), {}


def after_two_steps(**algorithm):
    stages = {"main": StageConfig(kl_coefs=[0.3, 0.3])}
    cfg = modchain_config(algorithm=AlgorithmConfig(name="x", group_size=4, stages=stages, **algorithm))
    trainer, bench = build_trainer(cfg)
    for _ in range(2):
        metrics, _ = log_step(trainer)
    return torch.cat([p.detach().flatten() for p in bench.model.parameters()]), metrics


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "test_best_of_group", "advantage_options": {"margin": 0.1}},
        {"loss": "test_reinforce", "normaliser": "tokens"},
        {"terms": {"test_supervised": TermConfig(weight=0.5)}},
        {"terms": {"any name": TermConfig(loss="entropy", weight=0.5)}},
        {"normaliser": "test_square_root"},
        {"kl": "test_absolute"},
        {"kl": "test_symmetric"},
        {"importance": "test_half"},
    ],
)
def test_what_a_test_registers_trains(changes):
    plain, _ = after_two_steps()
    ours, metrics = after_two_steps(**changes)
    assert torch.isfinite(ours).all()
    assert not torch.equal(plain, ours)
    assert metrics["policy/loss"] == pytest.approx(metrics["policy/loss"])


def test_a_stage_may_have_its_own_estimator_loss_group_size_temperature_and_optimiser():
    first = StageConfig(
        advantage="test_best_of_group",
        loss="test_reinforce",
        group_size=2,
        temperature=0.5,
        optim={"lr": 1e-5},
        terms={"test_supervised": TermConfig(weight=0.1)},
    )
    stages = {"first": first, "second": StageConfig()}
    cfg = modchain_config(algorithm=AlgorithmConfig(name="x", group_size=4, stages=stages), episodes=4 * 32, lr=1e-2)
    trainer, _ = build_trainer(cfg)
    seen = []
    while not trainer.is_done:
        metrics, episodes = log_step(trainer)
        seen.append((metrics["stage"], len(episodes), metrics["optim/lr"]))
    # Each stage has half of the 128 episodes: four steps of 16 episodes, then two of 32.
    assert seen == [(0, 16, 1e-5)] * 4 + [(1, 32, 1e-2)] * 2
    first, second = trainer.stages
    assert (first.advantage_options, second.advantage, second.loss, second.temperature) == ({}, "rloo", "ppo", 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "rlo"}, r"algorithm\.advantage=rlo: unknown; did you mean 'rloo'"),
        ({"loss": "ppp"}, r"algorithm\.loss=ppp: unknown; did you mean 'ppo'"),
        ({"loss": ""}, "algorithm.loss=: unknown"),
        ({"normaliser": "token"}, "did you mean 'tokens'"),
        ({"kl": "k33"}, r"algorithm\.kl=k33: unknown; did you mean 'k3'"),
        ({"importance": "tokens"}, "did you mean 'token'"),
        ({"terms": {"entropi": TermConfig()}}, "did you mean 'entropy'"),
        ({"loss_options": {"clip_hi": 0.3}}, r"algorithm\.loss_options\.clip_hi: ppo has no such option; did you mean"),
        ({"advantage_options": {"lam": 0.9}}, "rloo has no such option"),
        ({"importance_options": {"cap": 2.0}}, "none has no such option"),
        ({"kl_options": {"x": 1}}, "k3 has no such option"),
        ({"normaliser_options": {"x": 1}}, "episodes has no such option"),
        ({"advantage": "test_best_of_group", "group_size": 1}, "compares the episodes of a task"),
        ({"stages": {"a": StageConfig(advantage="gae")}}, "needs values"),
        ({"stages": {"a": StageConfig(loss="nothing")}}, "algorithm.stages.a.loss=nothing: unknown"),
        ({"stages": {"a": StageConfig(share=0.0)}}, "every stage has share=0"),
    ],
)  # fmt: skip
def test_unknown_names_and_options_are_refused_with_the_nearest(changes, message):
    with pytest.raises(ValueError, match=message):
        AlgorithmConfig(name="x", **changes)


def test_an_option_is_checked_by_its_function():
    plain = AlgorithmConfig(name="x")
    for field, value in (("loss_options", {"clip_low": "wide"}), ("advantage_options", {"turn_gamma": 2.0})):
        with pytest.raises(ValueError, match=rf"algorithm\.{field}"):
            replace(plain, **{field: value})


@ENGINES.register("test_greedy", decodes=True)
def greedy_engine(config, model, renderer, context_length, distributed):
    """Takes the most likely token, whatever temperature a request asks for."""

    class Greedy(HFEngine):
        def submit(self, requests):
            super().submit([replace(request, temperature=0.0) for request in requests])

    return Greedy(model, renderer.end_ids, renderer.pad_id)


def test_an_engine_of_ones_own_samples():
    cfg = replace(modchain_config(), engine=EngineConfig(name="test_greedy"))
    episodes = build_trainer(cfg)[0].train_step().episodes
    assert len({e.turns[0].action_ids for e in episodes if e.group_id == episodes[0].group_id}) == 1
    with pytest.raises(ValueError, match=r"engine\.name=vlm: unknown; did you mean 'vllm'\?"):
        build_trainer(replace(cfg, engine=EngineConfig(name="vlm")))
