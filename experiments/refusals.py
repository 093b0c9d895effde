"""Checks of a config that are done before torch is loaded, which may take tens of seconds."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import envs
from envs.rows import SUFFIXES, no_such_path
from experiments.keys import explain
from experiments.list import ROOT, lookups
from rewards import nearest
from rewards.lookup import refuse_other_kind
from rl import config as schema
from rl.rendering import load_template
from rl.tracking import IDENTITY, files_below

FILES = {
    "resume": "use a run's folder, or auto, or remove resume to start a new run",
    "evaluation.conversations": "give a file of conversations, or a folder that datasets saved",
    "offline.conversations": "give a file of conversations, or a folder that datasets saved",
}
"""Keys that name a file or folder that must exist before a run begins, and what each key accepts."""
PLACES = {
    "runs_dir": "name a folder, as runs_dir=runs",
    "name": "give a name, as name=mine",
    "data_dir": "name a folder, as data_dir=data",
    "output": "name a folder or file, or leave output out",
    "resume": "use a run's folder, or auto, or remove resume to start a new run",
    "run": "name a folder of runs, as run=runs/train",
    "studies": "name a folder, as studies=runs/study",
    "comparisons": "name a folder, as comparisons=runs/compare",
    "hydra.run.dir": "name a folder, or leave hydra.run.dir out",
    "hydra.sweep.dir": "name a folder, or leave hydra.sweep.dir out",
}
"""Keys whose value names a place and cannot be empty, since an empty path would be another folder; with a remedy."""
NAMED = (
    *("rl/advantages", "rl/kl", "rl/losses", "rl/token_masks", "rl/offline", "rl/curriculum", "rl/group_rewards"),
    *("rl/backends/engines", "rl/backends/trackers", "experiments/demonstrations"),
)
"""Modules that register functions by names that configs use, and that need torch."""


class UserError(Exception):
    """An error that the user can fix; printed without a traceback."""


def refuse_no_config(config: object, kind: type, program: str) -> None:
    """Raises TypeError if a program's ``run`` got anything but a config of that program."""
    remedy = f'make one with experiments.configs.config("{program}", ...)'
    refuse_other_kind(config, kind, f"experiments.{program}.run", remedy)


def refuse_before_torch(cfg: DictConfig) -> None:
    """Runs all checks that need no torch, the cheapest first.

    Raises:
        UserError: If a file, a folder, an arm or a name in the config does not exist.
        ValueError: If a value is out of range, or the environment has no such option.
        FileNotFoundError: If there is no model at ``model.path``.
    """
    refuse_places({key: OmegaConf.select(cfg, key) for key in PLACES})
    refuse_missing_files(cfg)
    refuse_unusable_runs_dir(OmegaConf.select(cfg, "runs_dir"), OmegaConf.select(cfg, "name"))
    refuse_unusable_output(cfg)
    refuse_unusable_template(cfg)
    if "arms" in cfg and not OmegaConf.is_missing(cfg, "include"):
        refuse_unknown_arms(cfg)
        # Checks everything but the arms, because their own checks look up names in modules that need torch.
        bare = deepcopy(cfg)
        bare.arms = {}
        OmegaConf.to_object(bare)
    refuse_wrong_numbers(cfg)
    refuse_unknown_names(cfg)
    if "env" in cfg:
        env: Any = OmegaConf.to_object(cfg.env)
        refuse_wrong_environment(env)
    if "model" in cfg and getattr(OmegaConf.get_type(cfg), "needs_model", True):
        model: Any = OmegaConf.to_object(cfg.model)
        model.refuse_missing()


def refuse_unknown_names(cfg: DictConfig) -> None:
    """Raises UserError if the name of an estimator, a rule, an engine or the like is not registered.

    The names are read from the source of the modules that register them. Plugins, scripts and notebooks may register
    more names. So with plugins, or if torch is loaded already, nothing is checked here; the lookups themselves refuse
    unknown names later.
    """
    if cfg.get("plugins") or "torch" in sys.modules:
        return
    arms = {f"arms.{name}": cfg.arms[name] for name in cfg.get("arms") or ()}
    groups = {"algorithm": schema.AlgorithmConfig, "offline": schema.OfflineConfig}
    for key, known in lookups(ROOT / f"{name}.py" for name in NAMED).items():
        group, _, rest = key.partition(".")
        places = [key, *(f"{arm}.{rest}" for arm in arms if OmegaConf.get_type(arms[arm]) is groups.get(group))]
        for place in list(places) if group == "algorithm" else ():
            parent, _, own = place.rpartition(".")
            places += [f"{parent}.stages.{stage}.{own}" for stage in OmegaConf.select(cfg, f"{parent}.stages") or ()]
        for place in places:
            found = OmegaConf.select(cfg, place)
            for name in [found] if isinstance(found, str) else found or ():
                if name and name not in known:
                    raise UserError(f"{place}={name}: unknown{nearest(name, known)} Known: {', '.join(known)}")


