"""``report.html``: findings, tables, figures and episodes on a page that needs no network."""

import html
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from experiments.evidence.comparison import compare
from experiments.evidence.episodes import Packed, pack, packed
from experiments.evidence.interactive import to_plotly
from experiments.evidence.latex import SHEET, TEX, WORDS
from experiments.evidence.model import COLOURS, Exhibit, Figure
from experiments.evidence.store import Store
from experiments.evidence.tables import matched
from experiments.evidence.verdicts import verdicts
from rewards.wording import counted
from rl.tracking import write_text

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("page", "dots", "tables", "figures", "search", "episodes", "start")
_DRAWINGS = '<script type="text/plain" id="drawings"></script>'
INLINE_BYTES = 6_000_000
"""Up to this size in total, packed texts are part of the page, so that it can be sent as one file; else beside it."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page and the texts of its episodes.

    Args:
        html: The page.
        shards: Packed texts that are written beside the page; empty if the page contains them. Each becomes a script
            file, because a page that is opened without a server can load scripts but no other files.
        figures: Ids of its figures.
    """

    html: str
    shards: Sequence[str]
    figures: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Writes the page to ``path``, and its shards into ``<name>_episodes/`` beside it.

        The figures' files in ``exhibits/`` become part of the page, so that it is printed whole wherever it is sent.
        """
        beside = path.with_name(f"{path.stem}_episodes")
        shutil.rmtree(beside, ignore_errors=True)
        for number, shard in enumerate(self.shards):
            beside.mkdir(exist_ok=True)
            write_text(beside / f"{number}.js", f'shard({number}, "{shard}");\n')
        drawn = {one: path.parent / "exhibits" / f"{one}.svg" for one in self.figures}
        held = packed(
            json.dumps({one: file.read_text(encoding="utf-8") for one, file in drawn.items() if file.exists()})
        )
        write_text(path, self.html.replace(_DRAWINGS, _DRAWINGS.replace("><", f">{held}<"), 1))


def page(store: Store, exhibits: list[Exhibit], n_episodes: int) -> Page:
    """The page of a folder of runs.

    Args:
        store: The runs.
        exhibits: The exhibits that :func:`experiments.evidence.build` made from the store.
        n_episodes: Most evaluated episodes that the page carries.
    """
    title = f"{'Offline against online' if store.is_comparison else 'Runs'}: {store.env}"
    arms, minor = [[store.names[arm] for arm in found] for found in (store.arms, store.minor)]
    return assemble(title, _verdict(store), exhibits, pack(store, n_episodes), arms, minor)


def assemble(
    title: str,
    verdict: str,
    exhibits: list[Exhibit],
    episodes: Packed,
    arms: Sequence[str] = (),
    minor: Sequence[str] = (),
) -> Page:
    """Assembles a page from exhibits and episodes.

    Args:
        title: Title in plain text.
        verdict: HTML that is shown below the dot plots.
        exhibits: Dot plots, tables and figures in the order in which they are shown.
        episodes: Index and texts of the episodes.
        arms: Names of the arms; their order decides the colours.
        minor: Names of the arms that are hidden at first.
    """
    text = {name: (_ASSETS / f"report.{name}").read_text(encoding="utf-8") for name in ("html", "css")}
    js = "\n".join((_ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    shown = [to_plotly(one) if isinstance(one, Figure) else one.to_json() for one in exhibits]
    shards = episodes.shards()
    inline = sum(map(len, shards)) <= INLINE_BYTES
    colours = {arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(arms)}
    data = {"exhibits": shown, "colours": colours, "minor": list(minor), "empty": not len(episodes)}
    data |= {"tex": TEX, "words": WORDS, "sheet": SHEET}
    held = [f'<script type="text/plain" id="shard-{i}">{shard}</script>' for i, shard in enumerate(shards)]
    made = Template(text["html"]).substitute(
        title=html.escape(title),
        css=text["css"],
        js=js,
        verdict=verdict,
        # The JSON is inside a script element, which a "</script>" in an arm's name or a caption would close.
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        index=packed(json.dumps(episodes.index(), ensure_ascii=False, separators=(",", ":"))),
        shards="\n".join(held if inline else []),
        plotly=packed(get_plotlyjs()),
    )
    return Page(made, [] if inline else shards, [one.id for one in exhibits if isinstance(one, Figure)])


def _verdict(store: Store) -> str:
    parts = []
    for mode in store.modes:
        comparison = compare(store, mode)
        sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in verdicts(comparison))
        parts.append(
            f"<h3>{mode.capitalize()} episodes, {counted(comparison.n_tasks, 'test task')}</h3><ul>{sentences}</ul>"
        )
    said = f"<details><summary><h2>What the intervals say about every arm</h2></summary>{''.join(parts)}</details>"
    seeds = f" ({', '.join(map(str, store.complete))})" if store.complete else ""
    about = (
        f"{counted(len(store.trained), 'trained arm')}, {store.said_seeds}{seeds}. {matched(store)} "
        "Intervals are 95 % bootstrap intervals over seeds, then tasks. A seed failed if its delta is at most 1 point."
    )
    for one in store.data_files():
        state = {True: "as published", False: "NOT the published content", None: "not compared"}[one["as_published"]]
        about += (
            f" Data: {one['file']}, {counted(one['rows'], 'row')}, {one['licence']}, sha256 "
            f"{one['sha256'][:16]} ({state})."
        )
    how = f'<details><summary><h2>How it was made</h2></summary><p class="caption">{html.escape(about)}</p></details>'
    notes = "".join(f'<p class="caption">{html.escape(note)}</p>' for note in store.notes)
    return f"{notes}{said}{_health(store)}{how}"


def _health(store: Store) -> str:
    """HTML of what the health checks found in the runs during training; empty if they found nothing."""
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
    head = f"<h2>Health: {counted(len(found), 'finding')} in {runs} of {counted(len(store.runs), 'run')}</h2>"
    return f"<details><summary>{head}</summary><ul>{''.join(items)}</ul></details>"
