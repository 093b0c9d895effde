"""Settings without effect, or with another effect than they name, are refused by key or reported before the run."""

import math
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from rl.config import (
    AlgorithmConfig,
    CriticConfig,
    EnvConfig,
    EvalConfig,
    ModelConfig,
    OfflineConfig,
    OptimConfig,
    RunConfig,
    SFTConfig,
    StageConfig,
    TermConfig,
    TrackingConfig,
    TrainingConfig,
)
from rl.learner import Learner
from rl.refusals import notes, refuse_run
from tests.helpers import modchain_config, named

NO_KL = StageConfig(kl_coefs=[0.0, 0.0])


def algorithm(*stages, **given):
    return AlgorithmConfig(**({"name": "x", "stages": named(*stages)} | given))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: algorithm(NO_KL, kl_in_reward=True),
            r"algorithm\.kl_in_reward=True: has no effect, because all kl_coefs are 0; give .*kl_in_reward=false",
        ),
        *(
            (partial(algorithm, StageConfig(), kl=kl, kl_in_reward=True), rf"kl={kl}: .*is not the KL's.*kl=k1")
            for kl in ("k2", "k3", "k3_published", "full")
        ),
        (lambda: algorithm(StageConfig(), kl="k1_published"), r"kl=k1_published: .*gradient has mean 0.*kl=k1"),
        (
            lambda: algorithm(StageConfig(keep_optimizer=True)),
            r"stages\.stage1\.keep_optimizer=true: .*no earlier stage",
        ),
        (
            lambda: algorithm(StageConfig(share=0.0), StageConfig(keep_optimizer=True)),
            r"stages\.stage2\.keep_optimizer=true",
        ),
        (
            lambda: algorithm(StageConfig(reward_weights=[0.0, 0.0])),
            r"reward_weights=\[0\.0, 0\.0\]: no turn earns a reward",
        ),
        (
            lambda: algorithm(StageConfig(reward_weights=[1.0], kl_coefs=[0.1], progress_alpha=1.0)),
            r"progress_alpha=1\.0: has no effect.*one turn",
        ),
        (
            lambda: algorithm(StageConfig(advantage="imitation", progress_alpha=3.0)),
            r"stages\.stage1\.progress_alpha=3\.0: has no effect, because algorithm\.stages\.stage1\.advantage=imit",
        ),
        (
            lambda: algorithm(StageConfig(advantage="imitation", reward_weights=[0.0, 1.0])),
            r"reward_weights=\[0\.0, 1\.0\]: has no effect.*imitation",
        ),
        (lambda: algorithm(StageConfig(), advantage="imitation", kl="k1", kl_in_reward=True), r"would have no KL"),
        (lambda: algorithm(StageConfig(), advantage="imitation", dynamic_sampling=1), r"dynamic_sampling=1: would"),
        (
            lambda: algorithm(StageConfig(kl_balance=1.0, reward_weights=[1.0, 0.0])),
            r"kl_balance=1\.0: has nothing to balance with",
        ),
        (
            lambda: algorithm(StageConfig(terms={"entropy": TermConfig(weight=0.0)})),
            r"entropy\.weight=0: has no effect",
        ),
        (lambda: TrackingConfig(project="mine"), r"tracking\.project=mine: has no effect.*backends"),
        (lambda: EvalConfig(conversations="x", temperature=0.5), r"evaluation\.temperature=0\.5: has no effect"),
        (lambda: ModelConfig("./here", revision="main"), r"model\.revision=main: has no effect.*a folder"),
        (lambda: ModelConfig("a/b", template_date="20260131"), r"model\.template_date=20260131: is no date"),
        (lambda: ModelConfig("a/b", template_date="2026-W05-6"), r"is no date; write one as 2026-01-31"),
        (lambda: ModelConfig("a/b", template_date="2026-02-30"), r"is no date"),
        (lambda: ModelConfig("a/b", template_date="tomorrow"), r"is no date"),
    ],
)  # fmt: skip
def test_what_reaches_nothing_is_refused_by_its_key(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "given",
    [
        {"stages": named(NO_KL)},  # as in dapo, whose kl is the default
        {"stages": named(NO_KL, StageConfig()), "kl": "full"},  # the second stage has a KL
        # Settings of a preset or a tuned file that other settings make idle are reported and not refused.
        {"stages": named(NO_KL), "kl": "full", "kl_options": {}},
        {"stages": named(NO_KL), "kl": "k1_published"},
        {"stages": named(StageConfig(), StageConfig(kl_coefs=[0.0, 0.0], reference="previous"))},
        {"critic": CriticConfig("none", clip=0.2, warmup_steps=2)},
        {"stages": named(StageConfig()), "kl": "k1_published", "kl_in_reward": True},
        {"stages": named(NO_KL, StageConfig(keep_optimizer=True))},
        {"stages": named(StageConfig(reward_weights=[0.0, 0.0], progress_alpha=1.0))},
        {"stages": named(StageConfig(reward_weights=[0.0, 0.0])), "terms": {"entropy": TermConfig(weight=0.1)}},
        {"stages": named(StageConfig(reward_weights=[0.0, 0.0])), "kl": "k1", "kl_in_reward": True},
        {"terms": {"entropy": TermConfig()}, "stages": named(StageConfig(terms={"entropy": TermConfig(weight=0.0)}))},
    ],
)
def test_what_reaches_something_is_taken(given):
    AlgorithmConfig(name="x", **given)


