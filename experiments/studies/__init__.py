"""Studies: one published system of self-generated learning in a file each, from its question to its claims.

A study is a module with ``Config`` (a dataclass of plain values), ``ARMS`` (names), ``prepare(cfg, seed)`` (what a
seed's arms share, such as the base model), ``run(cfg, arm, seed, base, samples)`` (rows; texts to browse are appended
to ``samples``), ``CLAIMS`` and ``EXHIBITS``, whose texts may name settings in braces (``{k} samples``; a brace that is
meant is written twice); where it trains on a signal, ``THESIS`` says how that is held against the
thesis of all studies (:mod:`rl.analysis.thesis`). Randomness comes from the seed alone and ``base`` is not changed, so
that the same command gives the same numbers and an interrupted seed goes on with the arms that are left.
"""

import ast
import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, fields
from math import inf, isfinite
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.evidence.model import plain
from experiments.list import ROOT
from rewards import Lookup, nearest
from rl.analysis.claims import Claim, Figure
from rl.config.checks import NEEDED
from rl.tracking import write_json, write_text

STUDIES: Lookup[str] = Lookup("study.name")
"""Modules of the studies by name; a plugin registers one of your own, with a YAML like those in ``configs/study``."""
for _name in (
    "verification_gap",
    "self_agreement",
    "collapse",
    "post_completion",
    "self_judging",
    "self_questioning",
    "self_awareness",
    "instruction_extraction",
    "self_edits",
    "seeded_generation",
    "skills",
):
    STUDIES.register(_name)(f"experiments.studies.{_name}")
FULL: Lookup[str] = Lookup("study.name")
"""Modules that hold the size ``full`` of studies (:mod:`experiments.full`), by the study's name."""
for _name in tuple(STUDIES):
    FULL.register(_name)(f"experiments.full.{_name}")


class Study(Protocol):
    """What a study's module holds."""

    Config: type
    ARMS: Sequence[str]
    CLAIMS: Sequence[Claim]
    EXHIBITS: Sequence[Figure | Callable[[Sequence[Mapping[str, Any]]], Any]]
    # Where it has numbers of another range than ``settings_of`` takes them for: RANGES: Mapping[str, tuple], each the
    # smallest and the largest value of a setting.

    def prepare(self, cfg: Any, seed: int) -> Any:
        """What the arms of a seed have in common."""
        ...

    def run(self, cfg: Any, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One arm with one seed: its rows, each with ``arm``, ``seed``, ``step`` and what was measured."""
        ...


def refuse_wrong_settings(name: str, size: str, given: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for what a study of ours refuses of its settings; importing the study would load torch."""
    if (module := _module(name, size)).startswith("experiments."):  # a plugin's has been imported
        settings_of(SimpleNamespace(**part_of(module, {"Config", "RANGES"})), given)


def part_of(module: str, names: Set[str]) -> dict[str, Any]:
    """Some names of a module of ours, made from the statements of its source that they need, and from no others."""
    body = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).body
    wanted, taken = set(names), list[ast.stmt]()
    while found := [one for one in body if one not in taken and wanted & set(_bound(one))]:
        taken += found
        wanted |= {one.id for one in _names(found) if isinstance(one.ctx, ast.Load)}
    space: dict[str, Any] = {"__name__": module}
    for statement in sorted(taken, key=body.index):
        if isinstance(statement, ast.ImportFrom) and (source := statement.module or "").startswith("experiments"):
            bound = {alias.asname or alias.name: alias.name for alias in statement.names}
            space |= {name: _imported(source, bound[name], names) for name in bound.keys() & wanted}
        else:
            exec(compile(ast.Module([statement], []), module, "exec"), space)
    return {name: space[name] for name in names if name in space}


def _imported(source: str, name: str, names: Set[str]) -> Any:
    place = ROOT / source.replace(".", "/")
    if (place / f"{name}.py").exists():  # the study whose full size is asked for
        return SimpleNamespace(**part_of(f"{source}.{name}", names))
    if place.is_dir():  # of a package itself, which loads nothing
        return getattr(importlib.import_module(source), name)
    return part_of(source, {name})[name]


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    return [one.id for one in _names([statement]) if isinstance(one.ctx, ast.Store)]


