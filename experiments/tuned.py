"""The file of chosen values, ``output=<file>``: ``experiments.tune`` writes it, and ``experiments.compare`` reads it.

It is often a tracked file that took hours to fill. So no values in it are replaced by those of a smaller tuning, and
its comments stay as long as it keeps values to which they may refer.
"""

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import UserError
from experiments.schema import ArmsConfig, TuneConfig, TuningRecord
from rewards.wording import counted
from rl.tracking import write_text

PACKAGE = "# @package _global_"
HEAD = f"{PACKAGE}\n# Values that experiments.tune chose on validation tasks, and their results there.\n"
SINCE = "# After the lines above were written, experiments.tune chose the values of "


def chosen_before(path: Path) -> dict[str, dict[str, Any]]:
    """Returns ``arms`` and ``tuning`` of a file of chosen values; both are empty if there is no such file.

    Raises:
        UserError: If the file holds anything else, which overwriting it would destroy.
    """
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
        # A file that holds no values but some text, as tuned/none.yaml, means something else.
        is_ours = not found.keys() - {"arms", "tuning"} and (found or not path.exists() or not path.read_text().strip())
        both = {key: dict(found.get(key) or {}) for key in ("arms", "tuning")}
        for one in both["tuning"].values():
            _record(one)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError, OmegaConfBaseException):
        is_ours, both = False, {}
    if not is_ours:
        raise UserError(f"output={path}: this file was not written by experiments.tune; name another")
    return both


def _record(stored: Any) -> TuningRecord:
    record: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TuningRecord), stored))
    return record


def budget_of(cfg: TuneConfig) -> str:
    """The budget of every trial, written as overrides."""
    key = {"samples": "episodes", "tokens": "tokens", "updates": "updates"}[cfg.match]
    said = f"training.{key}={getattr(cfg.training, key)}"
    # Offline arms sample these episodes also if their budget is one of optimiser steps.
    return f"{said}, training.episodes={cfg.training.episodes}" if cfg.match == "updates" else said


def setting_of(cfg: ArmsConfig) -> str:
    """Model and environment of a comparison or a tuning, as far as values may depend on them, written as overrides."""
    env = cfg.env.settled()
    # Numbers of tasks (n_train, n_validation, ...), their seed and the sandbox do not change what is to be learned.
    same = ("seed", "sandbox")
    named = {name: value for name, value in env.options.items() if not name.startswith("n_") and name not in same}
    options = "".join(f" env.options.{name}={value}" for name, value in sorted(named.items()))
    return f"model.path={cfg.model.path} env={env.name} env.attempts={env.attempts}{options}"


def refuse_lost_choices(cfg: TuneConfig, spent: Mapping[str, int]) -> None:
    """Refuses to replace values in ``cfg.output`` that were chosen for something else or by more trials.

    That is: for another model or environment, with another budget, by more trials, or without a record.

    Args:
        cfg: Config of the tuning.
        spent: Episodes that a run of each untuned arm samples.

    Raises:
        UserError: If there are such values for an arm of ``cfg.include``, or the file holds anything else.
    """
    path = Path(cfg.output).expanduser()
    before, lost = chosen_before(path), {}
    for arm in cfg.include:
        if arm in before["tuning"]:
            record = _record(before["tuning"][arm])
            # Records of earlier versions hold no budget, but the episodes of a run, which may be fewer by rounding.
            is_same = record.budget == budget_of(cfg)
            was_for = "" if record.setting in ("", setting_of(cfg)) else f" for {record.setting}"
            if not record.budget and cfg.match == "samples":
                is_same = record.episodes in (cfg.training.episodes, spent[arm])
            if is_same and not was_for and record.trials <= cfg.trials:
                continue
            budget = record.budget or f"training.episodes={record.episodes}"
            how = f"chosen by {counted(record.trials, 'trial')} with {budget}{was_for}"
        elif arm in before["arms"]:
            how = "of which no tuning is recorded"
        else:
            continue
        lost.setdefault(how, []).append(arm)
    if lost:
        these = "; ".join(f"those of {', '.join(arms)}, {how}" for how, arms in lost.items())
        raise UserError(
            f"output={cfg.output}: {counted(cfg.trials, 'trial')} with {budget_of(cfg)} would replace values in this "
            f"file: {these}. Name another file, as output=configs/tuned/mine.yaml, which experiments.compare takes "
            "with tuned=mine; or go on with the earlier tuning by resume=<its folder>, with at least as many trials; "
            "or remove these arms from the file"
        )


def as_yaml(arms: Mapping[str, Any], records: Mapping[str, Any], head: str = HEAD) -> str:
    """Content of a file of chosen values, which ``experiments.compare`` reads if it lies in ``configs/tuned``."""
    return head + OmegaConf.to_yaml(OmegaConf.create({"arms": dict(arms), "tuning": dict(records)}))


def write_choices(path: Path, arms: Mapping[str, Any], records: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the chosen values of some arms to a file and keeps those of other arms in it; returns its content.

    Args:
        path: The file.
        arms: Changes to the config of each arm; an arm that is best as it is may be left out.
        records: How each arm was tuned.
    """
    before = chosen_before(path)
    # Earlier values are removed even if the untuned arm won: otherwise the file would keep values that this tuning did
    # not choose.
    values = {arm: one for arm, one in (before["arms"] | dict(arms)).items() if arm in arms or arm not in records}
    chosen = {"arms": values, "tuning": before["tuning"] | dict(records)}
    keeps_some = (before["arms"] | before["tuning"]).keys() - records.keys()
    head = _head_with(path.read_text(encoding="utf-8"), records) if keeps_some else HEAD
    write_text(path, as_yaml(values, chosen["tuning"], head))
    return chosen


def _head_with(text: str, written: Mapping[str, Any]) -> str:
    """The comments at the head of a file, with a line that names the arms chosen since they were written."""
    lines = [line for line in takewhile(lambda one: not one or one.startswith("#"), text.splitlines()) if line]
    named = [arm for line in lines if line.startswith(SINCE) for arm in line.removeprefix(SINCE).split(", ")]
    lines = [line for line in lines if not line.startswith(SINCE)]
    if PACKAGE not in lines:
        lines = [PACKAGE, *lines]
    if lines != HEAD.splitlines():
        lines.append(SINCE + ", ".join(dict.fromkeys([*named, *written])))
    return "\n".join(lines) + "\n"
