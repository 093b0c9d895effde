"""Plays episodes with an engine and text environments.

With a streaming engine, an episode continues as soon as its own turn is verified, while other episodes are decoding.
With an engine that decodes whole batches, such as ``hf``, the next batch waits until every turn of the current batch is
verified. Every request's seed is derived from the episode's seed and the turn index, so neither the batch nor the order
of completion changes what is sampled.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral
from typing import Any

from envs import Message, StopReason, Task, TextEnv, messages_of
from envs.base import Observation
from rewards import Verdict
from rewards.wording import counted
from rl.rendering import Renderer
from rl.types import SOLVER, Completion, Engine, Episode, Request, Turn, derive_seed

VERIFICATION_THREADS = 16
"""Threads that step environments; each only waits for the process in which the verifier works."""


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """An episode to be sampled.

    Args:
        task: The task to attempt.
        group_id: Id of the group that the episode belongs to.
        seed: Seed that determines everything sampled in the episode.
        first: A first attempt that is given to the policy instead of sampled.
        request: User message that follows the given first attempt, in place of the environment's observation.
    """

    task: Task
    group_id: int
    seed: int
    first: Turn | None = None
    request: str | None = None


@dataclass(slots=True)
class PhaseTimes:
    """Seconds spent in each phase of rollouts."""

    sampling: float = 0.0
    verification: float = 0.0


@dataclass(slots=True)
class _Play:
    """An episode in progress: the role whose turn is next, its prompt, and the turns so far."""

    plan: EpisodePlan
    env: Any = None
    """The environment; ``None`` if it could not be built, in which case the episode has failed."""
    role: str = SOLVER
    prompt_ids: tuple[int, ...] = ()
    limit: int | None = None
    turns: list[Turn] = field(default_factory=list)
    said: dict[str, list[Message]] = field(default_factory=dict)
    """Conversation of each role; used only if thoughts are dropped, since every prompt is then rendered from it."""
    policy_version: int = 0
    stop: StopReason | None = None
    error: str | None = None

    def fail(self, error: str) -> None:
        """Breaks the episode off; it is counted but never trained on, which differs from a reward of 0."""
        self.stop, self.error = StopReason.ENV_ERROR, error


def complete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Runs requests to completion and returns the completions in the order of the requests."""
    engine.submit(requests)
    by_id: dict[int, Completion] = {}  # completions arrive in any order: short answers finish first
    while len(by_id) < len(requests):
        finished = engine.step()
        if not finished and not engine.pending:
            raise RuntimeError(f"the engine is idle, {counted(len(requests) - len(by_id), 'request')} still unanswered")
        by_id.update((completion.request_id, completion) for completion in finished)
    return [by_id[request.id] for request in requests]


