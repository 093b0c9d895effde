"""Checks with which a config refuses an invalid value."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from rewards.lookup import NEEDED, Lookup, fits


def refuse(condition: bool, message: str) -> None:
    """Raises ValueError with the message if the condition holds."""
    if condition:
        raise ValueError(message)


def check_options(lookup: Lookup[Any], name: str, given: Mapping[str, Any], key: str, options: str) -> None:
    """Raises ValueError for a name or an option that a lookup refuses, naming the config key under which it was given.

    Args:
        lookup: Lookup that checks name and options; its own error messages name the lookup's keys.
        name: Name of the function.
        given: Options of the function.
        key: Config key under which the name was given.
        options: Config key under which the options were given.
    """
    try:
        lookup.options(name, given)
    except ValueError as error:
        said = str(error)
        for own, instead in ((f"{lookup.key}_options", options), (lookup.key, key)):
            if said.startswith(own) and own != instead:
                raise ValueError(said.replace(own, instead, 1)) from None
            if said.startswith(own):
                break
        raise


def refuse_unknown(value: str, known: tuple[str, ...], key: str) -> None:
    """Raises ValueError if a value is not in a closed set; the message lists the set."""
    refuse(value not in known, f"{key}={value}: use {', '.join(known)}")


def refuse_idle(config: Any, where: str, names: str, because: str) -> None:
    """Raises ValueError if a field that has no effect here is not at its default.

    Args:
        config: A dataclass.
        where: Config key of the dataclass.
        names: Names of the fields without effect, separated by spaces.
        because: Why the fields have no effect, as in ``algorithm.critic.kind=none``.
    """
    for name, value in changed(config, names).items():
        raise ValueError(f"{where}.{name}={value}: has no effect, because {because}")


def changed(config: Any, names: str) -> dict[str, Any]:
    """The fields among ``names`` (separated by spaces) that are not at their default, with their values."""
    found = dict[str, Any]()
    for item in fields(config):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if item.name in names.split() and getattr(config, item.name) != default:
            found[item.name] = getattr(config, item.name)
    return found


def check_numbers(
    config: Any, where: str, *, positive: str = "", not_negative: str = "", fraction: str = "", any_sign: str = ""
) -> None:
    """Raises ValueError for a value that a field cannot have; the message names the field's key.

    Booleans, numbers and strings must have the type that the dataclass declares: no null unless declared, and no number
    for a boolean. Every number must be finite and in the range given for its field. A numeric field that is in none of
    the lists raises KeyError, so that a new field cannot be added without a check.

    Args:
        config: A dataclass; lists and mappings of numbers are checked number by number.
        where: Config key of the dataclass, as in ``algorithm.critic``; empty for the top level of a config.
        positive: Names of fields that must be above 0, separated by spaces.
        not_negative: Names of fields that may be 0.
        fraction: Names of fields that must be in [0, 1].
        any_sign: Names of fields that may be any finite number.
    """
    ranges = dict.fromkeys(positive.split(), "positive")
    ranges |= dict.fromkeys(not_negative.split(), "at least 0")
    ranges |= dict.fromkeys(fraction.split(), "in [0, 1]")
    ranges |= dict.fromkeys(any_sign.split(), "finite")
    in_range = {
        "positive": lambda x: x > 0,
        "at least 0": lambda x: x >= 0,
        "in [0, 1]": lambda x: 0 <= x <= 1,
        "finite": lambda x: True,
    }
    for item, kind, may_be_none in _declared(config):
        value, key = getattr(config, item.name), f"{where}.{item.name}" if where else item.name
        if isinstance(value, dict):
            entries = [(f"{key}.{name}", entry, entry) for name, entry in value.items()]
        else:  # the message shows the whole list, since an entry of it has no key
            entries = [(key, value, entry) for entry in (value if isinstance(value, (list, tuple)) else [value])]
        for at, shown, entry in entries:
            # OmegaConf checks types only where there is a schema, so not those of a function's options, and configs
            # built in Python are not checked at all. ``???`` is OmegaConf's mark of a missing value.
            if kind is not None and entry != "???" and not (entry is None and may_be_none):
                said = "null" if shown is None else shown
                refuse(not fits(kind, entry), f"{at}={said}: {NEEDED[kind]} is needed here")
            # A bool is a Real in Python, but has no range.
            if isinstance(entry, bool) or not isinstance(entry, Real) or (kind is None and item.name not in ranges):
                continue
            wanted = ranges[item.name]  # a KeyError here means that a numeric field is in none of the lists
            refuse(not math.isfinite(entry) or not in_range[wanted](entry), f"{at}={shown}: must be {wanted}")


def _declared(config: Any) -> Iterator[tuple[Any, type | None, bool]]:
    """Every field, the plain type of its entries (``None`` if there is none), and whether an entry may be ``None``."""
    try:
        hints = get_type_hints(type(config))
    except NameError:  # a user's dataclass may have annotations that are only importable for type checkers
        hints = {}
    for item in fields(config):
        hint = hints.get(item.name, Any)
        inner = get_args(hint)[-1] if get_origin(hint) in (list, dict) else hint
        parts = get_args(inner) if get_origin(inner) in (Union, UnionType) else (inner,)
        plain = [part for part in parts if part is not NoneType]
        yield item, plain[0] if len(plain) == 1 and plain[0] in NEEDED else None, NoneType in parts
