"""Hooks of the documentation site: an API page for every public module, and the front page from the README."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("rewards", "envs", "rl", "experiments")


def on_files(files: Files, config: Any) -> Files:
    """Adds ``index.md`` and ``reference/<module>.md`` without writing them to disk."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"\]\(docs/([\w./#-]+)\)", r"](\1)", readme)
    # What the README links to outside of docs/ (CONTRIBUTING.md) is no page of the site.
    readme = re.sub(r"\[([^]]+)\]\(([A-Z]+\.md)\)", r"`\1`", readme)
    files.append(File.generated(config, "index.md", content=readme))
    for path in (p for layer in LAYERS for p in sorted((ROOT / layer).rglob("*.py"))):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not any(part.startswith("_") for part in name.split(".")):
            page = f"reference/{name}.md"
            files.append(File.generated(config, page, content=f"# `{name}`\n\n::: {name}\n"))
    return files


def on_nav(nav: Any, config: Any, files: Files) -> Any:
    """Puts the API pages into one section, a folder a layer."""
    from mkdocs.structure.nav import Section
    from mkdocs.structure.pages import Page

    layers = []
    for layer in LAYERS:
        found = [file for file in files if re.match(rf"reference/{layer}[.\w]*\.md$", file.src_uri)]
        layers.append(Section(layer, [file.page or Page(None, file, config) for file in found]))
    nav.items.append(Section("API", layers))
    return nav
