"""A program's config in Python, as its command line would make it: for notebooks and for scripts of one's own.

``config("train", env="repair", algorithm="grpo")`` is what ``python -m experiments.train env=repair algorithm=grpo``
runs: composed from the same files, checked by the same schema, refused with the same sentences.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import _ENTRY_POINTS, CONFIGS, known_keys, register_schemas, typed
from experiments.keys import explain, open_free_mappings
from rewards import nearest


def config(program: str, *overrides: str, **values: Any) -> Any:
    """The typed config of a program.

    Args:
        program: ``train``, ``sft``, ``evaluate``, ``compare``, ``study`` or another that takes a config.
        *overrides: As on the command line, ``"algorithm.advantage=rloo"``.
        **values: The same by keyword, before those: a choice of a group or a value (``env="repair"``, ``seed=1``), a
            list, or what lies within a key as a dictionary (``training={"episodes": 512}``).

    Returns:
        A dataclass of ``rl/config`` or ``experiments/schema.py``; ``dataclasses.replace`` makes another one of it.

    Raises:
        ValueError: For an unknown program or key, or a value that does not fit; says the nearest known one.
        FileNotFoundError: If no model is where ``model.path`` says.
        experiments.cli.UserError: For an unknown arm, or a plugin that cannot be imported.
    """
    if program not in _ENTRY_POINTS:
        raise ValueError(f"{program}: no program{nearest(program, _ENTRY_POINTS)} Known: {', '.join(_ENTRY_POINTS)}")
    for one in overrides:
        if not isinstance(one, str):
            raise ValueError(f"{one!r}: an override is a text, as 'seed=1'")
    for key, value in values.items():
        folder = Path(CONFIGS) / key
        if folder.is_dir() and not isinstance(value, str | Path | list | tuple | dict):
            options = sorted(one.stem for one in folder.glob("*.yaml"))
            raise ValueError(f"{key}={value!r}: the name of one is needed here. Known: {', '.join(options)}")
    given = [*(line for key, value in values.items() for line in _lines(key, value)), *overrides]
    register_schemas()
    held = GlobalHydra.instance().hydra  # of a program that this is called in
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(CONFIGS, version_base=None):
            composed = compose(program, open_free_mappings(given, _ENTRY_POINTS[program]))
        return typed(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, known_keys(program, given))) from None
    finally:
        GlobalHydra.instance().hydra = held


def _lines(key: str, value: Any) -> Iterator[str]:
    """A value as overrides: a dictionary as those of its keys, everything else quoted as Hydra reads it."""
    if isinstance(value, dict) and value:
        for inner, held in value.items():
            yield from _lines(f"{key}.{inner}", held)
    else:
        yield f"{key}={_written(value)}"


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(held)}" for key, held in value.items()) + "}"
    if isinstance(value, str | Path):
        return QuotedString(str(value), Quote.single).with_quotes()
    return repr(value)
