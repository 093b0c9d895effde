"""The contract of an environment, as one function that raises with the likely cause."""

from collections.abc import Callable

from envs.base import Split, StopReason, Task
from envs.registry import make
from envs.self_correct import SelfCorrectEnv
from envs.splits import normalise_question
from rewards import Score, Verdict

MAX_TASKS = 50
"""Tasks per split whose gold responses are verified."""


class ContractError(AssertionError):
    """An environment breaks the contract."""


def check_env(env_id: str, **kwargs: object) -> str:
    """Checks that a registered environment keeps the contract.

    Same seed, same episode; a gold response earns 1 at every attempt; an empty response earns nothing and is not an
    error; a crash in ``verify`` surfaces as an error, never as a reward of 0; splits share no question.

    Args:
        env_id: A registered id.
        kwargs: Passed on to :func:`envs.make`.

    Returns:
        What was checked, in words: how many tasks each split has, how many were played, how an episode opens.

    Raises:
        ContractError: With the rule that is broken and the likely cause.
    """
    env = make(env_id, **kwargs)  # type: ignore[arg-type]
    _check_spaces(env)
    _check_determinism(env, make(env_id, **kwargs))  # type: ignore[arg-type]
    _check_rewards(env)
    sizes = _check_splits(env)
    opening, _ = env.reset(options={"task": env.tasks[0]})
    return (
        f"{env_id} keeps the contract. Tasks: {', '.join(f'{n} {split}' for split, n in sizes.items())}. Played "
        f"{min(MAX_TASKS, len(env.tasks))} of them with the gold and with an empty response, {env.attempts} attempts. "
        f"An episode opens with: {opening[-1].content[:200]!r}"
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _check_spaces(env: SelfCorrectEnv) -> None:
    messages, info = env.reset(seed=0)
    _require(env.observation_space.contains(messages), f"reset must return a tuple of Message, got {messages!r}")
    _require(bool(messages), "reset must return at least one message")
    _require("task_id" in info, "reset's info must hold task_id")


def _check_determinism(env: SelfCorrectEnv, twin: SelfCorrectEnv) -> None:
    for seed in range(5):
        _require(
            env.reset(seed=seed) == twin.reset(seed=seed),
            f"two environments reset with seed {seed} differ: load() must not depend on time or global random state",
        )
        response = env.taskset.gold_response(env.task)
        _require(env.step(response) == twin.step(response), "the same action gave two different steps: verify() varies")


def _check_rewards(env: SelfCorrectEnv) -> None:
    for task in env.tasks[:MAX_TASKS]:
        for name, respond, expected in (("gold", env.taskset.gold_response, 1.0), ("empty", lambda _: "", 0.0)):
            for k, (reward, info) in enumerate(_play(env, task, respond)):
                _require(
                    info["score"].verdict is not Verdict.ERROR, f"the {name} response to {task.id} is an error: {info}"
                )
                _require(
                    reward == expected,
                    f"the {name} response to {task.id} earned {reward} at attempt {k + 1}, expected {expected}: {info}",
                )
    # A verifier that cannot tell must say so, and the environment must not turn that into a reward of 0.
    broken = SelfCorrectEnv(_Failing(env), attempts=env.attempts, prompts="toy-v1")
    broken.reset(options={"task": env.tasks[0]})
    *_, truncated, info = broken.step("anything")
    _require(
        truncated and info.get("stop_reason") is StopReason.ENV_ERROR,
        "a failed verification must truncate the episode with stop_reason ENV_ERROR",
    )


def _play(env: SelfCorrectEnv, task: Task, respond: Callable[[Task], str]) -> list[tuple[float, dict]]:
    env.reset(options={"task": task})
    steps, over = [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(respond(task))
        _require(not (terminated and truncated), "an episode either terminates or is truncated")
        over = terminated or truncated
        _require(over == ("stop_reason" in info), "info must hold stop_reason exactly when the episode ended")
        steps.append((reward, info))
    return steps


def _check_splits(env: SelfCorrectEnv) -> dict[str, int]:
    seen: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for split in Split:
        tasks = env.taskset.load(split)
        ids = [task.id for task in tasks]
        sizes[split.value] = len(tasks)
        _require(len(ids) == len(set(ids)), f"split {str(split)!r} repeats a task id")
        for question in {normalise_question(task.question) for task in tasks}:
            other = seen.setdefault(question, split.value)
            _require(other == split, f"splits {other!r} and {str(split)!r} share the question {question!r}")
    return sizes


class _Failing:
    """The same tasks behind a verifier that cannot tell."""

    def __init__(self, env: SelfCorrectEnv) -> None:
        self.load, self.gold_response = env.taskset.load, env.taskset.gold_response

    def verify(self, task: Task, response: str) -> Score:
        return Score(0.0, Verdict.ERROR, None, "deliberate failure of the contract test")
