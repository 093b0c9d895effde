"""Second attempts at first attempts that somebody else wrote.

Fine-tuning on stored traces learns to correct the attempts in them; whether it corrects its own is another question
(SCoRe, arXiv 2409.12917, section 4.2 and Figure 4). A probe holds the base's first attempts fixed while the policy
changes; its own first attempts are measured by every validation.
"""

from collections.abc import Sequence

from envs import Task
from rl.evaluate import play
from rl.rollout import EpisodePlan, Rollout
from rl.types import Episode, Turn


def first_turns(rollout: Rollout, tasks: Sequence[Task]) -> list[tuple[Task, Turn]]:
    """Greedy first attempts of the engine's policy, with their tasks; failed episodes are left out.

    Args:
        rollout: Plays episodes of one attempt.
        tasks: What is attempted.
    """
    episodes = play(rollout, tasks, 1, 0.0, "first")
    return [(task, e.turns[0]) for task, e in zip(tasks, episodes, strict=True) if not e.failed and e.turns]


def second_attempts(rollout: Rollout, firsts: Sequence[tuple[Task, Turn]]) -> list[Episode]:
    """Greedy second attempts at given first ones.

    Args:
        rollout: Plays episodes of two attempts.
        firsts: Tasks and the first attempts that are read instead of sampled.
    """
    return rollout.run([EpisodePlan(task, i, i, turn) for i, (task, turn) in enumerate(firsts)], 0.0)
