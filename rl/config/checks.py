"""How a config refuses a value."""

import math
from dataclasses import fields
from numbers import Real
from typing import Any


def refuse(condition: bool, message: str) -> None:
    """Raises ValueError with the message if the condition holds."""
    if condition:
        raise ValueError(message)


def refuse_unknown(value: str, known: tuple[str, ...], key: str) -> None:
    """Raises ValueError if a name is none of a closed set, naming the set."""
    refuse(value not in known, f"{key}={value}: use {', '.join(known)}")


def refuse_idle(config: Any, where: str, names: str, because: str) -> None:
    """Raises ValueError if a field that can do nothing here has been set to something else than its default.

    Args:
        config: A dataclass.
        where: Its key.
        names: Of the idle fields, separated by spaces.
        because: Why they are idle, as in ``algorithm.critic.kind=none``.
    """
    for item in fields(config):
        if item.name in names.split():
            default = item.default_factory() if callable(item.default_factory) else item.default
            value = getattr(config, item.name)
            refuse(value != default, f"{where}.{item.name}={value}: has no effect, because {because}")


def check_numbers(
    config: Any, where: str, *, positive: str = "", not_negative: str = "", fraction: str = "", any_sign: str = ""
) -> None:
    """Raises ValueError for a number that a field cannot have, naming its key.

    Every number of the config must be finite and, by the field's name, in its range. A numeric field that is in none of
    the lists is a mistake of the schema, so that a new field cannot go unchecked.

    Args:
        config: A dataclass; lists of numbers are checked number by number.
        where: The key of the config, as in ``algorithm.critic``; empty for an entry point's own fields.
        positive: Names of fields above 0, separated by spaces.
        not_negative: Names of fields that may be 0.
        fraction: Names of fields in [0, 1].
        any_sign: Names of fields that may be any finite number.
    """
    ranges = dict.fromkeys(positive.split(), "positive")
    ranges |= dict.fromkeys(not_negative.split(), "at least 0")
    ranges |= dict.fromkeys(fraction.split(), "in [0, 1]")
    ranges |= dict.fromkeys(any_sign.split(), "finite")
    fits = {
        "positive": lambda x: x > 0,
        "at least 0": lambda x: x >= 0,
        "in [0, 1]": lambda x: 0 <= x <= 1,
        "finite": lambda x: True,
    }
    # OmegaConf checks types only of what comes from YAML and the command line; a text in a number's place would fail
    # later, in a comparison. ``???`` is its mark of a missing value. A bool is a number to python, and has no range.
    for item in fields(config):
        value, key = getattr(config, item.name), f"{where}.{item.name}" if where else item.name
        refuse(
            isinstance(item.default, Real) and type(value) is str and value != "???",
            f"{key}={value}: a {type(item.default).__name__} is needed here",
        )
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, Real):
                continue
            wanted = ranges[item.name]  # a KeyError here is a numeric field that was put into none of the lists
            refuse(not math.isfinite(number) or not fits[wanted](number), f"{key}={value}: must be {wanted}")
