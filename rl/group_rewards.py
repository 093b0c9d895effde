"""Rewards that depend on a whole group, such as agreement between samples or tournaments.

``env.group_reward`` names an entry of :data:`GROUP_REWARDS`. It is applied to a training group as soon as the group's
episodes have ended, before the group is checked for a gradient. The verifier's result stays in ``Turn.score``, so that
the log still shows the true accuracy. A turn for which the group gives no signal gets ``trained=False``: it is masked,
which differs from a reward of 0.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from envs import StopReason
from rewards.lookup import Lookup
from rewards.votes import majority_index
from rl.config.checks import check_numbers
from rl.types import SOLVER, Group, Turn

GroupReward = Callable[..., Group]
"""``(group, **options) -> group`` with the same episodes in the same order, but other rewards."""

GROUP_REWARDS: Lookup[GroupReward] = Lookup("env.group_reward")
"""``between=True`` declares that a reward is for turns between attempts, so that a role has to speak there."""


def apply_group_reward(reward: GroupReward, group: Group) -> Group:
    """The group with new rewards; if ``reward`` raises, all its episodes fail and are counted but not trained on."""
    try:
        return reward(group)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # As with errors of environments, the episodes are kept, and training.max_failed_fraction decides whether the
        # run continues.
        said = f"group reward: {error!r}"
        broken = {"terminated": False, "truncated": True, "stop_reason": StopReason.ENV_ERROR, "error": said}
        return replace(group, episodes=tuple(replace(episode, **broken) for episode in group.episodes))


def pay(group: Group, rewards: Callable[[Sequence[Turn]], Sequence[float | None]]) -> Group:
    """Sets the rewards of a group's turns by comparing turns of the same index and role.

    Args:
        group: The group; its failed episodes and given turns stay unchanged.
        rewards: Maps the turns sampled at one turn index by one role to their rewards; ``None`` means no signal.
    """
    # Turns are collected by index and role, so that first attempts are compared only with first attempts, and never
    # with a critic's turns.
    paid: dict[tuple[int, int], Turn] = {}
    places: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for i, episode in enumerate(group.episodes):
        if not episode.failed:
            for k in range(episode.given, len(episode.turns)):
                places.setdefault((k, episode.turns[k].role), []).append((i, k))
    for same in places.values():
        turns = [group.episodes[i].turns[k] for i, k in same]
        for place, turn, reward in zip(same, turns, rewards(turns), strict=True):
            new = {"reward": 0.0, "trained": False} if reward is None else {"reward": float(reward)}
            paid[place] = replace(turn, **new)
    episodes = [
        replace(episode, turns=tuple(paid.get((i, k), turn) for k, turn in enumerate(episode.turns)))
        for i, episode in enumerate(group.episodes)
    ]
    return replace(group, episodes=tuple(episodes))


@dataclass(frozen=True)
class MajorityOptions:
    """Options of ``majority``.

    Args:
        least: Smallest fraction of a group's turns that must give the winning answer; below it there is no signal.
    """

    least: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "env.group_reward_options", fraction="least")


@GROUP_REWARDS.register("majority", options=MajorityOptions)
def majority(group: Group, *, least: float) -> Group:
    """1 for turns that give the group's most frequent answer at the same turn, 0 for others (TTRL, arXiv 2504.16084).

    There is no signal if no turn has an answer, or if the winning answer has less than the fraction ``least``.
    """

    # Answers are compared by their keys, for which 1/2 and 0.5 are equal. A turn without an answer has no vote.
    def rewards(turns: Sequence[Turn]) -> list[float | None]:
        answers = [turn.answer_key for turn in turns]
        winner = majority_index(answers)
        if winner is None or answers.count(answers[winner]) < least * len(turns):
            return [None] * len(turns)
        return [float(answer == answers[winner]) for answer in answers]

    return pay(group, rewards)


@GROUP_REWARDS.register("agreement")
def agreement(group: Group) -> Group:
    """Fraction of the group's *other* answers at the same turn that equal this one; no signal without other answers."""

    def rewards(turns: Sequence[Turn]) -> list[float | None]:
        votes = Counter(turn.answer_key for turn in turns if turn.answer_key is not None)
        voters = sum(votes.values())
        # A turn without an answer agrees with no other. With fewer than two answers, no turn gets a signal.
        return [
            (0.0 if turn.answer_key is None else (votes[turn.answer_key] - 1) / (voters - 1)) if voters > 1 else None
            for turn in turns
        ]

    return pay(group, rewards)


@dataclass(frozen=True)
class OutcomeOptions:
    """Options of ``outcome``.

    Args:
        right: Reward of a right last attempt.
        wrong: Reward of a wrong last attempt.
        no_answer: Reward of a last attempt without an answer in the accepted form.
        malformed: Reward added to *every* attempt without an answer in the accepted form.
        decay: Factor on ``right`` for each attempt before the last.
        repeats: Penalty on the last attempt, times the fraction of attempts that repeat an earlier answer.
    """

    right: float = 1.0
    wrong: float = 0.0
    no_answer: float = 0.0
    malformed: float = 0.0
    decay: float = 1.0
    repeats: float = 0.0

    def __post_init__(self) -> None:
        signed = "right wrong no_answer malformed"
        check_numbers(self, "env.group_reward_options", any_sign=signed, fraction="decay", not_negative="repeats")


@GROUP_REWARDS.register("outcome", options=OutcomeOptions)
def outcome(
    group: Group, *, right: float, wrong: float, no_answer: float, malformed: float, decay: float, repeats: float
) -> Group:
    """Rewards an episode's outcome on its last attempt; earlier attempts get credit only through ``turn_gamma``.

    With suitable options it is the reward of multi-attempt RL (arXiv 2503.04808, section 3), of RLEF (2410.02089,
    section 2.2) or of UFO with decay and penalty (2507.14295, section 3).
    """
    episodes = list(group.episodes)
    for i, episode in enumerate(episodes):
        places = [k for k, turn in enumerate(episode.turns) if turn.role == SOLVER]
        if episode.failed or not places:
            continue
        turns = list(episode.turns)
        last, n, keys = turns[places[-1]], len(places), {turns[k].answer_key for k in places}
        worth = right * decay ** (n - 1) if last.correct else no_answer if last.answer is None else wrong
        # Attempts without an answer have the same key, None, so all of these but the first count as repeats.
        worth -= repeats * (1 - len(keys) / n)
        for k in places:
            own = malformed if turns[k].answer is None else 0.0
            turns[k] = replace(turns[k], reward=own if k != places[-1] else own + worth)
        episodes[i] = replace(episode, turns=tuple(turns))
    return replace(group, episodes=tuple(episodes))


@GROUP_REWARDS.register("critic", between=True)
def critic(group: Group) -> Group:
    """Rewards a turn between two attempts with the reward of the next attempt (CTRL, arXiv 2502.03492, section 3.3).

    A turn that no attempt follows is masked.
    """

    def paid(turns: Sequence[Turn], k: int) -> Turn:
        after = next((turn for turn in turns[k + 1 :] if turn.role == SOLVER), None)
        if turns[k].role == SOLVER:
            return turns[k]
        return replace(turns[k], trained=False) if after is None else replace(turns[k], reward=after.reward)

    episodes = [
        replace(episode, turns=tuple(paid(episode.turns, k) for k in range(len(episode.turns))))
        for episode in group.episodes
    ]
    return replace(group, episodes=tuple(episodes))
