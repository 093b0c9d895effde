"""Controls of self-correction: what is the second attempt worth without one's own first one?

A second attempt that is right more often than the first shows improvement, not correction: the policy may simply answer
again, and better. Greedy second attempts are therefore played once more with the first attempt taken away, exchanged,
or judged. If nothing is lost without it, the policy samples again; only if something is lost does it use what it wrote.
"""

from collections.abc import Sequence
from dataclasses import replace

from envs import Task
from rewards import Score, Verdict
from rl.analysis.rows import Control, EvalRow
from rl.rollout import EpisodePlan, Rollout
from rl.types import Episode, Finish, Turn


def control_rows(
    rollout: Rollout,
    told: Rollout,
    episodes: Sequence[Episode],
    tasks: Sequence[Task],
    end_id: int,
    arm: str,
    seed: int,
) -> list[EvalRow]:
    """One row per task and control, from greedy episodes of the same policy.

    Args:
        rollout: Plays two attempts with the environment's own feedback.
        told: Plays two attempts with feedback ``verdict``.
        episodes: Greedy episodes, one per task in their order; a failed one is a failed row of every control.
        tasks: Their tasks.
        end_id: The end-of-turn token, all that an empty answer consists of.
        arm: Named in the rows.
        seed: Named in the rows.
    """
    usable = [(task, episode.turns[0]) for task, episode in zip(tasks, episodes, strict=True) if not episode.failed]
    failed = [episode for episode in episodes if episode.failed]
    rows = [EvalRow.of(episode, arm, seed, control.value, 0, 2) for control in Control for episode in failed]
    if not usable:
        return rows
    far = len(usable) // 2
    firsts = {
        Control.WITHOUT_FIRST: [_empty(turn, end_id) for _, turn in usable],
        Control.OTHERS_FIRST: [
            replace(usable[(i + far) % len(usable)][1], prompt_ids=turn.prompt_ids)
            for i, (_, turn) in enumerate(usable)
        ],
        Control.TOLD_VERDICT: [turn for _, turn in usable],
    }
    for control, turns in firsts.items():
        plays = told if control is Control.TOLD_VERDICT else rollout
        plans = [EpisodePlan(task, i, i, turn) for i, ((task, _), turn) in enumerate(zip(usable, turns, strict=True))]
        rows += [EvalRow.of(episode, arm, seed, control.value, 0, 2) for episode in plays.run(plans, 0.0)]
    return rows


def _empty(turn: Turn, end_id: int) -> Turn:
    return Turn(turn.prompt_ids, (end_id,), (0.0,), "", Finish.STOP, Score(0.0, Verdict.NO_ANSWER), 0.0)
