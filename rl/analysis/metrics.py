"""Declarations of all metrics that may be logged, and the ratios in which metrics are summed before they are logged.

Each metric is declared beside the code that measures it; the rates of evaluations are in :mod:`rl.analysis.rates`. A
metric that is not declared cannot be logged. Logged metrics never change an update; health checks that read them can
only end a run.
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
    """Registers metrics, given as unit and meaning by name, such as ``rollout/tokens_t<k>``."""
    for name, (unit, meaning) in metrics.items():
        METRICS.register(name)(Metric(unit, meaning))


@dataclass(frozen=True, slots=True)
class Ratio:
    """A mean that can be summed over micro-batches and ranks, because numerator and denominator are kept apart.

    Numerator and denominator are numbers, or tensors that have not been read from their device yet.
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
    """Sums ratios of the same name."""
    out: dict[str, Ratio] = {}
    for part in parts:
        for name, ratio in part.items():
            out[name] = out[name] + ratio if name in out else ratio
    return out


def catalogue() -> dict[str, Metric]:
    """All declared metrics by name; names of evaluation rates begin with ``eval/<mode>/``."""
    rates = {f"eval/<mode>/{name}": Metric(_UNITS.get(one.unit, one.unit), one.meaning) for name, one in RATES.items()}
    return {**METRICS, **rates}


_UNITS = {"%": "fraction", "points": "fraction", "of 1": "fraction"}
"""Units of logged rates, for rates that tables print in another unit."""


def describe(name: str) -> Metric:
    """The declaration of a logged metric: ``eval/greedy/accuracy_t2`` is declared as ``eval/<mode>/accuracy_t<k>``.

    Raises:
        KeyError: If the metric is not declared; the message names the nearest declared metric.
    """
    # The pattern matches up to the last slash, because a mode may contain slashes: eval/transfer/longer/accuracy_t1.
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
        importlib.import_module(f"rl.{module.name}")  # importing a module declares the metrics that it measures
    lines = [
        "# Metrics",
        "",
        "Every name in `metrics.jsonl`, on dashboards and in tables, with its unit and meaning. Made by",
        "`python -m rl.analysis.metrics > docs/metrics.md` from what the code declares; a metric that is not declared",
        "cannot be logged. `_t<k>` is attempt k, from 1. `eval/<mode>` is `greedy`, `sampled` or `validation`, or",
        "`base_train` and `base_validation`: second attempts after first attempts of the base, which stay the same",
        "during training.",
        "",
        "| name | unit | meaning |",
        "|---|---|---|",
    ]
    for name, metric in sorted(catalogue().items()):
        lines.append(f"| `{name}` | {metric.unit} | {metric.meaning.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


declare(
    {
        "eval/<mode>/failed_fraction": ("fraction", "episodes that an error ended; all other rates leave them out"),
        "eval/<mode>/n": ("episodes", "episodes that did not fail, from which the rates are computed"),
    }
)


if __name__ == "__main__":
    # Run as a program, this file is the module __main__, whose METRICS would lack the declarations of other modules.
    from rl.analysis.metrics import page as page_of_the_package

    print(page_of_the_package(), end="")
