"""TRL's side of the benchmarks: ``GRPOTrainer`` with a ``rollout_func`` that plays our environment for two turns.

It is written as a TRL user would write it for one machine. ``model.generate`` is called once per turn, on left-padded
batches. The chat template renders the review request as new tokens after the sampled ones, and ``env_mask`` is 0 on
tokens that the policy did not write. TRL asks for log-probs of the sampler but does not read them without vLLM, so none
are computed.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.train_step import hand_over, wait_for_turn
from envs import Split, Task
from rl.config import TrainConfig
from rl.losses import LOSSES
from rl.workbench import Workbench, make_env


@dataclass(slots=True)
class Spent:
    """Seconds, sampled tokens and episodes of all sampling so far."""

    seconds: float = 0.0
    sampled_tokens: int = 0
    episodes: int = 0


@dataclass(slots=True)
class TwoTurns:
    """TRL's ``rollout_func``; ``benchmarks.rollout`` calls :meth:`play` without a trainer.

    Args:
        bench: Workbench with the tasks, the renderer and the tokenizer.
        config: Config with the environment, temperature and token limits.
        warmup: Token limit of each turn in the first batch; 0 uses the config's limits.
        spent: Totals of the sampling so far.
    """

    bench: Workbench
    config: TrainConfig
    warmup: int = 0
    spent: Spent = field(default_factory=Spent)

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Plays one episode per prompt with the trainer's model."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        return self.play([self._task(prompt) for prompt in prompts], model)

    def _task(self, prompt: Any) -> Task:
        return self._tasks()[prompt[-1]["content"]]

    def _tasks(self) -> dict[str, Task]:
        if not _TASKS:
            env = make_env(self.config.env, self.bench.taskset, Split.TRAIN)
            for task in self.bench.tasks(Split.TRAIN):
                messages, _ = env.reset(options={"task": task})
                assert not isinstance(messages, str)  # the environments of the benchmarks return messages
                _TASKS[messages[-1].content] = task
        return _TASKS

    def play(self, tasks: Sequence[Task], model: Any) -> dict[str, Any]:
        """Plays ``config.env.attempts`` turns of every task and returns what TRL expects of a ``rollout_func``."""
        renderer, started = self.bench.renderer, time.perf_counter()
        envs = [make_env(self.config.env, self.bench.taskset, Split.TRAIN) for _ in tasks]
        prompts = [
            renderer.opening(cast(Any, env.reset(options={"task": task})[0]))
            for env, task in zip(envs, tasks, strict=True)
        ]
        contexts, masks, rewards = list(prompts), [[] for _ in tasks], [0.0] * len(tasks)
        training = model.training
        model.eval()
        for turn in range(self.config.env.attempts):
            replies = self._generate(model, contexts, turn)
            self.spent.sampled_tokens += sum(map(len, replies))
            for i, (env, reply) in enumerate(zip(envs, replies, strict=True)):
                messages, reward, *_ = env.step(renderer.text(reply))
                rewards[i] += reward
                masks[i] += [1] * len(reply)
                before = contexts[i] + reply
                contexts[i] = renderer.extend(contexts[i], reply, cast(Any, messages)) if messages else before
                masks[i] += [0] * (len(contexts[i]) - len(before))
        model.train(training)
        self.spent.seconds += time.perf_counter() - started
        self.spent.episodes += len(tasks)
        return {
            "prompt_ids": [list(prompt) for prompt in prompts],
            "completion_ids": [list(ids[len(prompt) :]) for ids, prompt in zip(contexts, prompts, strict=True)],
            "logprobs": None,
            "env_mask": masks,
            "episode_reward": rewards,
        }

    def _generate(self, model: Any, contexts: Sequence[tuple[int, ...]], turn: int) -> list[tuple[int, ...]]:
        renderer, width = self.bench.renderer, max(map(len, contexts))
        device = next(model.parameters()).device
        ids = torch.tensor([[renderer.pad_id] * (width - len(c)) + list(c) for c in contexts], device=device)
        mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts], device=device)
        is_warmup = self.warmup and not self.spent.episodes
        limits = [self.warmup] if is_warmup else self.config.env.max_new_tokens
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=limits[min(turn, len(limits) - 1)],
                do_sample=True,
                temperature=self.config.algorithm.temperature,
                top_k=0,
                top_p=1.0,
                eos_token_id=renderer.end_id,
                pad_token_id=renderer.pad_id,
            )[:, width:]
        replies = []
        for row in out.tolist():
            end = row.index(renderer.end_id) + 1 if renderer.end_id in row else len(row)
            replies.append(tuple(row[:end]))
        return replies


_TASKS: dict[str, Task] = {}


def build(config: TrainConfig) -> Workbench:
    """Builds a workbench whose model is as transformers loads it, with PyTorch's own matrix products."""
    # With mkldnn enabled, the model would get our faster matrix products (see rl.backends.products), which TRL's users
    # do not have.
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):  # pyright: ignore[reportArgumentType]
        return Workbench.build(config)


