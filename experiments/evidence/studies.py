"""Exhibits and page of a study (claims, arms, the gate, own figures, samples), and the overview of all studies."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evidence.episodes import RIGHT, Packed
from experiments.evidence.model import Badge, Dot, Dots, Exhibit, Mark, Panel, Series, Table
from experiments.evidence.model import Figure as Drawn
from experiments.evidence.page import Page, assemble
from rewards.wording import counted
from rl.analysis.claims import Figure, Finding, Row
from rl.analysis.gate import record
from rl.analysis.printing import fixed
from rl.tracking import oldest_first

ABOUT = ("arm", "seed", "step")
SHOWN_FIRST = ("prompt", "answer", "gold", "right", "reward", "arm", "seed", "step")
MAX_SAMPLES = 20_000


def exhibits(
    findings: Sequence[Finding], rows: Sequence[Row], own: Sequence[Figure | Callable[[Sequence[Row]], Any]]
) -> list[Exhibit]:
    """A dot plot and a table of the claims, tables of the arms and the gate, then the study's own exhibits.

    Args:
        findings: The judged claims.
        rows: Measurements of all arms and seeds.
        own: The study's ``EXHIBITS``: figures, or functions that make an exhibit from the rows.
    """
    made: list[Exhibit] = [claims_table(findings), arms_table(rows)]
    made += gate_table(rows)
    titles = ["Claims", "Every arm at its last step", "The gate"]
    made = [replace(one, id=f"T{i}", title=titles[i - 1]) for i, one in enumerate(made, 1)]
    if findings:
        made.insert(0, replace(claims_dots(findings), id="F0", title="Claims"))
    for entry in own:
        one: Any = curves(entry, rows) if isinstance(entry, Figure) else entry(rows)
        kind = "F" if isinstance(one, Drawn) else "T"
        number = sum(other.id.startswith(kind) for other in made[1:]) + 1
        made.append(replace(one, id=f"{kind}{number}"))
    return made


_TONES = {"holds": "good", "does not hold": "bad"}


def claims_dots(findings: Sequence[Finding]) -> Dots:
    """A dot plot with one row for each claim; each row has its own axis, since claims measure different quantities."""
    rows = [
        Dot(
            one.name,
            *(one.mean, one.low, one.high, list(one.by_seed.values())),
            badges=[Badge(one.verdict, _TONES.get(one.verdict, "doubt"))],
            said=one.line.partition(": ")[2] + (f" Published: {one.paper}" if one.paper else ""),
        )
        for one in findings
    ]
    return _claims(rows)


def _claims(rows: Sequence[Dot], what: str = "") -> Dots:
    counts = {verdict: sum(row.badges[0].text == verdict for row in rows) for verdict in dict.fromkeys(
        row.badges[0].text for row in rows
    )}  # fmt: skip
    lead = "; ".join(f"{verdict}: {n}" for verdict, n in counts.items())
    caption = (
        f"{what}The statistic of each claim, each on its own axis. The large dot is the mean, the bar its 95 % "
        "interval over seeds (over questions if there is one seed), and each small dot a seed."
    )
    return Dots(caption, "the claim's statistic", rows, {"": f"Of {counted(len(rows), 'claim')}: "
            f"{lead}." if rows else ""},
                shared=False, digits=3)  # fmt: skip


def claims_table(findings: Sequence[Finding]) -> Table:
    """A table with one row for each claim: verdict, mean, every seed, interval and sentence."""
    cells = [
        [
            *(one.name, one.verdict),
            f"{fixed(one.mean, 3, signed=True)}\n{' '.join(fixed(v, 3, signed=True) for v in one.by_seed.values())}",
            f"{fixed(one.low, 3, signed=True)}, {fixed(one.high, 3, signed=True)}",
            *(one.expected, f"{one.n_seeds}{'' if one.over == 'seeds' else ' (over questions)'}"),
            *(one.sentence, one.paper or "-"),
        ]
        for one in findings
    ]
    caption = (
        "The statistic of each claim, below it that of every seed, and its 95 % Student-t interval over seeds (a "
        "bootstrap interval over questions if there is one seed). A claim holds if the whole interval is where the "
        "claim expects it, does not hold if the whole interval is elsewhere, and is otherwise undecided (cannot tell)."
    )
    header = ["claim", "verdict", "mean", "95 % interval", "expected", "seeds", "sentence", "published"]
    return Table(caption, header, cells)


_GATE = (
    "What the gate predicts before a training, and the training's result, in percentage points. The gap is what "
    "choosing by the signal would add to accuracy, with its 95 % interval; the gain is what training added."
)


def gate_table(rows: Sequence[Row]) -> list[Table]:
    """A table that compares the gate's predictions with the training results; empty list if no row has a prediction."""
    if all(row.get("gate_cell") is None for row in rows):
        return []
    header, cells, said = record(rows)
    return [Table(f"{_GATE} {said}", header, cells)]


