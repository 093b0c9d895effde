"""Where jobs run: in slots of this machine, in this process, as a Slurm array, as tasks of a Ray cluster.

An executor is given folders and starts ``python -m experiments.job <folder>`` for each in a process of its own, with
the devices that it may use in ``CUDA_VISIBLE_DEVICES`` before torch is imported. Everything else goes through the
folder; ``here`` alone does the jobs in its own process. Another module adds an executor by registering it in
:data:`EXECUTORS`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Protocol

from rewards import Lookup
from rl.config.checks import check_numbers, refuse_idle

GRACE_S = 20.0
"""What a job that is asked to stop has to write a checkpoint."""


class JobHandle(Protocol):
    """A job that was handed over; futures of all kinds are such."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        ...

    def exception(self) -> BaseException | None:
        """What it ended with."""
        ...


class Executor(Protocol):
    """Runs jobs. ``threads`` is the number of torch threads that a job gets; 0 leaves torch's own choice."""

    threads: int

    def submit(self, folders: Sequence[Path]) -> Sequence[JobHandle]:
        """Hands jobs over; returns at once."""
        ...

    def stop(self) -> None:
        """Ends what is not done; returns when it has ended."""
        ...


EXECUTORS: Lookup[Callable[[Any, Path], Executor]] = Lookup("executor")


@contextmanager
def running(cfg: Any, folder: Path) -> Iterator[Executor]:
    """The executor that a config asks for; what is not done when the work with it ends is ended, too."""
    executor = EXECUTORS[cfg.executor](EXECUTORS.options(cfg.executor, cfg.executor_options), folder)
    try:
        yield executor
    finally:
        executor.stop()


class JobDiedError(RuntimeError):
    """A job's process ended without a result."""


