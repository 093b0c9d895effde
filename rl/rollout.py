"""Episodes from an engine and environments of text.

With a streaming engine an episode goes on as soon as its own turn is verified, while others decode; with one that
answers whole batches, as ``hf``, the next batch waits for the verdicts of all that were in this one. Every request's
seed is derived from the episode's seed and the turn, so neither the batch nor the order of completion changes what is
sampled.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral
from typing import Any

from envs import Message, StopReason, Task, TextEnv
from envs.base import Observation
from rewards import Verdict
from rewards.wording import counted
from rl.rendering import Renderer
from rl.types import SOLVER, Completion, Engine, Episode, Request, Turn, derive_seed

VERIFICATION_THREADS = 16
"""They wait; the work is done by the processes behind the verifier."""


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """An episode to be sampled.

    Args:
        task: Which task.
        group_id: Which group.
        seed: Decides everything that is sampled.
        first: A first attempt to be read instead of sampled.
        request: What is said after it, in place of the environment's words.
    """

    task: Task
    group_id: int
    seed: int
    first: Turn | None = None
    request: str | None = None


@dataclass(slots=True)
class PhaseTimes:
    """Seconds spent, by phase."""

    sampling: float = 0.0
    verification: float = 0.0


@dataclass(slots=True)
class _Play:
    """An episode that is being played: whose turn it is, what that role reads, and the turns so far."""

    plan: EpisodePlan
    env: Any = None
    """``None`` where none could be built; the episode has failed then."""
    role: str = SOLVER
    prompt_ids: tuple[int, ...] = ()
    limit: int | None = None
    turns: list[Turn] = field(default_factory=list)
    said: dict[str, list[Message]] = field(default_factory=dict)
    """By role, what it has read and written, where prompts are rendered from that."""
    policy_version: int = 0
    stop: StopReason | None = None
    error: str | None = None

    def fail(self, error: str) -> None:
        """Breaks the episode off: it is counted and never trained on, which is not the same as a reward of 0."""
        self.stop, self.error = StopReason.ENV_ERROR, error


def complete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Runs requests to their end; completions come back in the order of the requests."""
    engine.submit(requests)
    by_id: dict[int, Completion] = {}  # an engine finishes short answers first
    while len(by_id) < len(requests):
        finished = engine.step()
        if not finished and not engine.pending:
            raise RuntimeError(f"the engine is idle, unanswered: {counted(len(requests) - len(by_id), 'request')}")
        by_id.update((completion.request_id, completion) for completion in finished)
    return [by_id[request.id] for request in requests]


