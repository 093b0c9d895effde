"""Environments by name. An id is ``errata/<task set>-v<version>`` and is registered with gymnasium.

``gymnasium.make`` works after ``import envs``. Another package adds environments by an entry point of the group
``errata.envs`` that names a function without arguments, which calls :func:`register`.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from gymnasium.envs import registration

from envs.base import TaskSet
from envs.self_correct import SelfCorrectEnv

_TASKSETS: dict[str, Callable[..., TaskSet]] = {}
_DEFAULTS: dict[str, dict[str, Any]] = {}


def register(env_id: str, taskset: Callable[..., TaskSet], **defaults: Any) -> None:
    """Registers a task set as a self-correction environment.

    Args:
        env_id: ``namespace/name-v1``. Raise the version when prompts, tasks or rewards change.
        taskset: The class; its keyword arguments become the environment's ``options``.
        defaults: Default arguments of :class:`SelfCorrectEnv` (``attempts``, ``prompts``, ...).

    Raises:
        ValueError: If the id is taken, or has no version.
    """
    if env_id in _TASKSETS:
        raise ValueError(f"environment {env_id!r} is registered already: raise its version")
    if registration.parse_env_id(env_id)[2] is None:
        raise ValueError(f"environment id {env_id!r} needs a version suffix, such as {env_id}-v1")
    _TASKSETS[env_id], _DEFAULTS[env_id] = taskset, defaults
    registration.register(id=env_id, entry_point="envs.registry:make", kwargs={"env_id": env_id})


def specs() -> list[str]:
    """Ids of every registered environment, those of other packages included."""
    _load_plugins()
    return sorted(_TASKSETS)


def make(env_id: str, options: dict[str, Any] | None = None, **kwargs: Any) -> SelfCorrectEnv:
    """Builds an environment.

    Args:
        env_id: A registered id, or ``module:id`` to import the module that registers it first, as gymnasium has it.
        options: Arguments of the task set (``n_train``, ``dataset``, ...).
        kwargs: Arguments of :class:`SelfCorrectEnv` that replace the registered defaults.

    Raises:
        ImportError: If the module of ``module:id`` cannot be imported.
        KeyError: If the id is unknown; the message names the nearest known one.
        TypeError: If the task set has no such option; the message names the nearest one.
    """
    module, _, env_id = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    if env_id not in _TASKSETS:
        _load_plugins()
    if env_id not in _TASKSETS:
        near = difflib.get_close_matches(env_id, _TASKSETS, n=1, cutoff=0.0)
        raise KeyError(
            f"unknown environment {env_id!r}; did you mean {near[0]!r}? Known: {', '.join(sorted(_TASKSETS))}"
        )
    return SelfCorrectEnv(make_taskset(env_id, options or {}), **(_DEFAULTS[env_id] | kwargs))


def make_taskset(env_id: str, options: dict[str, Any]) -> TaskSet:
    """Builds the task set behind an id; raises ``TypeError`` for an option that it does not have."""
    factory = _TASKSETS[env_id]
    known = [name for name in inspect.signature(factory).parameters if name != "self"]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(
                f"env.options.{name}: {env_id} has no such option{hint} It has: {', '.join(known) or 'none'}"
            )
    return factory(**options)


_loaded = False


def _load_plugins() -> None:
    global _loaded
    if not _loaded:
        _loaded = True
        for plugin in entry_points(group="errata.envs"):
            plugin.load()()
