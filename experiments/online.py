"""One online arm with one seed: train with checkpoints, choose the policy, evaluate."""

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
    """Online RL, from the newest checkpoint in the folder if there is one.

    An interrupted run leaves its metrics, its episodes, its checkpoints and the policy as it was in its folder.

    Args:
        cfg: The run.
        folder: Of the run.
        report: Told what is going on.
        arm: Its name in tables; ``None`` takes the algorithm's.
        distributed: Processes, if they are known already.

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
    """A trainer with everything around it: validation, tracking, checkpoints.

    Args:
        cfg: The run.
        folder: Of the run.
        report: Told what is going on.
        distributed: Processes; every one trains, the first one writes.
        stopping: Asked after every optimiser step whether the run is to be left.
    """

    def __init__(
        self, cfg: TrainConfig, folder: Path, report: Report, distributed: Distributed, stopping: Stopping
    ) -> None:
        # A resumed run must be the run that the folder holds, so identities are compared first. Validation is built
        # while the model still is the base, whose first attempts it may keep; the checkpoint's weights come after.
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
        # Files are cut back to what they held at the checkpoint (a new run's to nothing), then written on.
        self._best = found["best"] if found is not None else {}
        sizes = found["sizes"] if found is not None else {"metrics": 0, "episodes": 0}
        mirror = Trackers(cfg.tracking, folder, identity.config) if distributed.is_main else None
        self._tracker = Tracker(folder, sizes, mirror) if distributed.is_main else None
        self._health = RunHealth(cfg.training, folder, cfg.algorithm.group_size, distributed)
        self._health.read(self.trainer.step, self.trainer.progress)

    def train(self) -> None:
        """Trains to the end of the budget."""
        if not self.resumed:  # the base, as what everything later is compared with
            self._validate()
        try:
            while not self.trainer.is_done:
                self._after_step(self.trainer.train_step(self._after_update))
        except BaseException as error:
            # Gathering sharded weights takes all processes, and the others may be anywhere.
            kept = isinstance(error, Preempted) or is_disk_full(error) or self._distributed.shards
            if self.trainer.n_updates and self._tracker is not None and not kept:
                with suppress(RunStoppedError):  # a policy that is not finite; the error itself says so
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
        # Saved last: the sizes of files in a checkpoint must cover the lines of the step that it stands behind.
        updates = cfg.save_every_updates and self.trainer.n_updates % cfg.save_every_updates == 0
        # The last one keeps a failure of the evaluation from costing any training.
        if updates or (cfg.save_every and (done % cfg.save_every == 0 or self.trainer.is_done)):
            self._save()
        self._stopping.check(self._save)
        self._health.stop(self._save)

    def _validate(self) -> None:
        trainer = self.trainer
        metrics = self._validation.log(self._tracker, trainer.step, trainer.totals.episodes)
        self._health.look(trainer.step, metrics, trainer.progress)
        # Chosen by the last attempt on validation tasks; test tasks are never looked at before the end.
        score = metrics[f"eval/validation/accuracy_t{self.cfg.env.attempts}"]
        if self.cfg.training.select == "best" and score > self._best.get("accuracy", -1.0):
            self._best = {"step": trainer.step, "accuracy": score}
            save_policy(self.folder / "policy_best", self.bench.model, self.bench.tokenizer, self._distributed)

    def load_best(self) -> dict[str, float]:
        """Makes the engine sample from the policy with the best validation; returns its step and accuracy.

        Evaluation and the saved policy are then that policy's.
        """
        from rl.backends.weights import load_pretrained

        load_pretrained(self.bench.model, whole_policy(self.folder / "policy_best"))
        self.bench.publish(self.trainer.step)
        return self._best

    def _save(self) -> None:
        started, name = time.perf_counter(), f"{self.trainer.step:06d}_{self.trainer.n_updates:08d}"
        if name == self._saved:  # the schedule and a signal may ask for the same one
            return
        extra: dict[str, Any] = {"best": self._best, "sizes": self._tracker.sizes if self._tracker else {}}
        self._checkpoints.save(name, self.trainer, extra)
        self._saved = name
        self._saving_s += time.perf_counter() - started
