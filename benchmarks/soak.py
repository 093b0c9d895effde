"""Soak test of many short runs that are killed, damaged and resumed in one folder: ``python -m benchmarks.soak``.

All runs start at once with ``resume=auto`` and are killed at random moments by SIGTERM or SIGKILL, each up to a fixed
number of times. The last run is also killed whenever it has two checkpoints, until the newest checkpoint was damaged
once and the disk was full once; this way both happen on a machine of any speed. Each time a process ends early, the
same command is given again. At the end there must be one finished folder per run, at least one run must have fallen
back from a damaged checkpoint, and no folder with an identity may be unfinished. Policy and evaluated rows must equal
those of an undisturbed run with the same seed byte for byte, and metrics must be equal except for times and system
figures.
"""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork

from experiments.stopping import EXIT_PREEMPTED
from experiments.train import main as train
from rl.checkpoint import IDENTITY, read_identity
from rl.tracking import read_jsonl

ARGUMENTS = [
    *("algorithm=rloo", "algorithm.group_size=4", "training.tasks_per_step=4", "threads=1", "training.keep_last=2"),
    *("training.save_every=1", "training.validate_every=5", "evaluation.samples_per_task=0", "evaluation.n_tasks=20"),
    *("env.options.n_train=64", "env.options.n_validation=10", "env.options.n_test=20", "name=soak"),
]
FILES = ("policy/model.safetensors", "rows.jsonl")
SIZES = {"ci": (4, 6, 1), "full": (30, 40, 2)}
"""By name of the size: number of runs, training steps of each run, and most random kills of each run."""
DISK_FULL = 2
"""Exit status of a run that stops itself, as a run on a full disk does."""


@dataclass
class Run:
    """One run: the random kills still to come, its current process, and the folder that its last process had locked.

    ``starved`` says that the disk pretends to be full for the current process.
    """

    seed: int
    log: Path
    kills: int
    pid: int = 0
    done: bool = False
    starved: bool = False
    folder: Path | None = None


