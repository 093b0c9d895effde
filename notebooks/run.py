"""Runs notebooks from top to bottom without Jupyter: ``python -m notebooks.run notebooks/tour.ipynb``.

Cells must be plain Python without magics, because no kernel runs them. ``--smoke`` makes a run short: after the cell
tagged ``parameters``, variables are set to the values in the notebook's metadata under ``smoke``. ``--write`` stores
the cells' outputs in the notebook.
"""

import argparse
import ast
import io
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHOWN = {"text/html": "_repr_html_", "image/svg+xml": "_repr_svg_"}
"""Methods that return a rich display of a cell's last value, by the MIME type of what they return."""


class CellError(Exception):
    """A cell raised an exception; the message has the cell's source, its output and the traceback."""


def run_cell(source: str, scope: dict[str, Any], name: str = "cell") -> tuple[str, Any]:
    """Runs a cell.

    Args:
        source: Python code of the cell.
        scope: Global variables that the notebook's cells share.
        name: Name of the cell in tracebacks.

    Returns:
        What the cell printed, and the value of its last statement; ``None`` if that statement is not an expression.

    Raises:
        CellError: If the cell raises an exception.
    """
    printed, value = io.StringIO(), None
    try:
        tree = ast.parse(source)
        last = tree.body[-1] if tree.body else None
        shown = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
        tree.body = tree.body[:-1] if shown is not None else tree.body
        with redirect_stdout(printed), redirect_stderr(printed):
            exec(compile(tree, name, "exec"), scope)
            if shown is not None:
                value = eval(compile(shown, name, "eval"), scope)
    except Exception as error:
        raise CellError(f"{name}:\n{source}\n{printed.getvalue()}{traceback.format_exc()}") from error
    return printed.getvalue(), value


def outputs(printed: str, value: Any, number: int) -> list[dict[str, Any]]:
    """Converts what a cell printed and the value of its last statement to outputs in the notebook format."""
    found: list[dict[str, Any]] = []
    if printed:
        found.append({"output_type": "stream", "name": "stdout", "text": printed.splitlines(keepends=True)})
    if value is not None:
        data = {kind: getattr(value, method)() for kind, method in SHOWN.items() if hasattr(value, method)}
        data = data or {"text/plain": repr(value)}
        lines = {kind: text.splitlines(keepends=True) for kind, text in data.items()}
        found.append({"output_type": "execute_result", "execution_count": number, "data": lines, "metadata": {}})
    return found


def run_notebook(notebook: dict[str, Any], name: str, values: Mapping[str, Any]) -> None:
    """Runs all code cells of a notebook and stores their outputs in ``notebook``.

    Args:
        notebook: Parsed JSON of the notebook.
        name: Name of the notebook in tracebacks.
        values: Variables to set after the cell tagged ``parameters``.
    """
    scope: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        printed, value = run_cell("".join(cell["source"]), scope, f"{name}[{number}]")
        # Temporary folders have random names, which would change the stored outputs in every run.
        printed = re.sub(rf"{re.escape(tempfile.gettempdir())}/tmp\w+", "/tmp/notebook", printed)
        cell["execution_count"], cell["outputs"] = number, outputs(printed, value, number)
        if "parameters" in cell["metadata"].get("tags", ()):
            scope |= values


def main() -> None:
    """Runs the notebooks named on the command line; all notebooks if none is named."""
    parser = argparse.ArgumentParser(prog="python -m notebooks.run", description="Runs notebooks without Jupyter.")
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all without one")
    parser.add_argument("--smoke", action="store_true", help="with the small values of their metadata")
    parser.add_argument("--write", action="store_true", help="store what the cells showed")
    asked = parser.parse_args()
    os.environ.setdefault("ERRATA_QUIET", "1")
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for path in asked.paths or sorted(Path("notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        run_notebook(notebook, path.name, notebook["metadata"].get("smoke", {}) if asked.smoke else {})
        if asked.write:
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path}: {sum(cell['cell_type'] == 'code' for cell in notebook['cells'])} cells ran")


if __name__ == "__main__":
    main()
