"""Invariants of online training, checked with the real model in ``models/modchain``."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from envs import Split, Task
from rewards import Verdict
from rl.backends.trunk import Trunk
from rl.config import AlgorithmConfig, StageConfig
from rl.learner import Learner
from rl.losses import NORMALISERS
from rl.rollout import EpisodePlan
from rl.source import TaskStream, drop_failed
from rl.types import RunStoppedError
from tests.helpers import build_trainer, episode, log_step, modchain_config, named

STAGE_ONE = StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.0, 0.0])
SCORE = AlgorithmConfig(
    name="score",
    group_size=4,
    stages=named(
        StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.3, 0.03]),
        StageConfig(reward_weights=[1.0, 1.0], progress_alpha=3.0, kl_coefs=[0.03, 0.03]),
    ),
)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_the_trainers_logprobs_equal_the_engines_on_both_turns():
    """Log-probs agree within 1e-4, because the trainer reads the second turn after the first attempt as sampled."""
    from rl.batching import to_rollout_batch

    trainer, bench = build_trainer(modchain_config())
    actor = trainer.learner._actor
    plans = [EpisodePlan(task, i, i) for i, task in enumerate(bench.tasks(Split.TRAIN))]
    episodes = bench.rollout(Split.TRAIN).run(plans, 1.0)
    rows = to_rollout_batch(episodes, bench.renderer.pad_id, 2)
    with torch.no_grad():
        stats = actor(rows, temperature=1.0)
    gap = (stats.logprobs - rows.sampler_logprobs).abs()
    for turn in (0, 1):
        of_turn = rows.turn_ids == turn
        assert of_turn.sum() > 100
        assert gap[of_turn].max() < 1e-4
    # Check that the test can fail: another first attempt in the context changes the second turn's log-probs.
    rows.input_ids[rows.turn_ids == 0] = rows.input_ids[rows.turn_ids == 0].roll(1)
    with torch.no_grad():
        other = actor(rows, temperature=1.0)
    assert (other.logprobs - rows.sampler_logprobs).abs()[rows.turn_ids == 1].max() > 1e-2


@pytest.mark.parametrize("normaliser", list(NORMALISERS))
@pytest.mark.parametrize("kl", ["k3", "full"])
def test_micro_batching_does_not_change_the_gradient(normaliser, kl):
    """Micro-batches of 1, 2, 3 and 6 rows give the gradient of the whole batch."""
    algorithm = replace(SCORE, normaliser=normaliser, kl=kl)
    gradients, n_pieces = [], []
    for rows_per_piece in (1, 2, 3, 6):
        cfg = modchain_config(tasks_per_step=3, algorithm=replace(algorithm, group_size=2))
        trainer, bench = build_trainer(cfg)
        learner, stage = trainer.learner, trainer.stages[1]
        learner.enter_stage(stage, 1, is_first=True)
        with torch.no_grad():  # move away from the reference, where the KL has no gradient
            for p in bench.model.parameters():
                p.add_(0.01 * torch.sin(torch.arange(p.numel()).view_as(p)))
        episodes = trainer.source.sample(stage, 1000).episodes
        from rl.batching import micro_batches, to_rollout_batch

        batch = to_rollout_batch(episodes, bench.renderer.pad_id, 2)
        width = int(batch.lengths.max())
        learner._optim.micro_batch_tokens = rows_per_piece * width
        learner._optim.max_grad_norm = 1e9  # no gradient clipping
        n_pieces.append(len(list(micro_batches(batch.lengths, batch.group_ids, rows_per_piece * width))))
        train = learner.score(batch, stage)
        learner._optimizer.zero_grad = lambda: None  # keep the gradient for the comparison
        learner.update(train, stage)
        gradients.append(gradient(bench.model))
    assert n_pieces[0] == 6
    assert n_pieces[-1] == 1
    scale = gradients[0].abs().max()
    assert scale > 1e-5
    for other in gradients[1:]:
        torch.testing.assert_close(other / scale, gradients[0] / scale, rtol=1e-4, atol=1e-5)


def test_stage_one_gives_first_attempt_tokens_no_reward_gradient():
    """d loss / d log-prob is 0 on every first-attempt token, but not on second attempts with different rewards."""
    from rl.batching import to_rollout_batch
    from rl.losses import clipped_pg_loss
    from tests.helpers import credit, loss_inputs

    trainer, bench = build_trainer(modchain_config(algorithm=replace(SCORE, stages=named(STAGE_ONE))))
    episodes = trainer.source.sample(trainer.stages[0], 1000).episodes
    rows = to_rollout_batch(episodes, bench.renderer.pad_id, 2)
    advantages, _ = credit(rows, SCORE, STAGE_ONE)
    logprobs = rows.sampler_logprobs.clone().requires_grad_()
    stats, scored = loss_inputs(logprobs, rows.sampler_logprobs, advantages, rows.turn_ids)
    clipped_pg_loss(stats, scored, rows.response_mask.float(), clip_low=0.2, clip_high=0.2).loss.backward()
    assert logprobs.grad is not None
    assert (logprobs.grad[rows.turn_ids == 0] == 0).all()
    assert (logprobs.grad[rows.turn_ids == 1] != 0).any()


def test_the_same_seed_twice_gives_identical_parameters():
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer, bench = build_trainer(modchain_config(seed=seed, algorithm=SCORE, episodes=96))
        while trainer.step < trainer.n_steps:
            trainer.train_step()
        runs[name] = parameters(bench.model)
    assert torch.equal(runs["a"], runs["b"])
    assert not torch.equal(runs["a"], runs["c"])


def test_every_parameter_moves_and_the_metrics_are_in_the_catalogue():
    from rl.analysis.metrics import describe

    trainer, bench = build_trainer(modchain_config(algorithm=SCORE))
    before = {name: p.detach().clone() for name, p in bench.model.named_parameters()}
    metrics, episodes = log_step(trainer)
    assert all(describe(name).unit for name in metrics)
    assert len(episodes) == metrics["rollout/episodes"] == 32
    unmoved = [name for name, p in bench.model.named_parameters() if torch.equal(p, before[name])]
    assert not unmoved
    assert metrics["policy/sampler_gap"] < 1e-4
    assert metrics["policy/ratio"] == pytest.approx(1.0)


def test_several_updates_per_batch_use_the_old_policy():
    algorithm = AlgorithmConfig(name="x", group_size=4, epochs=2, minibatches=3, stages=named(StageConfig()))
    trainer, _ = build_trainer(modchain_config(algorithm=algorithm, lr=3e-2))
    step = trainer.train_step()
    assert step.measured.log["policy/ratio"] != pytest.approx(1.0, abs=1e-6)
    assert step.measured.log["policy/clip_fraction"] > 0
    # Every epoch uses every row once, in its own order.
    first, second = (torch.cat(step.batch.plan[start : start + 3]).tolist() for start in (0, 3))
    assert sorted(first) == sorted(second) == list(range(32))
    assert first != second
    assert [len(part) for part in step.batch.plan] == [11, 11, 10] * 2


def test_fewer_rows_than_minibatches_make_fewer_steps(monkeypatch):
    """Masked episodes are dropped without counting as failures, so a batch may have fewer rows than minibatches."""
    monkeypatch.setattr("rl.trainer.drop_failed", lambda episodes, _: drop_failed(episodes, True)[:2])
    algorithm = AlgorithmConfig(name="x", group_size=4, epochs=2, minibatches=3, stages=named(StageConfig()))
    trainer, _ = build_trainer(modchain_config(algorithm=algorithm, tasks_per_step=1))
    step = trainer.train_step()
    assert [len(part) for part in step.batch.plan] == [1, 1] * 2
    assert step.totals.updates == 4


def test_single_turn_training_samples_one_attempt():
    algorithm = AlgorithmConfig(
        name="x", group_size=4, stages=named(StageConfig(attempts=1, reward_weights=[1.0], kl_coefs=[0.03]))
    )
    trainer, _ = build_trainer(modchain_config(algorithm=algorithm))
    metrics, episodes = log_step(trainer)
    assert {len(e.turns) for e in episodes} == {1}
    assert "reward/raw_t2" not in metrics


def test_a_run_of_failures_stops_with_a_clear_message():
    cfg = modchain_config()
    cfg.model.context_length = 5
    trainer, _ = build_trainer(cfg)
    with pytest.raises(
        RunStoppedError, match=r"100% of the episodes failed.*context_full, the question has 8 tokens and .*holds 5"
    ):
        trainer.train_step()


def test_too_few_weights_are_named_before_anything_is_sampled():
    cfg = modchain_config()
    cfg.env.attempts = 3
    with pytest.raises(ValueError, match=r"algorithm\.stages\.main\.reward_weights has 2 entries.*3 attempts"):
        build_trainer(cfg)


def test_failed_episodes_and_lonely_survivors_are_dropped():
    group_a = [episode(group_id=0), episode(group_id=0), episode(group_id=0, error="x")]
    group_b = [episode(group_id=1), episode(group_id=1, error="x")]
    assert len(drop_failed(group_a + group_b, need_company=True)) == 2
    assert len(drop_failed(group_a + group_b, need_company=False)) == 3


def test_every_task_is_seen_once_per_pass():
    tasks = [Task(str(i), "?", "") for i in range(10)]
    stream, other = TaskStream(tasks, 0), TaskStream(tasks, 1)
    passes = [[stream[10 * n + i].id for i in range(10)] for n in range(3)]
    assert all(sorted(one) == [task.id for task in tasks] for one in passes)
    assert passes[0] != passes[1]
    assert passes[0] != [other[i].id for i in range(10)]
    assert stream[3].id == passes[0][3], "as before, whatever was asked about in between"


@pytest.mark.parametrize(
    ("schedule", "warmup", "n_updates", "taken", "position", "factor"),
    [
        ("linear", 2, 12, 0, 0, 0.5),
        ("linear", 2, 12, 7, 7, 0.5),
        ("linear", 2, 12, 3, 7, 0.5),  # replaced groups used up the budget of 4 updates
        ("cosine", 0, 10, 5, 5, 0.5),
        ("constant", 0, 10, 9, 9, 1.0),
    ],
)
def test_schedules(schedule, warmup, n_updates, taken, position, factor):
    trainer, _ = build_trainer(modchain_config(lr=0.01, schedule=schedule, warmup_steps=warmup))
    learner = trainer.learner
    learner.enter_stage(trainer.stages[0], n_updates, is_first=True)
    learner.set_lr(taken, position)
    assert learner.lr == pytest.approx(0.01 * factor)
    assert {group["lr"] for group in learner._optimizer.param_groups} == {learner.lr}


def test_every_turn_has_a_kl_weight_of_its_own():
    """With all advantages set to 0, the loss is the sum over turns of the turn's coefficient times its KL."""
    stage = StageConfig(reward_weights=[1.0, 1.0], kl_coefs=[10.0, 1.0])
    trainer, bench = build_trainer(modchain_config(algorithm=replace(SCORE, stages=named(stage))))
    learner, (stage,) = trainer.learner, trainer.stages
    learner.enter_stage(stage, 1, is_first=True)
    with torch.no_grad():  # move away from the reference, where every KL is 0
        for p in bench.model.parameters():
            p.add_(0.01 * torch.sin(torch.arange(p.numel()).view_as(p)))
    from rl.batching import to_rollout_batch
    from rl.losses import StepSize

    train = learner.score(
        to_rollout_batch(trainer.source.sample(stage, 1000).episodes, bench.renderer.pad_id, 2), stage
    )
    train = replace(train, advantages=torch.zeros_like(train.advantages))
    n = len(train)
    loss, found = learner._loss(train, stage, StepSize(n, 2 * n, 1.0, 1.0), critic_only=False)
    first, second = (found[f"kl {k}"] for k in range(2))
    assert first.num > 0
    assert second.num > 0
    assert first.den == second.den == n
    assert loss.item() == pytest.approx((10.0 * first.num.item() + second.num.item()) / n)


