"""A person is the policy: ``python -m experiments.play env=modchain``. Ends with Ctrl-D."""

from typing import Any

from rich.markup import escape

import envs
from envs import Message, SelfCorrectEnv, Split
from experiments.cli import UserError, console, entry_point
from experiments.schema import PlayConfig
from rewards.wording import counted
from rl.backends import hub


def read_response() -> str:
    """One line; or, if it opens a fenced block, all lines up to the closing fence. Raises ``EOFError`` at the end."""
    lines = [console.input("[bold green]you:[/] ")]
    if lines[0].lstrip().startswith("```"):
        while len(lines) == 1 or lines[-1].strip() != "```":
            lines.append(console.input("[green]...[/] "))
    return "\n".join(lines)


@entry_point("play")
def main(cfg: PlayConfig) -> None:
    """Plays episodes until the input ends; shows what the policy sees, and what the verifier says."""
    hub.register()
    taskset = envs.make_taskset(cfg.env.id, cfg.env.task_options, cfg.env.seeds)
    if not taskset.load(Split(cfg.split)):  # what is wrong with the data is said before torch is loaded
        raise UserError(f"split={cfg.split}: {cfg.env.id} has no tasks in it")
    from rl.types import derive_seed
    from rl.workbench import make_env

    env: Any = make_env(cfg.env, taskset, Split(cfg.split))
    console.print(f"[dim]{cfg.env.id}, {counted(cfg.env.attempts, 'attempt')}; write an answer, Ctrl-D ends[/]")
    console.print("[dim](what opens with ``` goes on to the closing ```)[/]")
    played, earned = 0, 0.0
    try:
        while True:
            messages, _ = env.reset(seed=derive_seed(cfg.seed, "play", played) % 2**32)
            over = False
            while not over:
                for message in [Message("user", messages)] if isinstance(messages, str) else messages:
                    console.print(f"[bold cyan]{message.role}:[/]", end=" ")
                    console.print(message.content, markup=False, highlight=False)
                messages, reward, terminated, truncated, info = env.step(read_response())
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