def refuse_wrong_environment(config: schema.EnvConfig) -> None:
    """Builds the environment's tasks to raise its errors about unknown options and refused values."""
    settled = config.settled()
    factory, _ = envs.ENVIRONMENTS.get(settled.id.rpartition(":")[2], (None, {}))
    if not getattr(factory, "reads_when_built", False):
        envs.make_taskset(settled.id, settled.task_options, settled.seeds)


MOVABLE = {schema.OptimConfig: "optim", schema.StageConfig: "algorithm.stages", schema.TermConfig: "algorithm.terms"}
"""Config classes that are used at several places, each with the key that its own error messages begin with."""


def refuse_wrong_parts(node: Any, key: str) -> None:
    """Raises ValueError, with the full key, for a value out of range in a :data:`MOVABLE` part at or below a node."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return
    for name in node:  # Inner parts first: their errors name the wrong key most precisely.
        refuse_wrong_parts(node._get_node(name), f"{key}.{name}" if key else str(name))
    own = MOVABLE.get(OmegaConf.get_type(node) or dict)
    if own is None:
        return
    try:
        OmegaConf.to_object(node)
    except ValueError as error:
        said = explain(error)
        raise ValueError(key + said.removeprefix(own) if said.startswith(own) else said) from None


def refuse_wrong_numbers(cfg: DictConfig) -> None:
    """Raises ValueError for a number out of range anywhere in a config, without loading torch."""
    arms = {f"arms.{name}": name for name in cfg.get("arms") or ()}  # Also arms that ``include`` leaves out.
    nodes: dict[Any, Any] = {key: cfg._get_node(key) for key in cfg if key != "arms"}
    nodes |= {where: cfg.arms[name] for where, name in arms.items()}
    for where, node in nodes.items():
        refuse_wrong_parts(node, str(where))
    if issubclass(OmegaConf.get_type(cfg) or dict, schema.RunConfig):
        schema.RunConfig(cfg.seed, cfg.threads)
    for where, node in nodes.items():
        kind: Any = OmegaConf.get_type(node) if OmegaConf.is_config(node) else None
        if not is_dataclass(kind):
            continue
        try:
            if kind in (schema.AlgorithmConfig, schema.OfflineConfig):
                # Without name and rule, these classes do not look up the functions that they name, which need torch.
                given = [key for key in node if key not in ("name", "rule") and not OmegaConf.is_missing(node, key)]
                values: dict[str, Any] = {key: node[key] for key in given}
                inner: Any = {key: OmegaConf.to_object(one) for key, one in values.items() if OmegaConf.is_config(one)}
                kind(**(values | inner))
            else:
                OmegaConf.to_object(node)
        except ValueError as error:
            raise ValueError(of_arm(arms[where], explain(error)) if where in arms else explain(error)) from None


def refuse_wrong_arms(cfg: DictConfig) -> None:
    """Raises ValueError, with the arm's keys, if values of an arm contradict each other; loads torch."""
    for name, arm in (cfg.get("arms") or {}).items():
        try:
            if OmegaConf.is_config(arm):
                OmegaConf.to_object(arm)
        except ValueError as error:
            raise ValueError(of_arm(name, explain(error))) from None


def of_arm(name: str, said: str) -> str:
    """Rewrites the keys in an error about an algorithm or an offline method to those of an arm, ``arms.<name>``."""
    said = re.sub(r"^(?=optim\.)|(?<![\w.])(?:algorithm|offline)\.(?=\w)", f"arms.{name}.", said)
    return said if said.startswith(f"arms.{name}.") else f"arms.{name}: {said}"


def refuse_missing_files(cfg: DictConfig) -> None:
    """Raises UserError if a file or folder that a config names does not exist: data, conversations, a run."""
    for key, meant in FILES.items():
        given = OmegaConf.select(cfg, key)
        if isinstance(given, str) and given not in ("", "auto") and not Path(given).expanduser().exists():
            raise UserError(f"{key}={given}: there is no such file or folder; {meant}")
        if key == "resume" and given not in (None, "", "auto") and not files_below(Path(given), IDENTITY, 2):
            raise UserError(f"resume={given}: no run was started in it; {meant}")
    data = str(OmegaConf.select(cfg, "env.options.path") or "")
    is_local = data.startswith((".", "/", "~")) or data.removesuffix(".gz").endswith(SUFFIXES)  # Else it is a hub id.
    if is_local and not Path(data).expanduser().exists():
        raise UserError(no_such_path(data))


