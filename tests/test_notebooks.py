"""Notebooks run with the small values of their metadata, are kept with their outputs and become pages of the site."""

import ast
import json
import os
from pathlib import Path

import pytest

from tests import programs
from tests.conftest import ROOT

try:
    from docs.site_hooks import notebook_page
except ModuleNotFoundError:  # the environment of vLLM has no mkdocs; it collects this file without running its tests
    notebook_page = None

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
AS_LONG_AS_THEY_TAKE = [
    pytest.param(path, marks=pytest.mark.slow) if path.stem == "tour" else path for path in NOTEBOOKS
]


@pytest.mark.parametrize("path", AS_LONG_AS_THEY_TAKE, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    done = programs.run("notebooks.run", str(path), "--smoke", env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cells ran" in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_ran(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert path.stat().st_size < 400_000
    names = set()
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {target.id for line in tree.body if isinstance(line, ast.Assign) for target in line.targets}
    assert names == set(notebook["metadata"]["smoke"])
    page = notebook_page(notebook, path.name)
    assert page.count("```") % 2 == 0
    assert ".ipynb)" not in page


def test_what_a_page_of_a_notebook_holds():
    shown = {"output_type": "execute_result", "data": {"image/svg+xml": ["<svg/>"]}}
    said = {"output_type": "stream", "text": ["two\n"]}
    markdown = {"cell_type": "markdown", "source": ["See [this](../docs/a.md#b) and [that](tour.ipynb)."]}
    code = {"cell_type": "code", "source": ["1 + 1"], "outputs": [said, shown], "metadata": {}}
    page = notebook_page({"cells": [markdown, code]}, "x.ipynb")
    assert "[this](../a.md#b) and [that](tour.md)" in page
    assert "```python\n1 + 1\n```" in page
    assert "two" in page
    assert "data:image/svg+xml;base64,PHN2Zy8+" in page


def test_the_roles_of_docstrings_are_no_text_of_the_site():
    from docs.site_hooks import on_page_content

    said = "<p>See :class:<code>Task</code> and :func:<code>~envs.make</code>; <code>:class:</code> stays.</p>"
    shown = "<p>See <code>Task</code> and <code>envs.make</code>; <code>:class:</code> stays.</p>"
    assert on_page_content(said, None, None, None) == shown


def test_the_bounds_of_an_interval_stay_on_one_line():
    from docs.site_hooks import on_page_content

    html = '<td>+5.2 [+1.7, +8.5]</td> <code>[1, 2]</code> <img alt="[1, 2]">'
    shown = '<td>+5.2 <span class="interval">[+1.7, +8.5]</span></td> <code>[1, 2]</code> <img alt="[1, 2]">'
    assert on_page_content(html, None, None, None) == shown


def test_the_search_of_the_site_has_a_name_for_screen_readers():
    material = pytest.importorskip("material")
    from docs.site_hooks import on_post_page

    theirs = (Path(str(material.__file__)).parent / "templates" / "partials" / "search.html").read_text(
        encoding="utf-8"
    )
    assert 'role="dialog" aria-label="Search"' in on_post_page(theirs, None, None)