def test_a_real_episode_reads_as_expected():
    """Pins the text of a whole episode, which was once inspected by eye."""
    _, bench = build_trainer(modchain_config())
    (one,) = bench.rollout(Split.TRAIN).run([EpisodePlan(bench.tasks(Split.TRAIN)[0], 0, 0)], 0.0)
    text = bench.tokenizer.decode(one.turns[-1].prompt_ids + one.turns[-1].action_ids)
    question = bench.tasks(Split.TRAIN)[0].question
    first, second = (turn.text for turn in one.turns)
    expected = f"<|user|> {question} <|assistant|> {first} <|end|> <|user|> check <|assistant|> {second} <|end|>"
    assert text == expected
    assert one.turns[0].score.verdict in (Verdict.CORRECT, Verdict.WRONG)


@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_importance_weights_change_nothing_where_sampler_and_trainer_agree(importance):
    def after_two_steps(**algorithm):
        trainer, bench = build_trainer(modchain_config(algorithm=AlgorithmConfig("test", group_size=4, **algorithm)))
        metrics = [log_step(trainer)[0] for _ in range(2)]
        return parameters(bench.model), metrics[-1]

    plain, _ = after_two_steps()
    weighted, metrics = after_two_steps(importance=importance)
    assert metrics["policy/importance_weight"] == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(plain, weighted, atol=1e-5, rtol=0)


