"""Refuses unknown keys in configs: a typed node has only its dataclass's fields, a free mapping takes any key.

Hydra lets ``+key=value`` and ``++key=value`` add any key anywhere, and a key that the dataclass does not know is
dropped silently. A run with a misspelt key would then train something else than the user asked for. So every key of a
composed config is checked here.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rewards import nearest
from rl import config as schema

_NOT_TELLING = {"seed", "name", "resume", "runs_dir", "threads"}
"""Keys that do not make two runs of the same name different points of a sweep."""


_WANTED = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


class UnknownKeyError(ValueError):
    """A key that the config does not have; the message names the full key and the nearest known full key."""


def walk(node: Any, prefix: str = "", known: bool = True) -> Iterator[tuple[str, bool]]:
    """Yields every full key (such as ``env.options.n``) of a composed config, and whether the schema has this key."""
    # These nodes have no children, and looking into an interpolation would resolve it.
    if isinstance(node, ListConfig | DictConfig) and (
        node._is_none() or node._is_missing() or node._is_interpolation()
    ):
        return
    if isinstance(node, ListConfig):
        for i in range(len(node)):
            yield from walk(node._get_node(i), f"{prefix}.{i}", known)
    elif isinstance(node, DictConfig):
        cls = OmegaConf.get_type(node)
        # OmegaConf stores the dataclass of a typed node; a free mapping has none and takes any key.
        own = {field.name for field in fields(cls)} if is_dataclass(cls) else None
        for key in node:
            child, path = node._get_node(key), f"{prefix}.{key}" if prefix else str(key)
            is_known = known and (own is None or key in own)
            # An unknown mapping is reported by its inner keys: +optim.rate=3 as "optim.rate", not "optim".
            if is_known or not (isinstance(child, DictConfig) and len(child)):
                yield path, is_known
            yield from walk(child, path, is_known)


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config by their full keys; a list is one value."""
    if not isinstance(node, DictConfig):
        return {prefix: OmegaConf.to_container(node) if OmegaConf.is_config(node) else node}
    inner = (leaves(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items())
    return {key: value for one in inner for key, value in one.items()}


def told_apart(names: Sequence[str], configs: Sequence[Any]) -> list[str]:
    """The names of runs, each with the values in which runs of the same name differ, as the points of a sweep do.

    Differences in ``_NOT_TELLING``, such as the seed, are ignored.
    """
    flat = [{key: value for key, value in leaves(one).items() if key not in _NOT_TELLING} for one in configs]
    told = []
    for name, own in zip(names, flat, strict=True):
        same = [one for other, one in zip(names, flat, strict=True) if other == name]
        keys = sorted({key for one in same for key in one})
        told.append(
            ", ".join([name, *(f"{k}={own.get(k)}" for k in keys if len({repr(one.get(k)) for one in same}) > 1)])
        )
    return told


def refuse_unknown(cfg: DictConfig, but: Sequence[str] = ()) -> None:
    """Raises UnknownKeyError if a composed config holds a key that is neither in its schema nor in ``but``."""
    keys = list(walk(cfg))
    known = [key for key, is_known in keys if is_known]
    if refused := [unknown(key, known) for key, is_known in keys if not is_known and key not in but]:
        raise UnknownKeyError("\n".join(refused))


def unknown(key: str, known: Iterable[str]) -> str:
    """The error message for an unknown key."""
    known = [one for one in known if one.startswith("hydra.") == key.startswith("hydra.")]
    places, parent = {one.rpartition(".")[0] for one in known}, key.rpartition(".")[0]
    while parent and parent not in places:  # the nearest part of the key that exists tells what can be given there
        parent = parent.rpartition(".")[0]
    beside = list(dict.fromkeys(one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == parent))
    text = f"unknown key {key!r}"
    if near := nearest_key(key, known):
        text += f"; did you mean {near!r}?"
    return text + (f"\n{parent or 'The config'} has: {', '.join(beside)}" if beside else "")


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The full key most likely meant: the key with its misspelt part corrected, or else a similar key elsewhere."""
    known = list(known)
    parts, places = key.split("."), {one.rpartition(".")[0] for one in known}
    there = places | set(known)
    # Correct the first part that does not exist. The parts after it are kept if the corrected key has them or takes any
    # key; otherwise the next unknown part is corrected in turn.
    right = next((i for i in range(len(parts)) if ".".join(parts[: i + 1]) not in there), len(parts) - 1)
    above, rest = ".".join(parts[:right]), parts[right + 1 :]
    beside = [one for one in known if one.rpartition(".")[0] == above]
    best = max(beside, key=lambda one: _alike(parts[right], one.rpartition(".")[2]), default=None)
    if best is not None and _alike(parts[right], best.rpartition(".")[2]) >= SURE:
        whole = ".".join([best, *rest])
        if whole in known or best not in places:
            return whole
        return nearest_key(whole, known)

    # In another place, only a nearly identical last part counts. Keys below ``optim`` are preferred: a learning rate
    # that is given without its place is most likely the policy's, not the critic's.
    def likeness(candidate: str) -> float:
        place, _, last = candidate.rpartition(".")
        far = abs(place.count(".") - (len(parts) - 2))
        near = 0.5 * difflib.SequenceMatcher(None, ".".join(parts[:-1]), place).ratio() - 0.1 * far
        return _alike(parts[-1], last) + near + 0.2 * place.endswith("optim")

    named = [one for one in known if _alike(parts[-1], one.rpartition(".")[2]) >= SURE]
    close = best if best is not None and not rest and _alike(parts[right], best.rpartition(".")[2]) >= CLOSE else None
    return max(named, key=likeness, default=close)


SURE, CLOSE = 0.75, 0.65
"""Similarities, of at most 1, from which one name is taken for a misspelling of another, and is worth suggesting."""


def _alike(name: str, known: str) -> float:
    # The sequence matcher finds no similarity between ``learning_rate`` and its abbreviation ``lr``.
    initials = "".join(word[:1] for word in name.split("_"))
    if known in (initials, "lr" * (name == "learningrate")) and len(known) > 1:
        return 0.9
    return difflib.SequenceMatcher(None, name, known).ratio()


def open_free_mappings(overrides: Iterable[str], schema: type, groups: Collection[str] = ()) -> list[str]:
    """Prefixes overrides of free mappings with ``++``, so that ``env.options.n=3`` works whether YAML has ``n`` or not.

    Args:
        overrides: Overrides from a command line.
        schema: Dataclass of the config.
        groups: Names of config groups, whose overrides choose a file, as ``space=default`` does.
    """

    def opens(key: str, value: str) -> bool:
        return (key not in groups or value.startswith("{")) and _in_free_mapping(key.split("."), schema)

    return [f"++{one}" if opens(*one.partition("=")[::2]) else one for one in overrides]


def _in_free_mapping(path: list[str], schema: Any) -> bool:
    for name in path:
        if get_origin(schema) is dict:
            return True
        # For a type such as ``Critic | None``, use the dataclass in it.
        options = [one for one in (schema, *get_args(schema)) if is_dataclass(one)]
        if not options or name not in (hints := get_type_hints(options[0])):
            return False
        schema = hints[name]
    return get_origin(schema) is dict  # the path names the mapping itself, into which the given value is merged


def explain(error: BaseException, known: Iterable[str] = ()) -> str:
    """A readable message for an error of Hydra or OmegaConf of a known kind; else the messages of the error's chain.

    Args:
        error: The exception that was raised.
        known: Full keys of the config without the wrong overrides.
    """
    # Hydra wraps the errors of OmegaConf, whose text tells what is wrong. So follow the chain of errors, but leave out
    # repeated messages and templates. Stop at any other error: its own message is complete, and its cause would only
    # repeat it.
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).strip()
        if text and "$VALUE" not in text and not any(text in earlier for earlier in messages):
            messages.append(text)
        if not isinstance(cause, HydraException | OmegaConfBaseException):
            break
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    text, keys = "\n".join(messages), list(known)
    if plain := _plainly(error, text, keys):
        return plain
    # A config group has no file of the chosen name.
    if found := re.search(
        r"Could not find '([^']+)/([^'/]*)'\s+Available options in [^:]+:\s+(.*)\s+Config search", text, re.S
    ):
        options = [one for one in found[3].split() if one != "schema"]
        return f"{found[1]}={found[2]}: unknown{nearest(found[2], options)} Known: {', '.join(options)}"
    # A new entry of a typed mapping is given key by key, but OmegaConf accepts a new entry only as a whole.
    within = re.search(r"Error merging override \+*([\w.]+)=", text)
    if within and (found := re.search(r"dict is not a subclass of .*full_key: (\S+)", text, re.S)):
        mapping = within[1].split(f".{found[1]}")[0]
        whole = f"'{mapping}={{{found[1]}: {{...}}}}'"
        entries = [one for one in keys if one.startswith(f"{mapping}.")]  # suggest only keys in the same mapping
        return f"{unknown(f'{mapping}.{found[1]}', entries)}\nGive a new one with all its values: {whole}"
    # The config has no such key.
    said = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
    found = said or re.search(r"Key '([^']+)' (?:is not in struct|not in )", text)
    if found is None:
        return text
    whole = None if said else re.search(r"full_key: (\S+)", text)
    key = re.sub(r"\[(\d+)\]", r".\1", whole[1] if whole else found[1])
    # For a key inside a value, as {reward_weight: 1}, OmegaConf reports only the last part of the full key.
    if within and not key.startswith(within[1]):
        key = f"{within[1]}.{key}"
    # A new entry of a mapping has no keys in the config yet; take them from the dataclass that the message names.
    kind = re.search(r"Key '([^']+)' not in '(\w+)'", text)
    if kind and key.endswith(f".{kind[1]}") and is_dataclass(cls := getattr(schema, kind[2], None)):
        keys += [f"{key.rpartition('.')[0]}.{item.name}" for item in fields(cls)]
    return unknown(key, keys)


_OVERRIDE = r"Error merging override \+*(\S+?)=(.*)\n.*"
_SENTENCES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"Error merging override \+*(\S+?=.*)\nValue .* (?:could not be converted to|is not a valid) (\w+)",
        lambda said: f"{said[1]}: {_WANTED.get(said[2], said[2])} is needed here",
    ),
    (
        f"{_OVERRIDE}is not a ListConfig",
        lambda said: f"{said[1]}={said[2]}: a list is needed here, as {said[1]}=[{said[2]}]",
    ),
    (f"{_OVERRIDE}Cannot convert 'list'", lambda said: f"{said[1]}={said[2]}: one value is needed here, not a list"),
    (
        r"Ambiguous value for argument '\+*(\S+?)=(.*)'\n",
        lambda said: (
            f"{said[1]}={said[2]}: for a list write '{said[1]}=[{said[2]}]', for a text with a comma "
            f"{_in_quotes(said[1], said[2])}"
        ),
    ),
    (r"An item is already at '([^']+)'", lambda said: f"{said[1]} is there already: give its value without the +"),
    (
        r"override ~(\S+)(?s:.*)does not support deletion",
        lambda said: f"{said[1]} cannot be removed; give it a value",
    ),
    (
        # The file named after ``In`` belongs to a group. If a program's own config is named there, the user has chosen
        # a file that a group does not have, which ``explain`` reports.
        r"In '([^'/]+/[^']+)': Could not (?:load|find) '([^'/]+)/([^']+)'",
        lambda said: (
            f"{said[1]}.yaml: its defaults name {said[2]}/{said[3]}, and there is no such file; "
            f"`python -m experiments.list {said[2]}` lists those that exist"
        ),
    ),
    (
        r"You must specify '([^']+)', e.g.*\s+Available options:\s+((?s:.*))",
        lambda said: (
            f"{said[1]} is missing: give it as {said[1]}=<one of these>. Known: "
            f"{', '.join(one for one in said[2].split() if one != 'schema')}"
        ),
    ),
    (
        r"[Mm]issing mandatory value: (\w+)(?:(?s:.*)full_key: (\S+))?",
        lambda said: f"{said[2] or said[1]} is missing: give it as {said[2] or said[1]}=<value>",
    ),
)
"""Patterns of messages from Hydra and OmegaConf, each with a function that makes a plainer message from the match."""


def _in_quotes(key: str, value: str) -> str:
    """An override whose value is a text, quoted as it must be typed into a shell."""
    return f"\"{key}='{value.replace(chr(39), chr(92) + chr(39))}'\""


def _plainly(error: BaseException, text: str, known: Sequence[str]) -> str:
    """A message about an override that cannot be parsed or whose value has the wrong type; empty for other errors."""
    if override := str(getattr(error, "override", None) or "").lstrip("+~"):
        key, equals, value = override.partition("=")
        if not equals:
            return f"{override}: an override is <key>=<value>; here the key or the value is missing"
        return (
            f"{override}: cannot be read; put a value with spaces, commas or brackets in quotes, "
            f"{_in_quotes(key, value)}"
        )
    for pattern, sentence in _SENTENCES:
        if found := re.search(pattern, text):
            return sentence(found)
    no_mapping = r"(?:with ListConfig|(?<!dict) is not a subclass of|Cannot assign \w+ to Dict)"
    if not (found := re.search(f"{_OVERRIDE}{no_mapping}", text)):
        return ""
    key, value = found.groups()
    own = [
        one for one in (name.removeprefix(f"{key}.") for name in known if name.startswith(f"{key}.")) if "." not in one
    ]
    named = f", {', '.join(own)}" if own else ""
    return f"{key}={value}: it holds keys of its own{named}; give one as {key}.{own[0] if own else '<name>'}=<value>"
