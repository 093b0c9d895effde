"""What tuning varies, how the next trial is drawn, and what a trial is judged by. Optuna draws; it is imported late.

Another module adds an objective or a sampler by registering it in :data:`OBJECTIVES` or :data:`SAMPLERS`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from omegaconf import OmegaConf

from rewards import Lookup
from rl.config.checks import check_numbers

OBJECTIVES: Lookup[Callable[[Mapping[str, Any]], float]] = Lookup("objective")
"""``(result.json of a trial on validation tasks) -> number``, more of which is better. ``sampled=True`` declares
that it reads sampled episodes, which are played for no other."""
SAMPLERS: Lookup[Callable[..., Any]] = Lookup("sampler")
"""``(seed, **options) -> optuna.samplers.BaseSampler``."""


@OBJECTIVES.register("last_accuracy")
def last_accuracy(result: Mapping[str, Any]) -> float:
    """Greedy accuracy at the last attempt: what the policy is used for, so an arm cannot win by a worse first one."""
    greedy = result["greedy"]
    return greedy[max((name for name in greedy if name.startswith("accuracy_t")), key=lambda name: int(name[10:]))]


@OBJECTIVES.register("delta")
def delta(result: Mapping[str, Any]) -> float:
    """Greedy accuracy at the last attempt minus that at the first."""
    return result["greedy"]["delta"]


@OBJECTIVES.register("sampled_last_accuracy", sampled=True)
def sampled_last_accuracy(result: Mapping[str, Any]) -> float:
    """Sampled accuracy at the last attempt; needs ``evaluation.samples_per_task``."""
    return last_accuracy({"greedy": result["sampled"]})


@dataclass(frozen=True)
class TpeOptions:
    """Options of ``tpe``.

    Args:
        startup: Random trials before the first one that looks at the others.
    """

    startup: int = 3

    def __post_init__(self) -> None:
        check_numbers(self, "sampler_options", positive="startup")


@SAMPLERS.register("tpe", options=TpeOptions)
def tpe(seed: int, *, startup: int) -> Any:
    """Tree-structured Parzen estimator: more trials where the good ones were."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


@SAMPLERS.register("random")
def at_random(seed: int) -> Any:
    """Every trial by itself; arms with the same dimensions get the same trials."""
    import optuna

    return optuna.samplers.RandomSampler(seed=seed)


@dataclass(frozen=True)
class Dimension:
    """One thing that is varied.

    Args:
        values: To choose among.
        low: Least value of a range, in place of ``values``.
        high: Greatest value of the range.
        log: Whether the range is even in the logarithm.
        factor: Whether what is drawn multiplies what the arm's file says, each entry of a list alike.
    """

    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    factor: bool = False

    def __post_init__(self) -> None:
        if bool(self.values) == (self.high > 0):
            raise ValueError("give either values, or low and high")
        if not self.values and (self.high <= self.low or self.low < 0 or (self.log and self.low == 0)):
            raise ValueError(f"low={self.low}, high={self.high}: low is below high, and positive for log")

    def distribution(self) -> Any:
        """As Optuna's."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.values:
            return CategoricalDistribution(self.values)
        return FloatDistribution(self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether the value could have been drawn."""
        return value in self.values if self.values else self.low <= value <= self.high


def dimensions(space: Mapping[str, Any], family: str, arm: str) -> dict[str, Dimension]:
    """What is varied of an arm, by dotted path in its config; ``*`` stands for every key there.

    Args:
        space: ``TuneConfig.space``.
        family: Kind of the arm.
        arm: Its key; what ``space.arms.<arm>`` says replaces what the family says, and ``null`` takes it away.

    Raises:
        ValueError: If the family has no space, or an entry is no dimension.
    """
    if family not in space:
        raise ValueError(f"space: nothing says what to vary of {arm}, an arm of kind {family}; add space.{family}")
    merged = OmegaConf.merge(space[family], space.get("arms", {}).get(arm) or {})
    found = {}
    for path, leaf in _leaves(OmegaConf.to_container(merged)):
        if leaf is None:
            continue
        if not isinstance(leaf, Mapping):
            raise ValueError(
                f"space: {path} of {arm} is no dimension: {leaf}; give {{low: ..., high: ...}} or {{values: [...]}}"
            )
        try:
            given: dict[str, Any] = dict(leaf)
            found[path] = Dimension(**{**given, "values": tuple(given.get("values", ()))})
        except (TypeError, ValueError) as error:
            raise ValueError(f"space: {path} of {arm} is no dimension: {error}") from None
    if not found:
        raise ValueError(f"space: nothing of {arm} is varied; add something to space.{family} or space.arms.{arm}")
    return found


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        # A mapping without a range or values is a level of the path, not yet a dimension.
        if isinstance(value, Mapping) and not value.keys() & {"values", "low", "high"}:
            yield from _leaves(value, path)
        else:
            yield path, value


def at_hand(entry: Any, varied: Mapping[str, Dimension]) -> dict[str, Any]:
    """The values that an arm has as it is, by path; 1 for factors.

    Raises:
        ValueError: If the arm has no such key.
    """
    return {
        path: 1.0 if one.factor else next(iter(value for _, value in places(entry, path)))
        for path, one in varied.items()
    }


def changes(entry: Any, varied: Mapping[str, Dimension], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial changes of an arm's config, as a nested mapping of what is different.

    Args:
        entry: The arm's config, as it is.
        varied: Its dimensions.
        drawn: What was drawn, by path.
    """
    nested: dict[str, Any] = {}
    for path, value in drawn.items():
        # A path with * leads to several places, which all get the one number that was drawn.
        for keys, before in places(entry, path):
            new = _times(before, value) if varied[path].factor else _rounded(value)
            # Only differences are kept, so that what a file of winners says is what tuning changed.
            if new == before:
                continue
            node = nested
            for key in keys[:-1]:
                node = node.setdefault(key, {})
            node[keys[-1]] = new
    return nested


def places(entry: Any, path: str) -> list[tuple[tuple[str, ...], Any]]:
    """Where a dotted path leads in a config, with the values there.

    Raises:
        ValueError: If it leads nowhere.
    """
    found: list[tuple[tuple[str, ...], Any]] = [((), entry)]
    for part in path.split("."):
        deeper = []
        for keys, node in found:
            here = vars(node) if is_dataclass(node) else node
            names = list(here) if part == "*" else [part] if isinstance(here, Mapping) and part in here else []
            deeper += [((*keys, name), here[name]) for name in names]
        found = deeper
    if not found:
        raise ValueError(f"space: {path} does not exist in {entry.name}")
    return found


def _times(value: Any, factor: float) -> Any:
    return [_rounded(one * factor) for one in value] if isinstance(value, list) else _rounded(value * factor)


def _rounded(value: Any) -> Any:
    """To three digits, so that a file of what was chosen can be read."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
