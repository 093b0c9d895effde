"""``report.html``: verdict, tables, figures and episodes in one file that needs no network."""

import html
import json
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from experiments.evidence.comparison import compare
from experiments.evidence.episodes import pack, packed
from experiments.evidence.interactive import to_plotly
from experiments.evidence.model import Exhibit, Figure
from experiments.evidence.store import Store
from experiments.evidence.tables import matched
from experiments.evidence.verdicts import verdicts

_ASSETS = Path(__file__).parent / "assets"


def page(store: Store, exhibits: list[Exhibit], n_episodes: int) -> str:
    """The whole page.

    Args:
        store: The comparison.
        exhibits: What :func:`experiments.evidence.build` made of it.
        n_episodes: Most evaluated episodes that the page carries.
    """
    title = f"{'Offline against online' if store.is_comparison else 'Runs'}: {store.env}"
    return assemble(title, _verdict(store), exhibits, pack(store, n_episodes))


def assemble(title: str, verdict: str, exhibits: list[Exhibit], episodes: dict[str, Any]) -> str:
    """The page of anything that has exhibits and episodes.

    Args:
        title: Plain text.
        verdict: HTML of the first section.
        exhibits: Tables and figures in their order.
        episodes: What :func:`experiments.evidence.episodes.pack` describes.
    """
    text = {name: (_ASSETS / f"report.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    shown = [to_plotly(one) if isinstance(one, Figure) else one.to_json() for one in exhibits]
    data = json.dumps(shown, separators=(",", ":"), allow_nan=False)
    return Template(text["html"]).substitute(
        title=html.escape(title),
        css=text["css"],
        js=text["js"],
        verdict=verdict,
        exhibits=_inside_script(data),
        packed=packed(json.dumps(episodes, ensure_ascii=False, separators=(",", ":"))),
        plotly=packed(get_plotlyjs()),
    )


def _inside_script(data: str) -> str:
    """JSON that cannot close the element it stands in."""
    return data.replace("<", "\\u003c")


def _verdict(store: Store) -> str:
    parts = []
    for mode in store.modes:
        comparison = compare(store, mode)
        sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in verdicts(comparison))
        head = f"<h2>{mode.capitalize()} decoding, {comparison.n_tasks} test tasks</h2>"
        parts.append(
            f"{head}<ul>{sentences}</ul>"
            if not parts
            else f"<details><summary>{head}</summary><ul>{sentences}</ul></details>"
        )
    seeds = ", ".join(map(str, store.complete)) or "none that all arms finished"
    about = (
        f"{len(store.trained)} trained arms, seeds {seeds}. {matched(store)} Intervals are 95 % bootstrap intervals "
        "over seeds, then tasks. A seed failed if its delta is at most 1 point."
    )
    for one in store.data_files():
        state = {True: "as published", False: "NOT the published content", None: "not compared"}[one["as_published"]]
        about += f" Data: {one['file']}, {one['rows']} rows, {one['licence']}, sha256 {one['sha256'][:16]} ({state})."
    return f'<p class="caption">{html.escape(about)}</p>{"".join(parts)}{_health(store)}'


def _health(store: Store) -> str:
    """What the checks found in the runs while they trained; nothing where all were well."""
    found = store.unwell()
    if not found:
        return ""
    runs = len({(arm, seed) for arm, seed, _ in found})
    items = []
    for arm, seed, one in found:
        until = "to the end" if one["to"] is None else f"to {one['to']}"
        when = (
            f"{store.names.get(arm, arm)}, seed {seed}, {one['check']} from step {one['from']} {until}: {one['said']}"
        )
        items.append(f"<li>{html.escape(when)}</li>")
    head = f"<h2>Health: {len(found)} findings in {runs} of {len(store.runs)} runs</h2>"
    return f"<details><summary>{head}</summary><ul>{''.join(items)}</ul></details>"