def sums(**given):
    return EnvConfig(**({"name": "sums", "id": "errata/modchain-v1"} | given))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (sums(group_reward_options={"least": 0.5}), r"env\.group_reward_options=.*has no effect.*group_reward"),
        (sums(group_reward="critic"), r"env\.group_reward=critic: pays a role between attempts.*env\.between"),
        (sums(seeds={"train": 5}), r"env\.seeds=.*has no effect.*gymnasium"),
        (sums(between="critique", between_options={"max_new_tokens": None}), r"max_new_tokens=null: a whole number"),
        (sums(between="critique", between_options={"max_new_tokens": 2.5}), r"max_new_tokens=2\.5: a whole number"),
        (sums(between="verify", between_options={"stops": 1}), r"stops=1: true or false"),
    ],
)
def test_an_environment_without_use_for_an_option_refuses_it(env, message):
    with pytest.raises(ValueError, match=message):
        env.settled()


def offline(budget=None, attempts=2, **given):
    training = TrainingConfig(**(budget or {"episodes": 64}))
    method = OfflineConfig(name="x", **({"rule": "star", "group_size": 4, "iterations": 2} | given))
    return SFTConfig(name="x", env=sums(attempts=attempts).settled(), offline=method, training=training)


def online(budget=None, attempts=2, **given):
    cfg = modchain_config(algorithm=AlgorithmConfig(**({"name": "x", "group_size": 4} | given)))
    training = TrainingConfig(**({"episodes": 64, "tasks_per_step": 8} | (budget or {})))
    return replace(cfg, algorithm=AlgorithmConfig(**({"name": "x", "group_size": 4} | given)), training=training,
                   env=replace(cfg.env, attempts=attempts).settled())  # fmt: skip


