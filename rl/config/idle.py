"""Finds settings of an algorithm that have no effect in its composed config.

A setting without effect is refused with an error that names its key: its author would otherwise report results for
something that never ran. Some settings may come from a preset or a tuned file and lose their effect through another
override. The user cannot remove these, so they are reported as notes instead of refused.
"""

from typing import Any

from rl.config.checks import changed, refuse, refuse_idle


def refuse_idle_algorithm(algorithm: Any, stages: dict[str, Any]) -> None:
    """Raises ValueError for a setting that no stage of the algorithm reads.

    Args:
        algorithm: An :class:`rl.config.AlgorithmConfig` whose names have been checked.
        stages: The stages that have a share of the run, resolved, by name.
    """
    _check_kl(algorithm, stages)
    first = next(iter(stages))
    refuse(
        stages[first].keep_optimizer,
        f"algorithm.stages.{first}.keep_optimizer=true: has no effect, because no earlier stage leaves it an "
        "optimiser; remove it",
    )
    for name, stage in algorithm.stages.items():
        for term, given in stage.terms.items():
            refuse(
                not given.weight and term not in algorithm.terms,
                f"algorithm.stages.{name}.terms.{term}.weight=0: has no effect, because algorithm.terms has no "
                f"{term} to leave out; its terms are: {', '.join(algorithm.terms) or 'none'}",
            )
    for name, stage in stages.items():
        refuse_unpaid(algorithm, f"algorithm.stages.{name}", stage, len(stage.reward_weights))
        _check_raw(algorithm, f"algorithm.stages.{name}", stage)


def _check_kl(algorithm: Any, stages: dict[str, Any]) -> None:
    from rl.kl import KLS

    if not any(any(stage.kl_coefs) for stage in stages.values()):
        key = f"algorithm.stages.{next(iter(stages))}.kl_coefs"
        because = f"all kl_coefs are 0; give {key} a weight for each turn, or set algorithm.kl_in_reward=false"
        refuse_idle(algorithm, "algorithm", "kl_in_reward", because)
    elif not algorithm.kl_in_reward:
        refuse(
            bool(KLS.fact(algorithm.kl, "reward_only")),
            f"algorithm.kl={algorithm.kl}: as a penalty its gradient has mean 0, so it does not hold the policy near "
            "the reference; set algorithm.kl=k1, whose gradient is the KL's, or algorithm.kl_in_reward=true",
        )
    else:
        refuse(
            bool(KLS.fact(algorithm.kl, "penalty_only")),
            f"algorithm.kl={algorithm.kl}: with algorithm.kl_in_reward=true its gradient is not the KL's, and near the "
            "reference it does not hold the policy (docs/kl.md); set algorithm.kl=k1, which does, or "
            "algorithm.kl_in_reward=false",
        )


def refuse_unpaid(algorithm: Any, key: str, stage: Any, attempts: int, given: str = "") -> None:
    """Raises ValueError for a stage in which no turn can earn a reward, or a reward setting has no turn to act on.

    Args:
        algorithm: The :class:`rl.config.AlgorithmConfig` that the stage belongs to.
        key: Config key of the stage, ``algorithm.stages.<name>``.
        stage: The resolved stage.
        attempts: Maximum number of turns of the stage's episodes.
        given: The setting that limits the number of turns, as in ``env.attempts=1``; empty if nothing does.
    """
    from rl.advantages import ADVANTAGES

    if ADVANTAGES.fact(stage.advantage, "raw"):
        return
    weights, coefs = stage.reward_weights[:attempts], stage.kl_coefs[:attempts]
    # If rewarded turns are never played, the number of attempts is usually what is wrong, so the message suggests it.
    paid = max((k + 1 for k, weight in enumerate(stage.reward_weights) if weight), default=0)
    played, more = "", ""
    if given and paid > attempts:
        key, played, more = f"{given}: {key}", " that is played", f"set {given.partition('=')[0]}={paid}, or "
    refuse(
        bool(stage.progress_alpha) and len(weights) < 2,
        f"{key}.progress_alpha={stage.progress_alpha}: has no effect, because a bonus compares a turn with the one "
        "before it and there is one turn; set progress_alpha=0, or give episodes a second attempt",
    )
    refuse(
        not any(weights)
        and not stage.progress_alpha
        and not stage.terms
        and not (algorithm.kl_in_reward and any(coefs)),
        f"{key}.reward_weights={stage.reward_weights}: no turn{played} earns a reward, so every advantage "
        f"is 0; {more}give one turn a weight{', or set progress_alpha' * (attempts > 1)}",
    )
    later_paid = any(weights[1:]) or stage.progress_alpha
    refuse(
        stage.kl_balance > 0 and not later_paid,
        f"{key}.kl_balance={stage.kl_balance}: has nothing to balance with, because no turn after the first one is "
        "paid; give reward_weights for it, or set kl_balance=0",
    )


