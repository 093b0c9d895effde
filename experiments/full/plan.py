"""Setting, expectations and cost of a study's full size, computed without loading a model.

``python -m experiments.full.plan > docs/full_sizes.md`` writes the documentation page of all studies.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from experiments.full import FAILS, HOLDS, OPEN
from experiments.full.cost import H100, H100_MEASURED, Work, hours, table
from experiments.full.shapes import parameters_of
from experiments.studies import FULL, STUDIES, load, settings_of
from rewards.wording import counted
from rl.analysis.printing import fixed

_WORDS = {HOLDS: "holds", FAILS: "does not hold", OPEN: "open"}
"""Expected verdicts in words; "open" means that either verdict is possible."""


def planned(name: str, cfg: Any, n_seeds: int) -> dict[str, Any]:
    """Setting, expectations and cost of a study's full size, as JSON types.

    Args:
        name: Name of the study.
        cfg: Settings of its full size.
        n_seeds: Number of seeds.
    """
    study: Any = load(name, "full")
    parameters, by_arm = parameters_of(cfg.model), study.work(cfg)
    header, rows = table(parameters, by_arm, n_seeds)
    total = n_seeds * sum(by_arm.values(), Work())
    expected = [asdict(one) | {"verdict": _WORDS[one.verdict]} for one in study.EXPECTED]
    names = {one["claim"] for one in expected}
    return {
        "study": name,
        "setting": asdict(cfg),
        "parameters": parameters,
        "seeds": n_seeds,
        "expected": expected,
        "not_carried": [one.name for one in load(name).CLAIMS if one.name not in names],
        "gpu": asdict(H100),
        "gpu_hours": H100.hours(parameters, total),
        "gpu_hours_at_measured_shares": H100_MEASURED.hours(parameters, total),
        "cost": [header, *rows],
    }


def lines(plan: dict[str, Any]) -> Iterator[str]:
    """Yields the plan as lines of text."""
    size = f"{fixed(plan['parameters'] / 1e9, 2)}B parameters"
    yield f"The paper's setting, {plan['study']}: {plan['setting']['model']}, {size}"
    yield "  " + ", ".join(f"{key} {value}" for key, value in plan["setting"].items() if value != "")
    yield "Expected at this scale, claim by claim:"
    yield from (f"- {one['verdict']}: {one['claim']} ({one['why']})" for one in plan["expected"])
    if plan["not_carried"]:
        yield f"- not measured at this size: {', '.join(plan['not_carried'])}"
    yield f"Cost on one {H100.name}, answers as long as they may be ({H100.shares} of its peak):"
    widths = [max(map(len, column)) for column in zip(*plan["cost"], strict=True)]
    for row in plan["cost"]:
        first, *rest = (cell.ljust(w) if i == 0 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        yield "  " + "  ".join([first, *rest])


_HEAD = """# Full sizes

The setting of each paper for models of 1 to 8B parameters, what is expected of it, and what it would cost. Written by
`python -m experiments.full.plan > docs/full_sizes.md` from what the code declares; nothing was run at this size.

```bash
python -m experiments.study study=self_judging size=full      # the plan, and a dry run of seconds
python -m experiments.study study=self_judging size=full dry_run=false settings.model=<folder>   # for real
```

The first command needs neither a GPU nor weights: it prints the plan and runs the same code, arm by arm, on a
checkpoint of the same architecture with random weights (two layers, width 32, a token for each character, the family's
chat template). `study.json` says `dry_run`, and no claim is judged. The second one needs the model, a GPU on which it
fits, and the data that the setting names.
"""


def page(n_seeds: int = 3) -> str:
    """The documentation page of all full sizes, as Markdown."""
    seeds = counted(n_seeds, "seed")
    about = (
        f"Hours are those of one {H100.name} for {seeds}: two operations for each parameter and token of a "
        f"forward pass, six for a trained token, at {H100.shares} of {fixed(H100.peak / 1e12, 0)} TFLOP/s. "
        f"In brackets: at the shares that this project measured with a model of 0.5B ({H100_MEASURED.shares}; "
        "[performance](performance.md)), a cautious reading. Where a few short rows pass alone, it takes as "
        "long as the memory needs to read the weights. Answers are counted as long as they may be."
    )
    columns = ("study", "model", f"GPU hours, {seeds}", "expected to hold", "to fail", "open", "not carried")
    head = [_HEAD, *wrap(about, 120), "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    plans = [planned(name, settings_of(load(name, "full"), {}), n_seeds) for name in STUDIES if name in FULL]
    rows = []
    for one in plans:
        counts = [sum(e["verdict"] == verdict for e in one["expected"])
                  for verdict in _WORDS.values()]  # fmt: skip
        cost = f"{hours(one['gpu_hours'])} ({hours(one['gpu_hours_at_measured_shares'])})"
        cells = [f"[`{one['study']}`](#{one['study']})", one["setting"]["model"], cost, *map(str, counts),
                 str(len(one["not_carried"]))]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*head, *rows, "", *(line for one in plans for line in _section(one))]) + "\n"


def _section(plan: dict[str, Any]) -> Iterator[str]:
    study = load(plan["study"], "full")
    about = (sys.modules[study.__name__].__doc__ or "").strip()  # type: ignore[attr-defined]
    yield from (f"## `{plan['study']}`", "", *about.splitlines(), "")
    yield from ("| claim | expected | why |", "|---|---|---|")
    yield from (f"| {one['claim']} | {one['verdict']} | {one['why']} |" for one in plan["expected"])
    if plan["not_carried"]:
        yield from ("", f"Not measured at this size: {', '.join(plan['not_carried'])}.")
    header, *rows = plan["cost"]
    yield from ("", f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1))
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
