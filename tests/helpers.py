"""Builders of turns, episodes, batches, configs and trainers that several tests share."""

from dataclasses import replace

import torch

from envs import StopReason
from rewards import Score, Verdict
from rl.advantages import Estimator, advantages, just_here
from rl.analysis.rows import EvalRow
from rl.config import AlgorithmConfig, EnvConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig, TrainingConfig
from rl.types import Episode, Finish, RolloutBatch, SampledStats, TrainBatch, Turn
from tests.conftest import ROOT


def turn(prompt=(1, 2), action=(3, 4), reward=0.0, verdict=None, text="x", finish=Finish.STOP, answer=None):
    verdict = verdict or (Verdict.CORRECT if reward else Verdict.WRONG)
    logprobs = tuple(-0.5 for _ in action)
    score = Score(min(1.0, max(0.0, reward)), verdict, answer)
    return Turn(tuple(prompt), tuple(action), logprobs, text, finish, score, reward)


def episode(rewards=(0.0, 1.0), task_id="a", group_id=0, error=None):
    """An episode with one two-token action per reward.

    The first prompt has two tokens; the prompt of turn k is the prompt and the action of turn k-1 and one token more.
    """
    prompt, turns = (1, 2), []
    for k, reward in enumerate(rewards):
        action = (10 + k, 20 + k)
        turns.append(turn(prompt, action, reward))
        prompt = (*prompt, *action, 5)
    failed = error is not None
    reason = StopReason.ENV_ERROR if failed else StopReason.ATTEMPTS_USED
    return Episode(task_id, group_id, 0, 0, tuple(turns), not failed, failed, reason, error)


def batch(rewards, group_ids=None, n_turns=None, tokens_per_turn=1):
    """A RolloutBatch with the given ``[B, K]`` rewards: one prompt token, then ``tokens_per_turn`` per turn."""
    rewards = torch.tensor(rewards)
    n_rows, n_columns = rewards.shape
    width = 1 + n_columns * tokens_per_turn
    turn_ids = torch.full((n_rows, width), -1)
    for k in range(n_columns):
        turn_ids[:, 1 + k * tokens_per_turn : 1 + (k + 1) * tokens_per_turn] = k
    n_turns = torch.full((n_rows,), n_columns) if n_turns is None else torch.tensor(n_turns)
    turn_ids[turn_ids >= n_turns[:, None]] = -1
    mask = turn_ids >= 0
    attention = mask.clone()
    attention[:, 0] = True
    return RolloutBatch(
        input_ids=torch.zeros(n_rows, width, dtype=torch.long),
        attention_mask=attention,
        response_mask=mask,
        turn_ids=turn_ids,
        sampler_logprobs=torch.zeros(n_rows, width),
        rewards=rewards,
        n_turns=n_turns,
        group_ids=torch.zeros(n_rows, dtype=torch.long) if group_ids is None else torch.tensor(group_ids),
        compared=torch.ones(n_rows, n_columns, dtype=torch.bool),
    )


def named(*stages):
    """The stages as a config holds them: a dict by name (``stage1``, ``stage2``, ...), in order."""
    return {f"stage{i + 1}": stage for i, stage in enumerate(stages)}


def credit(rows, algorithm, stage, values=None):
    """Advantages and returns of a rollout batch, computed in a single process."""
    values = torch.zeros(rows.turn_ids.shape) if values is None else values
    stage = algorithm.resolve(stage)
    return advantages(rows, values, stage, Estimator.of(stage), algorithm.whiten, just_here)


def loss_inputs(logprobs, old, advantages, turn_ids, **others):
    """The inputs of a loss term: ``[B, T]`` tensors, with response tokens wherever ``turn_ids`` is not negative."""
    shape, mask = turn_ids.shape, turn_ids >= 0
    zeros = torch.zeros(shape)
    # RolloutBatch refuses rows that begin with a response token, as the rows of these tests do. Setting the fields
    # directly skips its checks.
    rollout = object.__new__(RolloutBatch)
    values = {"input_ids": zeros.long(), "attention_mask": torch.ones(shape, dtype=torch.bool), "response_mask": mask}
    values |= {"turn_ids": turn_ids, "sampler_logprobs": old, "rewards": torch.zeros(shape[0], 2)}
    values |= {"n_turns": turn_ids.max(1).values + 1, "group_ids": torch.zeros(shape[0], dtype=torch.long)}
    for name, value in (values | others).items():
        object.__setattr__(rollout, name, value)
    stats = SampledStats(logprobs, zeros, zeros, torch.zeros(0))
    return stats, TrainBatch(rollout, old, zeros, zeros, advantages, zeros, mask)


def row(arm="a", seed=0, task_id="t", first=False, last=True, sample=0, mode="greedy", failed=False, answers=None):
    answers = answers or ("1" if first else "0", "1" if last else "0")
    return EvalRow(
        arm=arm,
        seed=seed,
        mode=mode,
        task_id=task_id,
        sample=sample,
        attempts=2,
        correct=() if failed else (first, last),
        rewards=() if failed else (float(first), float(last)),
        verdicts=() if failed else tuple("correct" if right else "wrong" for right in (first, last)),
        answers=() if failed else answers,
        texts=() if failed else answers,
        n_tokens=() if failed else (2, 3),
        truncated=() if failed else (False, False),
        stop_reason="env_error" if failed else "attempts_used",
        failed=failed,
    )


def modchain_config(seed=0, episodes=64, tasks_per_step=8, algorithm=None, fused_head=False, **optim):
    """The config of a run on the embedded model, small enough for a test."""
    algorithm = replace(algorithm or AlgorithmConfig(name="test", group_size=4), optim=OptimConfig(**optim))
    return TrainConfig(
        seed=seed,
        threads=1,
        name="test",
        model=ModelConfig(path=str(ROOT / "models" / "modchain")),
        env=EnvConfig(
            name="modchain",
            id="errata/modchain-v1",
            prompts="toy-v1",
            max_new_tokens=[3, 7],
            options={"n_train": 64, "n_validation": 10, "n_test": 20},
        ),
        algorithm=replace(algorithm, fused_head=fused_head),
        training=TrainingConfig(episodes=episodes, tasks_per_step=tasks_per_step, keep_episodes=2),
        evaluation=EvalConfig(samples_per_task=2),
    )


def log_step(trainer):
    """Performs a training step and returns its metrics and this process's episodes."""
    from rl.rollout_metrics import describe

    step = trainer.train_step()
    return describe(step, trainer._distributed), step.episodes


def build_trainer(cfg):
    """Builds a trainer and its workbench on the CPU."""
    from rl.backends.distributed import Distributed
    from rl.workbench import Workbench

    distributed = Distributed(cpu=True)
    bench = Workbench.build(cfg, distributed)
    trainer = bench.trainer()
    return trainer, bench
