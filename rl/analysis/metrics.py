"""Every metric that may be logged, and how metrics travel: as ratios, divided once, at logging time.

A metric is declared beside the code that measures it; the rates of evaluations are in :mod:`rl.analysis.rates`. What is
not declared cannot be logged. Nothing reads a metric to decide how training goes on.
"""

import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.lookup import Lookup, nearest
from rl.analysis.rates import RATES


@dataclass(frozen=True, slots=True)
class Metric:
    """Unit and meaning of a metric."""

    unit: str
    meaning: str


METRICS: Lookup[Metric] = Lookup("metric")
"""Metrics by name; ``<k>`` in a name stands for the number of an attempt, from 1."""


def declare(metrics: Mapping[str, tuple[str, str]]) -> None:
    """Makes metrics known: unit and meaning by name, such as ``rollout/tokens_t<k>``."""
    for name, (unit, meaning) in metrics.items():
        METRICS.register(name)(Metric(unit, meaning))


@dataclass(frozen=True, slots=True)
class Ratio:
    """A mean that can be added over micro-batches and ranks: numerator and denominator travel apart.

    Both are numbers, or what an update measured and has not read from its device yet.
    """

    num: Any
    den: Any

    def __add__(self, other: "Ratio") -> "Ratio":
        return Ratio(self.num + other.num, self.den + other.den)

    @property
    def value(self) -> float:
        """The quotient, ``nan`` for an empty mean."""
        return self.num / self.den if self.den else float("nan")


def total(parts: list[dict[str, Ratio]]) -> dict[str, Ratio]:
    """Sums of ratios by name."""
    out: dict[str, Ratio] = {}
    for part in parts:
        for name, ratio in part.items():
            out[name] = out[name] + ratio if name in out else ratio
    return out


def catalogue() -> dict[str, Metric]:
    """Every metric that was declared, by name; ``eval/<mode>/`` stands before the rates of an evaluation."""
    rates = {f"eval/<mode>/{name}": Metric(_UNITS.get(one.unit, one.unit), one.meaning) for name, one in RATES.items()}
    return {**METRICS, **rates}


_UNITS = {"%": "fraction", "points": "fraction", "of 1": "fraction"}
"""Of rates as they are logged, where tables print them otherwise."""


def describe(name: str) -> Metric:
    """The declaration behind a logged name: ``eval/greedy/accuracy_t2`` is ``eval/<mode>/accuracy_t<k>``.

    Raises:
        KeyError: If there is none, naming the nearest.
    """
    # Greedy up to the last slash: a mode has slashes of its own, as in eval/transfer/longer/accuracy_t1.
    general = re.sub(r"^eval/.+/", "eval/<mode>/", re.sub(r"_t\d+$", "_t<k>", name))
    known = catalogue()
    if general not in known:
        raise KeyError(
            f"metric {name!r} is not declared{nearest(general, known)} Call rl.analysis.metrics.declare beside the "
            "code that measures it, with its unit and meaning"
        )
    return known[general]


def page() -> str:
    """The catalogue as a page of documentation: ``python -m rl.analysis.metrics > docs/metrics.md``."""
    import rl

    for module in pkgutil.iter_modules(rl.__path__):
        importlib.import_module(f"rl.{module.name}")  # each declares what it measures
    lines = [
        "# Metrics",
        "",
        "Every name in `metrics.jsonl`, on dashboards and in tables, with its unit and meaning. Made by",
        "`python -m rl.analysis.metrics > docs/metrics.md` from what the code declares; a metric that is not declared",
        "cannot be logged. `_t<k>` is attempt k, from 1. `eval/<mode>` is `greedy`, `sampled` or `validation`, or",
        "`base_train` and `base_validation`: second attempts at first attempts of the base, which stay the same during",
        "training.",
        "",
        "| name | unit | meaning |",
        "|---|---|---|",
    ]
    for name, metric in sorted(catalogue().items()):
        lines.append(f"| `{name}` | {metric.unit} | {metric.meaning.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


declare(
    {
        "eval/<mode>/failed_fraction": ("fraction", "episodes broken off by us, left out of everything else"),
        "eval/<mode>/n": ("episodes", "how many episodes the numbers rest on"),
    }
)


if __name__ == "__main__":
    from rl.analysis.metrics import page as page_of_the_package  # this file as a program is a module of its own

    print(page_of_the_package(), end="")
