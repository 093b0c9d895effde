"""Where jobs run: in slots of this machine, in this process, as a Slurm array, as tasks of a Ray cluster.

An executor is given folders and runs the job of each (``python -m experiments.job <folder>``) in a separate process,
with the GPUs that the job may use in ``CUDA_VISIBLE_DEVICES`` before torch is imported; on a CPU the processes are
forked from one that has imported torch (:class:`experiments.slots.Slot`). All other communication uses files in the
folder. Only the executor ``here`` runs jobs in its own process. Another module adds an executor by registering it in
:data:`EXECUTORS`.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Protocol

from experiments.slots import JobDiedError, Slot, refuse_failed, start_job
from rewards import Lookup
from rl.config.checks import check_numbers, refuse_idle

GRACE_S = 20.0
"""Seconds that a job gets to write a checkpoint after it was asked to stop."""


class JobHandle(Protocol):
    """A submitted job; futures of all kinds have this interface."""

    def done(self) -> bool:
        """Whether the job has ended, successfully or not."""
        ...

    def exception(self) -> BaseException | None:
        """The error that the job ended with; ``None`` if it succeeded."""
        ...


class Executor(Protocol):
    """Runs jobs; ``threads`` is the number of torch threads per job, where 0 keeps torch's default."""

    threads: int

    def submit(self, folders: Sequence[Path]) -> Sequence[JobHandle]:
        """Submits the jobs of these folders and returns a handle for each, without waiting for the jobs."""
        ...

    def stop(self) -> None:
        """Ends all jobs that are not done."""
        ...


EXECUTORS: Lookup[Callable[[Any, Path], Executor]] = Lookup("executor")


@contextmanager
def running(cfg: Any, folder: Path) -> Iterator[Executor]:
    """Yields the executor that a config asks for, and ends its unfinished jobs on leaving the ``with`` block."""
    executor = EXECUTORS[cfg.executor](EXECUTORS.options(cfg.executor, cfg.executor_options), folder)
    try:
        yield executor
    finally:
        executor.stop()


def run_here(folder: str, cwd: str, n_gpus: int) -> None:
    """Runs a job inside a task of Slurm or Ray, with the GPUs that the scheduler assigned to the task."""
    os.chdir(cwd)
    refuse_failed(start_job(Path(folder), n_gpus).wait(), Path(folder))


@dataclass
class LocalOptions:
    """Options of the executor ``local``, which runs jobs on this machine.

    Args:
        workers: Jobs that run at once; 0 for one per core, or with GPUs for as many as the GPUs hold.
        threads: Torch threads per job; 0 for an equal share of the cores.
        gpus: Indices of the GPUs to use; ``None`` for those of ``CUDA_VISIBLE_DEVICES``, or all if it is not set.
        gpus_per_job: GPUs per job, on a machine with GPUs.
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
        """The GPUs of each slot: one list per slot, empty lists on a machine without GPUs.

        Raises:
            ValueError: If a job needs more GPUs than there are, or ``gpus`` names a GPU that does not exist.
        """
        here = visible_gpus()
        gpus = here if self.gpus is None else self.gpus
        # Names that are no numbers, such as UUIDs of MIG parts, are not among the indices and cannot be checked.
        if unknown := [one for one in gpus if one not in here and (one.isdigit() or not here)]:
            raise ValueError(
                f"executor_options.gpus={gpus}: there is no GPU {', '.join(unknown)} here, "
                + (f"only {', '.join(here)}" if here else "and no other one; remove it to run on the CPU")
            )
        if not gpus:
            refuse_idle(self, "executor_options", "gpus_per_job jobs_per_gpu", "there is no GPU here; remove it")
            return [[] for _ in range(self.workers or os.cpu_count() or 1)]
        k = self.gpus_per_job
        if k > len(gpus):
            raise ValueError(f"executor_options.gpus_per_job={k}: there are {len(gpus)} GPUs here ({', '.join(gpus)})")
        # A job gets consecutive GPUs because these most likely share a fast link. The whole list of groups repeats, so
        # that a GPU gets a second job only after every GPU has one.
        groups = [gpus[i : i + k] for i in range(0, len(gpus) - k + 1, k)] * self.jobs_per_gpu
        return groups[: self.workers or None]


def visible_gpus() -> list[str]:
    """Indices (or names, from ``CUDA_VISIBLE_DEVICES``) of the GPUs that this process may use; does not load torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [one.strip() for one in named.split(",") if one.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(line for line in done.stdout.splitlines() if line.startswith("GPU "))]


