"""MkDocs hooks that add the README as front page, the notebooks, and an API page for every public module."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("rewards", "envs", "rl", "experiments")


def on_files(files: Files, config: Any) -> Files:
    """Adds ``index.md``, ``notebooks/<name>.md`` and ``reference/<module>.md`` without writing them to disk."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"\]\(docs/([\w./#-]+)\)", r"](\1)", readme).replace('<img src="docs/', '<img src="')
    readme = re.sub(r"\]\((notebooks/\w+)\.ipynb\)", r"](\1.md)", readme)
    # Files outside of docs/ that the README links to, such as CONTRIBUTING.md, are not pages of the site, so the links
    # would be broken.
    readme = re.sub(r"\[([^]]+)\]\(([A-Z]+\.md)\)", r"`\1`", readme)
    files.append(File.generated(config, "index.md", content=readme))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = notebook_page(json.loads(path.read_text(encoding="utf-8")), path.name)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    for path in (p for layer in LAYERS for p in sorted((ROOT / layer).rglob("*.py"))):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not any(part.startswith("_") for part in name.split(".")):
            # The heading of the page is generated from the module; the title is for the navigation and the browser tab.
            page = f"---\ntitle: {name}\n---\n::: {name}\n    options: {{heading_level: 1}}\n"
            files.append(File.generated(config, f"reference/{name}.md", content=page))
    return files


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """Converts a notebook and the stored outputs of its cells to a Markdown page."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\(\.\./docs/", "](../", re.sub(r"\.ipynb\)", ".md)", source)))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = {kind: "".join(lines) for kind, lines in output.get("data", {}).items()}
            if "image/svg+xml" in data:  # as an image, since the ids of inline drawings would clash
                encoded = base64.b64encode(data["image/svg+xml"].encode()).decode()
                image = f'<img class="drawing" alt="figure" src="data:image/svg+xml;base64,{encoded}">'
                parts.append(f'<div class="shown" tabindex="0">{image}</div>')
            elif "text/html" in data:
                parts.append(f'<div class="shown" tabindex="0">{data["text/html"]}</div>')
            else:
                text = data.get("text/plain") or "".join(output.get("text", ()))
                parts.append(f"```{{.text .shown}}\n{text.rstrip()}\n```")
    parts.append(
        f"*This page is `notebooks/{name}`; `python -m notebooks.run notebooks/{name} --write` makes it anew.*"
    )
    return "\n\n".join(parts) + "\n"


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Labels the search dialog for screen readers, because the theme gives it no name."""
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Keeps intervals on one line, lets names in tables break, and removes Sphinx roles such as ``:func:``."""
    html = re.sub(r"\[[+-]?[\d.]+, [+-]?[\d.]+\](?![^<]*(?:>|</code>))", r'<span class="interval">\g<0></span>', html)
    html = re.sub(r"(?<=<td><code>)[\w./<>&;-]+(?=</code>)", lambda name: re.sub("[/_.]", r"\g<0><wbr>", name[0]), html)
    return re.sub(r":(?:attr|class|data|exc|func|meth|mod):\s?<code>~?", "<code>", html)


def on_nav(nav: Any, config: Any, files: Files) -> Any:
    """Adds a section "API" to the navigation, with one subsection per layer."""
    from mkdocs.structure.nav import Section
    from mkdocs.structure.pages import Page

    layers = []
    for layer in LAYERS:
        found = [file for file in files if re.match(rf"reference/{layer}[.\w]*\.md$", file.src_uri)]
        layers.append(Section(layer, [file.page or Page(None, file, config) for file in found]))
    nav.items.append(Section("API", layers))
    return nav
