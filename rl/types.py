"""The data types of sampling and learning; all but :class:`Totals` are immutable.

``True`` in a mask means *use this token*. Entry t of a ``[B, T]`` tensor belongs to token t itself; the usual shift by
one token happens only inside the function that reads logits. Shape letters: B rows (one per episode, see
:class:`RolloutBatch`), K turns, T tokens, G groups, V vocabulary.

Names tell four kinds of log-probs apart: ``sampler_`` (from the engine that sampled), ``old_`` (from the trainer before
the update), ``logprobs`` (current parameters) and ``ref_`` (frozen reference). ``rewards`` are raw, ``returns`` are
discounted sums of rewards, ``advantages`` are returns minus a baseline.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from envs import StopReason
from rewards import Score, Verdict
from rl.analysis.printing import html_table

SOLVER = "solver"
"""The role of every turn in an episode with a single role."""


class RunStoppedError(RuntimeError):
    """A run stopped itself, because continuing would have produced meaningless numbers."""


class Finish(StrEnum):
    """How the engine stopped writing a turn."""

    STOP = "stop"
    """The policy ended its turn: the last action id is the end-of-turn token."""
    LENGTH = "length"
    """The token limit cut the turn off."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt and the policy's reply to it.

    Args:
        prompt_ids: Everything that the policy read before replying, P ids.
        action_ids: The tokens that the policy sampled, A ids, including the end-of-turn token if it wrote one.
        sampler_logprobs: Log-prob of each action id under the engine that sampled it, A values, in nats.
        text: The action as text, without the end-of-turn token, as the environment receives it.
        finish: Whether the policy ended the turn itself or was cut off.
        score: The verifier's result; ``None`` in an environment without a verifier.
        reward: Raw reward of this turn, any finite number.
        role: Role that wrote the turn, in episodes with several roles.
        trained: Whether the turn is trained on. False for a turn that the policy was given to read, and for a turn
            whose reward carries no information: that turn is masked, which differs from a reward of 0.
        restarts: Whether the prompt was rendered from scratch without earlier thoughts, and so does not extend the
            previous turn.
    """

    prompt_ids: tuple[int, ...]
    action_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    text: str
    finish: Finish
    score: Score | None
    reward: float
    role: str = SOLVER
    trained: bool = True
    restarts: bool = False

    def __post_init__(self) -> None:
        if len(self.action_ids) != len(self.sampler_logprobs):
            raise ValueError(f"{len(self.action_ids)} action ids but {len(self.sampler_logprobs)} log-probs")
        if not math.isfinite(self.reward):
            raise ValueError(f"a reward must be a finite number, got {self.reward}")

    @property
    def correct(self) -> bool:
        """Whether a verifier judged the turn correct."""
        return self.score is not None and self.score.verdict is Verdict.CORRECT

    @property
    def error(self) -> str:
        """Kind of error according to the verifier; empty if the turn is correct, ``unscored`` without a verifier."""
        return self.score.error if self.score is not None else "unscored"

    @property
    def answer(self) -> str | None:
        """The final answer in human-readable form; ``None`` if the turn has none."""
        return self.score.answer if self.score is not None else None

    @property
    def answer_key(self) -> str | None:
        """A key that is equal for two attempts with the same answer; ``None`` if the turn has no answer."""
        return self.score.key if self.score is not None else None


@dataclass(frozen=True, slots=True)
class Episode:
    """One interaction from reset to end.

    Args:
        task_id: Id of the task.
        group_id: Id of the group whose episodes are compared with this one.
        seed: Seed that determines everything sampled in the episode.
        policy_version: Version of the weights that sampled the last turn.
        turns: The turns, in order.
        terminated: Whether the episode ended by its own rules.
        truncated: Whether the episode was cut short, by a failure or by the environment's own step limit.
        stop_reason: Why the episode ended.
        error: Message of a failure: what the environment raised, or that the first prompt exceeds the context.
        given: Number of leading turns that the policy was given to read instead of sampling them.

    Raises:
        ValueError: If not exactly one of ``terminated`` and ``truncated`` holds, if a failure has no error message or
            there is a message without a failure, or if a turn's prompt does not extend its role's previous turn
            although ``restarts`` is False.
    """

    task_id: str
    group_id: int
    seed: int
    policy_version: int
    turns: tuple[Turn, ...]
    terminated: bool
    truncated: bool
    stop_reason: StopReason
    error: str | None = None
    given: int = 0

    def __post_init__(self) -> None:
        if self.terminated == self.truncated:
            raise ValueError("an episode either terminates or is truncated")
        unread = self.stop_reason is StopReason.CONTEXT_FULL and not self.turns
        if (self.stop_reason is StopReason.ENV_ERROR or unread) != (self.error is not None):
            raise ValueError("an error needs its message, and a message needs an error")
        read: dict[str, tuple[int, ...]] = {}  # each role has its own conversation
        # The append-only rule: one row of tokens can hold a role's whole conversation only if every prompt begins with
        # exactly the tokens that the role has read and written before.
        for turn in self.turns:
            seen = read.get(turn.role, ())
            if not turn.restarts and turn.prompt_ids[: len(seen)] != seen:
                raise ValueError(f"task {self.task_id}: a prompt does not extend the turn before it")
            read[turn.role] = turn.prompt_ids + turn.action_ids

    @property
    def sampled(self) -> tuple[Turn, ...]:
        """The turns that the policy sampled itself."""
        return self.turns[self.given :]

    @property
    def attempts(self) -> tuple[Turn, ...]:
        """The turns that answer the task: those of the role ``solver``, or all turns if no role has that name."""
        return tuple(turn for turn in self.turns if turn.role == SOLVER) or self.turns

    @property
    def masked(self) -> bool:
        """Whether the policy sampled turns but none of them is trained; such an episode enters no baseline."""
        sampled = self.turns[self.given :]
        return bool(sampled) and not any(turn.trained for turn in sampled)

    @property
    def failed(self) -> bool:
        """Whether the episode broke off for a reason other than the policy; it is counted but never trained on."""
        return self.error is not None or not self.turns

    def _repr_html_(self) -> str:
        """A table for notebooks with one row per turn; ``transcript``, which needs a tokenizer, shows prompts too."""
        rows = [
            [turn.role, turn.text, turn.score.verdict if turn.score else "-", f"{turn.reward:g}", len(turn.action_ids)]
            for turn in self.turns
        ]
        ended = f"Task {self.task_id}; {self.stop_reason}" + (f": {self.error}" if self.error else "")
        return html_table(["role", "wrote", "verdict", "reward", "tokens"], rows, ended)


@dataclass(frozen=True, slots=True)
class Group:
    """Episodes of the same task; a group baseline is computed over them."""

    group_id: int
    episodes: tuple[Episode, ...]


class _RowTensors:
    """Row selection for frozen dataclasses of tensors whose first dimension is B."""

    def rows(self, index: Sequence[int] | Tensor, n_tokens: int | None = None):
        """The given rows, cut to the first ``n_tokens`` tokens."""
        # Loop over the fields, so that a tensor added to a batch later is selected too, without a change here.
        index = torch.as_tensor(index)
        values = []
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, _RowTensors):
                values.append(value.rows(index, n_tokens))
                continue
            value = value[index]
            # Only ``[B, T]`` tensors are cut; ``rewards`` and ``compared`` are ``[B, K]``, one column per turn.
            per_token = value.ndim == 2 and item.name not in ("rewards", "compared")
            values.append(value[:, :n_tokens] if per_token and n_tokens is not None else value)
        return type(self)(*values)

    def to(self, device: torch.device | str):
        """A copy with all tensors on a device."""
        # Copies to a GPU need not block: kernels that read the tensor are queued behind the copy. Copies back to the
        # host must block, or the host could read the tensor before it has arrived; other devices give no guarantee.
        options: dict[str, Any] = {"non_blocking": True} if torch.device(device).type == "cuda" else {}
        values = [getattr(self, item.name) for item in fields(self)]  # type: ignore[arg-type]
        return type(self)(*(x.to(device, **options) if isinstance(x, Tensor) else x.to(device) for x in values))


@dataclass(frozen=True, slots=True)
class RolloutBatch(_RowTensors):
    """Conversations as right-padded rows.

    A row holds a whole conversation, or one part of it if a prompt was rendered from scratch (``Turn.restarts``).

    Args:
        input_ids: ``[B, T]`` int64 token ids.
        attention_mask: ``[B, T]`` bool, False on padding.
        response_mask: ``[B, T]`` bool, True on sampled tokens of trained turns, the response.
        turn_ids: ``[B, T]`` int64, index of the token's turn within its role; -1 off the response.
        sampler_logprobs: ``[B, T]`` float32, the engine's log-probs; 0 off the response.
        rewards: ``[B, K]`` float32, raw rewards of the whole conversation; 0 past its last turn.
        n_turns: ``[B]`` int64, number of turns of the whole conversation.
        group_ids: ``[B]`` int64, which rows are compared with each other; each role of a task has its own group.
        compared: ``[B, K]`` bool, whether the turn enters baselines. False where its reward carries no information, and
            where another row of the same conversation already stands for the turn.

    Raises:
        ValueError: If shapes disagree, or, for tensors on the host, a response token is padding or sits at position 0.
        TypeError: If a mask is not bool.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    turn_ids: Tensor
    sampler_logprobs: Tensor
    rewards: Tensor
    n_turns: Tensor
    group_ids: Tensor
    compared: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.input_ids.shape)
        for name in ("attention_mask", "response_mask", "turn_ids", "sampler_logprobs"):
            if (got := tuple(getattr(self, name).shape)) != shape:
                raise ValueError(f"{name} has shape {got}, expected {shape}")
        for name in ("attention_mask", "response_mask"):
            if getattr(self, name).dtype is not torch.bool:
                raise TypeError(f"{name} must be bool, True = use this token")
        if self.input_ids.device.type != "cpu":
            return  # checked when the batch was built on the host; a check on a GPU would wait for all its queued work
        if (self.response_mask & ~self.attention_mask).any() or self.response_mask[:, 0].any():
            raise ValueError("response tokens must be real tokens and cannot sit at position 0")

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """``[B]`` number of tokens per row, padding excluded."""
        return self.attention_mask.sum(1)


