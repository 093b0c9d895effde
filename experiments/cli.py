"""Hydra entry points with a typed schema behind every YAML and errors that a person can act on."""

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

from experiments.help import print_help
from experiments.keys import UnknownKeyError, explain, open_free_mappings, refuse_unknown, walk
from experiments.refusals import UserError, refuse_before_torch, refuse_wrong_arms
from experiments.schema import (
    CheckConfig,
    CompareConfig,
    ExportConfig,
    PlayConfig,
    PretrainConfig,
    PromptingConfig,
    PushConfig,
    ReportConfig,
    StudyChoice,
    StudyConfig,
    ThesisConfig,
    TuneConfig,
    WarmStartConfig,
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
"""How a cluster, or ``kill``, says that a program is to end."""
GROWING = ("compare", "tune", "study")
"""Programs whose folders may grow: resumed with more arms, seeds or trials they go on from what is there."""
console = Console()
if not console.is_terminal and not os.environ.get("COLUMNS"):
    console = Console(width=140)  # a log file has no width of its own; tables should not be squeezed into 80 columns


def register_schemas() -> None:
    """Puts the dataclasses where the YAML files' ``defaults`` look for them."""
    OmegaConf.register_new_resolver("or_else", lambda first, second: first or second, replace=True)
    store = ConfigStore.instance()
    for group, node in _GROUPS.items():
        store.store(group=group, name="schema", node=node)
    for name, node in _ENTRY_POINTS.items():
        store.store(name=f"{name}_schema", node=node)


def entry_point(config_name: str) -> Callable[[Callable[[Any], object]], Callable[[], None]]:
    """Turns a function of a typed config into a program.

    Bad configs end with exit status 2 and a message that names the key and the nearest known one; mistakes in values
    likewise; Ctrl-C with status 130. The function imports what it needs itself: a config is composed and checked, and
    ``--help`` answered, before anything loads torch.
    """

    def decorate(run: Callable[[Any], object]) -> Callable[[], None]:
        def main() -> None:
            register_schemas()
            if {"-h", "--help"} & set(sys.argv[1:]):
                print_help(
                    composed(config_name, sys.argv[1:]), Path(CONFIGS), sys.modules[run.__module__].__doc__ or ""
                )
                return
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing; we print below
            # Before Hydra reads them: a folder that is resumed brings its own overrides, and a free mapping needs its
            # ++.
            arguments = [expanded(one) for one in sys.argv[1:]]
            arguments = with_stored(arguments, config_name) if config_name in GROWING else arguments
            groups = [path.name for path in Path(CONFIGS).iterdir() if path.is_dir()]
            sys.argv[1:] = open_free_mappings(arguments, _ENTRY_POINTS[config_name], groups)
            program = hydra.main(version_base=None, config_path=CONFIGS, config_name=config_name)(Program.of(run))
            try:
                with terminable():
                    program()
            except KeyboardInterrupt as error:  # whoever knows where the run is and how it goes on has put it in
                _say_interrupted(error)
            except yaml.YAMLError as error:  # a file of somebody's own, below --config-dir
                fail(_no_yaml(error))
            except (HydraException, OmegaConfBaseException) as error:
                fail(explain(error, known_keys(config_name, sys.argv[1:])))
            except Exception as error:  # of a job of a sweep
                _end(error)

        main.run = run  # type: ignore[attr-defined]
        return main

    return decorate


def expanded(override: str) -> str:
    """An override whose value is a path in somebody's home, ``key=~/path``, as shells leave it behind a key."""
    key, sign, value = override.partition("=")
    return f"{key}{sign}{os.path.expanduser(value)}" if value.startswith("~/") else override


class Terminated(KeyboardInterrupt):
    """A signal of the cluster or of ``kill``, which ends a program as Ctrl-C does."""


def _say_interrupted(error: KeyboardInterrupt) -> NoReturn:
    """Ends a program that a person or a cluster wanted to end; of several processes of a run one says so."""
    what, status = ("stopped by a signal", os.EX_TEMPFAIL) if isinstance(error, Terminated) else ("interrupted", 130)
    if os.environ.get("RANK", "0") == "0":
        said = error.args or ("the same command begins anew",)
        console.print(f"[yellow]{what}[/]", *(f"[yellow];[/] {one}" for one in said), sep="", soft_wrap=True)
    sys.exit(status)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGUSR1 raise :class:`Terminated`, where a run does not note them until its step is done.

    Of several processes that belong to a run none is kept alive by it: their launcher wants them to end at once.
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
    """Arguments that resume a program, after those that it was last started with; what is given anew counts."""
    given = {one.partition("=")[0].lstrip("+~"): one.partition("=")[2] for one in arguments}
    path = Path(given.get("resume", "")) / "run.json"
    if "resume" not in given or not path.exists():
        return arguments
    try:
        started, *stored = json.loads(path.read_text(encoding="utf-8"))["command"]
        identity = path.with_name(IDENTITY)
        kind = json.loads(identity.read_text(encoding="utf-8"))["kind"] if identity.exists() else program
    except (OSError, ValueError, KeyError, TypeError):  # what is wrong with the folder is said when it is opened
        return arguments
    if kind != program:  # so is this
        return arguments
    if "ipykernel" in started:  # a notebook's own arguments are no overrides
        return arguments
    kept = [one for one in stored if "=" in one and one.partition("=")[0].lstrip("+~") not in given]
    return [*kept, *arguments]


def _no_yaml(error: yaml.YAMLError) -> str:
    """Where a config file cannot be read, and why, in a sentence."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"a config file cannot be read: {' '.join(str(error).split())}"
    why = getattr(error, "problem", None) or error
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: no valid YAML ({why})"


def _end(error: Exception) -> None:
    """Ends the program with a message, if the user can mend what is wrong; else lets the error through."""
    # What a user's config, data or machine can cause. Anything else is a fault of the program and keeps its traceback.
    kinds: tuple[type[BaseException], ...] = (UserError, ValueError, TypeError, KeyError, FileNotFoundError)
    kinds += (FileExistsError, ImportError, ConnectionError, SandboxError, HydraException, OmegaConfBaseException)
    for module, name in (("rl.types", "RunStoppedError"), ("rl.backends.engine_vllm_http", "ReplicaError")):
        if module in sys.modules:  # else nothing can have raised it
            kinds += (getattr(sys.modules[module], name),)
    if isinstance(error, OSError) and is_disk_full(error):
        fail(f"no space left on the disk: {error}; make room, or give a folder on another disk, as runs_dir=...")
    # Before the kinds, since FileNotFoundError is one of them: of the system's errors the file's name is the message.
    if isinstance(error, OSError) and error.filename is not None and not os.environ.get("ERRATA_TRACEBACK"):
        fail(
            f"{error.filename}: {error.strerror}; give a file or folder that this user can read and write\n"
            "(set ERRATA_TRACEBACK=1 to see where)"
        )
    if not isinstance(error, kinds) or os.environ.get("ERRATA_TRACEBACK"):
        raise error
    if isinstance(error, UserError | UnknownKeyError):
        fail(str(error))
    message = error.args[0] if isinstance(error, KeyError) and error.args else explain(error)
    fail(f"{message}\n(set ERRATA_TRACEBACK=1 to see where)")


class Program:
    """What Hydra runs: a program's function on its typed config.

    Launchers of sweeps send it to other processes by name; a function of ``__main__`` would be sent with everything
    that it refers to, terminals included.

    Args:
        module: Of the program, as in ``python -m <module>``.
        run: Its function, if this is the process that it was started in.
    """

    def __init__(self, module: str, run: Callable[[Any], object] | None = None) -> None:
        self._module, self._run = module, run
        self.__name__ = module.rpartition(".")[2]
        self.__code__ = Program.__call__.__code__  # Hydra asks a task for its file

    @classmethod
    def of(cls, run: Callable[[Any], object]) -> "Program":
        """The job of a function that was defined in a program's module."""
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if run.__module__ == "__main__" and spec is not None:
            return cls(spec.name, run)
        return cls(run.__module__, run)

    def __call__(self, cfg: DictConfig) -> None:
        """Runs the program on a composed config."""
        register_schemas()  # in another process nothing is registered yet
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
            # Hydra makes them before anything is checked; the folder in which the program was started is not Hydra's.
            for empty in (hydra_folder, hydra_folder.parent):
                if not Path.cwd().is_relative_to(empty.resolve()):
                    with suppress(OSError):
                        empty.rmdir()
            if HydraConfig.get().mode is RunMode.MULTIRUN or not isinstance(error, Exception):
                raise
            _end(error)

    # By the module's name alone: see the class.
    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self._module,)


