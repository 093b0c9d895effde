"""Tests whether an environment keeps the contract; a broken rule raises an error that names the likely cause."""

from collections.abc import Callable, Sequence
from typing import Any

from envs.base import Split, StopReason, Task
from envs.registry import make
from envs.self_correct import SelfCorrectEnv
from envs.splits import normalise_question
from rewards import Score, Verdict
from rewards.answers import STATED, candidates
from rewards.wording import counted

MAX_TASKS = 50
"""Number of tasks whose gold and empty responses are verified."""
MAX_WRONG = 10
"""Number of tasks that also get wrong responses."""
_FORMS = {
    "\\boxed": STATED["boxed"],
    "<answer>": STATED["tagged"],
    "####": STATED["hash"],
    "Answer:": STATED["answer_line"],
    "```python": "```python\n{}\n```",
    "```json": "```json\n{}\n```",
}
"""For each mark by which prompts ask for an answer form, a template of an answer in this form."""


class ContractError(AssertionError):
    """An environment breaks the contract."""


def check_env(env_id: str, tokenizer: Any = None, **kwargs: object) -> None:
    """Checks that a registered environment keeps the contract; prints what was checked.

    The contract: the same seed gives the same episode; a gold response earns 1 at every attempt; an empty response
    earns 0 and is not an error; a wrong response earns 0 unless the task set declares partial credit; messages between
    attempts are text; the prompts ask for the form that the verifier reads; a failed verification truncates the episode
    as an error, instead of a reward of 0; no question has two answers or is in two splits.

    Args:
        env_id: A registered id.
        tokenizer: Tokenizer of the model to be trained; every word that the model reads must be in its vocabulary.
        kwargs: Passed on to :func:`envs.make`.

    Raises:
        ContractError: If a rule is broken; the message names the rule and the likely cause.
    """
    print(f"{env_id} {contract(lambda: make(env_id, **kwargs), tokenizer)}")  # type: ignore[arg-type]


def contract(build: Callable[[], SelfCorrectEnv], tokenizer: Any = None) -> str:
    """Checks the contract of :func:`check_env` for environments that ``build`` returns; returns a report of the checks.

    Every call of ``build`` must return an environment with a new task set.

    Raises:
        ContractError: If a rule is broken; the message names the rule and the likely cause.
    """
    env = build()
    _check_spaces(env)
    n_golds = _check_determinism(env, build())
    _check_rewards(env)
    _check_failure(env)
    _check_form(env)
    sizes = _check_splits(env)
    opening, _ = env.reset(options={"task": env.tasks[0]})
    if tokenizer is not None and (unknown := unknown_words(tokenizer, said(env))):
        raise ContractError(
            f"the tokenizer has no token for {', '.join(map(repr, unknown[:10]))}, so the policy is shown token "
            f"{unknown_id(tokenizer)} instead; use words that the model knows, or another model"
        )
    played = f"Played {min(MAX_TASKS, len(env.tasks))} of them with the gold, an empty and a wrong response"
    lines = [
        f"keeps the contract. Tasks: {', '.join(f'{n} {split}' for split, n in sizes.items())}. {played}, "
        f"{counted(env.attempts, 'attempt')}. An episode opens with: {opening[-1].content[:200]!r}",
        *([] if n_golds else ["No task has a gold response, so it was not checked that any can be solved."]),
        *(f"Note: {note}" for note in size_notes(sizes)),
    ]
    return "\n".join(lines)


def size_notes(sizes: dict[str, int]) -> list[str]:
    """Warnings about splits that are empty, or too small to train on or to measure a rate precisely."""
    notes = []
    if not sizes["train"]:
        notes.append("there are no training tasks, so the environment can be used for evaluation only")
    elif sizes["train"] < 32:
        notes.append(f"{counted(sizes['train'], 'training task is', 'training tasks are')} soon memorised")
    if not sizes["validation"] and not sizes["test"]:
        return [*notes, "there are neither validation nor test tasks, so nothing can be measured"]
    if not sizes["validation"]:
        notes.append("there are no validation tasks: runs need training.validate_every=0, and tuning is impossible")
    for split in ("validation", "test"):
        if 0 < sizes[split] < 100:
            half = 98 / sizes[split] ** 0.5
            notes.append(
                f"with {counted(sizes[split], f'{split} task')} a rate near 50 % is known within {half:.0f} points only"
            )
    if not sizes["test"]:
        notes.append("there are no test tasks: evaluate with evaluation.split=validation")
    return notes


