"""Runs one online arm with one seed: trains with checkpoints, selects the policy, evaluates it."""

import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from experiments.arms import ArmResult, Validation, finish, identify
from experiments.jobs import Report
from experiments.planned import spent
from experiments.run_health import RunHealth
from experiments.stopping import Preempted, Stopping
from rl.backends.distributed import Distributed
from rl.backends.flops import Flops
from rl.backends.trackers import Trackers
from rl.checkpoint import Checkpoints, save_policy, whole_policy
from rl.config import TrainConfig
from rl.rollout_metrics import conversation_rows, describe, errors_trained_on, token_advantages
from rl.tracking import Tracker, is_disk_full
from rl.trainer import Step
from rl.types import RunStoppedError
from rl.workbench import Workbench


def run_online(
    cfg: TrainConfig, folder: Path, report: Report, arm: str | None = None, distributed: Distributed | None = None
) -> ArmResult:
    """Trains with online RL, resuming from the newest checkpoint in the folder if there is one, and evaluates.

    An interrupted run leaves its metrics, episodes and checkpoints in its folder; after most errors also the policy as
    it was (``policy_interrupted``).

    Args:
        cfg: Config of the run.
        folder: Folder of the run.
        report: Called with the current phase, the progress and the newest metrics.
        arm: Name of the arm in tables; ``None`` takes the algorithm's name.
        distributed: Process group, if the caller has set it up already.

    Raises:
        rl.checkpoint.ResumeError: If the folder's checkpoint belongs to another config or other tasks.
        rl.types.RunStoppedError: If the run stopped itself.
    """
    began = spent()
    distributed = distributed or Distributed(mixed_precision=cfg.algorithm.optim.mixed_precision)
    with Stopping(folder, distributed) as stopping:
        run = OnlineRun(cfg, folder, report, distributed, stopping)
        run.train()
        result = ArmResult(arm or cfg.algorithm.name, cfg.seed, totals=asdict(run.trainer.totals))
        if cfg.training.select == "best":
            result.notes["selected"] = run.load_best()
        result = finish(result, run.bench, folder, stopping.asked_by(report), began)
        distributed.wait()
    return result