def typed(cfg: DictConfig) -> Any:
    """A composed config as its dataclass, checked; imports its ``plugins`` first, so that their names are known.

    What the config leaves open about its environment is the choice of the environment's author from here on.

    Raises:
        UnknownKeyError: If it holds a key that the dataclass does not have.
        UserError: If there is no such plugin, or no model where ``model.path`` says.
        ValueError: If a value is out of range.
    """
    refuse_unknown(cfg)
    for name in cfg.plugins:
        import_plugin(name)
    refuse_before_torch(cfg)
    try:
        config: Any = OmegaConf.to_object(cfg)
    except ValueError:
        refuse_wrong_arms(cfg)  # says the same with the name of the arm
        raise
    if hasattr(config, "env"):
        config.env = config.env.settled()
        for name, changes in getattr(getattr(config, "evaluation", None), "transfer", {}).items():
            config.env.changed(changes, f"evaluation.transfer.{name}")
    if type(config) in (schema.TrainConfig, schema.SFTConfig):
        from rl.refusals import refuse_run  # with torch

        refuse_run(config)
    return config


def refuse_unknown_choices(overrides: Sequence[str]) -> None:
    """Raises UserError for a file that a group lacks: Hydra says nothing of it where the group is optional."""
    if not GlobalHydra.instance().is_initialized():  # in another process, whose overrides were looked at in the first
        return
    for one in overrides:
        group, _, name = one.partition("=")
        if not (Path(CONFIGS) / group).is_dir():
            continue
        known = GlobalHydra.instance().config_loader().get_group_options(group)
        if name not in (*known, "null"):
            raise UserError(f"{group}={name}: unknown{nearest(name, known)} Known: {', '.join(known)}")


