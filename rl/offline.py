"""Offline self-correction: sample, keep by rule, fine-tune on what is kept.

STaR (Zelikman et al., arXiv 2203.14465) and Pair-SFT (Welleck et al., arXiv 2211.00053, without its second model),
as SCoRe compares with them (arXiv 2409.12917, section 4), learn the last attempt only; the first is its context.
Relabelled imitation (muCode, arXiv 2502.20380) learns every attempt.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor

from envs import Task
from rewards.lookup import Lookup
from rewards.wording import counted
from rl.analysis.revisions import Revision, draft_errors, edit_histogram, kind_shares
from rl.backends.preferences import PreferenceRow, fine_tune_on_pairs
from rl.backends.sft import SFTRow, clone_weights, fine_tune
from rl.backends.weights import trained_tensors
from rl.budget import TOKEN_CHUNK
from rl.config import SFTConfig
from rl.config.checks import check_numbers
from rl.refusals import refuse_offline
from rl.rollout import EpisodePlan, Rollout
from rl.rollout_metrics import sampled_responses, sampled_tokens
from rl.source import TaskStream
from rl.types import Episode, RunStoppedError, Totals, Turn, derive_seed

Encode = Callable[[str], Sequence[int]]
KeepRule = Callable[..., list[Any]]
"""``(episodes, seed, encode, **options) -> rows``: what is learned of sampled episodes, all of them :class:`SFTRow` or
all :class:`PreferenceRow`. ``seed`` decides draws, ``encode`` turns words into token ids."""

KEEP_RULES: Lookup[KeepRule] = Lookup("offline.rule")
"""``preferences=True`` declares that a rule keeps pairs of which one is preferred, and is learned with DPO;
``rounds=1`` that it builds on the base's own attempts, so that further rounds would not be the method; ``attempts=2``
that it keeps nothing of episodes with fewer, or a function of its options that says how many; ``reads=2`` that it
learns from no later ones. A rule keeps a row of every attempt at most."""


class NothingKeptError(ValueError):
    """The rule kept none of the sampled episodes, so there is nothing to learn from."""


@dataclass(frozen=True)
class StarOptions:
    """Options of ``star``.

    Args:
        keep_right_to_right: Also keep traces whose first attempt was right (the paper's D+); else only wrong->right.
    """

    keep_right_to_right: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "offline.rule_options")


@dataclass(frozen=True)
class DrawOptions:
    """Options of rules that draw.

    Args:
        per_task: At most this many of each kind per task: pairs, visited states of each turn, judged attempts.
    """

    per_task: int = 8

    def __post_init__(self) -> None:
        check_numbers(self, "offline.rule_options", positive="per_task")


@dataclass(frozen=True)
class PairOptions(DrawOptions):
    """Options of ``pair``.

    Args:
        keep_right_to_right: Also pair right first attempts with right ones (the paper's D+).
    """

    keep_right_to_right: bool = False


@dataclass(frozen=True)
class VerifyOptions(DrawOptions):
    """Options of ``verify``.

    Args:
        says_right: What is written before a first attempt that was right is repeated.
        says_wrong: What is written before a wrong one is replaced.
    """

    says_right: str = "The solution above is correct.\n"
    says_wrong: str = "The solution above is not correct.\n"


@KEEP_RULES.register("star", options=StarOptions, attempts=lambda given: 1 if given.keep_right_to_right else 2)
def keep_star(episodes: Sequence[Episode], seed: int, encode: Encode, *, keep_right_to_right: bool) -> list[SFTRow]:
    """STaR: own traces that end right; one that ended with its first attempt is kept where right ones are."""
    rows = []
    for episode in _finished(episodes):
        first, last = episode.turns[0], episode.turns[-1]
        if last.correct and (keep_right_to_right or not first.correct):
            revision = Revision.of(first, last) if len(episode.turns) > 1 else None
            rows.append(SFTRow.from_turn(last.prompt_ids, last.action_ids, revision))
    return rows


@KEEP_RULES.register("pair", options=PairOptions, rounds=1, attempts=2, reads=2)
def keep_pairs(
    episodes: Sequence[Episode], seed: int, encode: Encode, *, keep_right_to_right: bool, per_task: int
) -> list[SFTRow]:
    """Pair-SFT: a wrong first attempt, answered by another first attempt at the same task that was right.

    The prompt is the one that the environment showed after the wrong attempt, token for token; the response is the
    right attempt's own tokens.
    """
    # Draws hang on the task alone, here and below: what is kept of one task does not depend on the others.
    rows = []
    for task_id, attempts in _by_task(episodes).items():
        rng = random.Random(derive_seed(seed, "pairs", task_id))
        right = [episode for episode in attempts if episode.turns[0].correct]
        wrong = [episode for episode in _revised(attempts) if not episode.turns[0].correct]
        if not right:
            continue
        drafts = rng.sample(wrong, min(per_task, len(wrong)))
        if keep_right_to_right:
            again = _revised(right)
            drafts += rng.sample(again, min(per_task, len(again)))
        for draft in drafts:
            answer = rng.choice(right).turns[0]
            revision = Revision.of(draft.turns[0], answer)
            rows.append(SFTRow.from_turn(draft.turns[1].prompt_ids, answer.action_ids, revision))
    return rows


@KEEP_RULES.register("relabel", options=DrawOptions)
def keep_relabelled(episodes: Sequence[Episode], seed: int, encode: Encode, *, per_task: int) -> list[SFTRow]:
    """Relabelled imitation: whatever was seen before an attempt, the attempt that should have followed is a right one.

    After muCode (arXiv 2502.20380, section 4.1): if one step suffices to recover from any state, the expert's answer to
    every state is a solution, and states come from the policy itself, so there is no shift between training and use.
    Right attempts *of the same turn* are preferred, because turns may have different room.
    """
    rows = []
    for task_id, group in _by_task(episodes).items():
        rng = random.Random(derive_seed(seed, "relabel", task_id))
        # By turn: the right ones among the episodes that played it.
        n_turns = max(len(episode.turns) for episode in group)
        right = [[e.turns[k] for e in group if k < len(e.turns) and e.turns[k].correct] for k in range(n_turns)]
        anywhere = [turn for turns in right for turn in turns]
        if not anywhere:
            continue
        for k, answers in enumerate(right):
            played = [episode for episode in group if k < len(episode.turns)]
            for episode in rng.sample(played, min(per_task, len(played))):
                answer = rng.choice(answers or anywhere)
                revision = Revision.of(episode.turns[k - 1], answer) if k else None
                rows.append(SFTRow.from_turn(episode.turns[k].prompt_ids, answer.action_ids, revision))
    return rows


@KEEP_RULES.register("verify", options=VerifyOptions, attempts=2, reads=2)
def keep_verified(
    episodes: Sequence[Episode], seed: int, encode: Encode, *, per_task: int, says_right: str, says_wrong: str
) -> list[SFTRow]:
    """Verify, then revise: a judgement of the first attempt, then its repetition or a right attempt in its place.

    After self-rewarding correction (arXiv 2502.19613, section 3.1), with a rule instead of a model as the judge. The
    revision hangs on a written judgement, which filtered traces alone do not teach.
    """

    def judged(draft: Episode, judgement: str, answer: Turn) -> SFTRow:
        action_ids = (*encode(judgement), *answer.action_ids)
        return SFTRow.from_turn(draft.turns[1].prompt_ids, action_ids, Revision.of(draft.turns[0], answer))

    rows = []
    for task_id, group in _by_task(episodes).items():
        rng = random.Random(derive_seed(seed, "verify", task_id))
        right = [episode for episode in group if episode.turns[0].correct]
        wrong, again = [episode for episode in _revised(group) if not episode.turns[0].correct], _revised(right)
        for draft in rng.sample(again, min(per_task, len(again))):
            rows.append(judged(draft, says_right, draft.turns[0]))
        for draft in rng.sample(wrong, min(per_task, len(wrong))) if right else ():
            rows.append(judged(draft, says_wrong, rng.choice(right).turns[0]))
    return rows


@KEEP_RULES.register("dpo", options=DrawOptions, preferences=True, attempts=2, reads=2)
def prefer(episodes: Sequence[Episode], seed: int, encode: Encode, *, per_task: int) -> list[PreferenceRow]:
    """Correction pairs: a right attempt is preferred to the policy's own wrong second one.

    After a right first attempt the pair is c->c over c->i, after a wrong one i->c over i->i. The prompt is the one of
    the wrong second attempt, token for token; the right attempt is a second one where the task has any, else a first.
    """
    rows = []
    for task_id, group in _by_task(episodes).items():
        rng = random.Random(derive_seed(seed, "dpo", task_id))
        # The rejected answer was sampled behind a first attempt; right ones that were too are nearer to what is written
        # there than first attempts are.
        revised = _revised(group)
        seconds = [episode.turns[1] for episode in revised if episode.turns[1].correct]
        right = seconds or [episode.turns[0] for episode in group if episode.turns[0].correct]
        wrong = [episode for episode in revised if not episode.turns[1].correct]
        for episode in rng.sample(wrong, min(per_task, len(wrong))) if right else ():
            chosen, rejected = rng.choice(right), episode.turns[1]
            revision = Revision.of(episode.turns[0], chosen)
            rows.append(PreferenceRow(rejected.prompt_ids, chosen.action_ids, rejected.action_ids, revision))
    return rows


def needed_attempts(rule: str, options: Mapping[str, Any]) -> int:
    """Attempts without which a rule keeps nothing of an episode."""
    needed: Any = KEEP_RULES.fact(rule, "attempts") or 1
    found: Any = needed(KEEP_RULES.options(rule, options)) if callable(needed) else needed
    return found


def _by_task(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    found: dict[str, list[Episode]] = defaultdict(list)
    for episode in _finished(episodes):
        found[episode.task_id].append(episode)
    return found


def _finished(episodes: Sequence[Episode]) -> Iterator[Episode]:
    return (episode for episode in episodes if not episode.failed and episode.turns)


def _revised(episodes: Sequence[Episode]) -> list[Episode]:
    # An episode that ended with its first attempt never saw the prompt of a second one: it can answer, and be no draft.
    return [episode for episode in episodes if len(episode.turns) > 1]


class OfflineTrainer:
    """Runs one offline method.

    Every round samples with the current weights, keeps rows by rule and fine-tunes the *base* on them (STaR's outer
    loop restarts so as not to overfit) or, without ``restart``, the current model. The rounds share the run's budget of
    sampled episodes equally.

    Args:
        config: The run.
        model: The policy; its weights at this moment are the base.
        tokenizer: Its tokenizer.
        rollout: Plays two-attempt training episodes with an engine that samples from ``model``.
        tasks: Training tasks.
        on_update: Called with the new weights' version after every round.
        on_progress: Called with a description and the progress in [0, 1].
        recorded: Episodes that are learned from in place of sampled ones; ``None`` samples.
    """

    def __init__(
        self,
        config: SFTConfig,
        model: Any,
        tokenizer: Any,
        rollout: Rollout,
        tasks: Sequence[Task],
        on_update: Callable[[int], None],
        on_progress: Callable[[str, float], None],
        recorded: Sequence[Episode] | None = None,
    ) -> None:
        self._recorded = recorded
        self._config, self._offline = config, config.offline
        self._model, self._tokenizer, self._rollout = model, tokenizer, rollout
        self._stream = TaskStream(tasks, config.seed)
        self._on_update, self._on_progress = on_update, on_progress
        refuse_offline(config)
        self._rule = KEEP_RULES.bind(self._offline.rule, self._offline.rule_options)
        self._learn: Any = fine_tune_on_pairs if KEEP_RULES.fact(self._offline.rule, "preferences") else fine_tune
        self._base = clone_weights(model)
        self.round = self._position = 0
        self.totals = Totals()

    def collect(self) -> list[Episode]:
        """One round's share of the budget of sampled episodes or tokens, or what was recorded elsewhere.

        Raises:
            RunStoppedError: If a budget of tokens cannot be spent, because no episode gets as far as a token.
        """
        if self._recorded is not None:
            return list(self._recorded)
        budget, iterations = self._config.training, self._offline.iterations
        # How many tokens a group will have is not known, so with a budget of tokens small chunks are sampled until it
        # is spent. Tasks go on where the round before ended, in the same endless stream as online training's.
        n_groups = budget.episodes // (iterations * self._offline.group_size)
        chunk = TOKEN_CHUNK if budget.tokens else 128
        episodes: list[Episode] = []
        n_tokens = done = 0
        while done < n_groups or budget.tokens:
            size = chunk if budget.tokens else min(chunk, n_groups - done)
            plans = []
            for position in range(self._position, self._position + size):
                task = self._stream[position]
                for member in range(self._offline.group_size):
                    draw = derive_seed(self._config.seed, "collect", position, task.id, member)
                    plans.append(EpisodePlan(task, position, draw))
            self._position += size
            new = self._rollout.run(plans, self._offline.temperature)
            episodes += new
            done += size
            n_new = sampled_tokens(new)
            n_tokens += n_new
            if budget.tokens and not n_new:  # such a budget would never be spent
                said = next((episode.error for episode in new if episode.error is not None), "no error is given")
                raise RunStoppedError(
                    f"{self._offline.name}: not a token was sampled in {counted(len(new), 'episode')}, so that "
                    f"training.tokens={budget.tokens} is never spent. First: {said}"
                )
            share = n_tokens * iterations / budget.tokens if budget.tokens else done / n_groups
            self._on_progress("sampling", min(1.0, (self.round + share) / iterations))
            if budget.tokens and share >= 1.0:
                break
        return episodes

    def train_round(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """Keeps rows, restarts from the base if the method does, and fine-tunes.

        Returns:
            ``kept`` and ``kept_fraction`` beside what :func:`rl.backends.sft.fine_tune` returns, the shares of the
            kinds of revision among what was kept (``data/<kind>``), ``edits``, their edit-ratio histograms, and
            ``errors``, how many wrong attempts of which kind are revised.

        Raises:
            NothingKeptError: If the rule kept nothing.
        """
        encode = partial(self._tokenizer.encode, add_special_tokens=False)
        rows = self._rule(episodes, self._config.seed, encode)
        if not rows:
            hint = (
                "the base never does what the method wants to imitate. Sample more (training.episodes) or take an "
                "easier task"
            )
            if ended := sum(len(episode.turns) == 1 for episode in _finished(episodes)):
                hint = f"{ended} of them ended with their first attempt and have no second one to learn from. {hint}"
            if self._recorded is not None:
                hint = "offline.conversations holds nothing of what it keeps, such as right second attempts"
            raise NothingKeptError(
                f"{self._offline.name}: none of {counted(len(episodes), 'episode')} passes the rule; {hint}"
            )
        # The engine sampled these episodes with the weights of the round before, which are given up only now.
        if self._offline.restart:
            self._model.load_state_dict(self._base)
        outcome = self._learn(
            self._model,
            self._tokenizer,
            rows,
            self._offline,
            derive_seed(self._config.seed, "sft", self.round),
            self._config.training.updates // self._offline.iterations,
            lambda share: self._on_progress("fine-tuning", (self.round + share) / self._offline.iterations),
        )
        self.round += 1
        self.totals.episodes += len(episodes)
        self.totals.responses += sampled_responses(episodes)
        self.totals.sampled_tokens += sampled_tokens(episodes)
        self.totals.gradient_tokens += int(outcome["gradient_tokens"])
        self.totals.updates += int(outcome["steps"])
        self._on_update(self.round)
        revisions = [row.revision for row in rows if row.revision is not None]
        shares = {name: ratio.value for name, ratio in kind_shares(revisions).items()} if revisions else {}
        kept = {"kept": len(rows), "kept_fraction": len(rows) / len(episodes)}
        return kept | outcome | shares | {"edits": edit_histogram(revisions), "errors": draft_errors(revisions)}

    def state(self) -> dict[str, Any]:
        """What the next round depends on, beside :meth:`tensors`."""
        return {"round": self.round, "position": self._position, "totals": asdict(self.totals)}

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights, live."""
        return trained_tensors("policy", self._model)

    def load_state(
        self,
        shared: dict[str, Any],
        parts: Sequence[dict[str, Any]],
        fill: Callable[[dict[str, Tensor]], None],
    ) -> None:
        """The inverse of :meth:`state`; the engine gets the weights too. See :class:`rl.checkpoint.Stateful`."""
        self.round, self._position, self.totals = shared["round"], shared["position"], Totals(**shared["totals"])
        fill(self.tensors())
        self._on_update(self.round)
