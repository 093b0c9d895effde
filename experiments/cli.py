"""Hydra entry points: every YAML file is checked by a typed schema, and errors tell the user what to change."""

import errno
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from experiments.base_schema import PretrainConfig, WarmStartConfig
from experiments.help import print_help
from experiments.keys import UnknownKeyError, explain, open_free_mappings, refuse_unknown, walk
from experiments.refusals import (
    UserError,
    nearest_existing,
    refuse_before_torch,
    refuse_given_places,
    refuse_wrong_arms,
)
from experiments.schema import (
    CheckConfig,
    CompareConfig,
    ExportConfig,
    PlayConfig,
    PromptingConfig,
    PushConfig,
    ReportConfig,
    StudyChoice,
    StudyConfig,
    ThesisConfig,
    TuneConfig,
    WatchConfig,
)
from rewards import nearest
from rewards.sandbox import SandboxError
from rl import config as schema
from rl.tracking import IDENTITY, is_disk_full

CONFIGS = str(Path(__file__).resolve().parent.parent / "configs")
_GROUPS = {
    "algorithm": schema.AlgorithmConfig,
    "offline": schema.OfflineConfig,
    "env": schema.EnvConfig,
    "model": schema.ModelConfig,
    "engine": schema.EngineConfig,
    "prompting": PromptingConfig,
    "study": StudyChoice,
}
_ENTRY_POINTS = {
    "train": schema.TrainConfig,
    "sft": schema.SFTConfig,
    "evaluate": schema.RunConfig,
    "compare": CompareConfig,
    "tune": TuneConfig,
    "study": StudyConfig,
    "thesis": ThesisConfig,
    "pretrain_tiny": PretrainConfig,
    "warm_start": WarmStartConfig,
    "play": PlayConfig,
    "check": CheckConfig,
    "watch": WatchConfig,
    "report": ReportConfig,
    "push": PushConfig,
    "export": ExportConfig,
}
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals by which a cluster or ``kill`` asks a program to end."""
GROWING = ("compare", "tune", "study")
"""Programs whose folders may grow: they can be resumed with more arms, seeds or trials and keep finished work."""
console = Console()
if not console.is_terminal and not os.environ.get("COLUMNS"):
    console = Console(width=140)  # without a terminal, rich would squeeze tables into 80 columns


def register_schemas() -> None:
    """Registers the config dataclasses under the names that the ``defaults`` of the YAML files refer to."""
    OmegaConf.register_new_resolver("or_else", lambda first, second: first or second, replace=True)
    store = ConfigStore.instance()
    for group, node in _GROUPS.items():
        store.store(group=group, name="schema", node=node)
    for name, node in _ENTRY_POINTS.items():
        store.store(name=f"{name}_schema", node=node)


def entry_point(config_name: str, runs: bool = True) -> Callable[[Callable[[Any], object]], Callable[[], None]]:
    """Turns a function that takes a typed config into a program.

    An unknown key or a wrong value ends the program with exit status 2 and a message that names the key; for an
    unknown key, the message also suggests the nearest known one. Ctrl-C ends the program with status 130. The function
    should import torch in its body, so that ``--help`` and errors in the config appear before torch is loaded.

    Args:
        config_name: Name of the config, in ``configs`` and among the schemas.
        runs: Whether the program starts a run, which the same command starts over after an interruption. Other programs
            only show something or make files of what is there.
    """

    def decorate(run: Callable[[Any], object]) -> Callable[[], None]:
        def main() -> None:
            register_schemas()
            if {"-h", "--help"} & set(sys.argv[1:]):
                print_help(
                    composed(config_name, sys.argv[1:]), Path(CONFIGS), sys.modules[run.__module__].__doc__ or ""
                )
                return
            os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors, which are printed below
            # Change the arguments before Hydra reads them: the overrides stored in a resumed folder are added, and new
            # keys of free mappings get the ++ that Hydra demands.
            arguments = [expanded(one) for one in sys.argv[1:]]
            arguments = with_stored(arguments, config_name) if config_name in GROWING else arguments
            groups = [path.name for path in Path(CONFIGS).iterdir() if path.is_dir()]
            sys.argv[1:] = open_free_mappings(arguments, _ENTRY_POINTS[config_name], groups)
            try:
                refuse_given_places(sys.argv[1:])
            except UserError as error:
                fail(str(error))
            program = hydra.main(version_base=None, config_path=CONFIGS, config_name=config_name)(Program.of(run))
            try:
                with terminable():
                    program()
            except KeyboardInterrupt as error:  # its args, if any, tell where the run is kept and how to resume it
                _say_interrupted(error, ("the same command starts over",) if runs else ())
            except yaml.YAMLError as error:  # from a user's own config file, below --config-dir
                fail(_no_yaml(error))
            except (HydraException, OmegaConfBaseException) as error:
                fail(explain(error, known_keys(config_name, sys.argv[1:])))
            except Exception as error:  # raised by a job of a sweep, see Program.__call__
                _end(error)

        main.run = run  # type: ignore[attr-defined]
        return main

    return decorate


def expanded(override: str) -> str:
    """Expands the ``~`` in an override ``key=~/path``, because shells do not expand a ``~`` after ``key=``."""
    key, sign, value = override.partition("=")
    return f"{key}{sign}{os.path.expanduser(value)}" if value.startswith("~/") else override


class Terminated(KeyboardInterrupt):
    """Raised on a signal of the cluster or of ``kill``; ends a program as Ctrl-C does."""


def _say_interrupted(error: KeyboardInterrupt, otherwise: Sequence[str]) -> NoReturn:
    """Ends a program after Ctrl-C or a signal; with several processes, only the one of rank 0 prints a message.

    Args:
        error: Its arguments, if any, are what is printed.
        otherwise: Printed if the error has no arguments.
    """
    what, status = ("stopped by a signal", os.EX_TEMPFAIL) if isinstance(error, Terminated) else ("interrupted", 130)
    if os.environ.get("RANK", "0") == "0":
        said = (f"[yellow];[/] {one}" for one in error.args or otherwise)
        console.print(f"[yellow]{what}[/]", *said, sep="", soft_wrap=True)
    sys.exit(status)


@contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM and SIGUSR1 raise :class:`Terminated`; a run replaces these handlers while it trains.

    With several processes per run, the signals keep their default effect: the launcher expects its processes to end at
    once.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1" and threading.current_thread() is threading.main_thread()

    def end(*_: Any) -> None:
        raise Terminated

    before = {number: signal.signal(number, end) for number in SIGNALS} if alone else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def with_stored(arguments: list[str], program: str) -> list[str]:
    """Adds the overrides stored in the folder that ``resume=<folder>`` names; new values replace stored ones.

    Arguments that resume no folder of this program are returned unchanged.
    """
    given = {one.partition("=")[0].lstrip("+~"): one.partition("=")[2] for one in arguments}
    path = Path(given.get("resume", "")) / "run.json"
    if "resume" not in given or not path.exists():
        return arguments
    try:
        started, *stored = json.loads(path.read_text(encoding="utf-8"))["command"]
        identity = path.with_name(IDENTITY)
        kind = json.loads(identity.read_text(encoding="utf-8"))["kind"] if identity.exists() else program
    except (OSError, ValueError, KeyError, TypeError):  # the error is reported when the folder is opened
        return arguments
    if kind != program:  # reported when the folder is opened, too
        return arguments
    if "ipykernel" in started:  # the command line of a notebook's kernel holds no overrides
        return arguments
    kept = [one for one in stored if "=" in one and one.partition("=")[0].lstrip("+~") not in given]
    return [*kept, *arguments]


def _no_yaml(error: yaml.YAMLError) -> str:
    """A sentence that tells where a config file is invalid YAML, and why."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"a config file cannot be read: {' '.join(str(error).split())}"
    why = getattr(error, "problem", None) or error
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: no valid YAML ({why})"


