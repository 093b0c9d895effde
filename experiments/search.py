"""Search spaces, samplers and objectives of tuning.

Optuna proposes the trials; it is imported only when it is needed. Other modules can add an objective or a sampler by
registering it in :data:`OBJECTIVES` or :data:`SAMPLERS`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from omegaconf import OmegaConf

from rewards import Lookup
from rl.config.checks import check_numbers

OBJECTIVES: Lookup[Callable[[Mapping[str, Any]], float]] = Lookup("objective")
"""``(result.json of a run on validation tasks) -> number``, where larger is better. ``sampled=True`` declares that the
objective reads sampled episodes; for other objectives no episodes are sampled in the evaluation."""
SAMPLERS: Lookup[Callable[..., Any]] = Lookup("sampler")
"""``(seed, **options) -> optuna.samplers.BaseSampler``."""


@OBJECTIVES.register("last_accuracy")
def last_accuracy(result: Mapping[str, Any]) -> float:
    """Greedy accuracy of the last attempt, which a worse first attempt cannot raise (unlike ``delta``)."""
    greedy = result["greedy"]
    return greedy[max((name for name in greedy if name.startswith("accuracy_t")), key=lambda name: int(name[10:]))]


@OBJECTIVES.register("delta")
def delta(result: Mapping[str, Any]) -> float:
    """Greedy accuracy of the last attempt minus greedy accuracy of the first."""
    return result["greedy"]["delta"]


@OBJECTIVES.register("sampled_last_accuracy", sampled=True)
def sampled_last_accuracy(result: Mapping[str, Any]) -> float:
    """Accuracy of the last attempt in sampled episodes; needs ``evaluation.samples_per_task``."""
    return last_accuracy({"greedy": result["sampled"]})


@dataclass(frozen=True)
class TpeOptions:
    """Options of ``tpe``.

    Args:
        startup: Number of random trials before the first one that depends on earlier results.
    """

    startup: int = 3

    def __post_init__(self) -> None:
        check_numbers(self, "sampler_options", positive="startup")


@SAMPLERS.register("tpe", options=TpeOptions)
def tpe(seed: int, *, startup: int) -> Any:
    """Tree-structured Parzen estimator: samples more trials close to good earlier trials."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


@SAMPLERS.register("random")
def at_random(seed: int) -> Any:
    """Random search, independent of earlier results; arms with the same dimensions get the same trials."""
    import optuna

    return optuna.samplers.RandomSampler(seed=seed)


@dataclass(frozen=True)
class Dimension:
    """One dimension of a search space: a list of values, or a range.

    Args:
        values: Values to choose from.
        low: Lower end of a range, in place of ``values``.
        high: Upper end of the range.
        log: Whether the range is sampled uniformly in the logarithm.
        factor: Whether the sampled number multiplies the arm's untuned value (every entry, if that is a list) instead
            of replacing it.
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
            raise ValueError(f"low={self.low}, high={self.high}: low must be below high, and positive for log")

    def distribution(self) -> Any:
        """The dimension as an Optuna distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.values:
            return CategoricalDistribution(self.values)
        return FloatDistribution(self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether the dimension contains the value."""
        return value in self.values if self.values else self.low <= value <= self.high


def dimensions(space: Mapping[str, Any], family: str, arm: str) -> dict[str, Dimension]:
    """Dimensions of an arm by dotted path in its config, where ``*`` stands for every key at that place.

    Args:
        space: ``TuneConfig.space``.
        family: Kind of the arm, a key of ``space``.
        arm: Key of the arm. Entries of ``space.arms.<arm>`` override those of the family; ``null`` removes one.

    Raises:
        ValueError: If the family has no space, an entry is no dimension, or no dimension is left.
    """
    if family not in space:
        raise ValueError(f"space: {arm}, an arm of kind {family}, has nothing to vary; add space.{family}")
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
        raise ValueError(f"space: {arm} has nothing to vary; add something to space.{family} or space.arms.{arm}")
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
    """Values of the untuned arm by path of the dimension; 1 for factors.

    Raises:
        ValueError: If the arm has no key at a path.
    """
    return {
        path: 1.0 if one.factor else next(iter(value for _, value in places(entry, path)))
        for path, one in varied.items()
    }


def changes(entry: Any, varied: Mapping[str, Dimension], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Changes that a trial makes to an arm's config, as a nested mapping that holds only the changed values.

    Args:
        entry: The untuned config of the arm.
        varied: Dimensions of the arm, by path.
        drawn: Sampled values, by path.
    """
    nested: dict[str, Any] = {}
    for path, value in drawn.items():
        # A path with * leads to several places, which all get the same sampled number.
        for keys, before in places(entry, path):
            new = _times(before, value) if varied[path].factor else _rounded(value)
            # Only differences are kept, so that the file of chosen values shows what tuning changed.
            if new == before:
                continue
            node = nested
            for key in keys[:-1]:
                node = node.setdefault(key, {})
            node[keys[-1]] = new
    return nested


def places(entry: Any, path: str) -> list[tuple[tuple[str, ...], Any]]:
    """Places to which a dotted path (with ``*`` for every key) leads in a config: tuples of keys, and the values there.

    Raises:
        ValueError: If the path leads nowhere.
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
    """Rounds a float to three significant digits, so that the file of chosen values stays readable."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
