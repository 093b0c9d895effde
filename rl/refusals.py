"""Checks that the values of a run fit together: raises errors before anything is sampled, or returns notes.

The dataclasses of a config check its values one by one. The checks here also need the environment's number of attempts,
the budget or the number of processes.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rewards.wording import counted
from rl.advantages import Estimator
from rl.budget import TOKEN_CHUNK, batches_bought, planned_steps, refuse_small_budget, steps_of_stages
from rl.config import SFTConfig, TrainConfig
from rl.config.checks import changed
from rl.config.idle import notes_on, refuse_unpaid
from rl.health_needs import notes_on_health, refuse_idle_stops


def refuse_config(config: TrainConfig, n_processes: int = 1) -> None:
    """Raises ValueError if values of an online run cannot work together."""
    algorithm, size = config.algorithm, config.training.tasks_per_step
    stages = algorithm.running(config.env.attempts)
    if config.training.tokens and any(stage.optim["schedule"] != "constant" for stage in stages.values()):
        raise ValueError(
            "training.tokens: the number of updates, which a schedule needs, is not known beforehand; use "
            "optim.schedule=constant"
        )
    for name, stage in stages.items():
        key = f"algorithm.stages.{name}"
        if len(stage.reward_weights) < stage.attempts:
            raise ValueError(
                f"{key}.reward_weights has {counted(len(stage.reward_weights), 'entry', 'entries')}, but training "
                f"episodes have {counted(stage.attempts, 'attempt')}: give reward_weights and kl_coefs one entry per "
                "attempt"
            )
        if stage.offline_first_attempts and stage.attempts < 2:
            raise ValueError(f"{key}.offline_first_attempts needs at least two attempts")
        own = algorithm.stages[name].attempts if name in algorithm.stages else 0
        given = f"{key}.attempts={own}" if own else f"env.attempts={stage.attempts}"
        refuse_unpaid(algorithm, key, stage, stage.attempts, given)
        if size * stage.group_size < algorithm.minibatches * n_processes:
            raise ValueError(
                f"algorithm.minibatches={algorithm.minibatches}: a batch of "
                f"{counted(size * stage.group_size, 'episode')} on {counted(n_processes, 'process', 'processes')} is "
                "too small for that many; use fewer"
            )
        estimator = Estimator.of(stage)
        if config.model.thoughts == "drop" and estimator.turn_gamma and (estimator.values or algorithm.kl_in_reward):
            raise ValueError(
                f"{key}.advantage_options.turn_gamma={estimator.turn_gamma}: with model.thoughts=drop every turn is a "
                "sequence of its own, so no critic's value and no KL in the reward reaches from a turn to the one "
                "before it; set turn_gamma=0"
            )
    refuse_small_budget(config)
    _refuse_long_warmups(config)
    refuse_idle_stops(config.training.stop_on, [config])
    if size % n_processes:
        raise ValueError(f"training.tasks_per_step={size}: {n_processes} processes need a multiple of {n_processes}")


def _long_warmups(config: TrainConfig, batches: Sequence[int]) -> Iterator[str]:
    """Messages about warm-ups that would not end, given the number of rollout batches of each stage."""
    algorithm = config.algorithm
    stages, warmup = algorithm.running(config.env.attempts), algorithm.critic.warmup_steps
    first, n_first = next(((name, n) for name, n in zip(stages, batches, strict=True) if n), ("", 0))
    if algorithm.critic.kind != "none" and warmup >= n_first > 0:
        takes, then = f"the run has {n_first}", "never would be"
        if n_first != sum(batches):
            takes, then = f"algorithm.stages.{first} takes {n_first}", "would not be in that stage"
        yield (
            f"algorithm.critic.warmup_steps={warmup}: the policy is not trained in that many rollout batches, and "
            f"{takes}, so it {then}; give at most {n_first - 1}, or a larger budget"
        )
    for (name, stage), n in zip(stages.items(), batches, strict=True):
        steps, warmup = n * algorithm.epochs * algorithm.minibatches, stage.optim["warmup_steps"]
        if 0 < steps < warmup:
            own = name in algorithm.stages and "warmup_steps" in algorithm.stages[name].optim
            yield (
                f"algorithm.{f'stages.{name}.' if own else ''}optim.warmup_steps={warmup}: algorithm.stages.{name} "
                f"takes {counted(steps, 'optimiser step')}, so it would end at {steps / warmup:.0%} of its "
                f"learning rate; give at most {steps}, or a larger budget"
            )


def _refuse_long_warmups(config: TrainConfig) -> None:
    # The number of steps that a budget of tokens allows is unknown. Use the upper bound, for the shortest answers: a
    # warm-up that is too long for this bound is too long for any answers.
    tokens = config.training.tokens
    most = batches_bought(config, longest=False) if tokens else steps_of_stages(config, planned_steps(config))
    for said in _long_warmups(config, most):
        bought = f" (training.tokens={tokens} allows no more, even with answers of one token)" if tokens else ""
        raise ValueError(said + bought)


def _most_rows(config: SFTConfig, longest: bool = False) -> int:
    """Largest number of rows that a round can keep: one per attempt.

    With a budget of tokens the number depends on the length of answers: ``longest`` assumes answers of maximum length,
    otherwise each answer has a single token.
    """
    offline, budget, env = config.offline, config.training, config.env
    if budget.tokens:
        episodes = budget.tokens // offline.iterations // (env.token_budget(env.attempts) if longest else env.attempts)
        return (episodes + TOKEN_CHUNK * offline.group_size) * env.attempts  # the last chunk is sampled whole
    return budget.episodes // (offline.iterations * offline.group_size) * offline.group_size * env.attempts


def _long_offline_warmup(config: SFTConfig, rows: int) -> str:
    """Message if the warm-up is longer than a round with at most ``rows`` rows; empty if it is not."""
    offline, warmup = config.offline, config.offline.optim.warmup_steps
    steps = config.training.updates // offline.iterations
    why = ""
    if not config.training.updates:
        steps = offline.epochs * math.ceil(rows / offline.batch_size)
        why = (
            f" at most (offline.epochs={offline.epochs} over at most {counted(rows, 'row')} in batches of "
            f"offline.batch_size={offline.batch_size})"
        )
    if not 0 < steps < warmup:
        return ""
    return (
        f"offline.optim.warmup_steps={warmup}: a round takes {counted(steps, 'optimiser step')}{why}, so "
        f"it would end at {steps / warmup:.0%} of its learning rate; give at most {steps}, or a larger budget"
    )


def refuse_offline(config: SFTConfig) -> None:
    """Raises ValueError if values of an offline method cannot work together."""
    from rl.offline import needed_attempts  # imported here, because rl.offline imports this module

    offline, budget, env = config.offline, config.training, config.env
    if 0 < budget.updates < offline.iterations:
        raise ValueError(
            f"training.updates={budget.updates}: {offline.name} has offline.iterations={offline.iterations} rounds; "
            f"give at least training.updates={offline.iterations}"
        )
    unit = offline.iterations * offline.group_size
    if budget.episodes < unit and not (budget.tokens or offline.conversations):
        raise ValueError(
            f"training.episodes={budget.episodes}: a group of offline.group_size={offline.group_size} in each of "
            f"offline.iterations={offline.iterations} is {counted(unit, 'episode')}; give at least "
            f"training.episodes={unit}"
        )
    # ``env.attempts`` is 0 as long as the config is not settled, so the author's number is not known yet.
    if env.attempts and not offline.conversations and (said := _long_offline_warmup(config, _most_rows(config))):
        raise ValueError(said)
    if 0 < env.attempts < (needed := needed_attempts(offline.rule, offline.rule_options)):
        raise ValueError(
            f"env.attempts={env.attempts}: offline.rule={offline.rule} learns from attempt {needed}, so it would "
            f"keep nothing of what is sampled; set env.attempts={needed}"
        )
    if budget.tokens and offline.conversations:
        raise ValueError(
            f"training.tokens={budget.tokens}: has no effect, because offline.conversations are learned from and "
            "nothing is sampled; remove it"
        )
    if env.group_reward is not None:
        raise ValueError(
            f"env.group_reward={env.group_reward} is for online training; an offline method selects episodes by "
            "offline.rule; set env.group_reward=null"
        )
    if env.between is not None:
        raise ValueError(
            f"env.between={env.between} is for online training: offline rules learn attempts alone; "
            "set env.between=null"
        )
    refuse_idle_stops(config.training.stop_on, [config])


def refuse_run(config: Any, n_processes: int = 1) -> None:
    """Raises ValueError if a run of any kind has values that cannot work together."""
    if isinstance(config, TrainConfig):
        refuse_config(config, n_processes)
    elif isinstance(config, SFTConfig):
        refuse_offline(config)


def notes_of_arm(config: Any) -> list[str]:
    """Notes on settings of an online algorithm or offline method that have no effect or may not work as intended."""
    found, tokens = list[str](), getattr(getattr(config, "training", None), "tokens", 0)
    if_long = f"if every answer were as long as env.max_new_tokens={config.env.max_new_tokens}: "
    if isinstance(config, TrainConfig | SFTConfig):
        found += notes_on_health(config)
    if isinstance(config, TrainConfig):
        found += notes_on(config.algorithm)
        if not (config.training.save_every or config.training.save_every_updates):
            because = "training.save_every=0 and training.save_every_updates=0 save no checkpoint"
            found += [
                f"training.{k}={v} does nothing: {because}" for k, v in changed(config.training, "keep_last").items()
            ]
        if tokens:
            found += [f"{if_long}{said}" for said in _long_warmups(config, batches_bought(config, longest=True))]
    elif isinstance(config, SFTConfig):
        from rl.offline import KEEP_RULES

        offline, read = config.offline, KEEP_RULES.fact(config.offline.rule, "reads")
        if updates := config.training.updates:
            because = f"training.updates={updates} decides how many optimiser steps are taken"
            given = changed(offline, "epochs").values()
            found += [f"offline.epochs={value} does nothing: {because}" for value in given]
        if read and config.env.attempts > read:
            found.append(
                f"env.attempts={config.env.attempts}: offline.rule={offline.rule} learns from "
                f"{counted(read, 'attempt')}; later attempts are sampled and not trained on"
            )
        if tokens and config.env.attempts and (said := _long_offline_warmup(config, _most_rows(config, longest=True))):
            found.append(f"{if_long}{said}")
        if offline.conversations:
            found.append("offline.conversations are learned from: training.episodes and offline.group_size do nothing")
    return found


def notes(config: Any) -> list[str]:
    """Notes on settings of a run that have no effect; they are not errors, because a preset may have set them."""
    evaluation, env, found = config.evaluation, config.env, notes_of_arm(config)
    if isinstance(config, TrainConfig):
        if env.between == "critique" and env.group_reward != "critic":
            found.append("env.between=critique: critiques earn no reward; env.group_reward=critic rewards them")
        if evaluation.fixed_first and not config.training.validate_every:
            found.append("evaluation.fixed_first is measured only before training: training.validate_every=0")
    elif evaluation.fixed_first and not isinstance(config, SFTConfig):
        # A note and not an error: the base of a comparison is evaluated with the same settings as all arms.
        found.append("evaluation.fixed_first does nothing here: it is measured at the validations of a training run")
    if not isinstance(config, TrainConfig) and env.group_reward is not None:
        found.append(f"env.group_reward={env.group_reward} is paid in training only; rates count verdicts")
    if env.attempts == 1:
        found += [
            f"evaluation.{name} does nothing: it needs a second attempt, and env.attempts=1"
            for name in ("controls", "fixed_first")
            if getattr(evaluation, name)
        ]
    if 0 < evaluation.max_attempts <= env.attempts:
        found.append(
            f"evaluation.max_attempts={evaluation.max_attempts} does nothing: it is not above "
            f"env.attempts={env.attempts}"
        )
    return found
