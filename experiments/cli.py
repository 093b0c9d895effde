"""Hydra entry points with a typed schema behind every YAML and errors that a person can act on."""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from experiments.schema import CompareConfig, PlayConfig, PretrainConfig, PromptingConfig, ReportConfig, WatchConfig
from rewards.sandbox import SandboxError
from rl import config as schema
from rl.tracking import is_disk_full
from rl.types import RunStoppedError

CONFIGS = str(Path(__file__).resolve().parent.parent / "configs")
_GROUPS = {
    "algorithm": schema.AlgorithmConfig,
    "offline": schema.OfflineConfig,
    "env": schema.EnvConfig,
    "model": schema.ModelConfig,
    "engine": schema.EngineConfig,
    "prompting": PromptingConfig,
}
_ENTRY_POINTS = {
    "train": schema.TrainConfig,
    "sft": schema.SFTConfig,
    "evaluate": schema.RunConfig,
    "compare": CompareConfig,
    "pretrain": PretrainConfig,
    "play": PlayConfig,
    "watch": WatchConfig,
    "report": ReportConfig,
}
console = Console()
if not console.is_terminal:
    console = Console(width=140)  # a log file has no width of its own; tables should not be squeezed into 80 columns


def register_schemas() -> None:
    """Puts the dataclasses where the YAML files' ``defaults`` look for them."""
    OmegaConf.register_new_resolver("or_else", lambda first, second: first or second, replace=True)
    store = ConfigStore.instance()
    for group, node in _GROUPS.items():
        store.store(group=group, name="schema", node=node)
    for name, node in _ENTRY_POINTS.items():
        store.store(name=f"{name}_schema", node=node)


class UserError(Exception):
    """Something that the user can mend; printed without a traceback."""


def entry_point(config_name: str) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Turns a function of a typed config into a program.

    Bad configs end with exit status 2 and a message that names the key and the nearest known one; mistakes in values
    likewise; Ctrl-C with status 130.
    """

    def decorate(run: Callable[[Any], None]) -> Callable[[], None]:
        def main() -> None:
            register_schemas()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing; we print below
            program = hydra.main(version_base=None, config_path=CONFIGS, config_name=config_name)(Program.of(run))
            try:
                program()
            except KeyboardInterrupt:
                console.print("[yellow]interrupted[/]")
                sys.exit(130)
            except (HydraException, OmegaConfBaseException) as error:
                _fail(explain(error))
            except (
                UserError,
                ValueError,
                TypeError,
                KeyError,
                FileNotFoundError,
                ModuleNotFoundError,
                RunStoppedError,
                SandboxError,
            ) as error:
                if os.environ.get("ERRATA_TRACEBACK"):
                    raise
                message = error.args[0] if isinstance(error, KeyError) and error.args else error
                _fail(f"{message}\n(set ERRATA_TRACEBACK=1 to see where)")
            except OSError as error:
                if not is_disk_full(error):
                    raise
                _fail(f"no space left on the disk: {error}")

        main.run = run  # type: ignore[attr-defined]
        return main

    return decorate


class Program:
    """What Hydra runs: a program's function on its typed config.

    Launchers of sweeps send it to other processes by name; a function of ``__main__`` would be sent with everything
    that it refers to, terminals included.

    Args:
        module: Of the program, as in ``python -m <module>``.
        run: Its function, if this is the process that it was started in.
    """

    def __init__(self, module: str, run: Callable[[Any], None] | None = None) -> None:
        self._module, self._run = module, run
        self.__name__ = module.rpartition(".")[2]
        self.__code__ = Program.__call__.__code__  # Hydra asks a task for its file

    @classmethod
    def of(cls, run: Callable[[Any], None]) -> "Program":
        """The job of a function that was defined in a program's module."""
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if run.__module__ == "__main__" and spec is not None:
            return cls(spec.name, run)
        return cls(run.__module__, run)

    def __call__(self, cfg: DictConfig) -> None:
        """Runs the program on a composed config."""
        register_schemas()  # in another process nothing is registered yet
        run = self._run or importlib.import_module(self._module).main.run
        run(typed(cfg))

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self._module,)


def typed(cfg: DictConfig) -> Any:
    """A composed config as its dataclass, with the choice of the environment's author wherever nothing is given."""
    config: Any = OmegaConf.to_object(cfg)
    if hasattr(config, "env"):
        config.env = config.env.settled()
    return config


def resolved_yaml(cfg: Any) -> str:
    """A typed config as YAML, everything resolved."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg), resolve=True)


def _fail(message: str) -> None:
    console.print("[bold red]error:[/]", end=" ")
    console.print(message, markup=False, highlight=False)
    sys.exit(2)


def explain(error: BaseException) -> str:
    """The whole chain of an error's messages, with the nearest known key if a key is unknown."""
    messages = []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).strip()
        if text and text not in messages:
            messages.append(text)
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(messages)
    match = re.search(r"Key '([^']+)' (?:is not in struct|not in)", text)
    if match is None:
        return text
    key = match[1].split(".")[-1]
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.75)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    full = re.search(r"full_key: (\S+)", text)
    return f"unknown key {full[1] if full else key!r}{hint}\n{messages[0]}"


def known_keys() -> list[str]:
    """Every field name of every config dataclass, and every key of the YAML files."""
    names: dict[str, None] = {}
    for path in sorted(Path(CONFIGS).rglob("*.yaml")):
        names |= dict.fromkeys(re.findall(r"^\s+(\w+):", path.read_text(encoding="utf-8"), re.MULTILINE))

    def visit(node: Any) -> None:
        if not is_dataclass(node):
            return
        hints = get_type_hints(node)
        for item in fields(node):
            names.setdefault(item.name)
            for inner in _nested(hints[item.name]):
                visit(inner)

    for node in (*_GROUPS.values(), *_ENTRY_POINTS.values()):
        visit(node)
    return list(names)


def _nested(hint: Any) -> Iterable[Any]:
    return (hint, *get_args(hint))
