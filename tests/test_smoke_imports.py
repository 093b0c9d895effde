"""Every module can be imported, so that no import keeps an old name after a file has moved."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

NEEDS_EXTRAS = {"benchmarks", "rl.backends.vllm_worker", "rl.backends.engine_vllm", "rl.backends.vllm_heads"}


def test_every_module_imports():
    paths = [p for layer in ("rewards", "envs", "rl", "experiments") for p in sorted((ROOT / layer).rglob("*.py"))]
    names = [".".join(Path(p).relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in paths]
    names = [name for name in names if name not in NEEDS_EXTRAS and not name.endswith("__main__")]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode, done.stderr
