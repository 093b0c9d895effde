"""Which tasks are worth an episode now: curricula over the running pass rates of tasks.

Tasks come in a shuffled, endless stream. A curriculum says of every task that comes by, from what its earlier groups
came to, with which chance it is drawn; what is not drawn is passed over, and the next one is asked about. A task that
was never seen is always drawn. The chance is decided by a number that is hashed from the place in the stream, so
neither a resumed run nor another number of processes draws other tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import count
from statistics import mean
from typing import Any, NamedTuple

from envs import Task
from rewards.lookup import Lookup
from rl.analysis.metrics import declare
from rl.config.checks import check_numbers
from rl.types import Episode, derive_seed


class Draw(NamedTuple):
    """What a curriculum makes of a task that it has seen before.

    Args:
        rate: Its running pass rate.
        chance: With which it is drawn, in [0, 1].
        easy: Whether it is rather too easy than too hard, where it is not drawn.
    """

    rate: float
    chance: float
    easy: bool


CURRICULA: Lookup[Callable[..., Draw]] = Lookup("training.curriculum")
"""``(history, **options) -> Draw``: from the pass rates of a task's groups so far, in order, at least one.
``draws_all=True`` declares that every task is drawn as it comes, so that nothing is asked and nothing kept."""


@dataclass(frozen=True)
class Running:
    """A running pass rate.

    Args:
        smoothing: Weight of what was known before a task's newest group: 0 looks at the newest alone.
        explore: Chance of a task that would be passed over, so that one is found again that has become possible.
    """

    smoothing: float = 0.5
    explore: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, "training.curriculum_options", fraction=" ".join(item.name for item in fields(self)))
        if self.smoothing == 1.0:
            raise ValueError("training.curriculum_options.smoothing=1.0: the first group would decide for ever")


@dataclass(frozen=True)
class Band(Running):
    """Pass rates from which something is to be learned.

    Args:
        low: A task with a lower rate is hopeless.
        high: A task with a higher one is solved.
    """

    low: float = 0.05
    high: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"training.curriculum_options: low={self.low} lies above high={self.high}")


@CURRICULA.register("uniform", draws_all=True)
def uniform(history: Sequence[float]) -> Draw:
    """Every task, once per pass."""
    return Draw(mean(history), 1.0, False)


@CURRICULA.register("pass_rate", options=Band)
def pass_rate(history: Sequence[float], *, smoothing: float, explore: float, low: float, high: float) -> Draw:
    """Tasks whose running pass rate lies in a band; solved and hopeless ones only to look at them again.

    A group whose episodes all pass or all fail has no gradient, so its episodes are spent on nothing. DAPO (arXiv
    2503.14476, section 3.2) samples first and throws such groups away; here they are not sampled.
    """
    rate = running(history, smoothing)
    return Draw(rate, 1.0 if low <= rate <= high else explore, rate > high)


@CURRICULA.register("learnability", options=Running)
def learnability(history: Sequence[float], *, smoothing: float, explore: float) -> Draw:
    """With the chance ``4 p (1 - p)``, p the running pass rate: the variance of what an episode earns.

    After the success rate's variance as a score of tasks (Foster and Foerster, arXiv 2502.12272).
    """
    rate = running(history, smoothing)
    return Draw(rate, max(explore, 4 * rate * (1 - rate)), rate > 0.5)


def running(history: Sequence[float], smoothing: float) -> float:
    """``rate = smoothing * rate + (1 - smoothing) * newest``, from the first group on."""
    # The first group counts whole: starting from a guess would pass over tasks on the strength of that guess.
    rate = history[0]
    for newest in history[1:]:
        rate = smoothing * rate + (1 - smoothing) * newest
    return rate


class Curriculum:
    """Draws from an endless, shuffled stream of tasks, and keeps what the drawn ones came to.

    Args:
        name: In :data:`CURRICULA`.
        options: Its own.
        task_at: The task at a place of the stream.
        n_tasks: In one pass.
        seed: Of the run.
    """

    def __init__(
        self, name: str, options: dict[str, Any], task_at: Callable[[int], Task], n_tasks: int, seed: int
    ) -> None:
        self._draw = CURRICULA.bind(name, options)
        self._task_at, self._n_tasks, self._seed = task_at, n_tasks, seed
        self._history: dict[str, list[float]] = {}
        self._noted: list[tuple[Draw | None, bool]] = []

    def take(self, start: int, n: int) -> list[int]:
        """The places of the next ``n`` tasks that are drawn, from a place on; what came by ends with the last of them.

        After a whole pass over the tasks without one the next is taken as it comes, so that a run ends.
        """
        # The number is a hash of the place and not drawn from a generator, whose state would depend on how many tasks
        # were asked about before.
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
        """Takes in what groups came to: place in the stream and pass rate, of all processes."""
        for position, rate in sorted(groups):  # in the order of the stream, whichever process played them
            self._history.setdefault(self._task_at(position).id, []).append(rate)

    def metrics(self) -> dict[str, float]:
        """What was drawn and passed over since the last call."""
        noted, self._noted = self._noted, []  # of all rounds of dynamic sampling since the last step
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
        """The inverse of :meth:`state`."""
        self._history = state


def passed(episodes: Sequence[Episode]) -> float | None:
    """The share of a group's episodes that end right; ``None`` where none of them says anything.

    In an environment without a verifier an episode ends right with a last raw reward of at least 1.
    """
    last = [episode.turns[-1] for episode in episodes if not (episode.failed or episode.masked)]
    return mean(turn.correct if turn.score is not None else turn.reward >= 1.0 for turn in last) if last else None


declare(
    {
        "curriculum/solved_fraction": ("fraction", "tasks that came by and were passed over as too easy"),
        "curriculum/hopeless_fraction": ("fraction", "tasks that came by and were passed over as too hard"),
        "curriculum/new_fraction": ("fraction", "tasks that came by for the first time, and were drawn"),
        "curriculum/pass_rate": ("fraction", "mean running pass rate of the drawn tasks that were seen before"),
    }
)
