"""The data types of sampling and learning, all frozen.

``True`` in a mask means *use this token*. Entry t of a ``[B, T]`` tensor is about token t itself, so nothing is shifted
outside the function that reads logits. Shape letters: B episodes, K turns, T tokens, G groups, V vocabulary.

Four log-probs, never mixed up: ``sampler_`` (the engine that sampled), ``old_`` (the trainer before the update),
``logprobs`` (current parameters), ``ref_`` (frozen reference). ``rewards`` are raw, ``returns`` discounted,
``advantages`` centred.
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
"""The role of an episode that has only one."""


class RunStoppedError(RuntimeError):
    """A run stopped itself, because going on would have produced numbers that mean nothing."""


class Finish(StrEnum):
    """How the engine stopped writing a turn."""

    STOP = "stop"
    """The policy ended its turn: the last action id is the end-of-turn token."""
    LENGTH = "length"
    """The token limit cut it off."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt and the policy's reply to it.

    Args:
        prompt_ids: Everything that the policy saw, P ids.
        action_ids: What it sampled, A ids, the end-of-turn token included if it wrote one.
        sampler_logprobs: Log-prob of each action id under the engine that sampled it, A values, in nats.
        text: The action as text, without the end-of-turn token; what the environment saw.
        finish: Whether the policy stopped or was cut off.
        score: What the verifier said, ``None`` in an environment without one.
        reward: Raw reward of this turn, any finite number.
        role: Who spoke, in episodes of several roles.
        trained: Whether it is learned from. False for context that the policy was given to read, and for a turn whose
            reward says nothing: masked, which is not the same as a reward of 0.
        restarts: Its prompt is no extension of the turn before, but was rendered anew without earlier thoughts.
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
        """Whether a verifier found it right."""
        return self.score is not None and self.score.verdict is Verdict.CORRECT

    @property
    def error(self) -> str:
        """Which kind of error it makes, as its verifier says; empty if it is right."""
        return self.score.error if self.score is not None else "unscored"

    @property
    def answer(self) -> str | None:
        """The final answer as people read it, ``None`` if there was none."""
        return self.score.answer if self.score is not None else None

    @property
    def answer_key(self) -> str | None:
        """Two attempts gave the same answer when these are equal; ``None`` if there was none."""
        return self.score.key if self.score is not None else None


@dataclass(frozen=True, slots=True)
class Episode:
    """One interaction from reset to end.

    Args:
        task_id: Which task.
        group_id: Which group.
        seed: Decides everything that was sampled.
        policy_version: Of the weights that sampled the last turn.
        turns: In order.
        terminated: It came to its end.
        truncated: It was broken off, by us or by the environment's own limit of steps.
        stop_reason: Why it ended.
        error: What the environment raised, or by how much the first prompt does not fit.
        given: How many leading turns the policy was given to read instead of sampling them.

    Raises:
        ValueError: If it neither or both terminated and was truncated, if an error lacks its message or a message its
            error, or if a turn's prompt does not extend the turn before it and does not say so.
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
        read: dict[str, tuple[int, ...]] = {}  # every role has a conversation of its own
        # The append-only rule: one row of tokens can hold the whole conversation only if every prompt repeats, token
        # for token, what the role had read and written before.
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
        """The turns that answer the task: the solver's, or all where no role is called so."""
        return tuple(turn for turn in self.turns if turn.role == SOLVER) or self.turns

    @property
    def masked(self) -> bool:
        """Whether rewards say nothing about all that the policy sampled: counted, and no part of any baseline."""
        sampled = self.turns[self.given :]
        return bool(sampled) and not any(turn.trained for turn in sampled)

    @property
    def failed(self) -> bool:
        """Whether we, not the policy, broke it off: such an episode is counted and never trained on."""
        return self.error is not None or not self.turns

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a turn. What was read in between takes a tokenizer: ``transcript`` shows it."""
        rows = [
            [turn.role, turn.text, turn.score.verdict if turn.score else "-", f"{turn.reward:g}", len(turn.action_ids)]
            for turn in self.turns
        ]
        ended = f"Task {self.task_id}; {self.stop_reason}" + (f": {self.error}" if self.error else "")
        return html_table(["role", "wrote", "verdict", "reward", "tokens"], rows, ended)


@dataclass(frozen=True, slots=True)
class Group:
    """The episodes that share a task: the baseline is computed over them."""

    group_id: int
    episodes: tuple[Episode, ...]


class _RowTensors:
    """Row selection for frozen dataclasses of tensors whose first dimension is B."""

    def rows(self, index: Sequence[int] | Tensor, n_tokens: int | None = None):
        """The given rows, cut to the first ``n_tokens`` tokens."""
        # Field by field, so that a new tensor of the batch is selected too without anyone thinking of it here.
        index = torch.as_tensor(index)
        values = []
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, _RowTensors):
                values.append(value.rows(index, n_tokens))
                continue
            value = value[index]
            # ``[B, T]`` tensors are cut; these two are ``[B, K]``, a column for each turn.
            per_token = value.ndim == 2 and item.name not in ("rewards", "compared")
            values.append(value[:, :n_tokens] if per_token and n_tokens is not None else value)
        return type(self)(*values)

    def to(self, device: torch.device | str):
        """The same on a device."""
        # On its way to a GPU a tensor need not be waited for: what reads it there is queued behind it. On the way back
        # the host would read it too early, and other devices do not promise it.
        options: dict[str, Any] = {"non_blocking": True} if torch.device(device).type == "cuda" else {}
        values = [getattr(self, item.name) for item in fields(self)]  # type: ignore[arg-type]
        return type(self)(*(x.to(device, **options) if isinstance(x, Tensor) else x.to(device) for x in values))


@dataclass(frozen=True, slots=True)
class RolloutBatch(_RowTensors):
    """Conversations as right-padded rows: whole ones, or parts of them where a prompt was rendered anew.

    Args:
        input_ids: ``[B, T]`` int64.
        attention_mask: ``[B, T]`` bool, False on padding.
        response_mask: ``[B, T]`` bool, True on the tokens that the policy sampled.
        turn_ids: ``[B, T]`` int64, the turn that sampled the token, -1 off the response and on untrained turns.
        sampler_logprobs: ``[B, T]`` float32, 0 off the response.
        rewards: ``[B, K]`` float32, raw, of the whole conversation; 0 past its last turn.
        n_turns: ``[B]`` int64, of the whole conversation.
        group_ids: ``[B]`` int64; roles of a task are groups of their own.
        compared: ``[B, K]`` bool, False where a turn's reward says nothing, so that no baseline counts it, and where
            another row of the conversation is the one that is compared.

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
            return  # every batch is made on the host, and a question to another device waits for all of its work
        if (self.response_mask & ~self.attention_mask).any() or self.response_mask[:, 0].any():
            raise ValueError("response tokens must be real tokens and cannot sit at position 0")

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """``[B]`` number of real tokens per row."""
        return self.attention_mask.sum(1)


