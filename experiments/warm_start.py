"""Warm-starts a model by supervised fine-tuning: ``python -m experiments.warm_start experiment=smollm2_sums_warm``.

A small pretrained language model does not answer in the form that an environment expects, and repeats its first attempt
whatever the feedback is. RL then has no successes to reinforce. A few dozen supervised steps on written conversations
change that. All arms of a comparison then start from the same warm model, whose evaluation is in the run's folder.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.base_schema import WarmStartConfig
from experiments.cli import UserError, console, entry_point, resolved_yaml
from experiments.planned import spent
from rewards.wording import counted


@entry_point("warm_start")
def main(cfg: WarmStartConfig) -> None:
    """Writes conversations, fine-tunes on them, evaluates, and prints the results."""
    from experiments.folders import open_run
    from experiments.progress import Display
    from rl.tracking import describe_run

    if cfg.output is not None and (Path(cfg.output) / "config.json").exists():
        # It may be the base of comparisons that have been run, so it is never replaced.
        raise UserError(f"output={cfg.output}: there is a model already; name another folder, or remove this one")
    with open_run(cfg, "warm_start") as folder:
        describe_run(folder, resolved_yaml(cfg))
        with Display(console) as display:
            result = warm_start(cfg, folder, display.reporter("warm start"))
        display.summary(result, folder)
        if cfg.output is not None:
            console.print(f"the model is in {cfg.output} too", highlight=False)


def warm_start(cfg: WarmStartConfig, folder: Path, report: Callable[..., None]) -> Any:
    """Fine-tunes on demonstrated conversations, evaluates, and saves the model; returns an ``ArmResult``.

    Args:
        cfg: Config of the run.
        folder: Folder of the run, to which ``conversations.jsonl`` and the usual files of a run are written.
        report: Called with the current phase, the progress and the newest metrics.

    Raises:
        ValueError: If a demonstration has another number of attempts than the environment's episodes.
    """
    from envs import Split
    from experiments.arms import ArmResult, finish, identify
    from experiments.demonstrations import DEMONSTRATIONS
    from rl.backends.sft import fine_tune
    from rl.checkpoint import save_policy
    from rl.config import OfflineConfig
    from rl.tracking import JsonLines
    from rl.types import derive_seed
    from rl.workbench import Workbench, make_env

    began = spent()
    demonstrate = DEMONSTRATIONS.bind(cfg.demonstration, cfg.demonstration_options)
    bench = Workbench.build(cfg)
    for name in DEMONSTRATIONS.fact(cfg.demonstration, "needs") or ():
        if not hasattr(bench.taskset, name):
            raise ValueError(f"demonstration={cfg.demonstration}: the tasks of {cfg.env.id} have no method {name}")
    identify(cfg, "warm_start", folder, bench.distributed)
    tasks, env = bench.tasks(Split.TRAIN), make_env(bench.config.env, bench.taskset, Split.TRAIN)
    rows, written = [], JsonLines(folder / "conversations.jsonl")
    for number in range(cfg.n_conversations):
        task = tasks[number % len(tasks)]
        # Seeded by number and task, so that a larger number of conversations does not change the first ones.
        rng = random.Random(derive_seed(cfg.seed, "demonstration", number, task.id))
        attempts = demonstrate(bench.taskset, task, rng)
        messages, row = demonstrated(env, task, attempts, bench.renderer, cfg.learn_slips)
        written.write({"task_id": task.id, "messages": messages})
        rows.append(row)
    written.close()
    offline = OfflineConfig(epochs=cfg.epochs, batch_size=cfg.batch_size, optim=cfg.optim)
    outcome = fine_tune(
        bench.model, bench.tokenizer, rows, offline, cfg.seed, on_step=lambda share: report("fine-tuning", share, {})
    )
    # Hands the fine-tuned weights to the engine, which samples the evaluation.
    bench.publish(1)
    result = ArmResult("warm start", cfg.seed, notes={"conversations": len(rows), **outcome})
    result = finish(result, bench, folder, report, began)
    if cfg.output is not None:
        save_policy(Path(cfg.output), bench.model, bench.tokenizer, bench.distributed)
    return result


def demonstrated(
    env: Any, task: Any, attempts: list[str], renderer: Any, learn_slips: bool = True
) -> tuple[list[dict[str, str]], Any]:
    """Plays one episode with written attempts and makes a training row of it.

    Args:
        env: Environment, a :class:`envs.TextEnv`.
        task: Task of the episode.
        attempts: Texts to play as the policy's attempts, as many as the episode takes.
        renderer: Renderer from messages to token ids.
        learn_slips: Whether a first attempt that the environment scores as wrong is learned as well.

    Returns:
        The conversation, and an :class:`rl.backends.sft.SFTRow` that learns the attempts, their ends included.

    Raises:
        ValueError: If the episode takes more or fewer attempts.
    """
    from rewards import Verdict
    from rl.backends.sft import IGNORED, SFTRow

    new, _ = env.reset(options={"task": task})
    ids, labels, over = renderer.opening(new), [], False
    said = [{"role": message.role, "content": message.content} for message in new]
    for number, text in enumerate(attempts):
        # The end-of-turn token is learned as well, or the policy would continue to write after its answer.
        action = (*renderer.tokenizer.encode(text, add_special_tokens=False), renderer.end_id)
        new, _, terminated, truncated, info = env.step(text)
        slip = number == 0 and "score" in info and info["score"].verdict is not Verdict.CORRECT
        # Tokens between two attempts (the environment's messages) are context and not learned.
        labels += [IGNORED] * (len(ids) - len(labels)) + [IGNORED if slip and not learn_slips else t for t in action]
        over = terminated or truncated
        if over != (number == len(attempts) - 1):
            ends = f"ends after {number + 1}" if over else "takes more"
            raise ValueError(f"demonstration: it wrote {counted(len(attempts), 'attempt')}, but the episode {ends}")
        ids = ids + action if over else renderer.extend(ids, action, new)
        said += [{"role": "assistant", "content": text}]
        said += [{"role": message.role, "content": message.content} for message in new]
    return said, SFTRow(tuple(ids), tuple(labels))


if __name__ == "__main__":
    main()