def _names(statements: Iterable[ast.stmt]) -> list[ast.Name]:
    return [one for statement in statements for one in ast.walk(statement) if isinstance(one, ast.Name)]


def _refuse_unknown(given: Iterable[str], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"settings.{key}: unknown{nearest(key, known)} Known: {', '.join(known)}")


def _module(name: str, size: str) -> str:
    return FULL[name] if size == "full" and name in FULL else STUDIES[name]


def load(name: str, size: str = "") -> Study:
    """A study's module, that of its size ``full`` where it has one; importing it loads torch."""
    module: Any = importlib.import_module(_module(name, size))
    return module


def settings_of(study: Any, given: Mapping[str, Any]) -> Any:
    """A study's ``Config`` with some values changed, their types and ranges checked.

    A whole number is a count, at least 1; a width is a multiple of 8, for four heads of even size; a learning rate is
    above 0; every number is finite. The study's ``RANGES`` say where it is otherwise, and which numbers are shares.

    Raises:
        ValueError: For a setting that the study does not have, or a value that it cannot have.
    """
    known, types = [field.name for field in fields(study.Config)], get_type_hints(study.Config)
    cfg: Any = OmegaConf.structured(study.Config)
    _refuse_unknown(given, known)
    for key, value in given.items():
        try:
            cfg = OmegaConf.merge(cfg, {key: value})
        except OmegaConfBaseException:
            raise ValueError(f"settings.{key}={value}: use {NEEDED.get(types[key], types[key])}") from None
    for key in known:
        refuse_out_of_range(key, cfg[key], getattr(study, "RANGES", {}))
    return OmegaConf.to_object(cfg)


def refuse_out_of_range(key: str, value: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises ``ValueError`` for a number that a setting of that name cannot have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, high = ranges.get(key, (1 if isinstance(value, int) else -inf, inf))
    kind, instead = NEEDED[type(value)], ""
    if not isfinite(value):
        instead = f"{kind} that is finite"
    elif not low <= value <= high:
        instead = f"{kind} of at least {low}" if high == inf else f"{kind} from {low} to {high}"
    elif key in ("width", "hidden_size") and value % 8:
        instead = "a multiple of 8"
    elif (key == "lr" or key.endswith("_lr")) and value <= 0:
        instead = f"{kind} above 0"
    if instead:
        raise ValueError(f"settings.{key}={value}: use {instead}")


def run_seed(
    name: str, given: Mapping[str, Any], seed: int, folder: Path, report: Callable[..., None], size: str = ""
) -> None:
    """Every arm of a study with one seed; an arm whose file is there already is not run again.

    Where the base, or its ``speaker``, counts what it computes (``spend``), the last row of an arm says so, in tokens.

    Writes ``<arm>.json`` as each arm ends, and last ``result.json`` with rows and ``rows.jsonl`` with the samples.
    """
    study = load(name, size)
    cfg, base = settings_of(study, given), None
    found: dict[str, dict[str, Any]] = {}
    for i, arm in enumerate(study.ARMS):
        path = folder / f"{arm}.json"
        if not path.exists():
            if base is None:
                report("the base", i / len(study.ARMS), {})
                base = study.prepare(cfg, seed)
            report(arm, i / len(study.ARMS), {})
            samples: list[dict[str, Any]] = []
            rows = [{"arm": arm, "seed": seed, "step": 0} | row for row in study.run(cfg, arm, seed, base, samples)]
            if rows and (spend := getattr(getattr(base, "speaker", base), "spend", None)):
                rows[-1] |= {f"{what}_tokens": n for what, n in asdict(spend()).items()}
            texts = [{"arm": arm, "seed": seed} | one for one in samples]
            write_json(path, plain({"rows": rows, "samples": texts}))
        found[arm] = json.loads(path.read_text(encoding="utf-8"))
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for arm in found.values() for one in arm["samples"]]
    write_text(folder / "rows.jsonl", "".join(lines))
    write_json(folder / "result.json", {"seed": seed, "rows": [row for arm in found.values() for row in arm["rows"]]})
    report("done", 1.0, {})
