"""Offline self-correction: sample episodes, keep some by a rule, and fine-tune on the kept ones.

STaR (Zelikman et al., arXiv 2203.14465) and Pair-SFT (Welleck et al., arXiv 2211.00053, without its second model), the
baselines of SCoRe (arXiv 2409.12917, section 4), train on the last attempt only, with the first attempt as context.
Relabelled imitation (muCode, arXiv 2502.20380) trains on every attempt.
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
"""``(episodes, seed, encode, **options) -> rows``: the training rows made from sampled episodes, either all
:class:`SFTRow` or all :class:`PreferenceRow`. ``seed`` determines random choices, ``encode`` turns text into token ids.
"""

KEEP_RULES: Lookup[KeepRule] = Lookup("offline.rule")
"""``preferences=True`` declares that a rule returns preference pairs, which are learned with DPO; ``rounds=1`` that it
uses the base's own attempts, so that the method has a single round; ``attempts=2`` that it keeps nothing of episodes
with fewer attempts (the value may be a function of the options); ``reads=2`` that it ignores later attempts. A rule
makes at most one row per attempt."""


class NothingKeptError(ValueError):
    """The rule kept none of the sampled episodes, so there is nothing to train on."""


@dataclass(frozen=True)
class StarOptions:
    """Options of ``star``.

    Args:
        keep_right_to_right: Also keep traces whose first attempt was right (the paper's D+), not only wrong->right.
    """

    keep_right_to_right: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "offline.rule_options")


@dataclass(frozen=True)
class DrawOptions:
    """Options of rules that choose rows at random.

    Args:
        per_task: Largest number of rows of each kind per task.
    """

    per_task: int = 8

    def __post_init__(self) -> None:
        check_numbers(self, "offline.rule_options", positive="per_task")


@dataclass(frozen=True)
class PairOptions(DrawOptions):
    """Options of ``pair``.

    Args:
        keep_right_to_right: Also pair right first attempts with right answers (the paper's D+).
    """

    keep_right_to_right: bool = False


@dataclass(frozen=True)
class VerifyOptions(DrawOptions):
    """Options of ``verify``.

    Args:
        says_right: Judgement written before a right first attempt is repeated.
        says_wrong: Judgement written before a wrong first attempt is replaced by a right one.
    """

    says_right: str = "The solution above is correct.\n"
    says_wrong: str = "The solution above is not correct.\n"


@KEEP_RULES.register("star", options=StarOptions, attempts=lambda given: 1 if given.keep_right_to_right else 2)
def keep_star(episodes: Sequence[Episode], seed: int, encode: Encode, *, keep_right_to_right: bool) -> list[SFTRow]:
    """STaR: learns the last attempt of wrong->right traces, or of all right traces with ``keep_right_to_right``."""
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
    """Pair-SFT: after a wrong first attempt, learns a right first attempt at the same task from another episode.

    The prompt is exactly the tokens that the policy read after the wrong attempt; the response is the tokens of the
    right attempt.
    """
    # Random choices are seeded by task, here and below, so that what is kept of one task does not depend on others.
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
    """Relabelled imitation: learns a right attempt after the prompt of any attempt, whatever the policy wrote there.

    After muCode (arXiv 2502.20380, section 4.1): if one step suffices to recover from any state, an expert would answer
    every state with a solution. The states come from the policy itself, so training and use have the same distribution.
    Right attempts *at the same turn* are preferred, because turns may have different token limits.
    """
    rows = []
    for task_id, group in _by_task(episodes).items():
        rng = random.Random(derive_seed(seed, "relabel", task_id))
        # ``right[k]`` holds the right attempts at turn k.
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
    """Verify, then revise: learns a judgement of the first attempt, followed by its repetition or by a right attempt.

    After self-rewarding correction (arXiv 2502.19613, section 3.1), but the verifier's verdict replaces a model as the
    judge. The revision depends on a written judgement, which filtered traces alone do not teach.
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
    """Correction pairs for DPO: a right attempt is preferred to the policy's own wrong second attempt.

    After a right first attempt c->c is preferred to c->i, after a wrong first attempt i->c to i->i. The prompt is that
    of the wrong second attempt, token for token. The right attempt is another episode's second attempt if the task has
    a right one, otherwise a first attempt.
    """
    rows = []
    for task_id, group in _by_task(episodes).items():
        rng = random.Random(derive_seed(seed, "dpo", task_id))
        # The rejected answer is a second attempt. Right second attempts are preferred to right first attempts, because
        # they resemble what the policy writes at this place more closely.
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
    """Number of attempts without which a rule keeps nothing of an episode."""
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
    # Episodes that have a second attempt and so a prompt that follows the first one.
    return [episode for episode in episodes if len(episode.turns) > 1]


class OfflineTrainer:
    """Runs one offline method.

    Every round samples with the current weights, keeps rows by the rule and fine-tunes on them: the *base* with
    ``restart`` (STaR's outer loop, which avoids overfitting), otherwise the current model. The rounds share the run's
    budget equally.

    Args:
        config: Config of the run.
        model: The policy; its initial weights are the base.
        tokenizer: The policy's tokenizer.
        rollout: Plays training episodes with an engine that samples from the policy's current weights.
        tasks: Training tasks.
        on_update: Called with the version of the new weights after every round.
        on_progress: Called with a description and the progress in [0, 1].
        recorded: Recorded episodes to train on instead of sampling; ``None`` samples.
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
        """Samples one round's share of the budget of episodes or tokens, or returns the recorded episodes.

        Raises:
            RunStoppedError: If a budget of tokens cannot be spent because episodes fail before sampling any token.
        """
        if self._recorded is not None:
            return list(self._recorded)
        budget, iterations = self._config.training, self._offline.iterations
        # The number of tokens of a group is unknown, so with a budget of tokens small chunks are sampled until the
        # budget is spent. Tasks continue where the previous round ended, in the same endless stream as online training.
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
            if budget.tokens and not n_new:  # without this check the loop would never end
                said = next((episode.error for episode in new if episode.error is not None), "no error is given")
                raise RunStoppedError(
                    f"{self._offline.name}: no token was sampled in {counted(len(new), 'episode')}, so "
                    f"training.tokens={budget.tokens} would never be spent. First error: {said}"
                )
            share = n_tokens * iterations / budget.tokens if budget.tokens else done / n_groups
            self._on_progress("sampling", min(1.0, (self.round + share) / iterations))
            if budget.tokens and share >= 1.0:
                break
        return episodes

    def train_round(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """Keeps rows by the rule, restores the base's weights if the method restarts, and fine-tunes.

        Returns:
            The results of :func:`rl.backends.sft.fine_tune` (or of its counterpart for preference pairs) and:
            ``kept`` and ``kept_fraction``, the number of rows and rows per episode; ``data/<kind>``, the fraction of
            each kind of revision among the rows; ``edits``, their edit-ratio histograms; and ``errors``, the number of
            revised wrong attempts by kind of error.

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
                hint = "offline.conversations holds nothing that the rule keeps, such as right second attempts"
            raise NothingKeptError(
                f"{self._offline.name}: none of {counted(len(episodes), 'episode')} passes the rule; {hint}"
            )
        # Restore the base only here: until now the model had to keep the weights that sampled these episodes.
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
        """State that the next round depends on, apart from :meth:`tensors`."""
        return {"round": self.round, "position": self._position, "totals": asdict(self.totals)}

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights: the live tensors, not copies."""
        return trained_tensors("policy", self._model)

    def load_state(
        self,
        shared: dict[str, Any],
        parts: Sequence[dict[str, Any]],
        fill: Callable[[dict[str, Tensor]], None],
    ) -> None:
        """Restores what :meth:`state` returned and publishes the weights; see :class:`rl.checkpoint.Stateful`."""
        self.round, self._position, self.totals = shared["round"], shared["position"], Totals(**shared["totals"])
        fill(self.tensors())
        self._on_update(self.round)
