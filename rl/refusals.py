"""What a whole run refuses before anything is sampled, and what it says of itself: sizes against each other.

A config's own dataclasses check values one by one; here are those that only the environment's attempts, the budget or
the number of processes can judge.
"""

from typing import Any

from rl.advantages import Estimator
from rl.budget import planned_steps, refuse_small_budget, steps_of_stages
from rl.config import SFTConfig, StageConfig, TrainConfig
from rl.config.idle import notes_on, refuse_unpaid


def refuse_config(config: TrainConfig, n_processes: int = 1) -> None:
    """Raises ValueError for values of an online run that cannot work together, before anything is sampled."""
    algorithm, size = config.algorithm, config.training.tasks_per_step
    stages = algorithm.running(config.env.attempts)
    if config.training.tokens and any(stage.optim["schedule"] != "constant" for stage in stages.values()):
        raise ValueError("training.tokens: the number of updates is not known beforehand; use optim.schedule=constant")
    for name, stage in stages.items():
        key = f"algorithm.stages.{name}"
        if len(stage.reward_weights) < stage.attempts:
            raise ValueError(
                f"{key}.reward_weights has {len(stage.reward_weights)} entries, but training episodes have "
                f"{stage.attempts} attempts: give reward_weights and kl_coefs one entry per attempt"
            )
        if stage.offline_first_attempts and stage.attempts < 2:
            raise ValueError(f"{key}.offline_first_attempts needs at least two attempts")
        own = algorithm.stages[name].attempts if name in algorithm.stages else 0
        given = f"{key}.attempts={own}" if own else f"env.attempts={stage.attempts}"
        refuse_unpaid(algorithm, key, stage, stage.attempts, given)
        if size * stage.group_size < algorithm.minibatches * n_processes:
            raise ValueError(
                f"algorithm.minibatches={algorithm.minibatches}: cannot split {size * stage.group_size} episodes into "
                f"so many on {n_processes} processes"
            )
        estimator = Estimator.of(stage)
        if config.model.thoughts == "drop" and estimator.turn_gamma and (estimator.values or algorithm.kl_in_reward):
            raise ValueError(
                f"{key}.advantage_options.turn_gamma={estimator.turn_gamma}: with model.thoughts=drop every turn is a "
                "sequence of its own, so no critic's value and no KL in the reward reaches from a turn to the one "
                "before it; set turn_gamma=0"
            )
    refuse_small_budget(config)
    _refuse_long_warmups(config, stages)
    if size % n_processes:
        raise ValueError(f"training.tasks_per_step={size} cannot be shared equally by {n_processes} processes")


def _refuse_long_warmups(config: TrainConfig, stages: dict[str, StageConfig]) -> None:
    if config.training.tokens:  # how many steps they buy is not known before
        return
    algorithm, steps = config.algorithm, steps_of_stages(config, planned_steps(config))
    warmup, per_batch = algorithm.critic.warmup_steps, algorithm.epochs * algorithm.minibatches
    first, n_first = next(((name, n) for name, n in zip(stages, steps, strict=True) if n), ("", 0))
    if algorithm.critic.kind != "none" and warmup >= n_first > 0:
        takes = f"the run has {n_first}" if n_first == sum(steps) else f"algorithm.stages.{first} takes {n_first}"
        raise ValueError(
            f"algorithm.critic.warmup_steps={warmup}: the policy rests for as many rollout batches, and {takes}, so "
            f"that it would never be trained there; give at most {n_first - 1}, or a larger budget"
        )
    for (name, stage), n in zip(stages.items(), steps, strict=True):
        if 0 < n * per_batch < (warmup := stage.optim["warmup_steps"]):
            raise ValueError(
                f"algorithm.optim.warmup_steps={warmup}: algorithm.stages.{name} takes {n * per_batch} optimiser "
                f"steps, so that it would end at {n * per_batch / warmup:.0%} of its learning rate; give at most "
                f"{n * per_batch}, or a larger budget"
            )


def refuse_offline(config: SFTConfig) -> None:
    """Raises ValueError for values of an offline method that cannot work together, before anything is sampled."""
    offline, budget, env = config.offline, config.training, config.env
    if 0 < budget.updates < offline.iterations:
        raise ValueError(
            f"training.updates={budget.updates}: fewer than the rounds of {offline.name} ({offline.iterations})"
        )
    if 0 < (per_round := budget.updates // offline.iterations) < (warmup := offline.optim.warmup_steps):
        raise ValueError(
            f"offline.optim.warmup_steps={warmup}: a round takes {per_round} optimiser steps, so that it would end at "
            f"{per_round / warmup:.0%} of its learning rate; give at most {per_round}, or more training.updates"
        )
    unit = offline.iterations * offline.group_size
    if budget.episodes < unit and not (budget.tokens or offline.conversations):
        raise ValueError(
            f"training.episodes={budget.episodes}: a group of offline.group_size={offline.group_size} in each of "
            f"offline.iterations={offline.iterations} rounds is {unit} episodes; give at least training.episodes={unit}"
        )
    if budget.tokens and offline.conversations:
        raise ValueError(
            f"training.tokens={budget.tokens}: has no effect, because offline.conversations are learned from and "
            "nothing is sampled; leave it away"
        )
    if env.group_reward is not None:
        raise ValueError(
            f"env.group_reward={env.group_reward} pays online training; an offline method has a rule of its own, "
            "offline.rule; set env.group_reward=null"
        )
    if env.between is not None:
        raise ValueError(
            f"env.between={env.between} is for online training: offline rules learn attempts alone; "
            "set env.between=null"
        )


def refuse_run(config: Any, n_processes: int = 1) -> None:
    """Raises ValueError for what cannot be run, whatever kind of run it is."""
    if isinstance(config, TrainConfig):
        refuse_config(config, n_processes)
    elif isinstance(config, SFTConfig):
        refuse_offline(config)


def notes(config: Any) -> list[str]:
    """What a run was given that does nothing in it, where a preset may have set it: it is said, and not refused."""
    evaluation, env, found = config.evaluation, config.env, list[str]()
    if isinstance(config, TrainConfig):
        found += notes_on(config.algorithm)
        if env.between == "critique" and env.group_reward != "critic":
            found.append("env.between=critique: what is said is paid nothing; env.group_reward=critic pays for it")
        if evaluation.fixed_first and not config.training.validate_every:
            found.append("evaluation.fixed_first is measured once, before training: training.validate_every=0")
    elif evaluation.fixed_first and not isinstance(config, SFTConfig):
        # Said and not refused: the base of a comparison is evaluated with the settings of all its arms.
        found.append("evaluation.fixed_first does nothing here: it is measured at the validations of a training run")
    if not isinstance(config, TrainConfig) and env.group_reward is not None:
        found.append(f"env.group_reward={env.group_reward} pays training episodes alone; rates are the verifier's")
    if env.attempts == 1:
        found += [
            f"evaluation.{name} needs a second attempt: env.attempts=1"
            for name in ("controls", "fixed_first")
            if getattr(evaluation, name)
        ]
    if 0 < evaluation.max_attempts <= env.attempts:
        found.append(
            f"evaluation.max_attempts={evaluation.max_attempts} plays nothing longer than env.attempts={env.attempts}"
        )
    if isinstance(config, SFTConfig) and config.offline.conversations:
        found.append("offline.conversations are learned from: training.episodes and offline.group_size sample nothing")
    return found
