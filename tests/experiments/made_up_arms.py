"""An arm from a plugin module that needs no model and performs one scripted action, such as crashing."""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass

from experiments.jobs import ARMS
from rl.config import RunConfig


@dataclass
class MadeUpOptions:
    does: str = "nothing"


@ARMS.register("made_up", options=MadeUpOptions)
@dataclass
class MadeUp:
    """Writes down its visible devices, then performs the action ``does``; it fails or sleeps at the first try only."""

    name: str
    config: RunConfig
    does: str = "nothing"
    schema = RunConfig

    def budget(self, match):
        return 0

    def run(self, seed, folder, report):
        # A job that has GPUs must not have loaded torch before its devices were set.
        assert "torch" not in sys.modules or not os.environ.get("CUDA_VISIBLE_DEVICES")
        tried = folder / "tried"
        is_first_try = not tried.exists()
        tried.touch()
        (folder / "devices").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "unset"))
        report(self.does, 0.5, {})
        while self.does == "meet" and len(list(folder.parent.parent.glob("*/*/devices"))) < 2:
            time.sleep(0.05)  # until another job has started, too
        if self.does == "sleep" and is_first_try:
            time.sleep(600)
        if self.does == "raise" and is_first_try:
            raise RuntimeError("not this time")
        if self.does == "die" and is_first_try:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "policy").mkdir(exist_ok=True)
        (folder / "policy" / "config.json").write_text("{}")
        (folder / "result.json").write_text(json.dumps({"threads": self.config.threads}))
