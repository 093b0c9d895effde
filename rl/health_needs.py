"""What the checks of :mod:`rl.health` need to find anything, and which kinds of runs do not have it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewards.lookup import nearest
from rl.config import SFTConfig, TrainConfig
from rl.health import CHECKS, PAGE


def idle(config: Any, check: str) -> str:
    """Why a check can find nothing in a run with this config; empty if it can, or if that is not known."""
    if not isinstance(config, TrainConfig | SFTConfig):  # a kind of run that another module defines
        return ""
    needs = (CHECKS.fact(check, "needs") or "").split()
    if unknown := next((name for name in needs if name not in NEEDS), None):
        raise ValueError(f"training.health: the check {check} needs={unknown}: unknown{nearest(unknown, NEEDS)}")
    return next(filter(None, (NEEDS[name](config) for name in needs)), "")


def refuse_idle_stops(stop_on: Sequence[str], configs: Sequence[Any]) -> None:
    """Raises ValueError if ``training.stop_on`` names a check that can find nothing in any of the runs.

    Args:
        stop_on: Names of checks.
        configs: Config of the run, or of every trained arm of a comparison.
    """
    for name in stop_on if configs else ():
        reasons = [idle(config, name) for config in configs]
        if all(reasons):
            others = ", ".join(one for one in CHECKS if not all(idle(config, one) for config in configs))
            raise ValueError(
                f"training.stop_on={name}: would never end a run, because {reasons[0]}; remove it. Checks that can "
                f"find something here: {others} ({PAGE})"
            )


def without_idle_stops(config: Any) -> Any:
    """An arm's config with only those checks in ``training.stop_on`` that can find something in this arm."""
    stops = [name for name in config.training.stop_on if not idle(config, name)]
    return replace(config, training=replace(config.training, stop_on=stops))


def notes_on_stops(configs: Mapping[str, Any], stop_on: Sequence[str]) -> Iterator[str]:
    """Notes on checks in ``training.stop_on`` that can find nothing in some arms of a comparison.

    Args:
        configs: Config of every trained arm, by name.
        stop_on: Names of the checks that were given for all arms.
    """
    arms_of: dict[tuple[str, str], list[str]] = {}
    for arm, config in configs.items():
        for name in stop_on:
            if because := idle(config, name):
                arms_of.setdefault((name, because), []).append(arm)
    for (name, because), arms in arms_of.items():
        yield f"training.stop_on={name} does nothing in {', '.join(arms)}: {because}"


def notes_on_health(config: Any) -> Iterator[str]:
    """Notes on limits in ``training.health`` of checks that can find nothing in this run."""
    for name, limits in config.training.health.items():
        if limits and (because := idle(config, name)):
            yield f"training.health.{name} does nothing: {because}"


def _steps(config: Any) -> str:
    said = "an offline method has no training steps whose metrics this check reads, only validations"
    return said if isinstance(config, SFTConfig) else ""


def _second_attempts(config: Any) -> str:
    attempts = config.env.attempts  # 0 as long as the config is not settled: the author's number is not known yet
    most = attempts if isinstance(config, SFTConfig) else max(stage.attempts for stage in _stages(config))
    return "" if most != 1 else "episodes have no second attempt (env.attempts=1)"


def _groups(config: Any) -> str:
    of_one = all(stage.group_size < 2 for stage in _stages(config))
    return "no episodes of a task are compared (algorithm.group_size=1)" if of_one else ""


def _validations(config: Any) -> str:
    return "" if config.training.validate_every else "training.validate_every=0"


def _kl(config: Any) -> str:
    without = not any(any(stage.kl_coefs) for stage in _stages(config))
    return "the KL to the reference is measured only with kl_coefs above 0 in a stage" if without else ""


def _updates(config: Any) -> str:
    said = "with one optimiser step per batch (algorithm.epochs=1 and algorithm.minibatches=1) no ratio is clipped"
    return "" if config.algorithm.reuses_samples else said


def _skips(config: Any) -> str:
    said = "training.nonfinite=stop ends the run at the first such step"
    return said if config.training.nonfinite == "stop" else ""


def _stages(config: Any) -> list[Any]:
    return list(config.algorithm.running(config.env.attempts).values())


NEEDS: dict[str, Callable[[Any], str]] = {
    "steps": _steps,
    "attempts": _second_attempts,
    "groups": _groups,
    "validations": _validations,
    "kl": _kl,
    "updates": _updates,
    "skips": _skips,
}
"""``(config) -> reason``: why a run with this config does not log what the name stands for; empty if it does."""