def _check_raw(algorithm: Any, key: str, stage: Any) -> None:
    """Raises ValueError for settings that an advantage estimator of raw rewards does not read."""
    from rl.advantages import ADVANTAGES

    if not ADVANTAGES.fact(stage.advantage, "raw"):
        return
    because = f"{algorithm.key_of(key.rpartition('.')[2], 'advantage')}={stage.advantage} reads raw rewards"
    for name, value, neutral in (
        ("progress_alpha", stage.progress_alpha, 0.0),
        ("reward_weights", stage.reward_weights, [1.0] * len(stage.reward_weights)),
    ):
        refuse(value != neutral, f"{key}.{name}={value}: has no effect, because {because}; set {key}.{name}={neutral}")
    refuse(
        algorithm.kl_in_reward and any(stage.kl_coefs),
        f"algorithm.kl_in_reward=true: {key} would have no KL at all, because {because}; set kl_in_reward=false",
    )
    refuse(
        algorithm.dynamic_sampling > 0,
        f"algorithm.dynamic_sampling={algorithm.dynamic_sampling}: would replace groups that {key} learns from, "
        f"because it looks for weighted rewards that differ and {because}; set dynamic_sampling=0",
    )


def notes_on(algorithm: Any) -> list[str]:
    """Notes on settings that may come from a preset and have no effect in this config; a note is not an error.

    Args:
        algorithm: An :class:`rl.config.AlgorithmConfig`.
    """
    found = list[str]()
    if not algorithm.reuses_samples:
        once = "with one optimiser step per batch every ratio to the sampling policy is 1, so none is clipped"
        if algorithm.loss != "ppo" or algorithm.loss_options:
            options = f", loss_options={algorithm.loss_options}" if algorithm.loss_options else ""
            found.append(f"algorithm.loss={algorithm.loss}{options}: {once}; set minibatches or epochs above 1")
        if algorithm.critic.clip and algorithm.critic.kind != "none":
            found.append(
                f"algorithm.critic.clip={algorithm.critic.clip} clips nothing: with one optimiser step per batch "
                "values have not changed when they are learned; set minibatches or epochs above 1"
            )
    stages, kind = algorithm.running(), algorithm.critic.kind
    read_by_none = {"none": "detach coef clip lr warmup_steps", "separate": "detach"}.get(kind, "")
    found += [
        f"algorithm.critic.{name}={value} does nothing: algorithm.critic.kind={kind}"
        for name, value in changed(algorithm.critic, read_by_none).items()
    ]
    if not any(any(stage.kl_coefs) for stage in stages.values()):
        found += [
            f"algorithm.{name}={value} does nothing: all kl_coefs are 0"
            for name, value in changed(algorithm, "kl kl_options").items()
        ]
    found += [
        f"algorithm.stages.{name}.reference={stage.reference} does nothing: its kl_coefs are {stage.kl_coefs}"
        for name, stage in stages.items()
        if stage.reference != "base" and not any(stage.kl_coefs)
    ]
    running = [stage for stage in algorithm.stages.values() if stage.share]
    if not running:
        return found
    keys = [
        (f"algorithm.{name}", getattr(algorithm, name), type(algorithm).__dataclass_fields__[name].default, name)
        for name in ("advantage", "loss", "temperature")
    ]
    found += [
        f"{key}={value} reaches no stage, because each has its own"
        for key, value, default, name in keys
        if value != default and all(getattr(stage, name) for stage in running)
    ]
    default = type(algorithm.optim)()
    found += [
        f"algorithm.optim.{name}={value} reaches no stage, because each has its own"
        for name, value in vars(algorithm.optim).items()
        if value != getattr(default, name) and all(name in stage.optim for stage in running)
    ]
    return found