CRITIC = {"advantage": "gae", "critic": CriticConfig("separate", warmup_steps=2)}
WARM = {"optim": OptimConfig(warmup_steps=3)}
FIRST = named(StageConfig(reward_weights=[0.0, 1.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: online(**CRITIC), r"critic\.warmup_steps=2: .*the run has 2, so it never would be; give at most 1"),
        (
            lambda: online({"episodes": 128}, **CRITIC, stages={"a": StageConfig(), "b": StageConfig()}),
            r"critic\.warmup_steps=2: .*algorithm\.stages\.a takes 2, so .*give at most 1",
        ),
        (lambda: online(**WARM), r"optim\.warmup_steps=3: .*stages\.main takes 2 optimiser steps.*67%.*at most 2"),
        (
            lambda: online(stages={"a": StageConfig(), "b": StageConfig(optim={"warmup_steps": 2})}),
            r"^algorithm\.stages\.b\.optim\.warmup_steps=2: algorithm\.stages\.b takes 1",
        ),
        (lambda: online({"tokens": 60}, **CRITIC), r"critic\.warmup_steps=2: .*has 2.*tokens=60 allows no more"),
        (lambda: online({"tokens": 60}, **WARM), r"^algorithm\.optim\.warmup_steps=3: .*takes 2 .*tokens=60 allows no"),
        (
            lambda: online({"episodes": 31}),
            r"training\.episodes=31: a batch samples 32 episodes.*training\.episodes=32",
        ),
        (
            lambda: online({"updates": 3}, minibatches=4),
            r"training\.updates=3: a batch takes 4 optimiser steps.*epochs=1 times algorithm\.minibatches=4",
        ),
        (
            lambda: online(attempts=1, stages=FIRST),
            r"^env\.attempts=1: algorithm\.stages\.stage1\.reward_weights=\[0\.0, 1\.0\]: no turn that is played "
            r"earns a reward, so every advantage is 0; set env\.attempts=2, or",
        ),
        (
            lambda: online(stages=named(StageConfig(attempts=1, reward_weights=[0.0, 1.0]))),
            r"^algorithm\.stages\.stage1\.attempts=1: .*set algorithm\.stages\.stage1\.attempts=2, or",
        ),
        (
            lambda: online(attempts=1, stages=named(StageConfig(progress_alpha=1.0))),
            r"progress_alpha=1\.0: has no effect",
        ),
        (lambda: online(attempts=1, stages=named(StageConfig(kl_balance=1.0))), r"kl_balance=1\.0: has nothing"),
        (
            lambda: offline({"episodes": 7}),
            r"training\.episodes=7: .*is 8 episodes; give at least training\.episodes=8",
        ),
        (lambda: offline({"updates": 4}, optim=OptimConfig(warmup_steps=3)), r"offline\.optim\.warmup_steps=3: .* 2 "),
        (
            lambda: offline(optim=OptimConfig(warmup_steps=13), batch_size=16),
            r"warmup_steps=13: a round takes 12 optimiser steps at most \(offline\.epochs=3 over at most 64 rows in "
            r"batches of offline\.batch_size=16\).* 92%.*give at most 12",
        ),
        (
            lambda: offline({"tokens": 64}, optim=OptimConfig(warmup_steps=31), batch_size=16),
            r"warmup_steps=31: a round takes 30 optimiser steps at most .* 160 rows",
        ),
        *(
            (partial(offline, attempts=1, rule=rule, iterations=1), rf"^env\.attempts=1: offline\.rule={rule} learns")
            for rule in ("star", "pair", "verify", "dpo")
        ),
        (
            lambda: offline({"tokens": 5}, iterations=1, conversations="x"),
            r"training\.tokens=5: has no effect.*conversations",
        ),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused_with_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        refuse_run(make())


def test_sizes_that_just_fit_are_taken():
    in_two = {"stages": {"a": StageConfig(share=3.0), "b": StageConfig()}}  # stage a has a step after the warm-up
    fits = [online({"episodes": 128}, **CRITIC, **in_two), online(critic=CriticConfig("none", warmup_steps=9))]
    fits += [online({"episodes": 96}, **CRITIC), online({"episodes": 96}, **WARM), online({"episodes": 32})]
    fits += [online({"updates": 4}, minibatches=4), online({"tokens": 99}, **CRITIC), online({"tokens": 99}, **WARM)]
    fits += [
        offline({"episodes": 8}),
        offline({"tokens": 5}),
        offline(optim=OptimConfig(warmup_steps=12), batch_size=16),
        offline(optim=OptimConfig(warmup_steps=99), conversations="x", iterations=1),
        offline(attempts=1, rule_options={"keep_right_to_right": True}),
        offline(attempts=1, rule="relabel"),
        offline({"updates": 6}, optim=OptimConfig(warmup_steps=3)),
    ]
    for cfg in fits:
        refuse_run(cfg)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (online(loss="gspo"), "algorithm.loss=gspo: with one optimiser step per batch"),
        (online(loss_options={"clip_high": 0.3}), "algorithm.loss=ppo, loss_options={'clip_high': 0.3}: with one"),
        (online(advantage="gae", critic=CriticConfig("separate", clip=0.2)), "algorithm.critic.clip=0.2 clips nothing"),
        (online(critic=CriticConfig(clip=0.2)), "algorithm.critic.clip=0.2 does nothing: algorithm.critic.kind=none"),
        (online(critic=CriticConfig(warmup_steps=3)), "algorithm.critic.warmup_steps=3 does nothing"),
        (
            online(advantage="gae", critic=CriticConfig("separate", detach=True)),
            "algorithm.critic.detach=True does nothing: algorithm.critic.kind=separate",
        ),
        (online(kl="full", stages=named(NO_KL)), "algorithm.kl=full does nothing: all kl_coefs are 0"),
        (
            online(stages=named(StageConfig(), replace(NO_KL, reference="previous"))),
            "algorithm.stages.stage2.reference=previous does nothing",
        ),
        (
            online(advantage="grpo", stages=named(StageConfig(advantage="rloo"))),
            "algorithm.advantage=grpo reaches no stage",
        ),
        (
            online(optim=OptimConfig(lr=1.0), stages=named(StageConfig(optim={"lr": 0.1}))),
            "algorithm.optim.lr=1.0 reaches no stage",
        ),
        (
            online({"save_every": 0, "keep_last": 5}),
            "training.keep_last=5 does nothing: training.save_every=0",
        ),
        (offline({"updates": 30}, epochs=7), "offline.epochs=7 does nothing: training.updates=30 decides"),
    ],
)
def test_what_a_preset_sets_and_nothing_reads_is_said(cfg, message):
    assert [note for note in notes(cfg) if note.startswith(message)]
    assert not notes(online(minibatches=2, loss="gspo"))
    assert not notes(online({"save_every_updates": 2, "save_every": 0, "keep_last": 5}))
    assert not notes(online({"save_every": 0}))
    assert not notes(offline(epochs=7))
    assert not notes(offline({"updates": 30}))


