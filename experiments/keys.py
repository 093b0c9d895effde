"""Which keys a config has. A typed node holds its fields and nothing else; a free mapping takes whatever it is given.

Hydra lets ``+key=value`` and ``++key=value`` put any key anywhere, and what a dataclass does not know is dropped in
silence. A misspelt key would then train something else than was asked for, so every composed config is walked.
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
"""Keys in which runs of one name may differ without being different points of a sweep."""


_WANTED = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


class UnknownKeyError(ValueError):
    """A key that the config does not have; the message gives it whole, with the nearest whole key."""


def walk(node: Any, prefix: str = "", known: bool = True) -> Iterator[tuple[str, bool]]:
    """Every whole key of a composed config, and whether the config's schema has it."""
    # Such nodes have no children to ask, and asking an interpolation would resolve it.
    if isinstance(node, ListConfig | DictConfig) and (
        node._is_none() or node._is_missing() or node._is_interpolation()
    ):
        return
    if isinstance(node, ListConfig):
        for i in range(len(node)):
            yield from walk(node._get_node(i), f"{prefix}.{i}", known)
    elif isinstance(node, DictConfig):
        cls = OmegaConf.get_type(node)
        # OmegaConf remembers the dataclass of a typed node; a free mapping has none and takes any key.
        own = {field.name for field in fields(cls)} if is_dataclass(cls) else None
        for key in node:
            child, path = node._get_node(key), f"{prefix}.{key}" if prefix else str(key)
            is_known = known and (own is None or key in own)
            # What a key holds that is not there is named whole: +optim.rate=3 is "optim.rate", not "optim".
            if is_known or not (isinstance(child, DictConfig) and len(child)):
                yield path, is_known
            yield from walk(child, path, is_known)


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config by their whole keys; lists are values."""
    if not isinstance(node, DictConfig):
        return {prefix: OmegaConf.to_container(node) if OmegaConf.is_config(node) else node}
    inner = (leaves(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items())
    return {key: value for one in inner for key, value in one.items()}


def told_apart(names: Sequence[str], configs: Sequence[Any]) -> list[str]:
    """Names of runs; those of one name whose configs differ in more than the seed say in what: a sweep's points."""
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
    """Raises UnknownKeyError if a composed config holds a key that its schema does not have; those of ``but`` may."""
    keys = list(walk(cfg))
    known = [key for key, is_known in keys if is_known]
    if refused := [unknown(key, known) for key, is_known in keys if not is_known and key not in but]:
        raise UnknownKeyError("\n".join(refused))


