"""Runs the job of a folder: ``python -m experiments.job <folder>``. Executors start this program; a user can, too."""

import argparse
import ctypes
import json
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


def end_with_parent() -> None:
    """Lets the kernel send SIGTERM to this process when its parent dies, so that no orphaned job keeps running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(folder: Path) -> int:
    """Runs the job of a folder; returns the exit status of the program."""
    try:
        return run_job(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Terminated as error:  # if the job keeps checkpoints, it has saved one and tells where in error.args
        print("stopped by a signal", *error.args, sep="; ", file=sys.stderr)
        return os.EX_TEMPFAIL


def serve() -> int:
    """Loads torch, then forks a process for the job of every folder that standard input names, one after another.

    Standard input holds a folder per line, as JSON. For each job two numbers are printed: its process id when it
    starts, and its exit status when it has ended, negative for a signal.
    """
    # What a library prints goes to job.log; the numbers go to the standard output that this process was given.
    me, numbers = os.getpid(), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import experiments.online  # noqa: F401  # loads nearly all that a job needs

    for line in sys.stdin:
        folder = Path(json.loads(line))
        if (pid := os.fork()) == 0:
            os.setsid()
            numbers.close()
            end_with_parent()
            if os.getppid() != me:  # the parent died before this process asked for the signal
                return os.EX_TEMPFAIL
            with (folder / "job.log").open("ab") as log, Path(os.devnull).open("rb") as nothing:
                for stream, file in enumerate((nothing, log, log)):
                    os.dup2(file.fileno(), stream)
            return main(folder)
        print(pid, file=numbers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=numbers, flush=True)
    return 0


if __name__ == "__main__":
    end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m experiments.job", description="Does the job of a folder.")
    parser.add_argument("folder", type=Path, nargs="?", help="with the job.json that an executor wrote")
    parser.add_argument("--serve", action="store_true", help="do the jobs of the folders that standard input names")
    arguments = parser.parse_args()
    if arguments.serve:
        sys.exit(serve())
    if arguments.folder is None:
        parser.error("name the folder of a job")
    sys.exit(main(arguments.folder))