def key_of(path: str) -> str:
    """The override that names a path or the closest folder above it, as ``runs_dir=my.txt: ``; empty if none does."""
    given = [one.lstrip("+~").partition("=")[::2] for one in [*sys.argv[1:], "runs_dir=runs"]]
    places = [
        (str(Path(value.strip("'\"")).absolute()), f"{key}={value}: ") for key, value in given if value not in ("", ".")
    ]
    above = [one for one in places if Path(path).absolute().is_relative_to(one[0])]
    return max(above, key=lambda one: len(one[0]), default=("", ""))[1]


def _end(error: Exception) -> None:
    """Ends the program with a message if the user can fix the error; raises any other error again."""
    # Errors that a user's config, data or machine can cause. Any other error is a bug and keeps its traceback.
    kinds: tuple[type[BaseException], ...] = (UserError, ValueError, TypeError, KeyError, FileNotFoundError)
    kinds += (FileExistsError, ImportError, ConnectionError, SandboxError, HydraException, OmegaConfBaseException)
    for module, name in (("rl.types", "RunStoppedError"), ("rl.backends.engine_vllm_http", "ReplicaError")):
        if module in sys.modules:  # these load torch; a module that is not loaded cannot have raised its error
            kinds += (getattr(sys.modules[module], name),)
    if isinstance(error, OSError) and is_disk_full(error):
        fail(f"no space left on the disk: {error}; make room, or give a folder on another disk, as runs_dir=...")
    # This check comes before the one on ``kinds``, which include FileNotFoundError: an error of the operating system is
    # reported with its file name.
    if isinstance(error, OSError) and error.filename is not None and not os.environ.get("ERRATA_TRACEBACK"):
        fail(f"{key_of(str(error.filename))}{error.filename}: {_about(error)}\n(set ERRATA_TRACEBACK=1 to see where)")
    if not isinstance(error, kinds) or os.environ.get("ERRATA_TRACEBACK"):
        raise error
    if isinstance(error, UserError | UnknownKeyError):
        fail(str(error))
    message = error.args[0] if isinstance(error, KeyError) and error.args else explain(error)
    fail(f"{message}\n(set ERRATA_TRACEBACK=1 to see where)")