def unknown(key: str, known: Iterable[str]) -> str:
    """The sentence that refuses a key."""
    known = [one for one in known if one.startswith("hydra.") == key.startswith("hydra.")]
    parent = key.rpartition(".")[0]
    beside = list(dict.fromkeys(one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == parent))
    text = f"unknown key {key!r}"
    if near := nearest_key(key, known):
        text += f"; did you mean {near!r}?"
    return text + (f"\n{parent or 'The config'} has: {', '.join(beside)}" if beside else "")


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The whole key that was most likely meant: one with the misspelt part put right, else one of the same name."""
    known = list(known)
    parts, places = key.split("."), {one.rpartition(".")[0] for one in known}
    there = places | set(known)
    # The first part that is not there; what follows it is kept where its new place takes any key, or has that one.
    right = next((i for i in range(len(parts)) if ".".join(parts[: i + 1]) not in there), len(parts) - 1)
    above, rest = ".".join(parts[:right]), parts[right + 1 :]
    beside = [one for one in known if one.rpartition(".")[0] == above]
    best = max(beside, key=lambda one: _alike(parts[right], one.rpartition(".")[2]), default=None)
    if best is not None and _alike(parts[right], best.rpartition(".")[2]) >= SURE:
        whole = ".".join([best, *rest])
        if whole in known or best not in places:
            return whole
        return nearest_key(whole, known)

    # Elsewhere a name must be nearly the same. A rate without a place is the policy's, not the critic's.
    def likeness(candidate: str) -> float:
        place, _, last = candidate.rpartition(".")
        far = abs(place.count(".") - (len(parts) - 2))
        near = 0.5 * difflib.SequenceMatcher(None, ".".join(parts[:-1]), place).ratio() - 0.1 * far
        return _alike(parts[-1], last) + near + 0.2 * place.endswith("optim")

    named = [one for one in known if _alike(parts[-1], one.rpartition(".")[2]) >= SURE]
    return max(named, key=likeness, default=best if not rest else None)


SURE = 0.75
"""How alike two names are, of 1, so that one is taken for the other."""


def _alike(name: str, known: str) -> float:
    # An abbreviation such as ``lr`` for ``learning_rate`` looks like nothing to a matcher of sequences.
    initials = "".join(word[:1] for word in name.split("_"))
    if known in (initials, "lr" * (name == "learningrate")) and len(known) > 1:
        return 0.9
    return difflib.SequenceMatcher(None, name, known).ratio()


def open_free_mappings(overrides: Iterable[str], schema: type, groups: Collection[str] = ()) -> list[str]:
    """Overrides in which new keys of a free mapping need no ``+``: ``env.options.n=3`` whether YAML has ``n`` or not.

    Args:
        overrides: Of a command line.
        schema: Dataclass of the config.
        groups: Keys that choose a file and hold what is in it, ``space=default``.
    """

    def opens(key: str, value: str) -> bool:
        return (key not in groups or value.startswith("{")) and _in_free_mapping(key.split("."), schema)

    return [f"++{one}" if opens(*one.partition("=")[::2]) else one for one in overrides]


def _in_free_mapping(path: list[str], schema: Any) -> bool:
    for name in path:
        if get_origin(schema) is dict:
            return True
        # ``Critic | None`` is looked through to its dataclass.
        options = [one for one in (schema, *get_args(schema)) if is_dataclass(one)]
        if not options or name not in (hints := get_type_hints(options[0])):
            return False
        schema = hints[name]
    return get_origin(schema) is dict  # the mapping itself: what it is given is merged into it


def explain(error: BaseException, known: Iterable[str] = ()) -> str:
    """One sentence about what Hydra or OmegaConf refused, if its kind is known; else the messages of its chain.

    Args:
        error: What was raised.
        known: Whole keys of the config, without what was wrong with it.
    """
    # Hydra wraps OmegaConf's errors, whose own text says what is wrong; repetitions and templates are left out. Any
    # other error says its reason itself, in its own words: what it was raised from would say it a second time.
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
    # A group has no such file.
    if found := re.search(
        r"Could not find '([^']+)/([^'/]*)'\s+Available options in [^:]+:\s+(.*)\s+Config search", text, re.S
    ):
        options = [one for one in found[3].split() if one != "schema"]
        return f"{found[1]}={found[2]}: unknown{nearest(found[2], options)} Known: {', '.join(options)}"
    # An entry of a typed mapping that is given piece by piece: OmegaConf wants a new one whole.
    within = re.search(r"Error merging override \+*([\w.]+)=", text)
    if within and (found := re.search(r"dict is not a subclass of .*full_key: (\S+)", text, re.S)):
        mapping = within[1].split(f".{found[1]}")[0]
        whole = f"'{mapping}={{{found[1]}: {{...}}}}'"
        entries = [one for one in keys if one.startswith(f"{mapping}.")]  # what stands elsewhere was not meant
        return f"{unknown(f'{mapping}.{found[1]}', entries)}\nA new one is given whole: {whole}"
    # A key that is not there.
    said = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
    found = said or re.search(r"Key '([^']+)' (?:is not in struct|not in )", text)
    if found is None:
        return text
    whole = None if said else re.search(r"full_key: (\S+)", text)
    key = re.sub(r"\[(\d+)\]", r".\1", whole[1] if whole else found[1])
    # Of a key inside a value, {reward_weight: 1}, OmegaConf knows only the end.
    if within and not key.startswith(within[1]):
        key = f"{within[1]}.{key}"
    # An entry that is only being given has no keys in the config yet, but a dataclass says which it can have.
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
        lambda said: f"{said[1]} cannot be taken away; give it a value",
    ),
    (
        # In a file of a group. What a program's own config cannot find is a value that was given, which is told below.
        r"In '([^'/]+/[^']+)': Could not (?:load|find) '([^'/]+)/([^']+)'",
        lambda said: (
            f"{said[1]}.yaml: its defaults name {said[2]}/{said[3]}, and there is no such file; "
            f"`python -m experiments.list {said[2]}` says what there is"
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
"""What Hydra and OmegaConf say, and what is said instead."""


def _in_quotes(key: str, value: str) -> str:
    """An override with a text for a value, as it is typed into a shell."""
    return f"\"{key}='{value.replace(chr(39), chr(92) + chr(39))}'\""


def _plainly(error: BaseException, text: str, known: Sequence[str]) -> str:
    """The sentence about an override that cannot be read or whose value has another shape; empty for other errors."""
    if override := str(getattr(error, "override", None) or "").lstrip("+~"):
        key, equals, value = override.partition("=")
        if not equals:
            return f"{override}: an override is <key>=<value>, and of this one the key or the value is missing"
        return (
            f"{override}: cannot be read; a value with spaces, commas or brackets stands in quotes, "
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
