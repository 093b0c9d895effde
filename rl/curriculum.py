"""Curricula: choose the tasks worth training on now by their running pass rates.

Tasks come in an endless, shuffled stream. For each task in the stream, a curriculum computes the probability of
selecting it from the pass rates of its earlier groups. A task that is not selected is skipped, and the next one is
considered. A task without earlier groups is always selected. The random number for the decision is hashed from the
position in the stream, so a resumed run, or a run with another number of processes, selects the same tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import count
from statistics import mean
from typing import Any, NamedTuple

from envs import Task
from rewards import Lookup, Verdict
from rl.analysis.metrics import declare
from rl.config.checks import check_numbers
from rl.types import Episode, derive_seed


class Draw(NamedTuple):
    """A curriculum's judgement of a task that has been sampled before.

    Args:
        rate: The task's running pass rate.
        chance: Probability of selecting the task, in [0, 1].
        easy: Whether the task, if skipped, counts as too easy; otherwise it counts as too hard.
    """

    rate: float
    chance: float
    easy: bool


CURRICULA: Lookup[Callable[..., Draw]] = Lookup("training.curriculum")
"""``(history, **options) -> Draw``. ``history`` holds the pass rates of a task's groups so far, oldest first, at least
one. ``draws_all=True`` declares that every task is selected, so that no pass rates need to be stored."""


@dataclass(frozen=True)
class Running:
    """Options of curricula that use a running pass rate.

    Args:
        smoothing: Weight of a task's earlier groups in its running pass rate; 0 uses the newest group alone.
        explore: Smallest probability of selecting a task, so that tasks that have become solvable are found again.
    """

    smoothing: float = 0.5
    explore: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, "training.curriculum_options", fraction=" ".join(item.name for item in fields(self)))
        if self.smoothing == 1.0:
            raise ValueError(
                "training.curriculum_options.smoothing=1.0: a task's pass rate would stay that of its first group; use "
                "less than 1"
            )


@dataclass(frozen=True)
class Band(Running):
    """Options of ``pass_rate``: the band of pass rates that are worth training on.

    Args:
        low: Tasks with a lower pass rate count as hopeless.
        high: Tasks with a higher pass rate count as solved.
    """

    low: float = 0.05
    high: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"training.curriculum_options: low={self.low} lies above high={self.high}")


@CURRICULA.register("uniform", draws_all=True)
def uniform(history: Sequence[float]) -> Draw:
    """Selects every task once per pass over the tasks."""
    return Draw(mean(history), 1.0, False)


@CURRICULA.register("pass_rate", options=Band)
def pass_rate(history: Sequence[float], *, smoothing: float, explore: float, low: float, high: float) -> Draw:
    """Selects tasks whose running pass rate lies in a band; solved and hopeless tasks only with chance ``explore``.

    A group whose episodes all pass or all fail has no gradient, so its episodes are wasted. DAPO (arXiv 2503.14476,
    section 3.2) samples such groups and discards them; here they are avoided before sampling.
    """
    rate = running(history, smoothing)
    return Draw(rate, 1.0 if low <= rate <= high else explore, rate > high)


@CURRICULA.register("learnability", options=Running)
def learnability(history: Sequence[float], *, smoothing: float, explore: float) -> Draw:
    """Selects a task with chance ``4 p (1 - p)``, p its running pass rate: the scaled variance of an episode's success.

    The variance of the success rate as a score of tasks follows Foster and Foerster (arXiv 2502.12272).
    """
    rate = running(history, smoothing)
    return Draw(rate, max(explore, 4 * rate * (1 - rate)), rate > 0.5)


def running(history: Sequence[float], smoothing: float) -> float:
    """Running pass rate: ``rate = smoothing * rate + (1 - smoothing) * newest``, starting at the first group's rate."""
    # Starting from a guessed rate instead would skip tasks because of the guess.
    rate = history[0]
    for newest in history[1:]:
        rate = smoothing * rate + (1 - smoothing) * newest
    return rate


