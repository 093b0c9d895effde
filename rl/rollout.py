"""Episodes from an engine and environments.

An episode goes on as soon as its own turn is verified, whatever the others do; with a streaming engine verification
runs while others decode. Every request's seed is derived from the episode's seed and the turn, so neither the batch nor
the order of completion changes what is sampled.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from envs import SelfCorrectEnv, StopReason, Task
from envs.base import Message
from rl.rendering import Renderer
from rl.seeding import derive_seed
from rl.types import Completion, Engine, Episode, Request, Turn


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """An episode to be sampled.

    Args:
        task: Which task.
        group_id: Which group.
        seed: Decides everything that is sampled.
        first: A first attempt to be read instead of sampled.
    """

    task: Task
    group_id: int
    seed: int
    first: Turn | None = None


@dataclass(slots=True)
class PhaseTimes:
    """Seconds spent, by phase."""

    sampling: float = 0.0
    verification: float = 0.0
    rendering: float = 0.0


@dataclass(slots=True)
class _Running:
    plan: EpisodePlan
    env: SelfCorrectEnv
    prompt_ids: tuple[int, ...] = ()
    turns: list[Turn] = field(default_factory=list)
    policy_version: int = 0


_Step = tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]
VERIFICATION_THREADS = 16
"""They wait; the work is done by the processes behind the verifier."""


def complete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Runs requests to their end; completions come back in the order of the requests."""
    engine.submit(requests)
    by_id: dict[int, Completion] = {}
    while len(by_id) < len(requests):
        finished = engine.step()
        if not finished and not engine.pending:
            raise RuntimeError(f"the engine is idle but {len(requests) - len(by_id)} requests are unanswered")
        by_id.update((completion.request_id, completion) for completion in finished)
    return [by_id[request.id] for request in requests]


