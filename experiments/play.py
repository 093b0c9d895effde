"""Lets a person play the policy in an environment: ``python -m experiments.play env=modchain``; Ctrl-D ends it."""

from typing import Any

from rich.markup import escape

import envs
from envs import SelfCorrectEnv, Split, messages_of
from experiments.cli import UserError, console, entry_point
from experiments.schema import PlayConfig
from rewards.wording import counted
from rl.backends import hub


def read_response() -> str:
    """Reads one line, or a fenced block up to its closing fence; raises ``EOFError`` at the end of the input."""
    lines = [console.input("[bold green]you:[/] ")]
    if lines[0].lstrip().startswith("```"):
        while len(lines) == 1 or lines[-1].strip() != "```":
            lines.append(console.input("[green]...[/] "))
    return "\n".join(lines)


@entry_point("play", runs=False)
def main(cfg: PlayConfig) -> None:
    """Plays episodes until the input ends; shows what the policy would see, and the verifier's verdicts."""
    hub.register()
    taskset = envs.make_taskset(cfg.env.id, cfg.env.task_options, cfg.env.seeds)
    if not taskset.load(Split(cfg.split)):  # Reads the data before torch is loaded, so that errors in it come early.
        why = getattr(taskset, "why_empty", None)
        said = f": {why(Split(cfg.split))}" if why else ""
        raise UserError(f"split={cfg.split}: {cfg.env.id} has no tasks in it{said}")
    from rl.types import derive_seed
    from rl.workbench import make_env

    env: Any = make_env(cfg.env, taskset, Split(cfg.split))
    console.print(f"[dim]{cfg.env.id}, {counted(cfg.env.attempts, 'attempt')}; write an answer, Ctrl-D ends[/]")
    console.print("[dim](an answer that opens with ``` ends at the closing ```)[/]")
    played, earned = 0, 0.0
    try:
        while True:
            observation, _ = env.reset(seed=derive_seed(cfg.seed, "play", played) % 2**32)
            over = False
            while not over:
                for message in messages_of(observation):
                    console.print(f"[bold cyan]{message.role}:[/]", end=" ")
                    console.print(message.content, markup=False, highlight=False)
                observation, reward, terminated, truncated, info = env.step(read_response())
                score = info.get("score")
                said = f", {score.verdict}, answer {escape(str(score.answer))}" if score is not None else ""
                console.print(f"[dim]reward {reward:g}{said}[/]")
                over, earned = terminated or truncated, earned + reward
            if isinstance(env, SelfCorrectEnv):
                console.print(f"[dim]gold: {escape(env.taskset.gold_response(env.task))}[/]\n")
            played += 1
    except EOFError:
        console.print(f"\n{counted(played, 'episode')}, reward {earned:g}")


if __name__ == "__main__":
    main()
