"""What a batch of episodes looks like, as numbers for the log."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Protocol

from rewards import Verdict
from rl.analysis.metrics import Ratio, declare, total
from rl.analysis.revisions import Revision, kind_shares
from rl.types import Episode, Finish, Group, Turn


class _Sums(Protocol):
    def sum_ratios(self, ratios: dict[str, Ratio]) -> dict[str, Ratio]: ...


def sampled_tokens(episodes: Sequence[Episode]) -> int:
    """Number of tokens that the policy sampled."""
    return sum(len(turn.action_ids) for episode in episodes for turn in episode.sampled)


def sampled_responses(episodes: Sequence[Episode]) -> int:
    """Number of attempts that the policy sampled."""
    return sum(len(episode.sampled) for episode in episodes)


def to_groups(episodes: Sequence[Episode]) -> list[Group]:
    """Episodes by group, in order of first appearance."""
    members: dict[int, list[Episode]] = defaultdict(list)
    for episode in episodes:
        members[episode.group_id].append(episode)
    return [Group(group_id, tuple(group)) for group_id, group in members.items()]


def rollout_metrics(episodes: Sequence[Episode], max_turns: int, sums: _Sums) -> dict[str, float]:
    """Per-turn rewards, lengths and endings, and which groups carry a gradient; without failures and given turns.

    Args:
        episodes: A rollout batch.
        max_turns: K; every turn's metrics are present, so that processes can be added up.
        sums: Adds ratios over processes.
    """
    good = [episode for episode in episodes if not episode.failed]
    sampled = [turn for episode in good for turn in episode.sampled]
    masked = Ratio(float(sum(not turn.trained for turn in sampled)), float(len(sampled)))
    groups = to_groups(good)
    last = [[episode.turns[-1].correct for episode in group.episodes] for group in groups]
    mixed = [len({tuple(turn.reward for turn in e.turns) for e in group.episodes}) > 1 for group in groups]
    n = float(len(groups))
    parts = [
        {
            "rollout/masked_fraction": masked,
            "group/mixed_fraction": Ratio(float(sum(mixed)), n),
            "group/all_correct_fraction": Ratio(float(sum(map(all, last))), n),
            "group/all_wrong_fraction": Ratio(float(n - sum(map(any, last))), n),
        }
    ]
    if max_turns > 1:
        parts.append(kind_shares([Revision.of(e.turns[0], e.turns[-1]) for e in good if len(e.turns) > 1]))
    for k in range(max_turns):
        turns = [e.turns[k] for e in good if e.given <= k < len(e.turns)]
        parts.append({f"{name}_t{k + 1}": ratio for name, ratio in _turn_metrics(turns).items()})
    return {name: ratio.value for name, ratio in sums.sum_ratios(total(parts)).items()}


def _turn_metrics(turns: list[Turn]) -> dict[str, Ratio]:
    n = float(len(turns))
    verdicts = Counter(turn.score.verdict for turn in turns if turn.score is not None)
    return {
        "reward/raw": Ratio(sum(turn.reward for turn in turns if turn.trained), float(sum(t.trained for t in turns))),
        "rollout/tokens": Ratio(float(sum(len(turn.action_ids) for turn in turns)), n),
        "rollout/truncated": Ratio(float(sum(turn.finish is Finish.LENGTH for turn in turns)), n),
        "rollout/accuracy": Ratio(float(verdicts[Verdict.CORRECT]), n),
        "rollout/no_answer": Ratio(float(verdicts[Verdict.NO_ANSWER]), n),
        "rollout/ambiguous": Ratio(float(verdicts[Verdict.AMBIGUOUS]), n),
        "rollout/verifier_timeout": Ratio(float(verdicts[Verdict.TIMEOUT]), n),
    }


declare(
    {
        "reward/raw_t<k>": ("reward", "mean raw reward of the turn"),
        "rollout/tokens_t<k>": ("tokens", "mean sampled tokens of the turn"),
        "rollout/truncated_t<k>": ("fraction", "turns cut off by the token limit"),
        "rollout/no_answer_t<k>": ("fraction", "turns without an answer in the accepted form"),
        "rollout/ambiguous_t<k>": ("fraction", "turns that offer several answers as final"),
        "rollout/verifier_timeout_t<k>": ("fraction", "turns whose verification was killed at its deadline"),
        "rollout/masked_fraction": ("fraction", "sampled turns that are not trained on: their reward says nothing"),
        "rollout/accuracy_t<k>": ("fraction", "turns with verdict correct"),
        "group/mixed_fraction": ("fraction", "groups with a gradient: rewards differ at some turn"),
        "group/all_correct_fraction": ("fraction", "groups whose last attempts are all right"),
        "group/all_wrong_fraction": ("fraction", "groups whose last attempts are all wrong"),
    }
)