class Rollout:
    """Plays episodes.

    Args:
        engine: What samples.
        renderer: Messages to token ids.
        make_env: Builds an environment; instances are reused.
        max_new_tokens: Token limit of each attempt; the last entry holds for all further attempts.
        context_length: Longest prompt plus answer that the model can hold.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        make_env: Callable[[], SelfCorrectEnv],
        max_new_tokens: Sequence[int],
        context_length: int,
    ) -> None:
        self._engine, self._renderer, self._make_env = engine, renderer, make_env
        self._max_new_tokens, self._context_length = tuple(max_new_tokens), context_length
        self._free_envs: list[SelfCorrectEnv] = []
        self.times = PhaseTimes()

    def rest(self) -> None:
        """Lets the engine free its memory until new weights or the next :meth:`run`."""
        self._engine.sleep()

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
        self._engine.wake()
        running: dict[int, _Running] = {}
        episodes: dict[int, Episode] = {}

        def settle(index: int, outcome: Episode | Request) -> list[Request]:
            if isinstance(outcome, Request):
                return [outcome]
            episodes[index] = outcome
            self._free_envs.append(running.pop(index).env)
            if on_episode is not None:
                on_episode(outcome)
            return []

        requests: list[Request] = []
        for index, plan in enumerate(plans):
            env = self._free_envs.pop() if self._free_envs else self._make_env()
            running[index] = _Running(plan, env)
            requests += settle(index, self._start(index, running[index], temperature))
        with ThreadPoolExecutor(VERIFICATION_THREADS) as threads:
            verifying: dict[Future, Completion] = {}
            while running:
                self._engine.submit(requests)
                requests = []
                for completion in self._decode(len(running), bool(verifying)):
                    verifying[self._verify(threads, running[completion.request_id], completion)] = completion
                for completion, step in self._verified(verifying):
                    index = completion.request_id
                    requests += settle(index, self._advance(index, running[index], completion, step, temperature))
        return [episodes[index] for index in range(len(plans))]

    def _decode(self, n_running: int, verifying: bool) -> list[Completion]:
        if verifying and not self._engine.pending:
            return []
        started = time.perf_counter()
        completions = self._engine.step()
        self.times.sampling += time.perf_counter() - started
        if not completions and not verifying and not self._engine.pending:
            raise RuntimeError(f"the engine is idle but {n_running} episodes wait for it")
        return completions

    def _verify(self, threads: ThreadPoolExecutor, state: _Running, completion: Completion) -> "Future[_Step]":
        """Steps the environment; in a thread where its task set waits for other processes, else here and now."""
        text = self._renderer.text(completion.action_ids)
        if getattr(state.env.taskset, "verifies_elsewhere", False):
            return threads.submit(state.env.step, text)
        future: Future[_Step] = Future()
        started = time.perf_counter()
        try:
            future.set_result(state.env.step(text))
        except Exception as error:  # a crash of an environment is a value, counted and masked; never a reward of 0
            future.set_exception(error)
        self.times.verification += time.perf_counter() - started
        return future

    def _verified(self, verifying: "dict[Future, Completion]") -> "list[tuple[Completion, Future]]":
        """Takes out what is verified: all of it, or what is ready if the engine goes on decoding in the meantime."""
        if not verifying:
            return []
        started = time.perf_counter()
        if not (self._engine.streams and self._engine.pending):
            wait(verifying, return_when=FIRST_COMPLETED if self._engine.streams else ALL_COMPLETED)
        self.times.verification += time.perf_counter() - started
        ready = [future for future in verifying if future.done()]
        return [(verifying.pop(future), future) for future in ready]

    def _start(self, index: int, state: _Running, temperature: float) -> Episode | Request:
        try:
            messages, _ = state.env.reset(options={"task": state.plan.task})
        except Exception as error:
            return self._end(state, False, StopReason.ENV_ERROR, f"reset: {error!r}")
        state.prompt_ids = self._renderer.opening(messages)
        return self._replay(index, state, temperature) if state.plan.first else self._ask(index, state, temperature)

    def _replay(self, index: int, state: _Running, temperature: float) -> Episode | Request:
        """Plays the plan's first attempt as if it had been sampled now."""
        first = state.plan.first
        assert first is not None
        if first.prompt_ids != state.prompt_ids:
            return self._end(state, False, StopReason.ENV_ERROR, "replay: the first attempt answers another prompt")
        completion = Completion(index, first.action_ids, first.sampler_logprobs, first.finish, 0)
        done: Future[_Step] = Future()
        try:
            done.set_result(state.env.step(first.text))
        except Exception as error:
            done.set_exception(error)
        return self._advance(index, state, completion, done, temperature, replayed=True)

    def _advance(
        self,
        index: int,
        state: _Running,
        completion: Completion,
        step: "Future[_Step]",
        temperature: float,
        replayed: bool = False,
    ) -> Episode | Request:
        if error := step.exception():
            return self._end(state, False, StopReason.ENV_ERROR, f"step: {error!r}")
        messages, reward, terminated, truncated, info = step.result()
        turn = Turn(
            prompt_ids=state.prompt_ids,
            action_ids=completion.action_ids,
            sampler_logprobs=completion.logprobs,
            text=self._renderer.text(completion.action_ids),
            finish=completion.finish,
            score=info.get("score"),
            reward=reward,
            trained=not replayed,
        )
        state.turns.append(turn)
        if not replayed:
            state.policy_version = completion.policy_version
        if terminated or truncated:
            return self._end(state, terminated, info["stop_reason"], info.get("error"))
        state.prompt_ids = self._extend(turn, messages)
        return self._ask(index, state, temperature)

    def _extend(self, turn: Turn, messages: tuple[Message, ...]) -> tuple[int, ...]:
        started = time.perf_counter()
        prompt_ids = self._renderer.extend(turn.prompt_ids, turn.action_ids, messages)
        self.times.rendering += time.perf_counter() - started
        return prompt_ids

    def _ask(self, index: int, state: _Running, temperature: float) -> Episode | Request:
        turn = len(state.turns)
        room = self._context_length - len(state.prompt_ids)
        if room < 1:  # the episode ends with the attempts that it has; one without any has failed
            return self._end(state, bool(state.turns), StopReason.CONTEXT_FULL, None)
        limit = min(room, self._max_new_tokens[min(turn, len(self._max_new_tokens) - 1)])
        seed = derive_seed(state.plan.seed, "turn", turn)
        return Request(index, state.prompt_ids, limit, temperature, seed)

    def _end(self, state: _Running, terminated: bool, reason: StopReason, error: str | None) -> Episode:
        return Episode(
            task_id=state.plan.task.id,
            group_id=state.plan.group_id,
            seed=state.plan.seed,
            policy_version=state.policy_version,
            turns=tuple(state.turns),
            terminated=terminated,
            truncated=not terminated,
            stop_reason=reason,
            error=error,
            given=sum(not turn.trained for turn in state.turns),
        )