class Rollout:
    """Plays episodes.

    Args:
        engine: Engine that samples the turns.
        renderer: Turns messages into token ids.
        make_env: Builds an environment; an environment is reused for further episodes unless it raised an error.
        max_new_tokens: Token limit of each attempt; the last entry holds for all further attempts.
        context_length: Largest number of prompt and answer tokens together that the model can process.
        n_envs: Number of environments to build immediately, so that a faulty environment is found before anything is
            sampled. More are built when episodes need them.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        make_env: Callable[[], TextEnv],
        max_new_tokens: Sequence[int],
        context_length: int,
        n_envs: int = 0,
    ) -> None:
        self._engine, self._renderer, self._make_env = engine, renderer, make_env
        self._max_new_tokens, self._context_length = tuple(max_new_tokens), context_length
        self._free_envs = [make_env() for _ in range(n_envs)]
        self.times = PhaseTimes()

    def run(
        self,
        plans: Sequence[EpisodePlan],
        temperature: float,
        on_episode: Callable[[Episode], None] | None = None,
    ) -> list[Episode]:
        """Plays one episode per plan and returns them in the order of the plans.

        Args:
            plans: The episodes to play.
            temperature: Sampling temperature; 0 for greedy.
            on_episode: Called with every episode as it ends, for progress displays.

        Returns:
            The episodes; if an environment raised, its episode has ``stop_reason`` ``ENV_ERROR`` and the error message.
        """
        # ``ready`` holds the episodes whose next prompt is known. ``stepping`` holds the episodes whose environment is
        # verifying a turn in a thread, together with that turn. All other unfinished episodes wait for the engine.
        engine = self._engine
        engine.wake()
        plays = [self._reset(plan) for plan in plans]
        ready = list(range(len(plays)))
        episodes: dict[int, Episode] = {}
        stepping: dict[Future, tuple[int, Turn]] = {}
        with ThreadPoolExecutor(VERIFICATION_THREADS) as threads:
            while True:
                # Request: every ready episode either requests its next turn or is over.
                requests = []
                for index in ready:
                    request = self._next(index, plays[index], temperature)
                    if isinstance(request, Request):
                        requests.append(request)
                        continue
                    episodes[index] = request
                    if on_episode is not None:
                        on_episode(request)
                if len(episodes) == len(plays):
                    return [episodes[index] for index in range(len(plays))]

                # Sample, then verify. If the verifier works in other processes, a thread waits for it while the engine
                # continues. A verifier in Python would only compete with this thread for the interpreter lock, so it
                # runs here.
                engine.submit(requests)
                ready = []
                for index, turn in self._sample(plays, idle=not stepping):
                    play, env = plays[index], plays[index].env
                    if getattr(getattr(env, "unwrapped", env), "verifies_elsewhere", False):
                        stepping[threads.submit(env.step, turn.text)] = index, turn
                    else:
                        self._step(play, turn, partial(env.step, turn.text))
                        ready.append(index)

                # For an engine that decodes whole batches, wait for all verdicts, so that batches are the same in every
                # run. A streaming engine waits only if it has nothing to decode in the meantime.
                if stepping and not (engine.streams and engine.pending):
                    started = time.perf_counter()
                    wait(stepping, return_when=FIRST_COMPLETED if engine.streams else ALL_COMPLETED)
                    self.times.verification += time.perf_counter() - started
                for future in [future for future in stepping if future.done()]:
                    index, turn = stepping.pop(future)
                    self._step(plays[index], turn, future.result)
                    ready.append(index)

    def _sample(self, plays: Sequence[_Play], idle: bool) -> list[tuple[int, Turn]]:
        """Lets the engine work for a while; returns the finished turns, not yet verified, with their episode indices.

        Args:
            plays: All episodes.
            idle: Whether no environment is stepping; if the engine has no requests either, no episode can continue.

        Raises:
            RuntimeError: If ``idle`` holds and the engine has no requests.
        """
        if idle and not self._engine.pending:
            raise RuntimeError("the engine is idle but episodes wait for it")
        started = time.perf_counter()
        completions = self._engine.step() if self._engine.pending else []
        self.times.sampling += time.perf_counter() - started
        turns = []
        for completion in completions:
            play = plays[completion.request_id]
            play.policy_version = completion.policy_version
            turn = Turn(
                prompt_ids=play.prompt_ids,
                action_ids=completion.action_ids,
                sampler_logprobs=completion.logprobs,
                text=self._renderer.text(completion.action_ids),
                finish=completion.finish,
                score=None,
                reward=0.0,
                role=play.role,
                restarts=self._renderer.drops_thoughts and any(turn.role == play.role for turn in play.turns),
            )
            turns.append((completion.request_id, turn))
        return turns

    def _reset(self, plan: EpisodePlan) -> _Play:
        """Resets an environment and, if the plan has a first attempt, steps the environment with it."""
        play, task, first = _Play(plan), plan.task, plan.first
        try:
            env = play.env = self._free_envs.pop() if self._free_envs else self._make_env()
            found = env.reset(options={"task": task}) if task.seed is None else env.reset(seed=task.seed)
            self._observe(play, *found)
        except KeyboardInterrupt:  # the user stops the run; this is no error of the environment
            raise
        except BaseException as error:  # also SystemExit: an environment that calls sys.exit() must not end the run
            play.fail(f"reset: {error!r}")
            return play
        # A given attempt was sampled for a certain prompt; after a different prompt its log-probs and verdict would be
        # meaningless.
        if first is not None and first.prompt_ids != play.prompt_ids:
            play.fail("replay: the recorded first attempt was sampled for another prompt")
        elif first is not None:
            self._step(play, replace(first, trained=False), partial(env.step, first.text), plan.request)
        return play

    def _step(self, play: _Play, turn: Turn, step: Callable[[], Any], request: str | None = None) -> None:
        """Steps the environment, adds the rewarded turn to the episode, and sets its next prompt or its end.

        Args:
            play: The episode.
            turn: The turn, not yet verified.
            step: Steps the environment with the turn's text, or returns the result of a step made in a thread.
            request: User message for the next prompt, in place of the environment's observation.
        """
        started = time.perf_counter()
        try:
            observation, reward, terminated, truncated, info = step()
            # The result of a thread is ready at this point and takes no time here; the time that threads take is
            # counted where the loop waits for them.
            self.times.verification += time.perf_counter() - started
            score = info.get("score")
            # The turn is added even if the verifier failed, so that the log shows the answer on which it failed.
            play.turns.append(
                replace(turn, score=score, reward=float(reward), trained=turn.trained and info.get("trained", True))
            )
            ended = StopReason(info.get("stop_reason", StopReason.ENDED if terminated else StopReason.TIME_LIMIT))
            if score is not None and score.verdict is Verdict.ERROR:
                play.fail(str(info.get("error", f"verifier: {score.reason}")))
            elif "error" in info or ended is StopReason.ENV_ERROR:
                play.fail(str(info.get("error", "the environment gives no reason")))
            elif terminated or truncated:
                play.stop = ended
            else:
                self._observe(play, observation if request is None else request, info)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            play.fail(f"step: {error!r}")

    def _observe(self, play: _Play, observation: Observation, info: dict[str, Any]) -> None:
        """Sets the role, token limit and prompt of the next turn: that role's conversation plus the observation."""
        messages = messages_of(observation)
        for message in messages:  # a chat template would silently render any other content, such as None as "None"
            if not isinstance(message, Message) or not isinstance(message.content, str):
                raise TypeError(f"an observation is a string, or Messages whose content is one; got {message!r:.200}")
        play.role = info.get("role", SOLVER)
        if not isinstance(play.role, str):  # roles are sorted and written to files
            raise TypeError(f"info['role'] must be a string, got {play.role!r}")
        # Check the limit here, where an error ends only this episode. It is used in `_next`, which no ``except``
        # surrounds, so a wrong limit would end the whole run there.
        limit = info.get("max_new_tokens")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Integral) or limit < 1):
            raise TypeError(f"info['max_new_tokens'] must be a positive int, got {limit!r:.200}")
        play.limit = None if limit is None else int(limit)
        # Every role has its own conversation: the prompt extends the last turn of *this* role, which need not be the
        # previous turn. Sampled ids are appended as they are, since decoding and encoding them may give different ids.
        before = next((turn for turn in reversed(play.turns) if turn.role == play.role), None)
        if self._renderer.drops_thoughts:
            said = play.said.setdefault(play.role, [])
            said += [self._renderer.said(before.action_ids)] if before is not None else []
            said += messages
            play.prompt_ids = self._renderer.opening(said)
        elif before is None:
            play.prompt_ids = self._renderer.opening(messages)
        else:
            play.prompt_ids = self._renderer.extend(before.prompt_ids, before.action_ids, messages)

    def _next(self, index: int, play: _Play, temperature: float) -> Request | Episode:
        """The request for the next turn, or the finished episode if it is over or its next turn would not fit."""
        room = self._context_length - len(play.prompt_ids)
        if play.stop is None and room < 1:  # the episode ends with the turns it has; without any turn it has failed
            play.stop = StopReason.CONTEXT_FULL
            if not play.turns:
                play.error = (
                    f"the question has {counted(len(play.prompt_ids), 'token')} and the model's context holds "
                    f"{self._context_length}: leave such tasks out, or take a model with a longer context"
                )
        if play.stop is None:
            # Token limits are indexed by the role's own turns. Seeds are indexed by all turns of the episode, so that
            # two roles never sample with the same seed.
            n_before = sum(turn.role == play.role for turn in play.turns)
            limit = min(room, self._max_new_tokens[min(n_before, len(self._max_new_tokens) - 1)], play.limit or room)
            seed = derive_seed(play.plan.seed, "turn", len(play.turns))
            return Request(index, play.prompt_ids, limit, temperature, seed)
        # Close an environment that raised, since it may be in any state, and one that is for a single episode only.
        if play.stop is StopReason.ENV_ERROR or getattr(getattr(play.env, "unwrapped", None), "single_use", False):
            with suppress(Exception):
                play.env.close()
        else:
            self._free_envs.append(play.env)
        # An episode that reached the environment's own step limit is truncated in gymnasium's sense, but trained on
        # like any other. Episodes that must not be trained on carry an error (:attr:`Episode.failed`).
        broken_off = play.stop in (StopReason.ENV_ERROR, StopReason.TIME_LIMIT) or not play.turns
        return Episode(
            task_id=play.plan.task.id,
            group_id=play.plan.group_id,
            seed=play.plan.seed,
            policy_version=play.policy_version,
            turns=tuple(play.turns),
            terminated=not broken_off,
            truncated=broken_off,
            stop_reason=play.stop,
            error=play.error,
            given=int(play.plan.first is not None and bool(play.turns)),
        )
