"""Studies: each module is a small version of one published system of self-generated learning.

A study is a module with ``Config`` (a dataclass of plain values), ``ARMS`` (names of the arms), ``prepare(cfg, seed)``
(returns what the arms of a seed share, such as the base model), ``run(cfg, arm, seed, base, samples)`` (returns rows
and appends texts to browse to ``samples``), ``CLAIMS`` and ``EXHIBITS``. Texts of claims and exhibits may name settings
in braces (``{k} samples``; literal braces are doubled). A study that trains on a signal also has ``THESIS``, which says
how its arms are tested against the thesis of all studies (:mod:`rl.analysis.thesis`).

All randomness comes from the seed, and ``run`` does not change ``base``. Therefore the same command gives the same
numbers, and an interrupted seed resumes with the arms that are missing.
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
"""Modules of the studies by name; a plugin registers its own study here, and needs a YAML as in ``configs/study``."""
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
"""Modules of the studies' size ``full`` (:mod:`experiments.full`), by the name of the study."""
for _name in tuple(STUDIES):
    FULL.register(_name)(f"experiments.full.{_name}")


class Study(Protocol):
    """What a study's module defines."""

    Config: type
    ARMS: Sequence[str]
    CLAIMS: Sequence[Claim]
    EXHIBITS: Sequence[Figure | Callable[[Sequence[Mapping[str, Any]]], Any]]
    # Optional: RANGES: Mapping[str, tuple], the smallest and largest value of each setting whose limits differ from the
    # defaults in ``settings_of``.

    def prepare(self, cfg: Any, seed: int) -> Any:
        """Makes what the arms of a seed share, such as the base model."""
        ...

    def run(self, cfg: Any, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Runs one arm with one seed and returns its rows; ``arm``, ``seed`` and ``step=0`` are added where missing."""
        ...


def refuse_wrong_settings(name: str, size: str, given: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for invalid settings of a built-in study, without importing the study and torch."""
    # Settings of a plugin's study are checked when the study is loaded: its source is not below ROOT.
    if (module := _module(name, size)).startswith("experiments."):
        settings_of(SimpleNamespace(**part_of(module, {"Config", "RANGES"})), given)


def part_of(module: str, names: Set[str]) -> dict[str, Any]:
    """Values of some names of a built-in module, from executing only the statements that these names depend on."""
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
    if (place / f"{name}.py").exists():  # a module: a file of size full imports the study that it belongs to
        return SimpleNamespace(**part_of(f"{source}.{name}", names))
    if place.is_dir():  # a name from a package's __init__.py; importing that does not load torch
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
    """Imports and returns a study's module, for ``size="full"`` that of the full size; this loads torch."""
    module: Any = importlib.import_module(_module(name, size))
    return module


def settings_of(study: Any, given: Mapping[str, Any]) -> Any:
    """A study's ``Config`` with the given values; types and ranges are checked.

    By default an integer must be at least 1, a width a multiple of 8 (four heads of even size), a learning rate above
    0, and every number finite. The study's ``RANGES`` replace the lower and upper limits of single settings.

    Raises:
        ValueError: If the study has no setting of a given name, or if a value is of the wrong type or out of range.
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
    """Raises ``ValueError`` if a number is not allowed for the setting ``key``; other values are not checked."""
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
    """Runs every arm of a study with one seed; an arm whose file exists already is not run again.

    Writes ``<arm>.json`` after each arm, and at the end ``rows.jsonl`` with the samples and ``result.json`` with the
    rows. If the base, or its ``speaker``, has a method ``spend`` that counts computed tokens, the last row of each arm
    gets these counts.
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
