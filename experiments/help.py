"""Prints the text of ``--help``: the config groups, and every key with its description from the dataclass."""

import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def meanings(cls: type) -> dict[str, str]:
    """The description of each field of a dataclass, from the ``Args`` of its own docstring and of its base classes."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        # Google style: each field begins a line with four spaces; continuation lines are indented deeper. A blank line
        # ends the section.
        listed = (inspect.getdoc(base) or "").partition("Args:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): ((?:.*\n?)(?:^     .*\n?)*)", listed, re.MULTILINE):
            found[name] = plain(text)
    return found


def plain(text: str) -> str:
    """A docstring's text on one line, without markup."""
    return re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", r"\1\2", " ".join(text.split()))


def described(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yields the full key, node and description of every key of a typed config.

    The entries of a typed mapping are described once, as ``<key>.<name>.<field>``, if all are of the same dataclass.
    The node is ``None`` for keys without a value to show.
    """
    cls: Any = OmegaConf.get_type(node)
    known = meanings(cls)
    for item in fields(cls):
        child, key = node._get_node(item.name), f"{prefix}{item.name}"
        of: Any = OmegaConf.get_type(child) if isinstance(child, DictConfig) else None
        nested = of is not None and is_dataclass(of)
        text = known.get(item.name) or (plain((inspect.getdoc(of) or "").split("\n")[0]) if nested else "")
        yield key, None if nested else child, text
        if nested:
            yield from described(child, f"{key}.")
        elif isinstance(child, DictConfig) and (entries := [one for one in child if is_dataclass(_type(child, one))]):
            inner = meanings(_type(child, entries[0]))
            if len({_type(child, one) for one in entries}) == 1:
                yield from ((f"{key}.<name>.{name}", None, line) for name, line in inner.items())


def _type(mapping: DictConfig, key: Any) -> Any:
    node = mapping._get_node(key)
    return OmegaConf.get_type(node) if isinstance(node, DictConfig) else None


def shown(node: Any) -> str:
    """A value as it would be written on a command line; for a mapping of configs, only the names of its entries."""
    if node is None:
        return ""
    if node._is_missing():
        return "<needed>"
    if isinstance(node, DictConfig) and any(is_dataclass(_type(node, key)) for key in node):
        return "{" + ", ".join(f"{key}: ..." for key in node) + "}"
    value = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()
    return "null" if value is None else str(value).replace("'", "")


def print_help(cfg: DictConfig, configs: Path, what: str) -> None:
    """Prints the help of a program.

    Args:
        cfg: The program's composed config, including Hydra's own config.
        configs: Folder of the config groups.
        what: Description of the program.
    """
    out = Console(width=None if Console().is_terminal or os.environ.get("COLUMNS") else 140, highlight=False)
    out.print(escape(re.sub("``", "", what.strip())))
    out.print("\nGive [bold]key=value[/], several values as -m key=1,2; --cfg job --resolve shows what would run.")
    out.print("Names that a key takes, a line each: python -m experiments.list \\[key]. More: README.md.")
    groups, keys = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
    for group, choice in sorted(cfg.hydra.runtime.choices.items()):
        if "/" not in group and "@" not in group and (configs / group).is_dir():
            names = sorted(path.stem for path in (configs / group).glob("*.yaml") if path.stem != "schema")
            groups.add_row(f"  [bold]{group}[/]" + (f"={choice}" if choice else ""), escape(", ".join(names)))
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra")
    for key, node, text in described(cfg):
        value = shown(node)
        keys.add_row(f"  [bold]{escape(key)}[/]" + (f"={escape(value[:40])}" if value else ""), escape(text))
    for title, table in (("Groups, a file of configs/ each", groups), ("Keys", keys)):
        if not table.row_count:
            continue
        table.columns[0].overflow = "fold"  # wraps a long key instead of cutting it off
        out.print(f"\n[bold cyan]{title}[/]")
        out.print(table)