def import_plugin(name: str) -> None:
    """Imports a module that registers names of its own.

    Raises:
        UserError: Whatever the module raises, ``SystemExit`` included; Ctrl-C stays Ctrl-C.
    """
    try:
        importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # "my.plugin" is missing itself, or a package above it: a typing mistake. Any other missing module is an import
        # within the plugin, which exists.
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            said = f"there is no module {name!r} in {Path.cwd()} or on Python's path"
        else:
            trace = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
            where = f", {trace[-1].filename} line {trace[-1].lineno}" if len(trace) > 1 else ""
            said = f"{name} fails when it is imported: {type(error).__name__}: {error}{where}"
        raise UserError(f"plugins: {said}") from error


def resolved_yaml(cfg: Any) -> str:
    """A typed config as YAML, everything resolved."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg), resolve=True)


def fail(message: str) -> NoReturn:
    """Ends the program with a message about what its user can mend, and exit status 2."""
    console.print(Text.assemble(("error: ", "bold red"), message))
    sys.exit(2)


def known_keys(config_name: str, overrides: Sequence[str] = ()) -> list[str]:
    """Every whole key of a program's config, as far as possible with the groups that were chosen."""
    return [key for key, _ in walk(composed(config_name, overrides))]


def composed(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A program's config with Hydra's own, as far as possible with the groups that were chosen."""
    # Choices of groups alone: values may be what is wrong, and the keys do not depend on them.
    groups = [one for one in overrides if "." not in one.split("=")[0] and (Path(CONFIGS) / one.split("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIGS, version_base=None):
        try:
            return compose(config_name, groups, return_hydra_config=True)
        except HydraException:
            # A group that must be chosen and was not: any option of it has the keys of all.
            entries = yaml.safe_load((Path(CONFIGS) / f"{config_name}.yaml").read_text("utf-8"))["defaults"]
            open_ones = [
                group for entry in entries if isinstance(entry, dict) for group in entry if entry[group] == "???"
            ]
            options = [sorted(path.stem for path in (Path(CONFIGS) / group).glob("*.yaml")) for group in open_ones]
            chosen = [f"{group}={names[0]}" for group, names in zip(open_ones, options, strict=True)]
            return compose(config_name, chosen, return_hydra_config=True)
