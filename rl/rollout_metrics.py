"""Metrics of a training step for the log: its episodes, the measurements of its updates, and its cost."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rewards import Verdict
from rewards.lookup import refuse_other_kind
from rl.advantages import shaped_rewards
from rl.analysis.metrics import Ratio, declare, total
from rl.analysis.revisions import Revision, draft_errors, kind_shares
from rl.backends.distributed import Distributed
from rl.backends.flops import Flops, peak_memory_gib
from rl.trainer import Step
from rl.types import Episode, Finish, Group


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


def describe(step: Step, distributed: Distributed | None = None, flops: Flops | None = None) -> dict[str, float]:
    """All metrics of a step; every process must call this function.

    Args:
        step: The step, as this process took it.
        distributed: Processes and devices; ``None`` creates them from the launcher's settings.
        flops: FLOPs per token and peak of the device; ``None`` leaves out the utilisation.

    Raises:
        TypeError: If ``step`` is no step.
    """
    refuse_other_kind(step, Step, "describe", "give what trainer.train_step() returned")
    distributed = distributed or Distributed()
    batch, counts, measured, totals = step.batch, step.batch.counts, step.measured, step.totals
    metrics = rollout_metrics(batch.episodes, step.stage.attempts, distributed)
    metrics |= {
        "rollout/env_error": counts.env_error,
        "rollout/context_full": counts.context_full,
        "rollout/failed_fraction": counts.failed / counts.episodes,
        "rollout/episodes": totals.episodes,
        "rollout/sampled_tokens": totals.sampled_tokens,
        "group/resampled": batch.n_resampled,
        "group/offline_first_fraction": counts.given / counts.episodes,
        "policy/sampler_gap": measured.gap,
        "optim/lr": step.lr,
        "stage": step.stage_index,
    }
    metrics |= batch.curriculum | measured.log
    metrics |= {f"policy/kl_ref_t{k + 1}": value for k, value in enumerate(measured.kl)}
    metrics |= {f"policy/abs_advantage_t{k + 1}": value for k, value in enumerate(measured.advantage)}
    metrics |= {f"policy/kl_coef_t{k + 1}": coef for k, coef in enumerate(step.kl_coefs)}
    # The variance is computed from means, since means can be combined over processes and variances cannot.
    if "critic/return" in metrics:
        variance = metrics["critic/return_square"] - metrics["critic/return"] ** 2
        error = metrics["critic/error"]
        metrics["critic/explained_variance"] = 1 - error / variance if variance > 0 else float("nan")
    # Each row of a conversation holds all of its rewards, so only the first row is counted.
    starts = torch.tensor([i for i, row in enumerate(batch.rows) if not row.first], dtype=torch.long)
    rows = batch.train.rollout.rows(starts)
    sums = shaped_rewards(rows.rewards, rows.n_turns, step.stage).sum(0).tolist()
    shares = {f"reward/shaped_t{k + 1}": Ratio(value, float(len(rows))) for k, value in enumerate(sums)}
    metrics |= {name: ratio.value for name, ratio in distributed.sum_ratios(shares).items()}

    # Speeds are for all processes: n times the tokens of this one, since each has an equal share of the tasks.
    seconds, n = batch.seconds, distributed.n_processes
    kept_tokens, wall = sampled_tokens(batch.episodes) * n, sum(seconds.values())
    update = max(seconds["update"], 1e-9)
    metrics |= {f"time/{name}": value for name, value in seconds.items()} | {
        "system/episodes_per_second": len(batch.episodes) * n / wall,
        "system/tokens_per_second": kept_tokens / wall,
        "system/sampling_tokens_per_second": kept_tokens / max(seconds["sampling"], 1e-9),
        "system/update_tokens_per_second": counts.read / update,
        "system/peak_memory": peak_memory_gib(distributed.device),
    }
    if flops is not None and flops.peak:
        metrics["system/mfu"] = flops.per_token * counts.read / update / n / flops.peak
    return metrics


def token_advantages(step: Step, n: int) -> dict[int, list[list[float]]]:
    """Advantages of the trained episodes among the first ``n``: episode index -> for each turn, one value per token."""
    found: dict[int, list[list[float]]] = {}
    for i, row in enumerate(step.batch.rows):  # rows are in the order of their episodes
        if row.episode >= n:
            break
        turns = found.setdefault(row.episode, [[] for _ in step.episodes[row.episode].turns])
        for k, index in enumerate(row.turns, row.first):
            turns[index] = step.batch.train.advantages[i][step.batch.train.rollout.turn_ids[i] == k].tolist()
    return found


def conversation_rows(step: Step, n: int, decode: Callable[[Sequence[int]], str]) -> list[dict[str, Any]]:
    """Table rows, one per turn, of ``n`` episodes spread evenly over the step's groups.

    Args:
        step: The step, as this process took it.
        n: Number of episodes; all if there are fewer.
        decode: Turns token ids into text.
    """
    # Episodes are chosen at even distances, since those of a group stand next to each other.
    episodes, rows = step.episodes, []
    n = min(n, len(episodes))
    chosen = [i * len(episodes) // n for i in range(n)]
    advantages = token_advantages(step, max(chosen, default=-1) + 1)
    for i in chosen:
        rows += transcript(episodes[i], decode, advantages.get(i, ()))
    return rows


def transcript(
    episode: Episode, decode: Callable[[Sequence[int]], str], advantages: Sequence[Sequence[float]] = ()
) -> list[dict[str, Any]]:
    """Table rows, one per turn, with the text that was read and written in an episode.

    A prompt is shown without the part that repeats the role's earlier conversation.

    Args:
        episode: The episode.
        decode: Turns token ids into text.
        advantages: Advantages of the sampled tokens of each turn; empty if the episode was not trained on.

    Raises:
        TypeError: If ``episode`` is no episode, or ``decode`` a tokenizer.
    """
    refuse_other_kind(episode, Episode, "transcript", "give one of the episodes that play returned")
    if hasattr(decode, "decode"):
        raise TypeError("transcript takes a function from token ids to text, not a tokenizer: give its method decode")
    rows, read = [], dict[str, int]()
    for k, turn in enumerate(episode.turns):
        start = 0 if turn.restarts else read.get(turn.role, 0)
        read[turn.role] = len(turn.prompt_ids) + len(turn.action_ids)
        given = advantages[k] if advantages else ()
        rows.append({
            "task_id": episode.task_id,
            "group": episode.group_id,
            "role": turn.role,
            "attempt": k + 1,
            "prompt": decode(turn.prompt_ids[start:]),
            "answer": turn.text,
            "verdict": turn.score.verdict.value if turn.score is not None else "unscored",
            "reward": turn.reward,
            "advantage": sum(given) / len(given) if given else None,
            "tokens": len(turn.action_ids),
            "finish": turn.finish.value,
        })  # fmt: skip
    return rows


def rollout_metrics(episodes: Sequence[Episode], max_turns: int, distributed: Distributed) -> dict[str, float]:
    """Rewards, lengths and verdicts of each turn, and fractions of groups with a gradient, over all processes.

    Failed episodes and given turns are left out.

    Args:
        episodes: This process's episodes of a rollout batch.
        max_turns: K; metrics of all K turns are present, so that all processes have the same names.
        distributed: Processes over which ratios are summed.
    """
    # Ratios keep numerator and denominator, which are summed over processes before the division.
    good = [episode for episode in episodes if not episode.failed]
    sampled = [turn for episode in good for turn in episode.sampled]
    masked = Ratio(float(sum(not turn.trained for turn in sampled)), float(len(sampled)))
    groups = to_groups(good)
    last = [[episode.attempts[-1].correct for episode in group.episodes] for group in groups]
    mixed = [len({tuple(turn.reward for turn in e.turns) for e in group.episodes}) > 1 for group in groups]
    n_groups = float(len(groups))
    parts = [
        {
            "rollout/masked_fraction": masked,
            "group/mixed_fraction": Ratio(float(sum(mixed)), n_groups),
            "group/all_correct_fraction": Ratio(float(sum(map(all, last))), n_groups),
            "group/all_wrong_fraction": Ratio(float(n_groups - sum(map(any, last))), n_groups),
        }
    ]
    if max_turns > 1:
        parts.append(kind_shares(_revisions(good)))
    for k in range(max_turns):
        turns = [e.attempts[k] for e in good if e.given <= k < len(e.attempts)]
        n, trained = float(len(turns)), [turn for turn in turns if turn.trained]
        verdicts = Counter(turn.score.verdict for turn in turns if turn.score is not None)
        of_turn = {
            "reward/raw": Ratio(sum(turn.reward for turn in trained), float(len(trained))),
            "rollout/tokens": Ratio(float(sum(len(turn.action_ids) for turn in turns)), n),
            "rollout/truncated": Ratio(float(sum(turn.finish is Finish.LENGTH for turn in turns)), n),
            "rollout/accuracy": Ratio(float(verdicts[Verdict.CORRECT]), n),
            "rollout/no_answer": Ratio(float(verdicts[Verdict.NO_ANSWER]), n),
            "rollout/ambiguous": Ratio(float(verdicts[Verdict.AMBIGUOUS]), n),
            "rollout/verifier_timeout": Ratio(float(verdicts[Verdict.TIMEOUT]), n),
        }
        parts.append({f"{name}_t{k + 1}": ratio for name, ratio in of_turn.items()})
    return {name: ratio.value for name, ratio in distributed.sum_ratios(total(parts)).items()}


def errors_trained_on(step: Step, distributed: Distributed) -> dict[str, int]:
    """Number of wrong first attempts with a second attempt, by kind of error; every process must call this function."""
    good = [episode for episode in step.episodes if not episode.failed]
    counts: Counter[str] = Counter()
    for part in distributed.gather([draft_errors(_revisions(good))]):
        counts.update(part)
    return dict(counts)


def _revisions(episodes: Sequence[Episode]) -> list[Revision]:
    pairs = [episode.attempts[:2] for episode in episodes if len(episode.attempts) > 1]
    return [Revision.of(*pair) for pair in pairs]


declare(
    {
        "reward/raw_t<k>": ("reward", "mean raw reward of the turn"),
        "rollout/tokens_t<k>": ("tokens", "mean sampled tokens of the turn"),
        "rollout/truncated_t<k>": ("fraction", "turns cut off by the token limit"),
        "rollout/no_answer_t<k>": ("fraction", "turns without an answer in the accepted form"),
        "rollout/ambiguous_t<k>": ("fraction", "turns that give several different final answers"),
        "rollout/verifier_timeout_t<k>": ("fraction", "turns whose verification was killed at its deadline"),
        "rollout/masked_fraction": ("fraction", "sampled turns left out of training, as their reward is uninformative"),
        "rollout/accuracy_t<k>": ("fraction", "turns with the verdict correct"),
        "group/mixed_fraction": ("fraction", "groups with a gradient: the episodes' rewards differ at some turn"),
        "group/all_correct_fraction": ("fraction", "groups whose last attempts are all right"),
        "group/all_wrong_fraction": ("fraction", "groups whose last attempts are all wrong"),
        "reward/shaped_t<k>": ("reward", "mean reward of the turn after weights and progress bonus"),
        "policy/kl_coef_t<k>": ("1", "weight of the turn's KL penalty"),
        "rollout/env_error": ("episodes", "episodes ended by an error of environment or verifier"),
        "rollout/context_full": ("episodes", "episodes that ended early because their context was full"),
        "rollout/failed_fraction": ("fraction", "failed episodes, which are left out of training"),
        "rollout/episodes": ("episodes", "sampled episodes so far, failed ones included"),
        "rollout/sampled_tokens": ("tokens", "sampled tokens so far"),
        "group/resampled": ("groups", "groups without a gradient that dynamic sampling replaced"),
        "group/offline_first_fraction": ("fraction", "episodes whose first attempt was given instead of sampled"),
        "critic/explained_variance": ("fraction", "1 - error / variance of the returns; 0 for the best constant"),
        "optim/lr": ("1", "learning rate"),
        "stage": ("index", "stage of the algorithm, from 0"),
        "time/sampling": ("seconds", "time in the engine during the step"),
        "time/verification": ("seconds", "time in environments and verifiers during the step"),
        "time/update": ("seconds", "time in forward, backward and optimiser during the step"),
        "time/other": ("seconds", "rest of the step: rendering, batching, logging, validation"),
        "time/checkpoint": ("seconds", "time for writing checkpoints since the previous step"),
        "system/sampling_tokens_per_second": ("tokens/s", "sampled tokens per second in the engine"),
        "system/update_tokens_per_second": ("tokens/s", "prompt and response tokens per second of the update"),
        "system/mfu": ("fraction", "model FLOPs of the update over the peak FLOPs of the device; known GPUs only"),
        "system/peak_memory": ("GiB", "peak memory of this process: GPU memory, or resident memory without a GPU"),
        "system/episodes_per_second": ("episodes/s", "episodes sampled and trained on per second of the whole step"),
        "system/tokens_per_second": ("tokens/s", "sampled tokens per second of the whole step"),
    }
)
