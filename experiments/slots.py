"""Processes of jobs on one machine: how a job is started, how it ends, and slots that run one job at a time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class JobDiedError(RuntimeError):
    """A job's process ended without a result."""


def start(
    command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, **streams: Any
) -> subprocess.Popen[str]:
    """Starts a module in a new session (its own process group); its output goes to ``job.log`` in a job's folder.

    Args:
        command: Name and arguments of the module.
        folder: Folder of the job.
        env: Environment variables that are added to those of this process.
        streams: Standard streams that do not go to ``job.log``.
    """
    # Append, to keep the output of earlier tries, which may show why they died.
    with (folder / "job.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", **(env or {})},
            start_new_session=True,  # Ctrl-C then reaches only this process, which ends its jobs in ``stop``
            text=True,
            **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | streams,
        )


def start_job(folder: Path, n_gpus: int = 1, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts the job of a folder; with several GPUs, ``accelerate launch`` starts an online arm with a process per GPU.

    Args:
        folder: Folder of the job.
        n_gpus: Number of GPUs.
        env: Environment variables that are added to those of this process.
    """
    command = ["experiments.job", str(folder)]
    # Only online arms train with several processes. The file is searched as text because loading the job would load
    # torch in this process.
    if n_gpus > 1 and '"kind": "online"' in (folder / "job.json").read_text():
        launch = ["accelerate.commands.launch", "--multi_gpu", "--num_machines=1", f"--num_processes={n_gpus}"]
        launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "--module"]
        command = [*launch, *command]
    return start(command, folder, env)


def refuse_failed(status: int, folder: Path) -> None:
    """Raises :class:`JobDiedError` if the exit status of a job is not 0; a negative one is the number of a signal."""
    # A preempted run exits with EX_TEMPFAIL (experiments/stopping.py).
    if status < 0:
        raise JobDiedError(f"killed by {signal.Signals(-status).name} (out of memory?); see {folder / 'job.log'}")
    if status == os.EX_TEMPFAIL:
        raise JobDiedError(f"stopped by a signal, and can continue from its checkpoint; see {folder / 'job.log'}")
    if status:
        raise JobDiedError(f"ended with status {status}; see {folder / 'job.log'}")


class Slot:
    """Runs one job at a time on its GPUs. Without GPUs all its jobs are forked from one process that has loaded torch.

    Loading torch and transformers takes five seconds, and a whole job of a toy model about thirty. CUDA cannot be used
    in a forked process, so with GPUs every job loads them anew.

    Args:
        gpus: GPUs that the slot's jobs see.
        threads: Torch threads of a job.
    """

    def __init__(self, gpus: Sequence[str], threads: int) -> None:
        self._gpus = gpus
        self._env = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        self._process: subprocess.Popen[str] | None = None
        """The running job or, without GPUs, the process that forks the jobs."""
        self._job: int | None = None
        """Process id of the running job."""

    def open(self, folder: Path) -> None:
        """Starts what the job of a folder needs, without waiting for it."""
        if self._gpus:
            self._process = start_job(folder, len(self._gpus), self._env)
            self._job = self._process.pid
        elif self._process is None or self._process.poll() is not None:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = start(["experiments.job", "--serve"], folder, self._env, **streams)

    def run(self, folder: Path) -> None:
        """Runs the job of a folder for which the slot was opened; raises :class:`JobDiedError` if it fails."""
        process: Any = self._process
        if self._gpus:
            status = process.wait()
        else:
            try:
                process.stdin.write(f"{json.dumps(str(folder))}\n")
                process.stdin.flush()
                self._job = int(process.stdout.readline())
                status = int(process.stdout.readline())
            except (BrokenPipeError, ValueError):  # the process has died, or said something that is no number
                process.kill()
                status = process.wait() or 1
        self._job = None
        refuse_failed(status, folder)

    def ask_to_stop(self) -> int | None:
        """Sends SIGTERM to the running job, which then writes a checkpoint; returns its process id, or nothing."""
        job = self._job
        with suppress(ProcessLookupError):
            if job is not None:
                os.kill(job, signal.SIGTERM)
            elif self._process is not None and not self._gpus:  # it still loads torch, or waits for a job
                self._process.kill()
        return job

    def end(self) -> None:
        """Ends the slot's process, which forks no further job then."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
