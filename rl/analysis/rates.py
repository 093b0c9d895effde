"""All rates that an evaluation reports. The log, terminal, tables, figures and page take them from this module.

A rate is a mean over the episodes for which it is defined: ``fix_rate`` is defined for episodes whose first attempt was
wrong. An episode that ended early counts with its last attempt. Another module can add a rate before a run::

    @rate("short", "short answers", "%", least=2)
    def short(row):
        \"""Second attempts of fewer than 20 characters.\"""
        return len(row.texts[row.at(2)]) < 20
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from rapidfuzz.distance import Indel

from rewards.lookup import Lookup
from rl.analysis.printing import fixed

if TYPE_CHECKING:
    from rl.analysis.rows import EvalRow


class Where(IntEnum):
    """How widely a rate is shown; each place also shows the rates of all higher levels."""

    LOG = 0
    """``metrics.jsonl``, dashboards and ``result.json``."""
    TABLES = 1
    """Also in tables T1 and T5, on the page and in the summary of one run."""
    HEADLINE = 2
    """Also in a comparison's table in the terminal, in the line of a validation, and in the learning curves of F1."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate and how it is shown.

    Args:
        label: Short label for headers and legends.
        unit: Unit in print. ``%`` and ``points`` are printed times 100, ``points`` also with a sign; values in other
            units are printed unscaled.
        meaning: One line for the catalogue of metrics.
        of: Function that gives an episode's value, or ``None`` if the rate is not defined for the episode.
        least: Smallest number of attempts that an environment must allow for the rate to exist.
        where: Where the rate is shown.
    """

    label: str
    unit: str
    meaning: str
    of: Callable[..., float | bool | None]
    least: int = 1
    where: Where = Where.HEADLINE

    @property
    def scale(self) -> float:
        """Factor from a stored to a printed value."""
        return 100.0 if self.unit in ("%", "points") else 1.0

    @property
    def header(self) -> str:
        """Label and unit, for a column or an axis."""
        return f"{self.label} ({self.unit})"

    def text(self, value: float) -> str:
        """A value as it is printed, without its unit."""
        return fixed(self.scale * value, signed=self.unit == "points")

    def line(self, value: float) -> str:
        """Label, value and unit: ``acc@t1 51.2 %``."""
        return f"{self.label} {self.text(value)} {self.unit}"

    def at(self, k: int) -> "Rate":
        """The rate of attempt ``k``, counted from 1, from a family whose label contains ``<k>``."""
        return replace(self, label=self.label.replace("<k>", str(k)), of=partial(self.of, k=k))


RATES: Lookup[Rate] = Lookup("rate")
"""Rates by name; ``<k>`` in a name stands for the number of an attempt, which is passed to the function as ``k``."""


def rate(name: str, label: str, unit: str, **more: Any) -> Callable[[Callable], Callable]:
    """Decorator that declares a rate; the first line of the function's docstring becomes the rate's meaning.

    Args:
        name: Name in logs and files, such as ``fix_rate`` or ``accuracy_t<k>``.
        label: See :class:`Rate`.
        unit: See :class:`Rate`.
        **more: ``least`` and ``where`` of :class:`Rate`.
    """

    def declare(of: Callable) -> Callable:
        meaning = (of.__doc__ or "").strip().split("\n")[0].rstrip(".")
        meaning = meaning[:1].lower() + meaning[1:]
        if not meaning:
            raise ValueError(f"rate {name}: its function needs a docstring that says what it means")
        RATES.register(name)(Rate(label, unit, meaning, of, **more))
        return of

    return declare


def declared(attempts: int, where: Where = Where.LOG) -> dict[str, Rate]:
    """The rates of episodes with up to ``attempts`` attempts, by name; a family has one entry per attempt."""
    # The names are part of the cache key, so that a rate that is registered later is found too.
    return _declared(attempts, where, tuple(RATES))


@lru_cache
def _declared(attempts: int, where: Where, known: tuple[str, ...]) -> dict[str, Rate]:
    found = {}
    for name, one in RATES.items():
        if one.where >= where and attempts >= one.least:
            if "<k>" in name:
                found |= {name.replace("<k>", str(k)): one.at(k) for k in range(one.least, attempts + 1)}
            else:
                found[name] = one
    return found


def named(name: str) -> Rate:
    """The rate of a concrete name: ``accuracy_t2`` is ``accuracy_t<k>`` at attempt 2.

    Raises:
        UnknownNameError: If there is no such rate.
    """
    base, _, k = name.rpartition("_t")  # a name such as x_t2 may itself be registered, and then takes precedence
    return RATES[f"{base}_t<k>"].at(int(k)) if k.isdigit() and name not in RATES else RATES[name]


def reported(values: Mapping[str, float | None], prefix: str, where: Where) -> dict[str, tuple[Rate, float]]:
    """The rates among logged or stored values, each with its value, by name; missing values and ``nan`` are left out.

    Args:
        values: Values of a line of ``metrics.jsonl`` or of a summary, by name.
        prefix: Prefix of the names of rates, such as ``eval/validation/``.
        where: Only rates that are shown at this level are returned.
    """
    found = {}
    for key, value in values.items():
        name = key.removeprefix(prefix)
        known = key.startswith(prefix) and (name in RATES or re.sub(r"_t\d+$", "_t<k>", name) in RATES)
        if known and value is not None and value == value and named(name).where >= where:
            found[name] = named(name), value
    return found


def measure(row: "EvalRow") -> dict[str, float]:
    """Values of the rates that are defined for a row and not stored in it yet; empty for a failed episode."""
    if row.failed:
        return {}
    missing = ((name, one.of(row)) for name, one in declared(row.attempts).items() if name not in row.values)
    return {name: float(value) for name, value in missing if value is not None}


def edit_ratio(first: str, last: str) -> float:
    """Number of deleted and inserted characters over the sum of both lengths: 0 for a copy, 1 with nothing in common.

    This is the edit distance ratio of SCoRe (arXiv 2409.12917, section 3); it is symmetric.
    """
    return Indel.normalized_distance(first, last)


@rate("accuracy_t<k>", "acc@t<k>", "%")
def _accuracy(row: "EvalRow", k: int) -> bool:
    """Right at attempt k; an episode that ended earlier counts with its last attempt."""
    return row.correct[row.at(k)]


@rate("delta", "delta", "points", least=2)
def _delta(row: "EvalRow") -> float:
    """Accuracy of the second attempt minus accuracy of the first."""
    return float(row.correct[row.at(2)]) - float(row.correct[0])


@rate("delta_t<k>", "delta@t<k>", "points", least=3)
def _delta_at(row: "EvalRow", k: int) -> float:
    """Accuracy of attempt k minus accuracy of the first, for k of at least 3."""
    return float(row.correct[row.at(k)]) - float(row.correct[0])


@rate("delta_i_to_c", "i->c", "%", least=2)
def _fixed(row: "EvalRow") -> bool:
    """Wrong at the first and right at the second attempt, as a share of all episodes."""
    return row.correct[row.at(2)] and not row.correct[0]


@rate("delta_c_to_i", "c->i", "%", least=2)
def _broken(row: "EvalRow") -> bool:
    """Right at the first and wrong at the second attempt, as a share of all episodes."""
    return row.correct[0] and not row.correct[row.at(2)]


@rate("fix_rate", "fixed, of wrong", "%", least=2, where=Where.TABLES)
def _fix_rate(row: "EvalRow") -> bool | None:
    """Right at the second attempt, as a share of the episodes that were wrong at the first."""
    return None if row.correct[0] else row.correct[row.at(2)]


@rate("break_rate", "broken, of right", "%", least=2, where=Where.TABLES)
def _break_rate(row: "EvalRow") -> bool | None:
    """Wrong at the second attempt, as a share of the episodes that were right at the first."""
    return not row.correct[row.at(2)] if row.correct[0] else None


@rate("changed_answer", "answer changed", "%", least=2, where=Where.TABLES)
def _changed_answer(row: "EvalRow") -> bool:
    """The second final answer differs from the first; having no answer counts as an answer of its own."""
    return row.answer_keys[0] != row.answer_keys[row.at(2)]


@rate("same_answer", "same answer", "%", least=2, where=Where.LOG)
def _same_answer(row: "EvalRow") -> bool:
    """The second attempt has a final answer, and it equals that of the first."""
    return row.answer_keys[0] is not None and row.answer_keys[0] == row.answer_keys[row.at(2)]


@rate("change_if_wrong", "wrong answers changed", "%", least=2, where=Where.LOG)
def _change_if_wrong(row: "EvalRow") -> bool | None:
    """Final answer changed at the second attempt, as a share of the episodes that were wrong at the first."""
    return None if row.correct[0] else _changed_answer(row)


@rate("change_if_right", "right answers changed", "%", least=2, where=Where.LOG)
def _change_if_right(row: "EvalRow") -> bool | None:
    """Final answer changed at the second attempt, as a share of the episodes that were right at the first."""
    return _changed_answer(row) if row.correct[0] else None


@rate("edit_rate", "text changed", "%", least=2, where=Where.LOG)
def _edit_rate(row: "EvalRow") -> bool:
    """The second text differs from the first."""
    return row.texts[0] != row.texts[row.at(2)]


@rate("edit_distance", "edit ratio", "of 1", least=2, where=Where.LOG)
def _edit_distance(row: "EvalRow") -> float:
    """Characters deleted and inserted from the first to the second text, over the sum of both lengths."""
    return edit_ratio(row.texts[0], row.texts[row.at(2)])


@rate("own_verdict", "own verdict right", "%", where=Where.LOG)
def _own_verdict(row: "EvalRow") -> float | None:
    """The policy's own verdict on an attempt is right, as a share of the verdicts that it gives as the verifier."""
    verdicts = [reward for role, _, reward in row.said if role.startswith("verifier")]
    return sum(verdicts) / len(verdicts) if verdicts else None


@rate("truncated_fraction", "truncated", "%", where=Where.TABLES)
def _truncated(row: "EvalRow") -> float:
    """Share of an episode's attempts that were cut off by the token limit."""
    return sum(row.truncated) / len(row.truncated)


@rate("no_answer_fraction", "no answer", "%", where=Where.TABLES)
def _no_answer(row: "EvalRow") -> float:
    """Share of an episode's attempts without an answer in the accepted form."""
    return sum(verdict == "no_answer" for verdict in row.verdicts) / len(row.verdicts)


@rate("response_tokens", "sampled tokens", "per episode", where=Where.TABLES)
def _response_tokens(row: "EvalRow") -> int:
    """Sampled tokens of all attempts of an episode."""
    return sum(row.n_tokens)
