"""Open registries: every choice that a researcher may vary is a named function, and any module can register more.

A config holds the name of a function and, beside the name, the function's own options as a free mapping. The options
are checked against a dataclass that is registered with the function, so that a misspelt option is refused like any
other unknown key.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

NEEDED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
"""Description, for error messages, of the value that is required, by its declared type."""


def fits(kind: type, value: Any) -> bool:
    """Whether a value fits a type of :data:`NEEDED`; an integer fits ``float``, but a bool fits no number type."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, {int: Integral, float: Real, str: str | PathLike}[kind])


def refuse_other_types(key: str, given: Mapping[str, Any], declared: Any) -> None:
    """Checks the types of options against the annotations of a dataclass or function.

    Configs have no schema for a function's own options. Without this check, a null or a text in place of a number would
    fail later, with an error that does not name the key.

    Args:
        key: Config key that holds the options, such as ``env.options``; error messages begin with it.
        given: Options by name; names without an annotation are not checked here.
        declared: A dataclass or function with annotations; for a class with its own constructor, that constructor.

    Raises:
        ValueError: If an option has another type than the declared one.
    """
    try:
        hints = get_type_hints(declared)
    except NameError:  # annotations that only a type checker can read
        return
    for name, value in given.items():
        hint = hints.get(name, Any)
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if hint is Any or (value is None and NoneType in parts):
            continue
        plain = [part for part in parts if part is not NoneType]
        needed = NEEDED.get(plain[0], "a value") if len(plain) == 1 else "a value"
        wrong = value is None or (len(plain) == 1 and plain[0] in NEEDED and not fits(plain[0], value))
        if wrong:
            raise ValueError(f"{key}.{name}={'null' if value is None else value}: {needed} is needed here")


def refuse_other_kind(value: object, kind: type, taker: str, remedy: str) -> None:
    """Raises TypeError if a function that users call from Python got another kind of value than it takes."""
    if not isinstance(value, kind):
        raise TypeError(f"{taker} takes a {kind.__name__}, not {value!r:.80}: {remedy}")


class UnknownNameError(KeyError, ValueError):
    """Raised for a name that is not registered; the message suggests the closest known name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: ``; did you mean 'x'?`` with the closest known name, or a full stop if none is."""
    lowered = {one.lower(): one for one in map(str, known)}
    found = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.6)
    # A word of a longer name, as ``form`` of ``answer_form`` or ``sums`` of ``errata/sums-v1``, is not similar enough.
    found = found or [one for one in lowered if str(name).lower() in re.split(r"[_/-]", one)]
    return f"; did you mean {lowered[found[0]]!r}?" if found else "."


class Lookup(Mapping[str, T], Generic[T]):
    """Functions or classes by name, in the order of their registration.

    Args:
        key: Config key that holds such a name, for example ``algorithm.advantage``; error messages begin with it.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._values: dict[str, T] = {}
        self._options: dict[str, type | None] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    def register(self, name: str, *, options: type | None = None, **facts: Any) -> Callable[[T], T]:
        """A decorator that registers a function under a name.

        Args:
            name: Name of the function in configs.
            options: Dataclass of the function's own options, if it has any.
            **facts: Properties of the function that a caller needs before calling it, such as ``groups=True``; see
                :meth:`fact`.

        Raises:
            ValueError: If another function is already registered under the name.
            TypeError: If ``options`` is not a dataclass.
        """
        if options is not None and not is_dataclass(options):
            raise TypeError(f"{self.key}={name}: options must be a dataclass, got {options!r}")

        def add(value: T) -> T:
            taken = self._values.get(name)
            # A module that is imported twice, as a script and by name, registers the same function again: no error.
            if taken is not None and getattr(taken, "__qualname__", taken) != getattr(value, "__qualname__", value):
                raise ValueError(f"{self.key}={name} is registered already; choose another name")
            self._values[name], self._options[name], self._facts[name] = value, options, facts
            return value

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._values:
            raise UnknownNameError(
                f"{self.key}={name}: unknown{nearest(name, self._values)} Known: {', '.join(self._values) or 'none'}"
            )
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def options(self, name: str, given: Mapping[str, Any]) -> Any:
        """The checked options of a function, as an instance of its options dataclass; ``None`` if it has none.

        Raises:
            UnknownNameError: If the name is not registered.
            ValueError: If an option is unknown or has the wrong type, or an option without a default is missing.
        """
        self[name]  # raises for an unknown name before any error about options
        cls = self._options[name]
        known = {} if cls is None else {field.name: field for field in fields(cls)}
        for option in given:
            if option not in known:
                raise ValueError(
                    f"{self.key}_options.{option}: {name} has no such option{nearest(option, known)} "
                    f"It has: {', '.join(known) or 'none'}"
                )
        for option, field in known.items():
            if option not in given and field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{self.key}_options.{option}: {name} needs a value for it")
        if cls is not None:
            refuse_other_types(f"{self.key}_options", given, cls)
        return None if cls is None else cls(**given)

    def fact(self, name: str, fact: str) -> Any:
        """The value of a fact that was registered with a function; ``None`` if the fact was not given."""
        self[name]
        return self._facts[name].get(fact)

    def bind(self, name: str, given: Mapping[str, Any]) -> Callable[..., Any]:
        """The function with its checked options bound as keyword arguments."""
        options = self.options(name, given)
        value: Any = self[name]
        if options is None:
            return value
        return partial(value, **{field.name: getattr(options, field.name) for field in fields(options)})

    def summaries(self) -> dict[str, str]:
        """The first line of every entry's docstring, by name."""
        return {name: (value.__doc__ or "").strip().split("\n")[0] for name, value in self._values.items()}
