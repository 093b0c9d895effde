"""Makes a program's config in Python as its command line does, for notebooks and scripts.

``config("train", env="repair", algorithm="grpo")`` returns the config that
``python -m experiments.train env=repair algorithm=grpo`` runs. It is composed from the same files and checked by the
same schema, with the same error messages.
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
        program: Name of the program: ``train``, ``sft``, ``evaluate``, ``compare``, ``study`` or another that takes a
            config.
        *overrides: Overrides as on the command line, such as ``"algorithm.advantage=rloo"``.
        **values: Overrides by keyword, applied before ``overrides``: a choice of a group (``env="repair"``), a value
            (``seed=1``), a list, or a dictionary of the keys below this one (``training={"episodes": 512}``).

    Returns:
        A dataclass of ``rl/config`` or of a ``schema`` module of ``experiments``; ``dataclasses.replace`` makes a
        changed copy.

    Raises:
        ValueError: If a program or key is unknown, or a value is wrong; the message suggests the nearest known name.
        FileNotFoundError: If there is no model at ``model.path``.
        experiments.cli.UserError: If an arm is unknown, or a plugin cannot be imported.
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
            raise ValueError(f"{key}={value!r}: a name is needed here. Known: {', '.join(options)}")
    given = [*(line for key, value in values.items() for line in _lines(key, value)), *overrides]
    register_schemas()
    held = GlobalHydra.instance().hydra  # set if the caller is itself a Hydra program; restored below
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
    """Yields a value as quoted Hydra overrides: one per inner key of a dictionary, a single one for other values."""
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
