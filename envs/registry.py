"""Environments by name; an id is ``errata/<task set>-v<version>`` and is registered with gymnasium.

After ``import envs``, ``gymnasium.make`` knows these ids. Another package adds environments with an entry point of the
group ``errata.envs``: a function without arguments that calls :func:`register`. An id that only gymnasium knows is an
environment of text that draws its own tasks; a seed then stands for a task.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import gymnasium
from gymnasium.envs import registration

from envs.base import Split, Task, TaskSet, TextEnv
from envs.self_correct import SelfCorrectEnv
from rewards import Score
from rewards.lookup import Lookup, nearest, refuse_other_types

ENVIRONMENTS: Lookup[tuple[Callable[..., TaskSet], dict[str, Any]]] = Lookup("env.id")
"""For each id, the task set and the author's defaults for :class:`SelfCorrectEnv`, such as ``prompts``."""


def register(env_id: str, taskset: Callable[..., TaskSet], **defaults: Any) -> None:
    """Registers a task set as a self-correction environment.

    Args:
        env_id: ``namespace/name-v1``. Raise the version when prompts, tasks or rewards change.
        taskset: Class of the task set; its keyword arguments become the environment's ``options``.
        defaults: Arguments of :class:`SelfCorrectEnv` (``attempts``, ``prompts``, ``feedback``, ...) that hold unless a
            config says otherwise.

    Raises:
        ValueError: If the id is taken, or has no version.
        TypeError: If :class:`SelfCorrectEnv` has no such argument.
    """
    if registration.parse_env_id(env_id)[2] is None:
        raise ValueError(f"environment id {env_id!r} needs a version suffix, such as {env_id}-v1")
    known = list(inspect.signature(SelfCorrectEnv).parameters)
    for name in defaults:
        if name not in known:
            raise TypeError(f"{env_id}: an environment has no argument {name!r}{nearest(name, known)}")
    ENVIRONMENTS.register(env_id)((taskset, defaults))
    if env_id not in registration.registry:
        registration.register(id=env_id, entry_point="envs.registry:make", kwargs={"env_id": env_id})


def specs() -> list[str]:
    """The ids of all registered environments, including the environments of other packages."""
    _load_plugins()
    return sorted(ENVIRONMENTS)


def find(env_id: str) -> str:
    """The id without its module; the module of ``module:id`` is imported first, as gymnasium does.

    Raises:
        TypeError: If the id is no text.
        ImportError: If the module cannot be imported.
        UnknownNameError: If neither this registry nor gymnasium knows the id; the message names the nearest known id.
    """
    if not isinstance(env_id, str):
        raise TypeError(
            f"an environment's id is a text, as 'errata/repair-v1', not {env_id!r:.80}; envs.specs() lists all"
        )
    module, _, env_id = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    if env_id not in ENVIRONMENTS:
        _load_plugins()
    if env_id not in registration.registry:
        ENVIRONMENTS[env_id]  # raises, with the nearest known id
    return env_id