@dataclass(frozen=True, slots=True)
class TrainBatch(_RowTensors):
    """A RolloutBatch that has been scored. Everything but ``rollout`` is ``[B, T]`` float32, 0 off the response.

    ``values`` and ``returns`` are what a critic predicted and should have predicted; without one, ``values`` are 0.
    ``kept`` is bool: the response tokens that a token mask leaves in the surrogate (:mod:`rl.token_masks`).
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
    """What the policy thinks of the sampled tokens.

    Args:
        logprobs: ``[B, T]`` at the sampling temperature, 0 off the response.
        entropy: ``[B, T]`` in nats, 0 off the response; with a gradient only where it was asked for.
        values: ``[B, T]`` value of the state before each response token, 0 off the response or without a value head.
        distribution: ``[N, V]`` log-probs of the whole vocabulary at the N response tokens, in row-major order of
            the response mask; empty where it was not asked for.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor
    distribution: Tensor


def derive_seed(run_seed: int, *coordinates: str | int) -> int:
    """63 bits from a run seed and coordinates, as in ``derive_seed(0, "train", step, task_id, member, turn)``.

    Seeds are derived, never added up: neighbours are unrelated, and the order of drawing does not matter.
    """
    # hashlib, since python's hash() of a text is salted anew in every process. 63 bits fit into a signed integer.
    text = "/".join(map(str, (run_seed, *coordinates)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked for. ``seed`` alone decides the sample, whatever else is in the batch.

    Args:
        id: Chosen by the caller, returned with the completion.
        prompt_ids: The prompt.
        max_new_tokens: Upper limit of sampled tokens.
        temperature: 0 for greedy.
        seed: 63 random bits.
    """

    id: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine sampled, the end-of-turn id included, with log-probs at the sampling temperature.

    At temperature 0 the log-probs are those of temperature 1.
    """

    request_id: int
    action_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    policy_version: int


class Engine(Protocol):
    """What samples: token ids in, token ids out.

    ``pending`` is the number of requests without an answer. ``streams`` says whether ``step`` returns while others are
    still decoding, so that it pays to verify in the meantime; an engine that decodes whole batches gets the same
    batches in every run only if the rollout waits for all verdicts first.
    """

    streams: bool

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests."""
        ...

    def step(self) -> list[Completion]:
        """Works for a while and returns the completions that finished, none perhaps."""
        ...

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Makes later samples come from these weights, stamped with this version.

        All of ``named`` is taken, by an engine that fails too: gathering sharded weights takes every process.
        """
        ...

    def sleep(self) -> None:
        """Frees what it can until ``wake``."""
        ...

    def wake(self) -> None:
        """Ends ``sleep``."""
        ...

    def close(self) -> None:
        """Releases everything."""
        ...


@dataclass(slots=True)
class Totals:
    """What a run has spent so far; a response is one sampled attempt."""

    episodes: int = 0
    responses: int = 0
    sampled_tokens: int = 0
    gradient_tokens: int = 0
    updates: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"sampling": 0.0, "verification": 0.0, "update": 0.0, "other": 0.0}
    )
