"""Layers import only the layers below, only rl/backends imports heavy packages, and the light layers import fast."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ALLOWED = {"rewards": set(), "envs": {"rewards"}, "rl": {"envs", "rewards"}}
"""Other layers that a layer may import; rl needs the verdicts and small helpers of rewards, but parses no answers."""
LAYERS = {*ALLOWED, "experiments"}
HEAVY = {"transformers", "vllm", "trl", "accelerate", "peft", "datasets", "tokenizers", "safetensors"}
FORBIDDEN = {"rewards": {"torch", "gymnasium", "numpy"}, "envs": {"torch"}, "rl": set()}


def imported_packages(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_downwards(layer):
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        names = imported_packages(path)
        assert not names & (LAYERS - ALLOWED[layer] - {layer}), path
        assert not names & FORBIDDEN[layer], path
        if "backends" not in path.parts:
            assert not names & HEAVY, path


def test_analysis_and_report_start_without_torch():
    """Importing the analysis, the report or the watcher loads no heavy library, so that these programs start fast.

    matplotlib and statsmodels are imported only once there is something to draw or test.
    """
    modules = [f"rl.analysis.{path.stem}" for path in (ROOT / "rl" / "analysis").glob("*.py") if path.stem[0] != "_"]
    modules += ["experiments.report", "experiments.watch"]
    heavy = ("torch", "transformers", "matplotlib", "statsmodels")
    code = f"import {', '.join(modules)}, sys; assert not {set(heavy)} & set(sys.modules), sys.modules.keys() & {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("layer", ["rewards", "envs"])
def test_light_layers_import_fast_and_without_torch(layer):
    code = (
        f"import time; t = time.process_time(); import {layer}, sys; t = time.process_time() - t\n"
        "assert 'torch' not in sys.modules and 'sympy' not in sys.modules; print(t)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout)
        for _ in range(3)
    ]
    assert min(times) < 1.0, times


def test_seeds_are_derived_and_never_added_up():
    """No module adds to or multiplies a seed: ``seed + 1`` of one run would equal ``seed`` of the next run.

    Both runs would then sample the same random numbers.
    """
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
                    names = [ast.unparse(side).split(".")[-1].lower() for side in (node.left, node.right)]
                    assert not {"seed", "run_seed"} & set(names), f"{path}:{node.lineno}: use rl.types.derive_seed"
