"""Lists all names that a config can use: ``python -m experiments.list [env] [algorithm.loss] [--plugins my_module]``.

Most names and descriptions are parsed from source files, so that torch and the modules that need it are not imported.
"""

import argparse
import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rewards.lookup import nearest

ROOT = Path(__file__).resolve().parent.parent
GROUPS = (
    "env",
    "algorithm",
    "offline",
    "prompting",
    "model",
    "engine",
    "study",
    "experiment",
    "comparison",
    "tuned",
    "debug",
    "launcher",
    "accelerate",
)


def yaml_options(group: str) -> dict[str, str]:
    """Names of the files of a config group, each with its first comment line."""
    lines = {}
    for path in sorted((ROOT / "configs" / group).glob("*.yaml")):
        found = re.search(r"^# (?!@package)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        lines[path.stem] = found[1] if found else ""
    return lines


def lookups(paths: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Names that the files register in each lookup, with the first lines of their docstrings, by config key."""
    keys: dict[str, str] = {}
    entries: list[tuple[str, str, str]] = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Call):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                if isinstance(target, ast.Name) and ast.unparse(node.value.func) == "Lookup":
                    keys[target.id] = ast.literal_eval(node.value.args[0])
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                line = (ast.get_docstring(node) or "").split("\n")[0]
                entries += [(variable, name, line) for variable, name in _registrations(node)]
    found: dict[str, dict[str, str]] = {}
    for variable, name, line in entries:
        if variable in keys:
            found.setdefault(keys[variable], {})[name] = line
    return found


def _registrations(node: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, str]]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute):
            of, first = decorator.func, decorator.args[0] if decorator.args else None
            if of.attr == "register" and isinstance(of.value, ast.Name) and isinstance(first, ast.Constant):
                yield of.value.id, str(first.value)


def sections(plugins: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """All names that can be chosen and their descriptions, by config key: config groups first, then lookups."""
    from envs.prompts import PROMPTS
    from experiments.evidence import EXHIBITS
    from rl.analysis.rates import RATES

    files = [
        path for layer in ("rewards", "envs", "rl", "experiments") for path in sorted((ROOT / layer).rglob("*.py"))
    ]
    for name in plugins:
        spec = None
        with suppress(Exception):  # ``find_spec`` imports the parents of a dotted name, which may fail.
            spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise SystemExit(f"error: --plugins: there is no module {name!r} here")
        files.append(Path(spec.origin))
    found = {group: options for group in GROUPS if (options := yaml_options(group))} | lookups(files)
    found["env.prompts"] = {name: prompts.task.split("\n")[0] for name, prompts in PROMPTS.items()}
    found["rates (of every evaluation)"] = {name: rate.meaning for name, rate in RATES.items()}
    found["only (tables and figures)"] = {name: entry.title for name, entry in EXHIBITS.items()}
    return found


def main() -> None:
    """Prints the sections whose keys are given, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m experiments.list", description="What there is to choose from.")
    parser.add_argument("key", nargs="*", help="only keys that begin like this, such as env or algorithm.loss")
    parser.add_argument("--plugins", nargs="*", default=[], help="modules of your own that register more")
    asked, out = parser.parse_args(), Console()
    found = sections(asked.plugins)
    for one in asked.key:
        if not any(key.startswith(one) for key in found):
            raise SystemExit(f"error: {one}: unknown{nearest(one, found)} Known: {', '.join(found)}")
    chosen = [key for key in found if not asked.key or key.startswith(tuple(asked.key))]
    for key in chosen:
        table = Table.grid(padding=(0, 2))
        for name, line in found[key].items():
            table.add_row(f"  [bold]{escape(name)}[/]", escape(line))
        out.print(f"[bold cyan]{escape(key)}[/]")
        out.print(table)


if __name__ == "__main__":
    main()
