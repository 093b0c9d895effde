"""What a batch of episodes looks like, as numbers for the log."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from rewards import Verdict
from rl.analysis.metrics import Ratio, total
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
    parts = [_group_metrics(to_groups(good))]
    if max_turns > 1:
        parts.append(kind_shares([Revision.of(e.turns[0], e.turns[-1]) for e in good if len(e.turns) > 1]))
    for k in range(max_turns):
        turns = [e.turns[k] for e in good if e.given <= k < len(e.turns)]
        parts.append({f"{name}_t{k + 1}": ratio for name, ratio in _turn_metrics(turns).items()})
    return {name: ratio.value for name, ratio in sums.sum_ratios(total(parts)).items()}


def _turn_metrics(turns: list[Turn]) -> dict[str, Ratio]:
    n = float(len(turns))

    def count(verdict: Verdict) -> Ratio:
        return Ratio(float(sum(turn.score is not None and turn.score.verdict is verdict for turn in turns)), n)

    return {
        "reward/raw": Ratio(sum(turn.reward for turn in turns), n),
        "rollout/tokens": Ratio(float(sum(len(turn.action_ids) for turn in turns)), n),
        "rollout/truncated": Ratio(float(sum(turn.finish is Finish.LENGTH for turn in turns)), n),
        "rollout/accuracy": count(Verdict.CORRECT),
        "rollout/no_answer": count(Verdict.NO_ANSWER),
        "rollout/ambiguous": count(Verdict.AMBIGUOUS),
        "rollout/verifier_timeout": count(Verdict.TIMEOUT),
    }


def _group_metrics(groups: list[Group]) -> dict[str, Ratio]:
    n = float(len(groups))
    last = [[e.turns[-1].correct for e in group.episodes] for group in groups]
    mixed = sum(len({tuple(t.reward for t in e.turns) for e in group.episodes}) > 1 for group in groups)
    return {
        "group/mixed_fraction": Ratio(float(mixed), n),
        "group/all_correct_fraction": Ratio(float(sum(all(row) for row in last)), n),
        "group/all_wrong_fraction": Ratio(float(sum(not any(row) for row in last)), n),
    }
