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
    """One row per task and control, from greedy episodes of the same policy.

    Args:
        rollout: Plays two attempts, with this feedback in place of the environment's own.
        env: An environment of these tasks, asked what it says after an attempt.
        episodes: Greedy episodes, one per task in their order; a failed one is a failed row of every control.
        tasks: Their tasks.
        renderer: Turns the text of an exchanged attempt into tokens.
        arm: Named in the rows.
        seed: Named in the rows.
        names: Which controls; all for none.
    """
    usable = [(task, episode.turns[0]) for task, episode in zip(tasks, episodes, strict=True) if not episode.failed]
    failed, rows = [episode for episode in episodes if episode.failed], []
    own_tasks, firsts = [task for task, _ in usable], [turn for _, turn in usable]
    # Draws hang on control and task by name, so that one control more or less changes no other.
    for name in names or CONTROLS:
        scenes = [
            Scene(i, own_tasks, firsts, env, random.Random(f"{name}/{task.id}")) for i, task in enumerate(own_tasks)
        ]
        changes = [CONTROLS[name](scene) for scene in scenes]
        if scenes and not any(changes):
            continue  # nothing can be exchanged, so it would be called unused
        plans = []
        for i, (scene, change) in enumerate(zip(scenes, changes, strict=True)):
            first = _first(scene.own, change, renderer)
            plans.append(EpisodePlan(scene.task, i, i, first, change.request if change else None))
        # Greedy, as the episodes were that they are compared with: what differs is the exchange alone.
        played = rollout(CONTROLS.fact(name, "feedback")).run(plans, 0.0) if plans else []
        rows += [EvalRow.of(episode, arm, seed, name, 0, 2) for episode in [*failed, *played]]
    return rows


def _first(own: Turn, change: Change | None, renderer: Renderer) -> Turn:
    """The turn that stands in the place of the first one; nothing of it is learned."""
    if change is None or change.first is None:
        return own
    if isinstance(change.first, Turn):
        return replace(change.first, prompt_ids=own.prompt_ids)
    ids = (*renderer.tokenizer.encode(change.first, add_special_tokens=False), renderer.end_id)
    score = Score(0.0, Verdict.NO_ANSWER)  # the environment gives it the one that counts
    return Turn(own.prompt_ids, ids, (0.0,) * len(ids), change.first, Finish.STOP, score, 0.0)
