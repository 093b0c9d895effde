"""Studies: one published system of self-generated learning in a file each, from its question to its claims.

A study is a module with ``Config`` (a dataclass of plain values), ``ARMS`` (names), ``prepare(cfg, seed)`` (what a
seed's arms share, such as the base model), ``run(cfg, arm, seed, base, samples)`` (rows; texts to browse are appended
to ``samples``), ``CLAIMS`` and ``EXHIBITS``, whose texts may name settings in braces (``{k} samples``; a brace that is
meant is written twice); where it trains on a signal, ``THESIS`` says how that is held against the
thesis of all studies (:mod:`rl.analysis.thesis`). Randomness comes from the seed alone and ``base`` is not changed, so
that the same command gives the same numbers and an interrupted seed goes on with the arms that are left.
"""

import ast
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from math import inf, isfinite
from pathlib import Path
from typing import Any, Protocol, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.evidence.model import plain
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

    def run(self, cfg: Any, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One arm with one seed: its rows, each with ``arm``, ``seed``, ``step`` and what was measured."""


def refuse_unknown_settings(name: str, size: str, given: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for a setting that a study does not have, by the source of its ``Config``, before torch."""
    spec = importlib.util.find_spec(_module(name, size))
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else ast.Module([], [])
    config = next((one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "Config"), None)
    if config is None or config.bases:  # it has fields that stand elsewhere; the module itself will tell
        return
    fields_of = (one.target for one in config.body if isinstance(one, ast.AnnAssign))
    _refuse_unknown(given, [target.id for target in fields_of if isinstance(target, ast.Name)])


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


def settings_of(study: Study, given: Mapping[str, Any]) -> Any:
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
