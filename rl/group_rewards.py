"""Rewards that need the whole group: agreement between samples instead of a verifier, tournaments, anything relative.

``env.group_reward`` names one of :data:`GROUP_REWARDS`. It is applied to a training group as soon as its episodes have
ended, before anything asks whether the group carries a gradient. What the verifier said stays in ``Turn.score``, so
that a log still shows how often such a reward is right. A turn about which the group says nothing gets
``trained=False``: it is masked, which is not the same as being paid 0.
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
"""``(group, **options) -> group`` with the same episodes in the same order, paid differently."""

GROUP_REWARDS: Lookup[GroupReward] = Lookup("env.group_reward")
"""``between=True`` declares that a reward pays what is said between attempts, so that someone has to speak there."""


def apply_group_reward(reward: GroupReward, group: Group) -> Group:
    """The group as the reward pays it. What it raises fails the group's episodes, which are then masked and counted."""
    try:
        return reward(group)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # As with environments: what was sampled is kept, and the run's limit of failures decides whether it goes on.
        said = f"group reward: {error!r}"
        broken = {"terminated": False, "truncated": True, "stop_reason": StopReason.ENV_ERROR, "error": said}
        return replace(group, episodes=tuple(replace(episode, **broken) for episode in group.episodes))


def pay(group: Group, rewards: Callable[[Sequence[Turn]], Sequence[float | None]]) -> Group:
    """Pays every turn among the same turns of the group, role by role.

    Args:
        group: Its failed episodes and the turns that its policy was only given to read stay as they are.
        rewards: From the turns that were sampled at one place of the episode to their rewards, ``None`` for no signal.
    """
    # By place and role, so that first attempts are compared with first attempts, and never with what a critic said.
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
        least: Share of a group's turns that the winning answer must have; below it the vote says nothing.
    """

    least: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "env.group_reward_options", fraction="least")


@GROUP_REWARDS.register("majority", options=MajorityOptions)
def majority(group: Group, *, least: float) -> Group:
    """1 for the answer that most of the group give at the same turn, 0 for others (TTRL, arXiv 2504.16084).

    Where nobody answers, or the winner has less than the share that is asked for, there is no signal.
    """

    # An answer is known by its key, by which 1/2 and 0.5 are the same; who gives none votes for nobody.
    def rewards(turns: Sequence[Turn]) -> list[float | None]:
        answers = [turn.answer_key for turn in turns]
        winner = majority_index(answers)
        if winner is None or answers.count(answers[winner]) < least * len(turns):
            return [None] * len(turns)
        return [float(answer == answers[winner]) for answer in answers]

    return pay(group, rewards)


@GROUP_REWARDS.register("agreement")
def agreement(group: Group) -> Group:
    """The share of the group's *other* answers at the same turn that equal one's own; no signal without another."""

    def rewards(turns: Sequence[Turn]) -> list[float | None]:
        votes = Counter(turn.answer_key for turn in turns if turn.answer_key is not None)
        voters = sum(votes.values())
        # Who does not answer agrees with nobody; who is the only one to answer cannot be agreed with.
        return [
            (0.0 if turn.answer_key is None else (votes[turn.answer_key] - 1) / (voters - 1)) if voters > 1 else None
            for turn in turns
        ]

    return pay(group, rewards)


@dataclass(frozen=True)
class OutcomeOptions:
    """Options of ``outcome``.

    Args:
        right: What a right last attempt is worth.
        wrong: What a wrong one is worth.
        no_answer: What one without an answer in the accepted form is worth.
        malformed: Added for *every* attempt without an answer, on its own turn.
        decay: Factor of ``right`` for each attempt that came before.
        repeats: Taken off the last attempt, times the share of attempts that repeat the answer of another one.
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
    """Pays how an episode ends, on its last attempt; earlier ones are worth what ``turn_gamma`` hands back to them.

    Covers multi-attempt RL (arXiv 2503.04808, section 3), RLEF (2410.02089, section 2.2) and UFO's decay and penalty
    (2507.14295, section 3), each with options of its own.
    """
    episodes = list(group.episodes)
    for i, episode in enumerate(episodes):
        places = [k for k, turn in enumerate(episode.turns) if turn.role == SOLVER]
        if episode.failed or not places:
            continue
        turns = list(episode.turns)
        last, n, keys = turns[places[-1]], len(places), {turns[k].answer_key for k in places}
        worth = right * decay ** (n - 1) if last.correct else no_answer if last.answer is None else wrong
        # Attempts without an answer are alike (their key is None): each but the first repeats.
        worth -= repeats * (1 - len(keys) / n)
        for k in places:
            own = malformed if turns[k].answer is None else 0.0
            turns[k] = replace(turns[k], reward=own if k != places[-1] else own + worth)
        episodes[i] = replace(episode, turns=tuple(turns))
    return replace(group, episodes=tuple(episodes))


@GROUP_REWARDS.register("critic", between=True)
def critic(group: Group) -> Group:
    """Pays what is said between two attempts what the attempt after it earned (CTRL, arXiv 2502.03492, section 3.3).

    What no attempt follows says nothing, and is masked.
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