def test_a_sampler_that_is_another_policy_stops_the_run():
    trainer, _ = build_trainer(modchain_config())
    run = trainer.source._rollouts[2].run

    def shifted(plans, temperature):
        """Episodes whose sampler log-probs are shifted by 0.5 nats, as if another policy had sampled them."""
        return [
            replace(
                episode,
                turns=tuple(
                    replace(turn, sampler_logprobs=tuple(p - 0.5 for p in turn.sampler_logprobs))
                    for turn in episode.turns
                ),
            )
            for episode in run(plans, temperature)
        ]

    trainer.source._rollouts[2].run = shifted
    with pytest.raises(RunStoppedError, match=r"differ by 0\.5 nats.*max_sampler_gap=0\.2.*stale weights"):
        trainer.train_step()


class ReadsOfNumbers(TorchDispatchMode):
    """Records calls that would wait for a device: ``.item()``, ``bool(tensor)``, ``float(tensor)``, ``nonzero``."""

    kinds = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.kinds:
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("algorithm", [{"loss": "ppo", "epochs": 2}, {"loss": "gspo", "kl": "full"}])
def test_loss_and_backward_of_a_micro_batch_wait_for_nothing(algorithm, monkeypatch):
    """A micro-batch copies its rows to the host once, to plan what to read; nothing else makes the host wait."""
    counter, original, hidden, backward = ReadsOfNumbers(), Learner._loss, Trunk.hidden, torch.Tensor.backward
    fetched, cpu, planning = [], torch.Tensor.cpu, []

    def loss(self, *args):
        with counter:
            return original(self, *args)

    def plan(self, batch):
        before, fetches = len(counter.found), len(fetched)
        result = hidden(self, batch)
        del counter.found[before:]  # reads of the copy on the host, which do not wait for the device
        planning.append(len(fetched) - fetches)
        return result

    def back(self, *args, **kwargs):
        with counter:
            return backward(self, *args, **kwargs)

    monkeypatch.setattr(Learner, "_loss", loss)
    monkeypatch.setattr(Trunk, "hidden", plan)
    monkeypatch.setattr(torch.Tensor, "backward", back)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self, *args: fetched.append(self) or cpu(self, *args))
    with counter:
        assert torch.ones(1).item() == 1.0
    assert len(counter.found) == 1  # the counter works
    counter.found.clear()
    trainer, _ = build_trainer(modchain_config(algorithm=AlgorithmConfig(name="x", group_size=4, **algorithm)))
    log_step(trainer)
    assert planning
    assert set(planning) == {1}
    assert not counter.found


def test_nothing_is_read_from_the_device_inside_a_micro_batch(monkeypatch):
    """Metrics of a micro-batch stay tensors until the step's gradient is complete; reading them would wait for it."""
    seen, original = [], Learner._loss

    def loss(self, *args):
        found = original(self, *args)
        seen.extend(found[1].values())
        return found

    monkeypatch.setattr(Learner, "_loss", loss)
    trainer, _ = build_trainer(modchain_config(algorithm=AlgorithmConfig(name="x", loss="ppo", epochs=2, group_size=4)))
    metrics, _ = log_step(trainer)
    assert len(seen) > 10
    assert all(isinstance(ratio.num, torch.Tensor) for ratio in seen)
    assert not any(isinstance(value, torch.Tensor) for value in metrics.values())