def arms_table(rows: Sequence[Row]) -> Table:
    """Table of every numeric column by arm, at a seed's last step that has it: mean over seeds, below it each seed."""
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if _is_number(key, value)))
    cells = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        found = [_values(rows, arm, column) for column in columns]
        cells.append([arm, *(_cell(one) for one in found)])
    caption = "Measurements at the last step: mean over seeds, below it each seed in the order of the seeds."
    return Table(caption, ["arm", *columns], cells)


def _is_number(key: str, value: Any) -> bool:
    return key not in ABOUT and not key.startswith("gate_") and _has_mean(value)


def _has_mean(value: Any) -> bool:
    """Whether a value is a number, or a list of numbers with one for each question."""
    return isinstance(value, int | float) or (isinstance(value, list) and bool(value) and isinstance(value[0], float))


def _values(rows: Sequence[Row], arm: str, column: str) -> list[float]:
    """A column's value at the highest step that has one, for each seed of an arm in the order of the seeds."""
    newest: dict[int, Row] = {}
    for row in rows:
        if row["arm"] != arm or not _has_mean(row.get(column)):
            continue
        if row["seed"] not in newest or row["step"] >= newest[row["seed"]]["step"]:
            newest[row["seed"]] = row
    return [float(np.mean(newest[seed][column])) for seed in sorted(newest)]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    digits = 3 if max(map(abs, values)) < 100 else 0
    return f"{fixed(float(np.mean(values)), digits)}\n{' '.join(fixed(one, digits) for one in values)}"


def curves(figure: Figure, rows: Sequence[Row]) -> Drawn:
    """Draws a study's figure from its rows: for each arm the mean over seeds, the range over seeds, and every seed."""
    known = list(dict.fromkeys(row["arm"] for row in rows))
    arms = [arm for arm in (figure.arms or known) if arm in known]
    columns = (figure.y,) if isinstance(figure.y, str) else figure.y
    panels = []
    for column in columns:
        title, label = ("", figure.y_label or column) if len(columns) == 1 else (column, figure.y_label or column)
        if figure.x == "arm":
            shown = [arm for arm in arms if _values(rows, arm, column)]
            of_arm = [_values(rows, arm, column) for arm in shown]
            middle = [float(np.mean(one)) for one in of_arm]
            ends = ([min(one) for one in of_arm], [max(one) for one in of_arm])
            series = [Series("mean and range over seeds", range(len(shown)), middle, *ends)]
            every = [(i, value) for i, one in enumerate(of_arm) for value in one]
            points = Series("single seed", [x for x, _ in every], [y for _, y in every], mark=Mark.POINTS)
            panels.append(Panel(title, figure.x_label or "arm", label, [*series, points], ticks=shown))
        else:
            lines = [_line(arm, [row for row in rows if row["arm"] == arm], figure.x, column) for arm in arms]
            panels.append(Panel(title, figure.x_label or figure.x, label, [one for one in lines if one is not None]))
    seeds = sorted({row["seed"] for row in rows})
    said = f"Seed {seeds[0]}." if len(seeds) == 1 else (
        f"{counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))}). "
        f"{'Line: mean over seeds' if figure.x == 'arm' else 'Thick: mean over seeds; thin: every seed'}; "
        "band: smallest to largest seed."
    )  # fmt: skip
    return Drawn(f"{figure.caption} {said}".strip(), panels,
                 title=figure.title)  # fmt: skip


def _line(arm: str, rows: Sequence[Row], x: str, y: str) -> Series | None:
    found: dict[float, dict[int, float]] = {}
    for row in rows:
        if row.get(x) is not None and row.get(y) is not None:
            found.setdefault(float(row[x]), {})[row["seed"]] = float(np.mean(row[y]))
    if not found:
        return None
    seeds = sorted({seed for values in found.values() for seed in values})
    places = [place for place in sorted(found) if len(found[place]) == len(seeds)]
    values_SX = np.array([[found[place][seed] for place in places] for seed in seeds])
    runs = [(places, values) for values in values_SX.tolist()] if len(seeds) > 1 and len(places) > 1 else []
    return Series(arm, places, values_SX.mean(0), values_SX.min(0), values_SX.max(0), runs)


def study_page(
    result: Mapping[str, Any],
    about: str,
    made: list[Exhibit],
    samples: Sequence[Mapping[str, Any]],
) -> Page:
    """The page of a study.

    Args:
        result: The content of ``study.json``.
        about: The docstring of the study's module; its first paragraph is always shown, the rest on demand.
        made: The study's exhibits.
        samples: The texts that the arms wrote, one mapping for each, from the seeds' ``rows.jsonl``.
    """
    lead, _, rest = about.strip().partition("\n\n")
    seeds = ("seed " if len(result["seeds"]) == 1 else "seeds ") + ", ".join(map(str, result["seeds"]))
    settings = ", ".join(f"{key} {value}" for key, value in result["settings"].items())
    paragraphs = "".join(f"<p>{html.escape(part)}</p>" for part in rest.split("\n\n") if part.strip())
    below = (
        f"<p>{html.escape(lead)}</p><details><summary><h2>How it was made</h2></summary>{paragraphs}"
        f'<p class="caption">Size {html.escape(result["size"])}, {seeds}. Settings: {html.escape(settings)}.'
        "</p></details>"
    )
    return assemble(f"Study: {result['study']}", below, made, _pack(samples))