@EXECUTORS.register("local", options=LocalOptions)
class LocalExecutor:
    """Slots of this machine: each slot runs one job at a time, with its share of the cores and its GPUs."""

    def __init__(self, options: LocalOptions, folder: Path) -> None:
        gpus = options.slots()
        self.threads = options.threads or max(1, (os.cpu_count() or 1) // len(gpus))
        self._slots = [Slot(of_one, self.threads) for of_one in gpus]
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)
        self._pool, self._lock, self._stopped = ThreadPoolExecutor(len(gpus)), Lock(), False
        self._jobs: list[Future[None]] = []

    def submit(self, folders: Sequence[Path]) -> Sequence[JobHandle]:
        """See :class:`Executor`."""
        jobs = [self._pool.submit(self._run, folder) for folder in folders]
        self._jobs += jobs
        return jobs

    def _run(self, folder: Path) -> None:
        slot = self._free.get()
        try:
            # ``stop`` ends the jobs once. A queued job that started after that would not be ended.
            with self._lock:
                if self._stopped:
                    return
                slot.open(folder)
            slot.run(folder)
        finally:
            self._free.put(slot)

    def stop(self) -> None:
        """See :class:`Executor`; a second Ctrl-C ends the jobs without waiting for their checkpoints."""
        # First SIGTERM to the process of each job alone, which then writes a checkpoint. Then SIGKILL to what is left
        # of the job's process group, such as programs that a user's verifier has started.
        jobs: list[int | None] = []
        try:
            with self._lock:
                self._stopped = True
                jobs += [slot.ask_to_stop() for slot in self._slots]
            wait(self._jobs, GRACE_S)
        finally:
            for job in filter(None, jobs):
                with suppress(ProcessLookupError):
                    os.killpg(job, signal.SIGKILL)
            for slot in self._slots:
                slot.end()
            self._pool.shutdown(wait=True, cancel_futures=True)


class _Here:
    """A job in this process: the first call of ``done`` runs the whole job."""

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
    """Runs jobs in this process, one after another: for notebooks, and for jobs that are shorter than loading torch."""

    def __init__(self, options: None, folder: Path) -> None:
        self.threads = 0

    def submit(self, folders: Sequence[Path]) -> Sequence[JobHandle]:
        """See :class:`Executor`."""
        return [_Here(folder) for folder in folders]

    def stop(self) -> None:
        """See :class:`Executor`; there is nothing to end, since jobs run only inside ``done``."""


@dataclass
class SubmititOptions:
    """Options of the executor ``submitit``, which runs jobs on a Slurm cluster.

    Args:
        cluster: ``slurm``, or ``local`` to try the executor without a cluster.
        timeout_min: Time limit of a job in minutes; after it, the job is queued again and resumes from its checkpoint.
        cpus_per_job: Cores per job, and number of its torch threads.
        gpus_per_job: GPUs per job; with more than one, an online arm is started with a process per GPU.
        parallel: Jobs of the array that run at once.
        parameters: Further parameters of submitit, such as ``{slurm_partition: gpu, mem_gb: 64}``.
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
    """A job that Slurm may stop: submitit queues it again, and the job resumes from its checkpoint."""

    def __init__(self, folder: Path, n_gpus: int) -> None:
        self._arguments = (str(folder), os.getcwd(), n_gpus)

    def __call__(self) -> None:
        run_here(*self._arguments)

    # submitit calls the method of this name before Slurm ends the job, and submits what it returns.
    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@EXECUTORS.register("submitit", options=SubmititOptions)
class SubmititExecutor:
    """Runs jobs as a Slurm array; a job that runs out of time or is preempted is queued again."""

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
        # A batch submits all jobs as one Slurm array, so that ``parallel`` limits how many of them run at once.
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
    """Options of the executor ``ray``, which runs jobs on a Ray cluster.

    Args:
        address: Address of a cluster; ``auto`` for the cluster of this machine, ``None`` to start a new one here.
        cpus_per_job: Cores per job, and number of its torch threads.
        gpus_per_job: GPUs per job.
        init: Further arguments of ``ray.init``.
    """

    address: str | None = None
    cpus_per_job: int = 1
    gpus_per_job: int = 0
    init: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(self, "executor_options", positive="cpus_per_job", not_negative="gpus_per_job")


@EXECUTORS.register("ray", options=RayOptions)
class RayExecutor:
    """Runs each job as a task of a Ray cluster, with the cores and GPUs that it needs."""

    def __init__(self, options: RayOptions, folder: Path) -> None:
        import ray

        self.threads, self._n_gpus, self._ray = options.cpus_per_job, options.gpus_per_job, ray
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address=options.address, **(quiet | options.init))
        # max_calls=1: every job gets a fresh worker process, so that none sees what another has left in memory.
        # max_retries=0: the comparison's own ``retries`` decides how often a job is tried again.
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
            self._ray.cancel(ref, force=True)  # ends the worker; the job's process ends when its parent dies (job.py)
        self._ray.shutdown()
