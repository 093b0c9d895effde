"""Does the job of a folder: ``python -m experiments.job <folder>``. Executors start it; a person can, too."""

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
    """Runs the job of a folder in this process; returns its exit status.

    What it raises is written to ``error.txt``, but for what a signal of the cluster ends it with.
    """
    job, last = Job.read(folder), 0.0

    def report(what: str, share: float, metrics: dict[str, float]) -> None:
        nonlocal last
        # Steps of toys take milliseconds; a file for each would cost more than the step, on a cluster's file system
        # above all.
        if time.monotonic() - last > PROGRESS_EVERY_S or share >= 1.0:
            last = time.monotonic()
            write_json(folder / "progress.json", {"what": what, "share": share, "metrics": metrics})

    # Set by accelerate's launcher: of the processes of a job, one reports and waits for the lock.
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
    """A job that is queued again may begin while the process that was stopped still writes its checkpoint."""
    from experiments.folders import BEAT_S, STALE_S, holder  # with torch, which not every job needs

    until = time.monotonic() + STALE_S + BEAT_S
    while holder(folder) is not None and time.monotonic() < until:
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.platform == "linux":  # whatever becomes of who started this job, it does not stay behind
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parser = argparse.ArgumentParser(prog="python -m experiments.job", description="Does the job of a folder.")
    parser.add_argument("folder", type=Path, help="with the job.json that an executor wrote")
    try:
        sys.exit(run_job(parser.parse_args().folder))
    except UserError as error:
        sys.exit(f"error: {error}")
    except Terminated as error:  # it has saved what there is
        print("stopped by a signal", *error.args, sep="; ", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