def unknown_words(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Words of the texts for which a tokenizer has no token; empty if the tokenizer has no unknown token."""
    unknown = unknown_id(tokenizer)
    if unknown is None:
        return []

    def lacks(text: str) -> bool:
        return unknown in tokenizer.encode(text, add_special_tokens=False)

    lacking = [text for text in dict.fromkeys(texts) if lacks(text)]
    words = dict.fromkeys(word for text in lacking for word in text.split())
    return [word for word in words if lacks(word)] or lacking


def unknown_id(tokenizer: Any) -> int | None:
    """Id of the tokenizer's unknown token, as declared by the tokenizer or its backend; ``None`` if there is none."""
    if tokenizer.unk_token_id is not None:
        return tokenizer.unk_token_id
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    name = getattr(model, "unk_token", None)
    return None if name is None else tokenizer.convert_tokens_to_ids(name)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _check_spaces(env: SelfCorrectEnv) -> None:
    messages, info = env.reset(seed=0)
    _require(env.observation_space.contains(messages), f"reset must return a tuple of Message, got {messages!r}")
    _require(bool(messages), "reset must return at least one message")
    _require("task_id" in info, "reset's info must hold task_id")


def gold_of(env: SelfCorrectEnv, task: Task) -> str | None:
    """The gold response to a task; ``None`` if the task set raises NotImplementedError because it knows none."""
    try:
        return env.taskset.gold_response(task)
    except NotImplementedError:
        return None


def _check_determinism(env: SelfCorrectEnv, twin: SelfCorrectEnv) -> int:
    n_golds = 0
    for seed in range(5):
        _require(
            env.reset(seed=seed) == twin.reset(seed=seed),
            f"two environments reset with seed {seed} differ: load() must not depend on time or global random state",
        )
        response = gold_of(env, env.task)
        n_golds += response is not None
        steps = [_step(one, response or "") for one in (env, twin)]
        found = " and then ".join(f"{step[1]} {step[4]['score'].verdict} {step[4]['score'].reason}" for step in steps)
        _require(
            steps[0] == steps[1],
            f"the same action gave two different steps, {found}, in {env.task.id}: verify() varies. If it runs "
            "programs, one may have hit its time limit on a busy machine: raise the limit",
        )
    return n_golds


def _check_rewards(env: SelfCorrectEnv) -> None:
    tasks = env.tasks[:MAX_TASKS]
    # The gold response to another task, or the first half of the gold response, may be right by chance, so their reward
    # is not fixed. They must not raise, and their value must agree with their verdict.
    for i, (task, other) in enumerate(zip(tasks, (*tasks[1:], *tasks[:1]), strict=True)):
        gold, wrong = gold_of(env, task), gold_of(env, other)
        responses = [("gold", gold, 1.0), ("empty", "", 0.0)]
        if i < MAX_WRONG and gold and wrong:
            responses += [("next task's gold", wrong, None), ("broken off gold", gold[: len(gold) // 2], None)]
        for name, response, expected in responses:
            for k, (reward, info) in enumerate(_play(env, task, response) if response is not None else ()):
                where = f"the {name} response to {task.id}"
                _require(info["score"].verdict != Verdict.ERROR, f"{where} is an error: {info}")
                _require(
                    expected in (None, reward),
                    f"{where} earned {reward} at attempt {k + 1}, expected {expected}: {info}",
                )
                _check_score(env, info["score"], where)


def _check_score(env: SelfCorrectEnv, score: Score, where: str) -> None:
    """Value and verdict must agree: 1 if and only if ``correct``, else 0, or below 1 with declared partial credit."""
    if score.verdict == Verdict.CORRECT:
        _require(score.value == 1.0, f"{where} is correct and worth {score.value}: a correct response must be worth 1")
    elif score.value:
        in_part = getattr(env.taskset, "partial_credit", False) and score.value < 1.0
        _require(
            in_part,
            f"{where} is {score.verdict} and worth {score.value}: accuracy counts verdicts, training pays values. For "
            "partial credit set partial_credit = True on the task set (with env=rows "
            "env.options.verify_options.partial_credit=true); otherwise build scores with Score.of",
        )


def _check_failure(env: SelfCorrectEnv) -> None:
    """A failed verification must truncate the episode as an error, not end it with a reward of 0."""
    broken = SelfCorrectEnv(_Failing(env), attempts=env.attempts, prompts="toy-v1")
    broken.reset(options={"task": env.tasks[0]})
    *_, truncated, info = broken.step("anything")
    _require(
        truncated and info.get("stop_reason") is StopReason.ENV_ERROR,
        "a failed verification must truncate the episode with stop_reason ENV_ERROR",
    )


def _check_form(env: SelfCorrectEnv) -> None:
    """A right answer must be accepted in every answer form that the prompts ask for."""
    task = env.tasks[0]
    gold, texts = gold_of(env, task) or "", env.prompts.task + env.prompts.retry
    for mark, stated in _FORMS.items() if gold else ():
        if mark in texts and mark not in gold:
            answers = [task.gold, gold, *(answer for form in STATED for answer in candidates(gold, form))]
            paid = any(env.taskset.verify(task, stated.format(answer)).value == 1.0 for answer in answers)
            _require(
                paid,
                f"the prompts ask for {mark}, which verify does not read: it wants {gold[:80]!r}. Use other prompts "
                "(env.prompts, or prompts= of envs.register), or another answer form",
            )


def _step(env: SelfCorrectEnv, response: str) -> tuple[Any, ...]:
    """Takes a step, which must not raise and must return messages with a text."""
    try:
        step = env.step(response)
    except Exception as error:
        raise ContractError(f"step raises after {response[:80]!r} in {env.task.id}: {error!r}") from error
    _require(
        env.observation_space.contains(step[0])
        and all(message.content.strip() or message.role == "assistant" for message in step[0]),
        f"the observation after {response[:80]!r} in {env.task.id} must be Messages with a text, got {step[0]!r}",
    )
    return step


def _play(env: SelfCorrectEnv, task: Task, response: str) -> list[tuple[float, dict]]:
    _, info = env.reset(options={"task": task})
    steps, over = [], False
    while not over:
        attempts = "role" not in info  # otherwise a role between two attempts is to speak
        _, reward, terminated, truncated, info = _step(env, response if attempts else "")
        _require(not (terminated and truncated), "an episode either terminates or is truncated")
        over = terminated or truncated
        _require(over == ("stop_reason" in info), "info must hold stop_reason exactly when the episode ended")
        if attempts:
            steps.append((reward, info))
    return steps


def said(env: SelfCorrectEnv) -> list[str]:
    """Texts that the policy would read or have to write, for a few tasks."""
    texts = []
    for i, task in enumerate(env.tasks[:MAX_TASKS]):
        messages, _ = env.reset(options={"task": task})
        texts += [message.content for message in messages]
        for response in (gold_of(env, task), "") if i < MAX_WRONG else ():
            if response is not None:
                env.reset(options={"task": task})
                texts += [response, *(message.content for message in _step(env, response)[0])]
    return texts


def _check_splits(env: SelfCorrectEnv) -> dict[str, int]:
    seen: dict[str, tuple[Split, Task]] = {}
    sizes: dict[str, int] = {}
    for split in Split:
        tasks = env.taskset.load(split)
        ids = [task.id for task in tasks]
        sizes[split.value] = len(tasks)
        _require(len(ids) == len(set(ids)), f"split {str(split)!r} repeats a task id")
        for task in tasks:
            question = normalise_question(task.question)
            other, first = seen.setdefault(question, (split, task))
            _require(other == split, f"splits {str(other)!r} and {str(split)!r} share the question {question!r}")
            if first.gold != task.gold and (gold := gold_of(env, task)) is not None:
                _require(
                    env.taskset.verify(first, gold).value == 1.0,
                    f"{first.id} and {task.id} ask the same, {question!r}, and have different answers: {first.gold!r}, "
                    f"{task.gold!r}",
                )
    return sizes


class _Failing:
    """The same tasks with a verifier that always fails."""

    def __init__(self, env: SelfCorrectEnv) -> None:
        self.load, self.gold_response = env.taskset.load, env.taskset.gold_response

    def verify(self, task: Task, response: str) -> Score:
        return Score(0.0, Verdict.ERROR, None, "deliberate failure of the contract test")