@dataclass(frozen=True, slots=True)
class TrainBatch(_RowTensors):
    """A RolloutBatch with everything that is computed once before its updates.

    All tensors are ``[B, T]`` and 0 off the response; all but ``kept`` are float32. ``values`` are the critic's
    predictions (0 without a critic) and ``returns`` its targets. ``kept`` is bool, True on the response tokens that a
    token mask leaves in the surrogate (:mod:`rl.token_masks`).
    """

    rollout: RolloutBatch
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    kept: Tensor

    def __len__(self) -> int:
        return len(self.rollout)


class SampledStats(NamedTuple):
    """A model's log-probs, entropies and values at the sampled tokens.

    Args:
        logprobs: ``[B, T]`` at the sampling temperature, 0 off the response.
        entropy: ``[B, T]`` in nats, 0 off the response; it carries a gradient only if one was requested.
        values: ``[B, T]`` value of the state before each response token, 0 off the response or without a value head.
        distribution: ``[N, V]`` log-probs of the whole vocabulary at the N response tokens, in row-major order of
            the response mask; empty unless requested.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor
    distribution: Tensor


def derive_seed(run_seed: int, *coordinates: str | int) -> int:
    """A 63-bit seed hashed from a run's seed and coordinates: ``derive_seed(0, "train", step, task_id, member, turn)``.

    Unlike with sums of seed and index, neighbouring coordinates give unrelated seeds. Each seed depends on its
    coordinates alone, so the order in which episodes are sampled does not matter.
    """
    # hashlib, because Python's hash() of a string differs between processes. 63 bits fit into a signed integer.
    text = "/".join(map(str, (run_seed, *coordinates)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an engine for one completion.

    The randomness comes from ``seed`` alone, so the sample does not depend on what else is in the batch.

    Args:
        id: Id chosen by the caller, returned with the completion.
        prompt_ids: The prompt.
        max_new_tokens: Upper limit of sampled tokens.
        temperature: Sampling temperature; 0 for greedy.
        seed: 63 random bits.
    """

    id: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The token ids that an engine sampled, including the end-of-turn id, with log-probs at the sampling temperature.

    At temperature 0 the log-probs are those of temperature 1.
    """

    request_id: int
    action_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    policy_version: int


class Engine(Protocol):
    """Samples completions: token ids in, token ids out.

    ``streams`` says whether ``step`` returns finished completions while other requests are still decoding, so that
    verification can overlap with decoding. For an engine that decodes whole batches the rollout waits for all verdicts
    before the next batch; otherwise the composition of batches would depend on timing and differ between runs.
    """

    streams: bool

    @property
    def pending(self) -> int:
        """Number of requests that are not yet answered."""
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests."""
        ...

    def step(self) -> list[Completion]:
        """Decodes for a while and returns the completions that finished, possibly none."""
        ...

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Loads the weights for all later samples, whose ``policy_version`` will be ``version``.

        ``named`` must be consumed to its end even if loading fails: gathering sharded weights is a collective
        operation, so stopping early would leave the other processes waiting.
        """
        ...

    def sleep(self) -> None:
        """Frees as much memory as possible until ``wake``."""
        ...

    def wake(self) -> None:
        """Ends ``sleep``."""
        ...

    def close(self) -> None:
        """Releases everything."""
        ...


@dataclass(slots=True)
class Totals:
    """What a run has consumed so far; ``responses`` counts sampled attempts."""

    episodes: int = 0
    responses: int = 0
    sampled_tokens: int = 0
    gradient_tokens: int = 0
    updates: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"sampling": 0.0, "verification": 0.0, "update": 0.0, "other": 0.0}
    )