def refuse_places(given: Mapping[str, Any]) -> None:
    """Raises UserError for an empty value of one of :data:`PLACES`, or a ``name`` that leads out of ``runs_dir``."""
    for key, meant in PLACES.items():
        if isinstance(given.get(key), str) and not given[key].strip():
            raise UserError(f"{key}={given[key]}: it is empty; {meant}")
    name = given.get("name")
    if isinstance(name, str) and (Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts):
        raise UserError(
            f"name={name}: it names no folder below runs_dir; give a name, as name=mine, and another place as runs_dir"
        )


def refuse_given_places(arguments: Sequence[str]) -> None:
    """Checks the places among a command's overrides, because Hydra makes folders before the config is checked."""
    pairs = (one.partition("=")[::2] for one in arguments if "=" in one)
    refuse_places({key.lstrip("+"): value.strip().strip("'\"") for key, value in pairs})


def nearest_existing(place: Path) -> Path:
    """The path itself or the nearest above it that exists, which a new folder would be made in."""
    place = place.expanduser().absolute()
    return next(one for one in (place, *place.parents) if one.exists())


def refuse_unusable_runs_dir(given: str | None, name: str | None, must_be_writable: bool = False) -> None:
    """Raises UserError if ``runs_dir`` can hold no run's folder.

    Args:
        given: Value of ``runs_dir``; ``None`` for a program without it.
        name: Name of the folder below it.
        must_be_writable: Whether to refuse also a folder that this user cannot write to.
    """
    if given is None or name is None:
        return
    there = nearest_existing(Path(given) / name)
    if not there.is_dir():
        raise UserError(f"runs_dir={given}: {there} is a file where a folder is needed; name another folder")
    if must_be_writable and not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"runs_dir={given}: this user cannot write to {there}; name another folder")


def refuse_unusable_template(cfg: DictConfig) -> None:
    """Raises ``TemplateError`` if ``model.chat_template`` cannot be read."""
    template = OmegaConf.select(cfg, "model.chat_template")
    if template is not None:
        load_template(template)


def refuse_unusable_output(cfg: DictConfig) -> None:
    """Raises UserError if ``output``, a model's folder or the file of tuned values, cannot be written at the end."""
    given = OmegaConf.select(cfg, "output")
    if given is None:
        return
    place, is_file = Path(given).expanduser().absolute(), "trials" in cfg
    above = nearest_existing(place.parent)
    if is_file and place.is_dir():
        raise UserError(f"output={given}: that is a folder; name a file, as {os.path.join(given, 'mine.yaml')}")
    if not above.is_dir() or not _takes_a_file(above, place.name):
        raise UserError(f"output={given}: no file can be made in {above}; name another place")
    # Writing replaces the file, which would remove a device and ignore that a file is protected.
    if is_file and place.exists() and not (place.is_file() and os.access(place, os.W_OK)):
        raise UserError(f"output={given}: this cannot be overwritten; name another file")
    if not is_file and place.exists() and not place.is_dir():
        raise UserError(f"output={given}: that is a file; name a folder")
    # Saving a model replaces the whole folder, so other files in it would be lost.
    if not is_file and place.is_dir() and any(place.iterdir()) and not (place / "config.json").exists():
        raise UserError(f"output={given}: it holds files that are no model; name a new folder, as {given}/mine")


def _takes_a_file(folder: Path, name: str) -> bool:
    """Whether a file can be made in a folder; tried, because permissions do not tell of /proc or a read-only disk."""
    probe = folder / f".{name}.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def refuse_unknown_arms(cfg: Any) -> None:
    """Raises UserError if ``include`` is empty or names an unknown arm, or an entry of ``arms`` is no arm."""
    from experiments.jobs import ARMS  # Not at the top: that module imports this one.

    if not cfg.include:
        raise UserError(
            "include=[]: give at least one arm, as include=[score]; experiments.evaluate measures the base alone"
        )
    for name in cfg.include:
        if name not in cfg.arms:
            raise UserError(f"include: there is no arm {name!r}{nearest(name, cfg.arms)} Known: {', '.join(cfg.arms)}")
    names: dict[str, str] = {}
    for name in cfg.include:  # Names in tables and figures must be unique.
        shown = getattr(cfg.arms[name], "name", None) or name
        if (other := names.setdefault(shown, name)) != name:
            raise UserError(f"arms.{name}.name={shown}: arms.{other} has the same name; give each arm its own")
    ours = [name for name, entry in cfg.arms.items() if is_dataclass(OmegaConf.get_type(entry) or entry)]
    for name, entry in cfg.arms.items():
        if name not in ours and (not hasattr(entry, "get") or entry.get("kind") not in ARMS):
            raise UserError(
                f"arms.{name}: there is no such arm{nearest(name, ours)} "
                f"A new arm needs kind=..., one of {', '.join(ARMS)}"
            )