def _about(error: OSError) -> str:
    """What is wrong with the path of an error of the operating system, and what to give in its place."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        there = nearest_existing(Path(str(error.filename)))
        if not there.is_dir():
            return f"{there} is a file where a folder is needed; name another folder"
    if error.errno == errno.EISDIR:
        return "that is a folder where a file is needed; name a file"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}; give a place that this user can read and write"
    if error.errno == errno.ENOENT:
        return "there is no such file or folder; give one that exists"
    return f"{error.strerror}; give a file or folder that this user can read and write"


class Program:
    """The task that Hydra runs: calls a program's function with its typed config.

    A launcher of sweeps pickles this task for other processes. A task is pickled as the name of its module, because a
    function of ``__main__`` would be pickled with everything that it refers to, including objects for the terminal.

    Args:
        module: Module of the program, as in ``python -m <module>``.
        run: Function of the program; ``None`` in another process, which then imports the function from the module.
    """

    def __init__(self, module: str, run: Callable[[Any], object] | None = None) -> None:
        self._module, self._run = module, run
        self.__name__ = module.rpartition(".")[2]
        self.__code__ = Program.__call__.__code__  # Hydra reads a task's file name from its code object

    @classmethod
    def of(cls, run: Callable[[Any], object]) -> "Program":
        """The Hydra task for a function that is defined in a program's module."""
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if run.__module__ == "__main__" and spec is not None:
            return cls(spec.name, run)
        return cls(run.__module__, run)

    def __call__(self, cfg: DictConfig) -> None:
        """Runs the program on a composed config."""
        register_schemas()  # in a process started by a launcher, nothing is registered yet
        try:
            of_hydra: Any = HydraConfig.instance().cfg
            refuse_unknown(of_hydra, but=("hydra.env",))
            refuse_unknown_choices(HydraConfig.get().overrides.task)
            config = typed(cfg)
            run = self._run or importlib.import_module(self._module).main.run
            try:
                run(config)
            # ``sys.exit(0)`` in a reward function would end the run as if it were done.
            except SystemExit as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                said = f"{place.filename}, line {place.lineno} ended the program with SystemExit({error.code!r})"
                raise UserError(said) from error
        except BaseException as error:
            hydra_folder = Path(HydraConfig.get().runtime.output_dir)
            # Hydra creates its folders before the config is checked, so remove them if they are still empty; but never
            # a folder that contains the current directory, which is the user's.
            for empty in (hydra_folder, hydra_folder.parent):
                if not Path.cwd().is_relative_to(empty.resolve()):
                    with suppress(OSError):
                        empty.rmdir()
            if HydraConfig.get().mode is RunMode.MULTIRUN or not isinstance(error, Exception):
                raise
            _end(error)

    # Pickles the module's name only, see the docstring of the class.
    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self._module,)


