"""Offline rules keep exactly the tokens that they promise, and fine-tuning learns these tokens."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from envs import Split
from rl.backends import sft
from rl.backends.sft import IGNORED, SFTRow, fine_tune, shared_arguments
from rl.config import OfflineConfig, OptimConfig, SFTConfig
from rl.offline import KEEP_RULES, NothingKeptError, OfflineTrainer, keep_pairs, keep_relabelled, keep_star
from rl.workbench import Workbench
from tests.helpers import episode, modchain_config


def test_star_keeps_traces_that_end_right():
    episodes = [episode((0.0, 1.0)), episode((1.0, 1.0)), episode((1.0, 0.0)), episode((0.0, 0.0)), episode(error="x")]
    assert len(keep_star(episodes, 0, list, keep_right_to_right=False)) == 1
    assert len(keep_star(episodes, 0, list, keep_right_to_right=True)) == 2


def test_star_learns_the_second_attempt_only():
    # prompt 1 2 | 10 20 | 5 | 11 21: only 11 21 is learned
    (row,) = keep_star([episode((0.0, 1.0))], 0, list, keep_right_to_right=False)
    assert row.input_ids == (1, 2, 10, 20, 5, 11, 21)
    assert row.labels == (*[IGNORED] * 5, 11, 21)


def test_pairs_answer_a_wrong_attempt_with_a_right_one():
    episodes = [episode((0.0, 0.0)), episode((1.0, 0.0))]
    (row,) = keep_pairs(episodes, 0, list, keep_right_to_right=False, per_task=8)
    # the wrong attempt's own second prompt, then the right attempt's tokens (10 20 in these episodes)
    assert row.input_ids == (1, 2, 10, 20, 5, 10, 20)
    assert row.labels == (*[IGNORED] * 5, 10, 20)


def test_pairs_of_a_task_are_capped_and_plus_adds_right_to_right():
    episodes = [episode((0.0, 0.0))] * 10 + [episode((1.0, 0.0))] * 3
    assert len(keep_pairs(episodes, 0, list, keep_right_to_right=False, per_task=4)) == 4
    assert len(keep_pairs(episodes, 0, list, keep_right_to_right=True, per_task=4)) == 4 + 3
    assert keep_pairs([episode((0.0, 0.0))], 0, list, keep_right_to_right=True, per_task=4) == []


def test_relabelling_answers_every_state_with_a_right_attempt():
    # Task a has an episode that ends right and one that is always wrong. No first attempt is right, so first turns
    # are answered with the right second attempt, 11 21.
    episodes = [episode((0.0, 1.0)), episode((0.0, 0.0)), episode((0.0, 0.0), task_id="hopeless")]
    rows = keep_relabelled(episodes, 0, list, per_task=8)
    assert len(rows) == 4  # two states of each turn of the solvable task, none of the other
    assert {row.labels[-2:] for row in rows} == {(11, 21)}
    assert sorted(len(row.input_ids) for row in rows) == [4, 4, 7, 7]
    assert len(keep_relabelled(episodes, 0, list, per_task=1)) == 2


def test_relabelling_prefers_answers_of_the_same_turn():
    rows = keep_relabelled([episode((1.0, 0.0)), episode((0.0, 1.0))], 0, list, per_task=8)
    by_turn = {len(row.input_ids): row.labels[-2:] for row in rows}
    assert by_turn == {4: (10, 20), 7: (11, 21)}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("star", {"keep_right_to_right": False}, 1),
        ("star", {"keep_right_to_right": True}, 4),
        ("pair", {"keep_right_to_right": False}, 2),
        ("pair", {"keep_right_to_right": True}, 2),
        ("relabel", {}, 5 + 2),
        ("verify", {}, 2),
        ("dpo", {}, 1),
    ],
)
def test_right_first_attempts_that_end_an_episode_answer_for_others(name, options, expected):
    """Episodes that end with a right first attempt, as with ``stop_rule=on_correct``, still provide right answers."""
    episodes = [episode((1.0,))] * 3 + [episode((0.0, 1.0)), episode((0.0, 0.0))]
    assert len(KEEP_RULES.bind(name, options)(episodes, 0, list)) == expected


def fast(lr=1e-2):
    return OptimConfig(lr=lr, schedule="linear")


def sft_config(**offline):
    cfg = modchain_config()
    fields = {name: getattr(cfg, name) for name in ("threads", "model", "env", "engine", "evaluation", "training")}
    return SFTConfig(seed=0, name="test", offline=OfflineConfig(name="x", **offline), **fields)


def offline_trainer(cfg, bench, on_update):
    rollout, tasks = bench.rollout(Split.TRAIN), bench.tasks(Split.TRAIN)
    return OfflineTrainer(cfg, bench.model, bench.tokenizer, rollout, tasks, on_update, lambda *_: None)


@pytest.mark.parametrize("batch_size", [1, 12, 32, 37])
@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 64, 100, 230, 10_000])
def test_micro_batching_leaves_the_batch_as_large_as_it_is(batch_size, micro_batch_tokens):
    optim = OptimConfig(micro_batch_tokens=micro_batch_tokens)
    config = OfflineConfig(name="x", rule="star", batch_size=batch_size, optim=optim)
    bench = Workbench.build(sft_config(rule="star"))
    found = shared_arguments("x", bench.model, 100, 10, config, seed=0, n_steps=0)
    size, n_pieces = found["per_device_train_batch_size"], found["gradient_accumulation_steps"]
    assert size * n_pieces == batch_size
    assert size == 1 or size * 10 <= micro_batch_tokens


def test_fine_tuning_learns_the_labels_and_nothing_of_the_prompt():
    cfg = sft_config(rule="star", epochs=30, batch_size=4, optim=fast(3e-3))
    bench = Workbench.build(cfg)
    prompt, target = tuple(bench.tokenizer.encode("<|user|> 3 +4 _ _ _ _ <|assistant|>")), (5, 6, bench.renderer.end_id)
    rows = [SFTRow.from_turn(prompt, target)] * 4
    outcome = fine_tune(bench.model, bench.tokenizer, rows, cfg.offline, seed=0)
    with torch.no_grad():
        logits = bench.model(input_ids=torch.tensor([prompt + target])).logits[0]
    assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == list(target)
    assert outcome["steps"] == 30
    assert outcome["gradient_tokens"] == 4 * 3 * 30
    with pytest.raises(ValueError, match="no rows"):
        fine_tune(bench.model, bench.tokenizer, [], cfg.offline, seed=0)


def test_a_large_head_reads_learned_positions_alone_and_learns_the_same(monkeypatch):
    from trl.trainer import utils

    read, function = [], utils._ChunkedLogProbFunction
    recorded = SimpleNamespace(
        apply=lambda hidden, *others: read.append(len(hidden)) or function.apply(hidden, *others)
    )
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", recorded)
    cfg = sft_config(rule="star", epochs=2, batch_size=4, optim=fast(3e-3))
    learned, before = [], utils._use_triton
    for large in (1, 10**6):
        monkeypatch.setattr(sft, "LARGE_HEAD", large)
        bench = Workbench.build(cfg)
        prompt = tuple(bench.tokenizer.encode("<|user|> 3 +4 _ _ _ _ <|assistant|>"))
        rows = [SFTRow.from_turn(prompt[:n], (5, 6, bench.renderer.end_id)) for n in (3, len(prompt), 4, 5)]
        fine_tune(bench.model, bench.tokenizer, rows, cfg.offline, seed=0)
        learned.append(torch.cat([parameter.detach().flatten() for parameter in bench.model.parameters()]))
    assert read == [4 * 3] * 2 + [4 * (len(prompt) + 2)] * 2
    torch.testing.assert_close(learned[0], learned[1], atol=1e-5, rtol=1e-4)
    assert utils._use_triton is before


def test_rounds_restart_from_the_base_and_spend_the_budget():
    cfg = sft_config(
        rule="star",
        iterations=2,
        group_size=4,
        rule_options={"keep_right_to_right": True},
        epochs=1,
        optim=fast(),
    )
    cfg.training.episodes = 256
    bench = Workbench.build(cfg)
    base = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    versions = []
    trainer = offline_trainer(cfg, bench, versions.append)
    first = trainer.collect()
    trainer.train_round(first)
    second = trainer.collect()
    trainer.train_round(second)
    assert len(first) + len(second) == trainer.totals.episodes == 256
    assert versions == [1, 2]
    assert all(torch.equal(trainer._base[name], base[name]) for name in base)
    changed = [name for name, tensor in bench.model.state_dict().items() if not torch.equal(tensor, base[name])]
    assert changed


def test_iterated_fine_tuning_goes_on_from_the_current_model():
    """With ``restart`` the second round loads the base first; without it, training continues from the first round."""
    for restart in (True, False):
        cfg = sft_config(
            rule="star",
            iterations=2,
            group_size=4,
            rule_options={"keep_right_to_right": True},
            epochs=1,
            optim=fast(),
            restart=restart,
        )
        cfg.training.episodes = 256
        bench = Workbench.build(cfg)
        trainer = offline_trainer(cfg, bench, bench.publish)
        trainer.train_round(trainer.collect())
        after_one = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
        started_from = {}
        load = bench.model.load_state_dict
        bench.model.load_state_dict = lambda state, load=load, seen=started_from: (seen.update(state), load(state))[1]
        trainer.train_round(trainer.collect())
        assert bool(started_from) == restart
        assert not torch.equal(after_one["lm_head.weight"], bench.model.state_dict()["lm_head.weight"])


def test_a_rule_that_keeps_nothing_says_so():
    cfg = sft_config(rule="star")
    bench = Workbench.build(cfg)
    trainer = offline_trainer(cfg, bench, lambda _: None)
    with pytest.raises(NothingKeptError, match="none of 1 episode passes"):
        trainer.train_round([episode((0.0, 0.0))])


def test_pair_takes_one_iteration():
    with pytest.raises(ValueError, match=r"offline\.iterations"):
        OfflineConfig(name="x", rule="pair", iterations=2)


@dataclass(frozen=True)
class LongOptions:
    least: int = 2


@KEEP_RULES.register("test_long_firsts", options=LongOptions)
def long_firsts(episodes, seed, encode, *, least):
    """First attempts of at least ``least`` tokens."""
    firsts = [one.turns[0] for one in episodes if not one.failed]
    return [SFTRow.from_turn(one.prompt_ids, one.action_ids) for one in firsts if len(one.action_ids) >= least]


def test_a_rule_of_another_module_trains():
    cfg = sft_config(rule="test_long_firsts", rule_options={"least": 3}, group_size=4, epochs=1)
    cfg.training.episodes = 64
    bench = Workbench.build(cfg)
    trainer = offline_trainer(cfg, bench, bench.publish)
    episodes = trainer.collect()
    outcome = trainer.train_round(episodes)
    assert outcome["kept"] == sum(len(one.turns[0].action_ids) >= 3 for one in episodes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "stra"}, r"offline\.rule=stra: unknown; did you mean 'star'"),
        (
            {"rule": "star", "rule_options": {"per_task": 3}},
            r"offline\.rule_options\.per_task: star has no such option",
        ),
        ({"rule": "dpo", "rule_options": {"per_task": 0}}, r"offline\.rule_options\.per_task=0"),
        ({"rule": "star", "beta": 0.5}, r"offline\.beta=0\.5: has no effect"),
        ({"rule": "pair", "iterations": 3}, r"offline\.iterations"),
    ],
)
def test_what_a_rule_cannot_use_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        OfflineConfig(name="x", **changes)


def test_a_group_reward_is_refused_where_a_rule_decides():
    cfg = sft_config(rule="star")
    cfg.env.group_reward = "majority"
    with pytest.raises(ValueError, match=r"env\.group_reward=majority is for online training"):
        offline_trainer(cfg, Workbench.build(cfg), lambda _: None)