def settings(env_id: str, given: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of an episode: those given and not ``None``, else the author's defaults of the environment.

    Args:
        env_id: A registered id.
        given: Arguments of :class:`SelfCorrectEnv`.
        options: Arguments of the task set, whose static method ``episode`` may derive defaults from them (see
            :class:`envs.TaskSet`).
    """
    env_id = find(env_id)
    if env_id not in ENVIRONMENTS:
        chosen = {name: value for name, value in given.items() if value is not None}
        for name in chosen:
            if name != "attempts":
                raise ValueError(f"env.{name}: {env_id}, an environment of gymnasium, does not read it; remove it")
        return {"attempts": registration.registry[env_id].max_episode_steps} | chosen
    own = {name: one.default for name, one in inspect.signature(SelfCorrectEnv).parameters.items() if name in given}
    found = own | _chosen(env_id, given, options or {})
    return {name: {} if value is None and name != "between" else value for name, value in found.items()}


def _chosen(env_id: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The author's defaults, overridden by what is given; options of a function that was replaced are dropped."""
    factory, author = ENVIRONMENTS[env_id]
    if (by_options := getattr(factory, "episode", None)) is not None:
        author = author | by_options(options)
    chosen = {name: value for name, value in given.items() if value is not None}
    # If a config replaces the author's feedback, the new function must not get options that the author chose for the
    # old one. Likewise the author's single texts do not apply to another version of the prompts.
    belongs = {f"{name}_options": name for name in ("feedback", "stop_rule", "between")} | {"prompts_text": "prompts"}
    kept = {
        name: value
        for name, value in author.items()
        if (owner := belongs.get(name)) not in chosen or chosen[owner] == author.get(owner)
    }
    return kept | chosen


def make(env_id: str, options: Mapping[str, Any] | None = None, **given: Any) -> SelfCorrectEnv:
    """Builds a self-correction environment over a registered task set.

    Args:
        env_id: A registered id, or ``module:id``.
        options: Arguments of the task set (``n_train``, ``dataset``, ...).
        given: Arguments of :class:`SelfCorrectEnv` that replace the author's defaults; ``None`` keeps the default.

    Raises:
        ImportError: If the module of ``module:id`` cannot be imported.
        UnknownNameError: If the id is unknown; the message names the nearest known id.
        TypeError: If the environment or the task set has no such argument; the message names the nearest argument, or
            says that the argument belongs in ``options``.
    """
    env_id = find(env_id)
    known = [name for name in inspect.signature(SelfCorrectEnv).parameters if name != "taskset"]
    for name, value in given.items():
        if name not in known:
            own = name in inspect.signature(ENVIRONMENTS[env_id][0]).parameters
            hint = f", but its task set has: options={{{name!r}: {value!r}}}" if own else nearest(name, known)
            raise TypeError(f"{env_id} has no argument {name!r}{hint}")
    return SelfCorrectEnv(make_taskset(env_id, options or {}), **_chosen(env_id, given, options or {}))


def make_taskset(env_id: str, options: Mapping[str, Any], seeds: Mapping[str, int] | None = None) -> TaskSet:
    """Builds the task set behind an id; for an environment of gymnasium, a task set whose tasks are seeds.

    Args:
        env_id: A registered id.
        options: Arguments of the task set; not used for an environment of gymnasium.
        seeds: Number of seeds in each split, for an environment of gymnasium.

    Raises:
        TypeError: If the task set has no such option; the message names the nearest option.
        ValueError: If an option has the wrong type, or the task set refuses its value.
    """
    env_id = find(env_id)
    if env_id not in ENVIRONMENTS:
        return SeedTasks(env_id, seeds or {})
    refuse_unknown_options(env_id, options)
    return ENVIRONMENTS[env_id][0](**options)


def refuse_unknown_options(env_id: str, options: Mapping[str, Any]) -> None:
    """Raises ``TypeError`` if a task set lacks an option, ``ValueError`` if an option has the wrong type.

    Environments of gymnasium check their options themselves.
    """
    if (env_id := find(env_id)) not in ENVIRONMENTS:
        return
    if not isinstance(options, Mapping):
        raise TypeError(f"{env_id}: options={options!r:.200}: a mapping is needed, {{'<option>': <value>}}")
    factory = ENVIRONMENTS[env_id][0]
    known = [name for name in inspect.signature(factory).parameters if name != "self"]
    for name in options:
        if name not in known:
            raise TypeError(
                f"env.options.{name}: {env_id} has no such option{nearest(name, known)} "
                f"It has: {', '.join(known) or 'none'}"
            )
    # ``path`` is left out: YAML reads a folder called 2024 as a number, and the code that reads files has a more
    # helpful message for a wrong path.
    others = {name: value for name, value in options.items() if name != "path"}
    refuse_other_types("env.options", others, factory.__init__ if inspect.isclass(factory) else factory)


def make_text_env(env_id: str, taskset: TaskSet, options: Mapping[str, Any], **given: Any) -> TextEnv:
    """Builds an environment for a rollout: :class:`SelfCorrectEnv` over a task set, or an environment of gymnasium.

    Args:
        env_id: A registered id.
        taskset: Task set built by :func:`make_taskset`; not used for an environment of gymnasium.
        options: Arguments of the task set or of an environment of gymnasium.
        given: Arguments of :class:`SelfCorrectEnv`; of these an environment of gymnasium uses only ``attempts``, as its
            limit of steps.
    """
    env_id = find(env_id)
    if env_id in ENVIRONMENTS:
        return SelfCorrectEnv(taskset, **_chosen(env_id, given, options))
    return gymnasium.make(env_id, max_episode_steps=given.get("attempts"), **options)  # type: ignore[return-value]


class SeedTasks:
    """Tasks of an environment that draws its own tasks: each is a seed for ``reset``, and no seed is in two splits.

    Args:
        env_id: Id of the environment.
        sizes: Number of seeds in each split.
    """

    def __init__(self, env_id: str, sizes: Mapping[str, int]) -> None:
        self._env_id, self._sizes = env_id, {split: sizes.get(split.value, 0) for split in Split}

    def load(self, split: Split) -> Sequence[Task]:
        """The seeds of a split."""
        # Test gets the first seeds, training the last, so that more training seeds change neither test nor validation.
        order = (Split.TEST, Split.VALIDATION, Split.TRAIN)
        start = sum(self._sizes[other] for other in order[: order.index(Split(split))])
        seeds = range(start, start + self._sizes[Split(split)])
        return [Task(f"seed-{seed}", f"{self._env_id}, seed {seed}", "", seed=seed) for seed in seeds]

    def verify(self, task: Task, response: str) -> Score:
        """Raises NotImplementedError: the environment itself computes the rewards."""
        raise NotImplementedError(f"{self._env_id} pays its own rewards")

    def gold_response(self, task: Task) -> str:
        """Raises NotImplementedError: no gold response is known."""
        raise NotImplementedError(f"{self._env_id} has no gold responses")


_loaded = False


def _load_plugins() -> None:
    global _loaded
    if not _loaded:
        _loaded = True
        for plugin in entry_points(group="errata.envs"):
            plugin.load()()