class Curriculum:
    """Selects tasks from an endless, shuffled stream and stores the pass rates of their groups.

    Args:
        name: Name of the curriculum in :data:`CURRICULA`.
        options: Options of the curriculum.
        task_at: Returns the task at a position of the stream.
        n_tasks: Number of tasks in one pass.
        seed: Seed of the run.
    """

    def __init__(
        self, name: str, options: dict[str, Any], task_at: Callable[[int], Task], n_tasks: int, seed: int
    ) -> None:
        self._draw = CURRICULA.bind(name, options)
        self._task_at, self._n_tasks, self._seed = task_at, n_tasks, seed
        self._history: dict[str, list[float]] = {}
        self._noted: list[tuple[Draw | None, bool]] = []

    def take(self, start: int, n: int) -> list[int]:
        """Positions of the next ``n`` selected tasks, beginning the search at position ``start``.

        If a whole pass over the tasks selects none, the next task is selected anyway, so that the search always ends.
        """
        # The random number is hashed from the position. A generator's state would depend on how many tasks were
        # considered before.
        taken: list[int] = []
        n_passed = 0
        for position in count(start):
            history = self._history.get(self._task_at(position).id)
            draw = self._draw(history) if history else None
            number = derive_seed(self._seed, "curriculum", position) / 2**63
            drawn = draw is None or number < draw.chance or n_passed >= self._n_tasks
            n_passed = 0 if drawn else n_passed + 1
            self._noted.append((draw, drawn))
            taken += [position] if drawn else []
            if len(taken) == n:
                break
        return taken

    def learn(self, groups: Sequence[tuple[int, float]]) -> None:
        """Stores the pass rates of groups from all processes, given as pairs of stream position and pass rate."""
        for position, rate in sorted(groups):  # in stream order, so that history does not depend on the processes
            self._history.setdefault(self._task_at(position).id, []).append(rate)

    def metrics(self) -> dict[str, float]:
        """Metrics on the tasks that were selected and skipped since the last call."""
        noted, self._noted = self._noted, []  # includes all rounds of dynamic sampling
        known = [(draw, drawn) for draw, drawn in noted if draw is not None]
        passed = [draw.easy for draw, drawn in known if not drawn]
        rates = [draw.rate for draw, drawn in known if drawn]
        return {
            "curriculum/solved_fraction": passed.count(True) / len(noted),
            "curriculum/hopeless_fraction": passed.count(False) / len(noted),
            "curriculum/new_fraction": 1 - len(known) / len(noted),
            "curriculum/pass_rate": mean(rates) if rates else float("nan"),
        }

    def state(self) -> dict[str, list[float]]:
        """Pass rates by task, which a checkpoint must hold; the same on all processes."""
        return self._history

    def load_state(self, state: dict[str, list[float]]) -> None:
        """Restores what :meth:`state` returned."""
        self._history = state


def passed(episodes: Sequence[Episode]) -> float | None:
    """Fraction of a group's episodes whose last turn is correct; ``None`` if no last turn could be judged.

    Without a verifier, a turn counts as correct if its raw reward is at least 1.
    """
    judged = []
    for turn in (episode.turns[-1] for episode in episodes if not episode.failed):
        # A verdict counts even if a group reward masks its turn; a verifier that failed has given none.
        if turn.score is not None and turn.score.verdict is not Verdict.ERROR:
            judged.append(turn.correct)
        elif turn.score is None and turn.trained:
            judged.append(turn.reward >= 1.0)
    return mean(judged) if judged else None


declare(
    {
        "curriculum/solved_fraction": ("fraction", "considered tasks that were skipped as too easy"),
        "curriculum/hopeless_fraction": ("fraction", "considered tasks that were skipped as too hard"),
        "curriculum/new_fraction": ("fraction", "considered tasks without a pass rate yet; these are always selected"),
        "curriculum/pass_rate": ("fraction", "mean running pass rate of the selected tasks that have one"),
    }
)