def train(config: TrainConfig, scratch: Path, warmup: int) -> None:
    """Trains with TRL's GRPO, one optimiser step each time the parent process asks for it.

    Args:
        config: Config of both sides.
        scratch: Empty folder for TRL's output.
        warmup: Token limit of each turn in the first step; 0 uses the config's limits.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    bench = build(config)
    config = cast(TrainConfig, bench.config)
    turns, device = TwoTurns(bench, config, warmup), bench.distributed.device
    env = make_env(config.env, bench.taskset, Split.TRAIN)
    rows = []
    for task in bench.tasks(Split.TRAIN):
        messages: Any = env.reset(options={"task": task})[0]
        rows.append({"prompt": [{"role": m.role, "content": m.content} for m in messages]})

    class Clock(TrainerCallback):
        began, before = 0.0, Spent()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not self.began:
                wait_for_turn()
                self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seconds, spent, before = time.perf_counter() - self.began, turns.spent, self.before
            hand_over(seconds, spent.seconds - before.seconds, spent.sampled_tokens - before.sampled_tokens, device)
            self.began, self.before = time.perf_counter(), replace(spent)

    warnings.filterwarnings("ignore")
    trainer = GRPOTrainer(
        model=bench.model,
        processing_class=bench.tokenizer,
        reward_funcs=lambda completions, episode_reward, **_: episode_reward,
        rollout_func=turns,
        train_dataset=Dataset.from_list(rows),
        callbacks=[Clock()],
        args=_arguments(config, scratch, device.type == "cpu"),
    )
    trainer.train()


def _arguments(config: TrainConfig, scratch: Path, on_cpu: bool) -> Any:
    """Translates our config into a ``GRPOConfig``."""
    from trl import GRPOConfig

    size = config.training.tasks_per_step * config.algorithm.group_size
    clip = LOSSES.options(config.algorithm.loss, config.algorithm.loss_options)
    # The largest divisor of the batch size that is at most the number of rows that our micro-batches hold.
    most = config.algorithm.optim.micro_batch_tokens // config.env.token_budget(config.env.attempts)
    n_rows = max(n for n in range(1, size + 1) if size % n == 0 and n <= max(1, most))
    return GRPOConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=n_rows,
        gradient_accumulation_steps=size // n_rows,
        num_generations=config.algorithm.group_size,
        max_completion_length=4 * sum(config.env.max_new_tokens),
        max_steps=10**6,  # in effect no limit: the process exits when the parent asks for no more steps
        learning_rate=config.algorithm.optim.lr,
        lr_scheduler_type="constant",
        beta=config.algorithm.resolved()[0].kl_coefs[0],
        temperature=config.algorithm.temperature,
        epsilon=clip.clip_low,
        epsilon_high=clip.clip_high,
        loss_type="grpo",
        gradient_checkpointing=config.algorithm.optim.gradient_checkpointing,
        bf16=config.algorithm.optim.mixed_precision == "bf16",
        use_cpu=on_cpu,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=config.seed,
    )