def test_what_a_budget_of_tokens_may_not_reach_and_attempts_that_nothing_learns_are_said():
    long = "if every answer were as long as env.max_new_tokens="
    for cfg in (online({"tokens": 200}, **CRITIC), online({"tokens": 200}, **WARM)):
        refuse_run(cfg)
        assert [note for note in notes(cfg) if note.startswith(long) and "warmup_steps" in note]
    cfg = offline({"tokens": 9999}, optim=OptimConfig(warmup_steps=300), batch_size=8)
    refuse_run(cfg)
    assert [note for note in notes(cfg) if note.startswith(long) and "offline.optim.warmup_steps=300" in note]
    for rule in ("pair", "verify", "dpo"):
        said = f"env.attempts=3: offline.rule={rule} learns from 2 attempts"
        assert notes(offline(attempts=3, rule=rule, iterations=1))[0].startswith(said)
    for cfg in (offline(attempts=3), offline(attempts=3, rule="relabel"), offline({"tokens": 9999}), online()):
        assert not notes(cfg)


@pytest.mark.parametrize(
    ("stage", "given", "message"),
    [
        ({"loss": "foo"}, {}, "algorithm.stages.stage1.loss=foo: unknown"),
        ({"advantage_options": {"turn_gamma": 7}}, {}, "algorithm.stages.stage1.advantage_options.turn_gamma=7: must"),
        ({"loss_options": {"clip_low": 7}}, {}, "algorithm.stages.stage1.loss_options.clip_low=7: must"),
        (
            {"advantage_options": {"turn_gamma": 0.5}},
            {"advantage_options": {"x": 1}},
            "algorithm.advantage_options.x: ",
        ),
        ({"group_size": 1}, {}, "algorithm.stages.stage1.group_size=1: rloo compares"),
        ({"advantage": "gae"}, {}, "algorithm.stages.stage1.advantage=gae needs values"),
        ({"reference": "previous"}, {}, "algorithm.stages.stage1.reference=previous: there is no stage"),
        (
            {"optim": {"mixed_precision": "bf16"}},
            {},
            "algorithm.stages.stage1.optim.mixed_precision: cannot differ by stage",
        ),
        ({"terms": {"e": TermConfig("entropy", options={"x": 1})}}, {}, "algorithm.stages.stage1.terms.e.options.x: "),
        ({}, {"terms": {"e": TermConfig("entropy", options={"x": 1})}}, "algorithm.terms.e.options.x: entropy has no"),
        ({}, {"terms": {"e": TermConfig("entrpy")}}, "algorithm.terms.e.loss=entrpy: unknown; did you mean"),
    ],
)
def test_what_a_stage_was_given_is_refused_by_its_own_key(stage, given, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        algorithm(StageConfig(**stage), **given)


def test_evaluations_say_what_they_have_no_use_for():
    cfg = online(attempts=1, stages=named(StageConfig(reward_weights=[1.0, 1.0])))
    cfg.evaluation = EvalConfig(controls=True, fixed_first=3, max_attempts=1)
    cfg.training = replace(cfg.training, validate_every=0)
    said = "\n".join(notes(cfg))
    for part in (
        "controls does nothing: it needs a second",
        "fixed_first does nothing: it needs a second",
        "max_attempts=1 does nothing: it is not above env.attempts=1",
    ):
        assert part in said
    assert "fixed_first is measured only before training" in said
    looked_at = RunConfig(name="x", env=sums().settled(), evaluation=EvalConfig(fixed_first=5))
    assert notes(looked_at)[0].startswith("evaluation.fixed_first does nothing here")
    paid = RunConfig(name="x", env=sums(group_reward="majority").settled())
    assert notes(paid) == ["env.group_reward=majority is paid in training only; rates count verdicts"]


@pytest.mark.parametrize(("third", "balance"), [((0.0, 0.0), 0.2), ((4.0, 1.0), 0.3)])
def test_a_balance_weighs_turns_as_the_loss_does(third, balance):
    """The balance divides sums over the batch, so a turn that only 2 of 8 episodes played weighs as in the loss.

    Summed |A| is 8 at turn 2 and 0 or 4 at turn 3; summed KL of turn 1 is 40.
    """
    table = {"gap": (0.0, 1.0), "kl 0": (40.0, 8.0), "kl 1": (1.0, 2.0), "kl 2": (0.0, third[1])}
    table |= {"advantage 0": (9.0, 8.0), "advantage 1": (8.0, 2.0), "advantage 2": third}
    parts = [{name: torch.tensor(pair, dtype=torch.float64) for name, pair in table.items()}]
    one = SimpleNamespace(control=SimpleNamespace(coefs=[0.1] * 3), _distributed=SimpleNamespace(sum=lambda x: x))
    found = Learner.measured(one, parts)
    assert found.balance == pytest.approx(balance)  # not nan, though no episode may have played turn 3
    assert found.kl[0] == 5.0
    assert math.isnan(found.advantage[2]) == (third == (0.0, 0.0))
