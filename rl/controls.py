"""Plays the controls of self-correction that :mod:`rl.analysis.controls` declares."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from envs import Task
from rewards import Score, Verdict
from rl.analysis.controls import CONTROLS, Change, Scene
from rl.analysis.rows import EvalRow
from rl.rendering import Renderer
from rl.rollout import EpisodePlan, Rollout
from rl.types import Episode, Finish, Turn


def control_rows(
    rollout: Callable[[str | None], Rollout],
    env: Any,
    episodes: Sequence[Episode],
    tasks: Sequence[Task],
    renderer: Renderer,
    arm: str,
    seed: int,
    names: Iterable[str] = (),
) -> list[EvalRow]:
    """Plays controls on greedy episodes of the same policy and returns one row per task and control.

    A control that changes no episode is left out. One that changes some of them has rows for all, and ``unchanged``
    marks those in which the policy reads just what it reads without the control. An episode that the stop
    rule ends at the exchanged attempt says nothing about the policy, so its row counts as failed.

    Args:
        rollout: Builds a rollout with two attempts; its argument is the feedback, ``None`` for the environment's own.
        env: Environment of these tasks, used to get its feedback to an attempt.
        episodes: Greedy episodes, one per task; a failed episode gives a failed row in every control.
        tasks: Task of each episode, in the same order.
        renderer: Turns the text of a replacement attempt into tokens.
        arm: Name of the arm, written to the rows.
        seed: Seed of the run, written to the rows.
        names: Names of the controls to play; empty for all.
    """
    own_tasks = [task for task, episode in zip(tasks, episodes, strict=True) if not episode.failed]
    greedy, failed = ([episode for episode in episodes if episode.failed is ended] for ended in (False, True))
    firsts, rows = [episode.turns[0] for episode in greedy], []
    # Random generators are seeded by the names of control and task, so that adding or removing a control does not
    # change the others.
    for name in names or CONTROLS:
        scenes = [
            Scene(i, own_tasks, firsts, env, random.Random(f"{name}/{task.id}")) for i, task in enumerate(own_tasks)
        ]
        changes = [CONTROLS[name](scene) for scene in scenes]
        if scenes and not any(changes):
            continue  # the control has nothing to change in any episode; its rows would suggest that it has no effect
        plans = []
        for i, (scene, change) in enumerate(zip(scenes, changes, strict=True)):
            first = _first(scene.own, change, renderer)
            plans.append(EpisodePlan(scene.task, i, i, first, change.request if change else None))
        # Greedy like the episodes compared with, so that the control's change is the only difference.
        played = rollout(CONTROLS.fact(name, "feedback")).run(plans, 0.0) if plans else []
        # All arms are compared on the same tasks, so an episode without a change stays among the rows and is marked.
        found = []
        for own, change, episode in zip(greedy, changes, played, strict=True):
            row = EvalRow.of(episode, arm, seed, name, 0, 2)
            if change and change.first is not None and len(episode.turns) == 1 and not row.failed:
                row = replace(row, failed=True, broken_by="it ended with the attempt that the control put there")
            found.append(replace(row, unchanged=_second_prompt(own) == _second_prompt(episode)))
        if found and all(row.unchanged for row in found):
            continue
        rows += [EvalRow.of(episode, arm, seed, name, 0, 2) for episode in failed] + found
    return rows


def _second_prompt(episode: Episode) -> tuple[int, ...] | None:
    """What the policy reads before its second attempt; ``None`` if there is no second attempt."""
    return episode.attempts[1].prompt_ids if len(episode.attempts) > 1 else None


def _first(own: Turn, change: Change | None, renderer: Renderer) -> Turn:
    """The first attempt that the control gives the policy: its own, or a replacement."""
    if change is None or change.first is None:
        return own
    if isinstance(change.first, Turn):
        return replace(change.first, prompt_ids=own.prompt_ids)
    ids = (*renderer.tokenizer.encode(change.first, add_special_tokens=False), renderer.end_id)
    score = Score(0.0, Verdict.NO_ANSWER)  # a placeholder; the environment verifies the turn when it is played
    return Turn(own.prompt_ids, ids, (0.0,) * len(ids), change.first, Finish.STOP, score, 0.0)
