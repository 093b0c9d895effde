"""Runs the job of a folder: ``python -m experiments.job <folder>``. Executors start this program; a user can, too."""

import argparse
import ctypes
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from experiments.cli import Terminated, UserError
from experiments.jobs import Job
from rl.tracking import write_json, write_text

PROGRESS_EVERY_S = 0.5
_PR_SET_PDEATHSIG = 1


def run_job(folder: Path) -> int:
    """Runs the job of a folder in this process; returns 0, or 1 if the job failed.

    The traceback of a failed job is written to ``error.txt``. Ctrl-C and signals of a cluster are not caught here.
    """
    job, last = Job.read(folder), 0.0

    def report(what: str, share: float, metrics: dict[str, float]) -> None:
        nonlocal last
        # A step of a toy run takes milliseconds. Writing a file after each would take longer than the step, especially
        # on a cluster's file system.
        if time.monotonic() - last > PROGRESS_EVERY_S or share >= 1.0:
            last = time.monotonic()
            write_json(folder / "progress.json", {"what": what, "share": share, "metrics": metrics})

    # RANK is set by accelerate's launcher. Of several processes of a job, only that of rank 0 reports progress and
    # waits for the lock.
    is_main = os.environ.get("RANK", "0") == "0"
    if is_main and any(folder.glob(".lock.*")):
        wait_for_holder(folder)
    try:
        job.arm.run(job.seed, folder, report if is_main else lambda *_: None)
    except Exception:
        write_text(folder / "error.txt", traceback.format_exc())
        traceback.print_exc()
        return 1
    return 0


def wait_for_holder(folder: Path) -> None:
    """Waits while a process holds the folder: a requeued job may start while the old one still writes a checkpoint."""
    from experiments.folders import BEAT_S, STALE_S, holder  # imported here because it loads torch

    until = time.monotonic() + STALE_S + BEAT_S
    while holder(folder) is not None and time.monotonic() < until:
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.platform == "linux":  # the kernel sends SIGTERM when the parent dies, so that no orphaned job keeps running
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parser = argparse.ArgumentParser(prog="python -m experiments.job", description="Does the job of a folder.")
    parser.add_argument("folder", type=Path, help="with the job.json that an executor wrote")
    try:
        sys.exit(run_job(parser.parse_args().folder))
    except UserError as error:
        sys.exit(f"error: {error}")
    except Terminated as error:  # if the job keeps checkpoints, it has saved one and tells where in error.args
        print("stopped by a signal", *error.args, sep="; ", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