def main() -> None:
    """Runs the experiment and prints its outcome; the exit status is 1 if a check failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument(
        "--tmpfs", action="store_true", help="fill a real file system of 256 MiB, as root, not a fake one"
    )
    options = parser.parse_args()
    n_runs, n_steps, n_kills = SIZES[options.size]
    shutil.rmtree(options.folder, ignore_errors=True)
    outcome = soak(options.folder.resolve(), n_runs, n_steps, n_kills, options.tmpfs)
    print(json.dumps(outcome, indent=1))
    sys.exit(bool(outcome["different"] or outcome["finished"] != n_runs or not outcome["fallbacks"]))


def soak(folder: Path, n_runs: int, n_steps: int, n_kills: int, tmpfs: bool = False) -> dict:
    """Runs every seed undisturbed, then all runs with disturbances, and compares the results.

    Two disturbed runs share each seed, so that they compete for each other's folders.

    Args:
        folder: Folder for all runs and logs.
        n_runs: Number of disturbed runs.
        n_steps: Rollout batches of each run.
        n_kills: Maximum number of random kills of each disturbed run.
        tmpfs: Mount a small file system and fill it, which needs root; otherwise the disk pretends to be full for one
            process.
    """
    began, rng = time.monotonic(), random.Random(0)
    quiet, wild = folder / "undisturbed", folder / "disturbed"
    for path in (quiet, wild, folder / "logs"):
        path.mkdir(parents=True)
    seeds = [number // 2 for number in range(n_runs)]
    calm = [Run(seed, folder / "logs" / f"calm_{seed}", 0) for seed in sorted(set(seeds))]
    with ended(calm):
        drive(calm, quiet, n_steps, rng, [])
    if tmpfs:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(wild)], check=True)
    runs = [Run(seed, folder / "logs" / f"run_{number}", n_kills) for number, seed in enumerate(seeds)]
    events: list[str] = []
    try:
        with ended(runs):
            drive(runs, wild, n_steps, rng, events, misfortunes=["full mount" if tmpfs else "full disk", "damage"])
        return {
            "runs": n_runs,
            "seconds": round(time.monotonic() - began),
            "events": {event: events.count(event) for event in sorted(set(events))},
            "fallbacks": sum(run.log.read_text().count("is damaged") for run in runs),
            "finished": sum((path / "policy" / "config.json").exists() for path in wild.glob("soak/*")),
            "different": compare(quiet / "soak", wild / "soak"),
        }
    finally:
        if tmpfs:
            subprocess.run(["umount", str(wild)], check=True)


@contextmanager
def ended(runs: list[Run]) -> Iterator[None]:
    """Kills the processes of all unfinished runs on leaving, so that none outlives an experiment that failed."""
    try:
        yield
    finally:
        for run in runs:
            if not run.done and run.pid:
                os.kill(run.pid, signal.SIGKILL)
                os.waitpid(run.pid, 0)


def drive(
    runs: list[Run],
    folder: Path,
    n_steps: int,
    rng: random.Random,
    events: list[str],
    misfortunes: Sequence[str] = (),
) -> None:
    """Starts all runs, disturbs them, and restarts each with the same command until it ends with status 0.

    As long as one of the misfortunes has not happened, the last run kills itself whenever it has two checkpoints. The
    names of all that happened are appended to ``events``.
    """
    left, ballast = list(misfortunes), folder / "ballast"
    for run in runs:
        start(run, folder, n_steps, doomed=bool(left) and run is runs[-1])
    while not all(run.done for run in runs):
        time.sleep(0.05)
        for run in (run for run in runs if not run.done):
            pid, status = os.waitpid(run.pid, os.WNOHANG)
            if not pid:
                # A run on a full disk is not killed, because the test is whether it ends by itself.
                if run.kills and not run.starved and rng.random() < 0.1 / len(runs):
                    run.kills -= 1
                    os.kill(run.pid, rng.choice([signal.SIGTERM, signal.SIGKILL]))
                continue
            code = os.waitstatus_to_exitcode(status)
            events.append(f"ended with {code}")
            run.folder = at_work(folder).get(run.pid)  # a killed process leaves its lock behind, which names its folder
            run.pid, run.done = 0, code == 0
            if code == DISK_FULL and "no space left" in run.log.read_text()[-1000:]:
                ballast.unlink(missing_ok=True)
                events.append("no space left")
            elif code not in (0, EXIT_PREEMPTED, -signal.SIGKILL, -signal.SIGTERM):
                raise RuntimeError(f"{run.log}: ended with {code}")
            if run.done:
                continue
            run.starved = befall(folder, run, runs, left, rng, events) == "full disk"
            start(run, folder, n_steps, run.starved, doomed=bool(left) and run is runs[-1])


def befall(folder: Path, run: Run, runs: list[Run], left: list[str], rng: random.Random, events: list[str]) -> str:
    """Picks and causes at most one misfortune while a run is down, removes it from ``left`` and returns its name.

    ``damage`` and ``full mount`` happen here; for ``full disk`` the caller starts the next process accordingly. Returns
    an empty string if nothing happens.
    """
    # Damage is done only if no process can be using the folder: another run of the same seed may have taken it over,
    # and a process without a folder may be about to.
    others, working = {other.pid for other in runs if other.pid and other.seed == run.seed}, at_work(folder)
    free = others <= working.keys() and run.folder not in [working[pid] for pid in others]
    can_harm = "damage" in left and n_checkpoints(run) >= 2 and free
    what = "damage" if can_harm else next((name for name in left if name != "damage"), "")
    if not what:
        return ""
    left.remove(what)
    events.append(what)
    if what == "damage" and run.folder is not None:
        damage(run.folder / "checkpoints", rng)
    if what == "full mount":
        fill(folder / "ballast")
    return what


def at_work(folder: Path) -> dict[int, Path]:
    """Maps the process ids in the lock files to the folders that they lock."""
    locks = ((json.loads(path.read_text() or "{}"), path.parent) for path in folder.glob("soak/*/.lock.*"))
    return {lock["pid"]: path for lock, path in locks if lock}


def n_checkpoints(run: Run) -> int:
    """Number of complete checkpoints in the folder of a run; 0 if the run has no folder or is finished."""
    if run.folder is None or (run.folder / "result.json").exists():
        return 0
    return len(list(run.folder.glob("checkpoints/[0-9]*")))


def start(run: Run, folder: Path, n_steps: int, disk_full: bool = False, doomed: bool = False) -> None:
    """Starts the training command in a forked process, which may see a full disk or kill itself (``doomed``)."""
    # This process has imported everything. Importing takes longer than a step of these runs, so a fresh interpreter
    # after every kill would add minutes.
    run.pid = os.fork()
    if run.pid:
        return
    code = 1
    try:
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        episodes = 16 * n_steps
        resume = [f"runs_dir={folder}", f"seed={run.seed}", f"training.episodes={episodes}", "resume=auto"]
        sys.argv = ["experiments.train", *ARGUMENTS, *resume]
        if disk_full:
            break_the_disk()
        elif doomed:
            die_with_two_checkpoints()
        train()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # sys.exit would run the parent's exit handlers and flush its open files in this process


def break_the_disk() -> None:
    """Replaces ``os.fsync`` in this process, so that it reports a full disk from the fourth call on."""
    real, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    os.fsync = fsync


def die_with_two_checkpoints() -> None:
    """Replaces ``os.fsync``, so that this process kills itself once its folder has two complete checkpoints."""
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        synced = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if synced.name == "checkpoints" and len(list(synced.glob("[0-9]*"))) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync


def fill(ballast: Path) -> None:
    """Writes a file until the file system is full."""
    try:
        with ballast.open("wb") as file:
            while True:
                file.write(bytes(2**16))
    except OSError:
        pass


def damage(checkpoints: Path, rng: random.Random) -> None:
    """Flips one bit in a file of the newest checkpoint."""
    path = max(checkpoints.glob("[0-9]*")) / rng.choice(["__0_0.distcp", "rank_0.pt"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # the file keeps its length, so only a hash of its content can show the damage
    path.write_bytes(data)


def compare(quiet: Path, wild: Path) -> list[str]:
    """Names the disturbed runs whose policy, rows or metrics differ from the undisturbed run of the same seed."""
    expected = {read_identity(run).config["seed"]: run for run in quiet.iterdir()}
    different = []
    for run in wild.iterdir():
        if not (run / IDENTITY).exists():
            continue  # killed before it wrote its identity
        calm = expected[read_identity(run).config["seed"]]
        same = [(run / name).read_bytes() == (calm / name).read_bytes() for name in FILES]
        metrics = [[without_times(row) for row in read_jsonl(path / "metrics.jsonl")] for path in (run, calm)]
        if not all(same) or metrics[0] != metrics[1]:
            different.append(f"{run.name} (seed {read_identity(run).config['seed']})")
    return different


def without_times(row: dict) -> dict:
    """A row of metrics without the metrics that depend on time or on the machine's state."""
    return {name: value for name, value in row.items() if not name.startswith(("time/", "system/"))}


if __name__ == "__main__":
    main()