def _pack(samples: Sequence[Mapping[str, Any]]) -> Packed:
    """Samples as episodes of the page: one attempt each, with all further columns below the text.

    If there are more than :data:`MAX_SAMPLES` samples, only every n-th is kept.
    """
    step = -(-len(samples) // MAX_SAMPLES) or 1
    found = Packed({arm: arm for arm in dict.fromkeys(one["arm"] for one in samples)})
    lines: dict[int, int] = {}
    for number, one in enumerate(samples):
        line = lines[one["seed"]] = lines.get(one["seed"], 0) + 1
        if number % step:
            continue
        answer, right, gold = str(one.get("answer", "")), one.get("right"), one.get("gold")
        more = [f"{key}: {value}" for key, value in one.items() if key not in SHOWN_FIRST]
        task = json.dumps([prompt := str(one.get("prompt", "")), gold], default=str)
        found.tasks[task] = prompt, None if gold is None else str(gold)
        found.add(
            (one["arm"], one["seed"], f"step {one.get('step', 0)}", task, line),
            ["not judged" if right is None else RIGHT if right else "incorrect"],
            *([" \n".join([answer, *more])], [answer], [float(one.get("reward", bool(right)))], [len(answer.split())]),
        )  # fmt: skip
    arms = list(dict.fromkeys(one["arm"] for one in samples))
    found.places = {f"{i}/{seed}": f"seeds/seed_{seed}" for i in range(len(arms)) for seed in lines}
    found.note = f"{len(found):,} of {counted(len(samples), 'sample')}; all are in the seeds' rows.jsonl."
    return found


def no_samples() -> Packed:
    """The empty set of episodes, for a page without texts to browse."""
    return Packed({})


def overview(root: Path) -> tuple[Page, list[Exhibit]]:
    """The page of all studies below a folder and its exhibits, with the newest run of each study.

    Exhibits are the verdicts on all claims and the gate's record; the page also links to the studies' own pages.
    """
    newest: dict[str, Path] = {}
    for path in oldest_first(root, "study.json"):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not stored.get("dry_run"):  # a dry run measures nothing and would hide an older run that does
            newest[stored["study"]] = path
    cells, rows = [], []
    dots: list[Dot] = []
    for name, path in sorted(newest.items()):
        result = json.loads(path.read_text(encoding="utf-8"))
        where = path.parent.relative_to(root).as_posix()
        seeds = ", ".join(map(str, result["seeds"]))
        cells += [[f"{name} ({result['size']})", one["name"], one["verdict"], _number(one["mean"]),
                   f"{_number(one['low'])}, {_number(one['high'])}", seeds, one["sentence"]]
                  for one in result["claims"]]  # fmt: skip
        dots += [_stored_claim(name, one) for one in result["claims"]]
        rows += [dict(row, gate_cell=f"{name}: {row['gate_cell']}") for row in result["rows"] if row.get("gate_cell")]
        newest[name] = Path(where) / "report.html"
    header = ["study", "claim", "verdict", "mean", "95 % interval", "seeds", "sentence"]
    caption = "The claims of the newest run of each study: mean over seeds and 95 % interval of each statistic."
    made: list[Exhibit] = [Table(caption, header, cells, id="T1", title="Claims of all studies")]
    if dots:
        made.insert(0, replace(_claims(dots, "The newest run of each study. "), id="F0", title="Claims of all studies"))
    if rows:
        gate_header, gate_cells, said = record(rows)
        made.append(Table(f"{_GATE} {said}", gate_header, gate_cells, id="T2", title="The gate in all studies"))
    links = "".join(
        f'<li><a href="{html.escape(page.as_posix())}">{html.escape(name)}</a></li>' for name, page in newest.items()
    )
    return assemble("Studies", f"<ul>{links}</ul>", made, no_samples()), made


def _stored_claim(study: str, one: Mapping[str, Any]) -> Dot:
    mean, low, high, *seeds = map(_or_nan, (one["mean"], one["low"], one["high"], *one["by_seed"].values()))
    badge = Badge(one["verdict"], _TONES.get(one["verdict"], "doubt"))
    said = f"{one['sentence']} Expected {one['expected']}. Published: {one['paper'] or '-'}"
    return Dot(f"{study}: {one['name']}", mean, low, high, seeds, [badge], said)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _number(value: float | None) -> str:
    return "-" if value is None else fixed(value, 3, signed=True)
