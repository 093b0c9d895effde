"""Length of the call path: the functions and files of this project that one training step enters.

``python -m benchmarks.call_path`` takes two training steps on the embedded model, each with two episodes of two turns
on one task and one optimiser step. It counts the distinct functions of this project, the files that contain them, and
the distinct pairs of functions in which one calls the other directly across files. These counts measure how much code
a reader has to follow, so it does not matter how often a function is called.
"""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.cli import CONFIGS, register_schemas
from rl.backends.distributed import Distributed
from rl.config import TrainConfig
from rl.workbench import Workbench

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "benchmarks" / "call_path.json"
_INLINE = ("<lambda>", "<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")


class CallPath:
    """Profiler for ``sys.setprofile`` that records calls between functions of this project."""

    def __init__(self) -> None:
        self.functions: Counter[CodeType] = Counter()
        self.changes: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Handles one event of ``sys.setprofile``."""
        code = frame.f_code
        # To a reader, a lambda or comprehension is part of the function that contains it, so neither counts by itself.
        if event != "call" or not _is_ours(code) or code.co_name in _INLINE:
            return
        self.functions[code] += 1
        caller = frame.f_back
        if caller is not None and _is_ours(caller.f_code) and caller.f_code.co_filename != code.co_filename:
            self.changes[(_name(caller.f_code), _name(code))] += 1

    def report(self) -> dict[str, Any]:
        """Number and names of the functions, files and calls across files."""
        files = Counter(_file(code) for code in self.functions)
        return {
            "functions": len(self.functions),
            "files": len(files),
            "file_changes": len(self.changes),
            "functions_by_file": dict(files.most_common()),
            "names": sorted(_name(code) for code in self.functions),
            "changes": sorted(f"{a} -> {b}" for a, b in self.changes),
        }


def _is_ours(code: CodeType) -> bool:
    path = Path(code.co_filename)
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("rl", "envs", "rewards", "experiments")


def _file(code: CodeType) -> str:
    return str(Path(code.co_filename).relative_to(ROOT))


def _name(code: CodeType) -> str:
    return f"{_file(code)}::{code.co_qualname}"


def measure(algorithm: str = "score") -> dict[str, dict[str, Any]]:
    """Call paths of a run's first ``train_step`` and of its second, which reuses what the first one built."""
    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        overrides = [f"algorithm={algorithm}", "algorithm.group_size=2", "training.tasks_per_step=1"]
        config: Any = OmegaConf.to_object(compose("train", [*overrides, "training.episodes=4"]))
    assert isinstance(config, TrainConfig)
    bench = Workbench.build(replace(config, threads=1), Distributed(cpu=True))
    trainer = bench.trainer()
    found = {}
    for step in ("first", "second"):
        path = CallPath()
        sys.setprofile(path)
        try:
            trainer.train_step()
        finally:
            sys.setprofile(None)
        found[step] = path.report()
    return found


def main() -> None:
    """Measures both steps, prints the counts and writes them as JSON."""
    found = measure()
    for name in ("functions", "files", "file_changes"):
        print(f"{name.replace('_', ' '):14s}{found['first'][name]:5d}{found['second'][name]:5d}")
    print()
    for file, n in found["first"]["functions_by_file"].items():
        print(f"{n:4d}  {file}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\nwhich ones: {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
