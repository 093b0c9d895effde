"""How long the way through the code is: which functions and files one training step enters.

``python -m benchmarks.call_path`` plays one task with two episodes of two turns on the embedded model and takes one
optimiser step; then the same once more. It counts functions of this project only, once each, the files that they are
in, and how often the program goes from a function of one file straight to one of another. What a reader has to follow
is what this measures; how often a function is called is not.
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
    """Records calls between functions of this project while it is the profiler."""

    def __init__(self) -> None:
        self.functions: Counter[CodeType] = Counter()
        self.changes: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """``sys.setprofile``'s hook."""
        code = frame.f_code
        # A comprehension is a part of the function it stands in, for a reader.
        if event != "call" or not _is_ours(code) or code.co_name in _INLINE:
            return
        self.functions[code] += 1
        caller = frame.f_back
        if caller is not None and _is_ours(caller.f_code) and caller.f_code.co_filename != code.co_filename:
            self.changes[(_name(caller.f_code), _name(code))] += 1

    def report(self) -> dict[str, Any]:
        """Functions, files and file changes: how many, and which."""
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
    """The way of the first ``train_step`` of a run and of the second, which finds built what the first one built."""
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
    """Prints the table and writes JSON."""
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