def start_job(folder: Path, n_gpus: int = 1, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts the job of a folder as a process group of its own; what it prints goes to ``job.log``.

    Args:
        folder: Of the job.
        n_gpus: With more than one, an online arm is started by ``accelerate launch`` with a process for each.
        env: Added to the environment.
    """
    command = [sys.executable, "-m"]
    # Only online arms train with several processes. Read as text: loading the job would load torch in this process.
    if n_gpus > 1 and '"kind": "online"' in (folder / "job.json").read_text():
        command += ["accelerate.commands.launch", "--multi_gpu", "--num_machines=1", f"--num_processes={n_gpus}"]
        command += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "--module"]
    # Appended, so that what an earlier try printed before it died is still there.
    with (folder / "job.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "experiments.job", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", **(env or {})},
            start_new_session=True,  # Ctrl-C is for who started it, who then decides
        )


def finish_job(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Waits for a job; raises :class:`JobDiedError` if it ended badly."""
    # Popen reports death by a signal as its negative number; EX_TEMPFAIL is how a preempted run ends (stopping.py).
    status = process.wait()
    if status < 0:
        raise JobDiedError(f"killed by {signal.Signals(-status).name} (out of memory?); see {folder / 'job.log'}")
    if status == os.EX_TEMPFAIL:
        raise JobDiedError(f"stopped by a signal, and can go on from its checkpoint; see {folder / 'job.log'}")
    if status:
        raise JobDiedError(f"ended with status {status}; see {folder / 'job.log'}")


def run_here(folder: str, cwd: str, n_gpus: int) -> None:
    """Runs a job under whatever scheduler has called this, with the devices that it gave."""
    os.chdir(cwd)
    finish_job(start_job(Path(folder), n_gpus), Path(folder))


@dataclass
class LocalOptions:
    """Of jobs on this machine.

    Args:
        workers: Jobs at once; 0 for one per core, or as many as the GPUs hold.
        threads: Torch threads of a job; 0 for an equal share of the cores.
        gpus: Indices of the GPUs; ``None`` for those of ``CUDA_VISIBLE_DEVICES``, or all.
        gpus_per_job: GPUs of a job, where there are any.
        jobs_per_gpu: Jobs that share a GPU.
    """

    workers: int = 0
    threads: int = 0
    gpus: list[str] | None = None
    gpus_per_job: int = 1
    jobs_per_gpu: int = 1

    def __post_init__(self) -> None:
        if self.gpus is not None:
            if isinstance(self.gpus, str) or not isinstance(self.gpus, Sequence):
                raise ValueError(f"executor_options.gpus={self.gpus}: a list is needed here, as gpus=[0]")
            self.gpus = [str(one) for one in self.gpus]
        check_numbers(self, "executor_options", positive="gpus_per_job jobs_per_gpu", not_negative="workers threads")

    def slots(self) -> list[list[str]]:
        """The GPUs of each slot, empty lists on a machine without.

        Raises:
            ValueError: If a job asks for more GPUs than there are, or for one that there is not.
        """
        here = visible_gpus()
        gpus = here if self.gpus is None else self.gpus
        # Names that are no numbers are of parts of a GPU.
        if unknown := [one for one in gpus if one not in here and (one.isdigit() or not here)]:
            raise ValueError(
                f"executor_options.gpus={gpus}: there is no GPU {', '.join(unknown)} here, "
                + (f"only {', '.join(here)}" if here else "and no other one; leave it away to run on the CPU")
            )
        if not gpus:
            refuse_idle(self, "executor_options", "gpus_per_job jobs_per_gpu", "there is no GPU here; leave it away")
            return [[] for _ in range(self.workers or os.cpu_count() or 1)]
        k = self.gpus_per_job
        if k > len(gpus):
            raise ValueError(f"executor_options.gpus_per_job={k}: there are {len(gpus)} GPUs here ({', '.join(gpus)})")
        # Consecutive GPUs of a job are the likeliest to share a fast link; with several jobs on each, the whole list
        # repeats.
        groups = [gpus[i : i + k] for i in range(0, len(gpus) - k + 1, k)] * self.jobs_per_gpu
        return groups[: self.workers or None]


def visible_gpus() -> list[str]:
    """Indices of the GPUs that this process may use; found out without loading torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [one.strip() for one in named.split(",") if one.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(line for line in done.stdout.splitlines() if line.startswith("GPU "))]


@EXECUTORS.register("local", options=LocalOptions)
class LocalExecutor:
    """Slots of this machine: each holds one job at a time, with its share of cores and its own GPUs."""

    def __init__(self, options: LocalOptions, folder: Path) -> None:
        slots = options.slots()
        self.threads = options.threads or max(1, (os.cpu_count() or 1) // len(slots))
        self._slots: SimpleQueue[list[str]] = SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._pool, self._lock, self._stopped = ThreadPoolExecutor(len(slots)), Lock(), False
        self._running: dict[Path, subprocess.Popen[bytes]] = {}

    def submit(self, folders: Sequence[Path]) -> Sequence[JobHandle]:
        """See :class:`Executor`."""
        return [self._pool.submit(self._run, folder) for folder in folders]

    def _run(self, folder: Path) -> None:
        gpus = self._slots.get()
        env = {"OMP_NUM_THREADS": str(self.threads), "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        try:
            # A job that was queued when ``stop`` came must not start after it has listed what to end.
            with self._lock:
                if self._stopped:
                    return
                process = self._running[folder] = start_job(folder, len(gpus), env)
            finish_job(process, folder)
        finally:
            self._running.pop(folder, None)
            self._slots.put(gpus)

    def stop(self) -> None:
        """See :class:`Executor`; a second Ctrl-C does not wait for checkpoints."""
        with self._lock:
            self._stopped = True
            processes = list(self._running.values())
        # First a signal to each job alone, which writes a checkpoint; then its whole process group, with the verifiers
        # that it started, whatever is left of it.
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            self._pool.shutdown(wait=True, cancel_futures=True)


class _Here:
    """A job of this process: it runs from beginning to end when the caller first asks whether it is done."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._status = folder, None

    def done(self) -> bool:
        from experiments.job import run_job

        if self._status is None:
            self._status = run_job(self._folder)
        return True

    def exception(self) -> BaseException | None:
        return JobDiedError(f"ended with status {self._status}; see {self._folder}") if self._status else None


@EXECUTORS.register("here")
class HereExecutor:
    """This process, one job after another: for notebooks, and for jobs that are shorter than loading torch."""

    def __init__(self, options: None, folder: Path) -> None:
        self.threads = 0

    def submit(self, folders: Sequence[Path]) -> Sequence[JobHandle]:
        """See :class:`Executor`."""
        return [_Here(folder) for folder in folders]

    def stop(self) -> None:
        """See :class:`Executor`: what runs here has ended already."""


@dataclass
class SubmititOptions:
    """Of jobs on a cluster that Slurm schedules.

    Args:
        cluster: ``slurm``, or ``local`` to try it without one.
        timeout_min: After so long a job is stopped, and queued again to go on from its checkpoint.
        cpus_per_job: Cores of a job, and its torch threads.
        gpus_per_job: GPUs of a job; with more than one ``accelerate launch`` starts a process for each.
        parallel: Jobs of the array that run at once.
        parameters: What else submitit takes, such as ``{slurm_partition: gpu, mem_gb: 64}``.
    """

    cluster: str = "slurm"
    timeout_min: int = 1440
    cpus_per_job: int = 8
    gpus_per_job: int = 1
    parallel: int = 256
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = "timeout_min cpus_per_job parallel"
        check_numbers(self, "executor_options", positive=counts, not_negative="gpus_per_job")


class _Resubmitted:
    """A job that Slurm may stop: submitit queues it again, and it goes on from its checkpoint."""

    def __init__(self, folder: Path, n_gpus: int) -> None:
        self._arguments = (str(folder), os.getcwd(), n_gpus)

    def __call__(self) -> None:
        run_here(*self._arguments)

    # Called by submitit before Slurm ends the job; its name is part of submitit's interface.
    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@EXECUTORS.register("submitit", options=SubmititOptions)
class SubmititExecutor:
    """A Slurm array, a job each; what runs out of time or is preempted is queued again."""

    def __init__(self, options: SubmititOptions, folder: Path) -> None:
        import submitit

        self.threads, self._n_gpus = options.cpus_per_job, options.gpus_per_job
        self._executor = submitit.AutoExecutor(folder / "submitit", cluster=options.cluster)
        self._executor.update_parameters(
            timeout_min=options.timeout_min,
            cpus_per_task=options.cpus_per_job,
            gpus_per_node=options.gpus_per_job,
            slurm_array_parallelism=options.parallel,
            **options.parameters,
        )
        self._jobs: list[Any] = []

    def submit(self, folders: Sequence[Path]) -> Sequence[JobHandle]:
        """See :class:`Executor`."""
        # One array instead of a job each: Slurm schedules it as one, and ``parallel`` bounds it.
        with self._executor.batch():
            jobs = [self._executor.submit(_Resubmitted(folder, self._n_gpus)) for folder in folders]
        self._jobs += jobs
        return jobs

    def stop(self) -> None:
        """See :class:`Executor`."""
        for job in self._jobs:
            if not job.done():
                job.cancel()


@dataclass
class RayOptions:
    """Of jobs on a Ray cluster.

    Args:
        address: Of a cluster, ``auto`` for the one that this machine belongs to; ``None`` starts one here.
        cpus_per_job: Cores of a job, and its torch threads.
        gpus_per_job: GPUs of a job.
        init: What else ``ray.init`` takes.
    """

    address: str | None = None
    cpus_per_job: int = 1
    gpus_per_job: int = 0
    init: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(self, "executor_options", positive="cpus_per_job", not_negative="gpus_per_job")


@EXECUTORS.register("ray", options=RayOptions)
class RayExecutor:
    """Tasks of a Ray cluster, one each, with the cores and GPUs that they ask for."""

    def __init__(self, options: RayOptions, folder: Path) -> None:
        import ray

        self.threads, self._n_gpus, self._ray = options.cpus_per_job, options.gpus_per_job, ray
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address=options.address, **(quiet | options.init))
        # A worker process for each job (max_calls), so that no job sees what another left in memory, and no second try
        # by Ray: ``retries`` of the comparison counts tries, and a job goes on from its checkpoint.
        remote = ray.remote(max_calls=1, max_retries=0, num_cpus=options.cpus_per_job, num_gpus=options.gpus_per_job)
        self._run = remote(run_here)
        self._refs: list[Any] = []

    def submit(self, folders: Sequence[Path]) -> Sequence[JobHandle]:
        """See :class:`Executor`."""
        refs = [self._run.remote(str(folder), os.getcwd(), self._n_gpus) for folder in folders]
        self._refs += refs
        return [ref.future() for ref in refs]

    def stop(self) -> None:
        """See :class:`Executor`."""
        for ref in self._refs:
            self._ray.cancel(ref, force=True)  # the job follows the worker that started it
        self._ray.shutdown()