def typed(cfg: DictConfig) -> Any:
    """Turns a composed config into its dataclass and checks it, after importing its ``plugins``.

    Fields of ``env`` that the config leaves open are filled with the defaults of the environment's author.

    Raises:
        UnknownKeyError: If the config holds a key that the dataclass does not have.
        UserError: If a plugin cannot be imported, or a file, folder, arm or name that the config asks for is missing.
        FileNotFoundError: If there is no model at ``model.path``.
        ValueError: If a value is out of range.
    """
    refuse_unknown(cfg)
    for name in cfg.plugins:
        import_plugin(name)
    refuse_before_torch(cfg)
    try:
        config: Any = OmegaConf.to_object(cfg)
    except ValueError:
        refuse_wrong_arms(cfg)  # raises the same error with the name of the arm, if an arm caused it
        raise
    if hasattr(config, "env"):
        config.env = config.env.settled()
        for name, changes in getattr(getattr(config, "evaluation", None), "transfer", {}).items():
            config.env.changed(changes, f"evaluation.transfer.{name}")
    if type(config) in (schema.TrainConfig, schema.SFTConfig):
        from rl.refusals import refuse_run  # imported here because it loads torch

        refuse_run(config)
    return config


def refuse_unknown_choices(overrides: Sequence[str]) -> None:
    """Raises UserError if a group has no file of the chosen name; Hydra ignores this if the group is optional."""
    # In a process started by a launcher, Hydra is not initialized; the first process has checked the overrides.
    if not GlobalHydra.instance().is_initialized():
        return
    for one in overrides:
        group, _, name = one.partition("=")
        if not (Path(CONFIGS) / group).is_dir():
            continue
        known = GlobalHydra.instance().config_loader().get_group_options(group)
        if name not in (*known, "null"):
            raise UserError(f"{group}={name}: unknown{nearest(name, known)} Known: {', '.join(known)}")


def import_plugin(name: str) -> None:
    """Imports a user's module, which registers names such as environments or rewards.

    Raises:
        UserError: If the import raises anything but ``KeyboardInterrupt``; ``SystemExit`` is caught, too.
    """
    try:
        importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # If "my.plugin" itself or a package above it is missing, the name is misspelt. If any other module is missing,
        # the plugin exists and an import inside it fails.
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            said = f"there is no module {name!r} in {Path.cwd()} or on Python's path"
        else:
            trace = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
            where = f", {trace[-1].filename} line {trace[-1].lineno}" if len(trace) > 1 else ""
            said = f"{name} fails when it is imported: {type(error).__name__}: {error}{where}"
        raise UserError(f"plugins: {said}") from error


def resolved_yaml(cfg: Any) -> str:
    """A typed config as YAML, with all interpolations resolved."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg), resolve=True)


def fail(message: str) -> NoReturn:
    """Ends the program with exit status 2 and a message about something that the user can fix."""
    console.print(Text.assemble(("error: ", "bold red"), message))
    sys.exit(2)


def known_keys(config_name: str, overrides: Sequence[str] = ()) -> list[str]:
    """Every full key (``env.options.n``) of a program's config, with the chosen groups if these can be composed."""
    return [key for key, _ in walk(composed(config_name, overrides))]


def composed(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A program's config together with Hydra's own, with the chosen groups if these can be composed."""
    # Only choices of groups are applied: other overrides may be invalid, and the keys do not depend on them.
    groups = [one for one in overrides if "." not in one.split("=")[0] and (Path(CONFIGS) / one.split("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIGS, version_base=None):
        try:
            return compose(config_name, groups, return_hydra_config=True)
        except HydraException:
            # A group that must be chosen was not chosen. All of its options have the same keys, so take the first.
            entries = yaml.safe_load((Path(CONFIGS) / f"{config_name}.yaml").read_text("utf-8"))["defaults"]
            open_ones = [
                group for entry in entries if isinstance(entry, dict) for group in entry if entry[group] == "???"
            ]
            options = [sorted(path.stem for path in (Path(CONFIGS) / group).glob("*.yaml")) for group in open_ones]
            chosen = [f"{group}={names[0]}" for group, names in zip(open_ones, options, strict=True)]
            return compose(config_name, chosen, return_hydra_config=True)
