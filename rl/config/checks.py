"""How a config refuses a value."""

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
    """Raises ValueError for a name or an option that a lookup refuses, by the keys that they stand under.

    Args:
        lookup: Whose errors speak of the lookup's own keys.
        name: Of the function.
        given: Its options.
        key: Of the name.
        options: Key of the options.
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
    for name, value in changed(config, names).items():
        raise ValueError(f"{where}.{name}={value}: has no effect, because {because}")


def changed(config: Any, names: str) -> dict[str, Any]:
    """Those of a dataclass's fields, separated by spaces, that have another value than their default."""
    found = dict[str, Any]()
    for item in fields(config):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if item.name in names.split() and getattr(config, item.name) != default:
            found[item.name] = getattr(config, item.name)
    return found


def check_numbers(
    config: Any, where: str, *, positive: str = "", not_negative: str = "", fraction: str = "", any_sign: str = ""
) -> None:
    """Raises ValueError for a value that a field cannot have, naming its key.

    Switches, numbers and texts must be what the dataclass declares: no null, and no number for a switch. Every number
    must be finite and, by the field's name, in its range. A numeric field that is in none of the lists is a mistake of
    the schema, so that a new field cannot go unchecked.

    Args:
        config: A dataclass; lists and mappings of numbers are checked number by number.
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
        else:  # a list is shown whole
            entries = [(key, value, entry) for entry in (value if isinstance(value, (list, tuple)) else [value])]
        for at, shown, entry in entries:
            # OmegaConf checks types only of what has a schema, so not of a function's own options, and nobody those of
            # python. ``???`` is its mark of a missing value. A bool is a number to python, and has no range.
            if kind is not None and entry != "???" and not (entry is None and may_be_none):
                said = "null" if shown is None else shown
                refuse(not fits(kind, entry), f"{at}={said}: {NEEDED[kind]} is needed here")
            if isinstance(entry, bool) or not isinstance(entry, Real) or (kind is None and item.name not in ranges):
                continue
            wanted = ranges[item.name]  # a KeyError here is a numeric field that was put into none of the lists
            refuse(not math.isfinite(entry) or not in_range[wanted](entry), f"{at}={shown}: must be {wanted}")


def _declared(config: Any) -> Iterator[tuple[Any, type | None, bool]]:
    """Every field with the plain type of its entries, ``None`` if it has no such type, and whether they may be None."""
    try:
        hints = get_type_hints(type(config))
    except NameError:  # somebody's own dataclass, with annotations that only a type checker can read
        hints = {}
    for item in fields(config):
        hint = hints.get(item.name, Any)
        inner = get_args(hint)[-1] if get_origin(hint) in (list, dict) else hint
        parts = get_args(inner) if get_origin(inner) in (Union, UnionType) else (inner,)
        plain = [part for part in parts if part is not NoneType]
        yield item, plain[0] if len(plain) == 1 and plain[0] in NEEDED else None, NoneType in parts