class OnlineRun:
    """A trainer together with validation, tracking, health checks and checkpoints.

    Args:
        cfg: Config of the run.
        folder: Folder of the run.
        report: Called with the current phase, the progress and the newest metrics.
        distributed: Process group; every process trains, the main process writes files.
        stopping: Checked after every optimiser step; ends the run after a signal.
    """

    def __init__(
        self, cfg: TrainConfig, folder: Path, report: Report, distributed: Distributed, stopping: Stopping
    ) -> None:
        # Identities are compared first, so that a folder is never resumed with another config or other tasks.
        # Validation is built before the checkpoint's weights are loaded, because it may store the base model's first
        # attempts.
        self.bench = Workbench.build(cfg, distributed)
        identity = identify(cfg, "train", folder, distributed)
        self.cfg = cfg = cast(TrainConfig, self.bench.config)
        self.folder, self._report, self._distributed, self._stopping = folder, report, distributed, stopping
        self._validation = Validation(self.bench, report)
        self.trainer = self.bench.trainer()
        self._flops = Flops.of(self.bench.model, distributed.device, cfg)
        self._checkpoints = Checkpoints(folder, cfg.training.keep_last, distributed)
        self._best: dict[str, float] = {}
        self._saving_s, self._saved = 0.0, ""
        found = self._checkpoints.load(self.trainer)
        self.resumed = found is not None
        # Log files are truncated to their size at the checkpoint (a new run's to nothing). Otherwise the steps after
        # the checkpoint, which are now done again, would be logged twice.
        self._best = found["best"] if found is not None else {}
        sizes = found["sizes"] if found is not None else {"metrics": 0, "episodes": 0}
        mirror = Trackers(cfg.tracking, folder, identity.config) if distributed.is_main else None
        self._tracker = Tracker(folder, sizes, mirror) if distributed.is_main else None
        sizes_of_groups = [stage.group_size for stage in self.trainer.stages]
        self._health = RunHealth(cfg.training, folder, sizes_of_groups, distributed)
        self._health.read(self.trainer.step, self.trainer.progress)

    def train(self) -> None:
        """Trains until the budget is spent."""
        if not self.resumed:  # Measures the base model, with which all later validations are compared.
            self._validate()
        try:
            self._stopping.check(lambda: None)  # Since the last checkpoint, if there is one, nothing was learned.
            if self.resumed:
                self._health.stop(lambda: None)
            while not self.trainer.is_done:
                self._after_step(self.trainer.train_step(self._after_update))
        except BaseException as error:
            # After a preemption the policy is in the checkpoint, and a full disk has no room for it. Sharded weights
            # cannot be saved here: gathering them takes all processes, and the others may not have reached this line.
            kept = isinstance(error, Preempted) or is_disk_full(error) or self._distributed.shards
            if self.trainer.n_updates and self._tracker is not None and not kept:
                with suppress(RunStoppedError):  # Raised for non-finite weights; it would hide the original error.
                    save_policy(self.folder / "policy_interrupted", self.bench.model, self.bench.tokenizer)
            raise
        finally:
            if self._tracker is not None:
                self._tracker.close()

    def _after_update(self) -> None:
        every = self.cfg.training.save_every_updates
        if every and self.trainer.n_updates % every == 0:
            self._save()
        self._stopping.check(self._save)

    def _after_step(self, step: Step) -> None:
        cfg, done = self.cfg.training, self.trainer.step
        metrics = describe(step, self._distributed, self._flops)
        metrics["time/checkpoint"], self._saving_s = self._saving_s, 0.0
        errors = errors_trained_on(step, self._distributed)
        self._report("training", self.trainer.progress, metrics)
        if self._tracker is not None:
            self._tracker.log(done, metrics, errors)
            kept = step.episodes[: cfg.keep_episodes]
            self._tracker.episodes(done, kept, token_advantages(step, cfg.keep_episodes))
            n = self.cfg.tracking.conversations
            if n and done % self.cfg.tracking.conversations_every == 0:
                self._tracker.conversations(done, conversation_rows(step, n, self.bench.tokenizer.decode))
        self._health.look(done, metrics, self.trainer.progress)
        if cfg.validate_every and (done % cfg.validate_every == 0 or self.trainer.is_done):
            self._validate()
        # Saved after logging: the file sizes in a checkpoint must include the lines of the step that has just ended.
        updates = cfg.save_every_updates and self.trainer.n_updates % cfg.save_every_updates == 0
        # A checkpoint at the end of training, so that no training is lost if the evaluation fails.
        if updates or (cfg.save_every and (done % cfg.save_every == 0 or self.trainer.is_done)):
            self._save()
        self._stopping.check(self._save)
        self._health.stop(self._save)

    def _validate(self) -> None:
        trainer = self.trainer
        metrics = self._validation.log(self._tracker, trainer.step, trainer.totals.episodes)
        self._health.look(trainer.step, metrics, trainer.progress)
        # The best policy is selected by accuracy of the last attempt on validation tasks. Test tasks are used only in
        # the final evaluation.
        score = metrics[f"eval/validation/accuracy_t{self.cfg.env.attempts}"]
        if self.cfg.training.select == "best" and score > self._best.get("accuracy", -1.0):
            self._best = {"step": trainer.step, "accuracy": score}
            save_policy(self.folder / "policy_best", self.bench.model, self.bench.tokenizer, self._distributed)

    def load_best(self) -> dict[str, float]:
        """Loads the policy with the best validation accuracy into model and engine; returns its step and accuracy.

        The evaluation then measures this policy, and it is saved as the policy of the run.
        """
        from rl.backends.weights import load_pretrained

        load_pretrained(self.bench.model, whole_policy(self.folder / "policy_best"))
        self.bench.publish(self.trainer.step)
        return self._best

    def _save(self) -> None:
        started, name = time.perf_counter(), f"{self.trainer.step:06d}_{self.trainer.n_updates:08d}"
        if name == self._saved:  # The schedule and a signal may both ask for this checkpoint.
            return
        extra: dict[str, Any] = {"best": self._best, "sizes": self._tracker.sizes if self._tracker else {}}
        self._checkpoints.save(name, self.trainer, extra)
        self._saved = name
        self._saving_s += time.perf_counter() - started