class Rollout:
    """Plays episodes.

    Args:
        engine: What samples.
        renderer: Messages to token ids.
        make_env: Builds an environment; one that raised nothing is used again.
        max_new_tokens: Token limit of each attempt; the last entry holds for all further attempts.
        context_length: Longest prompt plus answer that the model can hold.
        n_envs: How many environments are built here already, so that what is wrong with one is known before anything
            is sampled. Further ones are built as episodes need them.
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
            plans: What to play.
            temperature: 0 for greedy.
            on_episode: Called with every episode as it ends, for progress displays.

        Returns:
            Episodes; one whose environment raised has ``stop_reason`` ``ENV_ERROR`` and carries the error.
        """
        # ``ready`` are the episodes whose next prompt is known, ``stepping`` those whose environment is at work in a
        # thread, with the turn that it verifies; all others wait for the engine.
        engine = self._engine
        engine.wake()
        plays = [self._reset(plan) for plan in plans]
        ready = list(range(len(plays)))
        episodes: dict[int, Episode] = {}
        stepping: dict[Future, tuple[int, Turn]] = {}
        with ThreadPoolExecutor(VERIFICATION_THREADS) as threads:
            while True:
                # Request: every episode that is ready asks for its next turn, or is over.
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

                # Sample, then verify: in a thread where other processes do the work, so that the engine goes on
                # meanwhile. Python code would only fight this thread for the interpreter lock, so it runs here.
                engine.submit(requests)
                ready = []
                for index, turn in self._sample(plays, idle=not stepping):
                    play, env = plays[index], plays[index].env
                    if getattr(getattr(env, "unwrapped", env), "verifies_elsewhere", False):
                        stepping[threads.submit(env.step, turn.text)] = index, turn
                    else:
                        self._step(play, turn, partial(env.step, turn.text))
                        ready.append(index)

                # An engine that decodes whole batches waits for all verdicts, so that every run gets the same batches;
                # a streaming one waits only where it has nothing to decode in the meantime.
                if stepping and not (engine.streams and engine.pending):
                    started = time.perf_counter()
                    wait(stepping, return_when=FIRST_COMPLETED if engine.streams else ALL_COMPLETED)
                    self.times.verification += time.perf_counter() - started
                for future in [future for future in stepping if future.done()]:
                    index, turn = stepping.pop(future)
                    self._step(plays[index], turn, future.result)
                    ready.append(index)

    def _sample(self, plays: Sequence[_Play], idle: bool) -> list[tuple[int, Turn]]:
        """Lets the engine work for a while; returns the turns that it finished, with their episodes, not yet verified.

        Args:
            plays: All episodes.
            idle: No environment is at work, so that episodes go on only if the engine has something to do.
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
        """Resets an environment, and plays the first attempt that the plan gives as if it had been sampled now."""
        play, task, first = _Play(plan), plan.task, plan.first
        try:
            env = play.env = self._free_envs.pop() if self._free_envs else self._make_env()
            found = env.reset(options={"task": task}) if task.seed is None else env.reset(seed=task.seed)
            self._observe(play, *found)
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:  # an environment that calls sys.exit() ends its own episode, not the run
            play.fail(f"reset: {error!r}")
            return play
        # An attempt was sampled behind its own prompt; behind another one its log-probs and its verdict mean nothing.
        if first is not None and first.prompt_ids != play.prompt_ids:
            play.fail("replay: the first attempt answers another prompt")
        elif first is not None:
            self._step(play, replace(first, trained=False), partial(env.step, first.text), plan.request)
        return play

    def _step(self, play: _Play, turn: Turn, step: Callable[[], Any], request: str | None = None) -> None:
        """Hands a turn to the environment and adds it with its reward; then the next prompt is known, or the end.

        Args:
            play: The episode.
            turn: What was written, not yet verified.
            step: Hands it to the environment.
            request: What is said then, in place of the environment's words.
        """
        started = time.perf_counter()
        try:
            observation, reward, terminated, truncated, info = step()
            # A future is done already and takes no time here: what threads take is counted where the loop waits.
            self.times.verification += time.perf_counter() - started
            score = info.get("score")
            # The turn is kept whatever ended the episode, so that the log shows the answer at which a verifier failed.
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
        """The next prompt: what the role whose turn it is has read and written before, and what is new to it."""
        messages = (Message("user", observation),) if isinstance(observation, str) else tuple(observation)
        for message in messages:  # a chat template would write anything: a number, "None"
            if not isinstance(message, Message) or not isinstance(message.content, str):
                raise TypeError(f"an observation is a string, or Messages whose content is one; got {message!r:.200}")
        play.role = info.get("role", SOLVER)
        if not isinstance(play.role, str):  # roles are sorted and written to files
            raise TypeError(f"info['role'] must be a string, got {play.role!r}")
        # The limit is used outside of what catches an environment's errors, where a wrong one would end the run.
        limit = info.get("max_new_tokens")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Integral) or limit < 1):
            raise TypeError(f"info['max_new_tokens'] must be a positive int, got {limit!r:.200}")
        play.limit = None if limit is None else int(limit)
        # Every role has a conversation of its own: it goes on from what *this* role read and wrote last, not from the
        # turn before. Sampled ids are appended as they are, since decoding and encoding them again may give others.
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
        """What the engine is asked for next, or the episode where it is over or its next turn would not fit."""
        room = self._context_length - len(play.prompt_ids)
        if play.stop is None and room < 1:  # it ends with the turns that it has; one without any has failed
            play.stop = StopReason.CONTEXT_FULL
            if not play.turns:
                play.error = (
                    f"the question has {counted(len(play.prompt_ids), 'token')} and the model's context holds "
                    f"{self._context_length}: leave such tasks out, or take a model with a longer context"
                )
        if play.stop is None:
            # Limits count the role's own attempts. The seed counts all turns of the episode, so that two roles never
            # draw with the same numbers.
            n_before = sum(turn.role == play.role for turn in play.turns)
            limit = min(room, self._max_new_tokens[min(n_before, len(self._max_new_tokens) - 1)], play.limit or room)
            seed = derive_seed(play.plan.seed, "turn", len(play.turns))
            return Request(index, play.prompt_ids, limit, temperature, seed)
        if play.stop is not StopReason.ENV_ERROR:  # one that raised may be in any state and is not used again
            self._free_envs.append(play.env)
        # What the environment's own limit of steps ended is truncated in gymnasium's sense, and trained on like any
        # other. What must not be trained on carries an error (:attr:`Episode.failed`).
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
