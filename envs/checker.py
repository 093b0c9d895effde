"""The contract of an environment, as one function that raises with the likely cause."""

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
"""Tasks per split whose gold responses are verified."""
MAX_WRONG = 10
"""Tasks to which wrong responses are given."""
_FORMS = {
    "\\boxed": STATED["boxed"],
    "<answer>": STATED["tagged"],
    "####": STATED["hash"],
    "Answer:": STATED["answer_line"],
    "```python": "```python\n{}\n```",
    "```json": "```json\n{}\n```",
}
"""By which words prompts ask for a form, and an answer in it."""


class ContractError(AssertionError):
    """An environment breaks the contract."""


def check_env(env_id: str, tokenizer: Any = None, **kwargs: object) -> None:
    """Checks that a registered environment keeps the contract; prints what was checked.

    Same seed, same episode; a gold response earns 1 at every attempt; an empty response earns nothing and is not an
    error; a wrong one earns nothing unless the task set declares partial credit; what is said between attempts is
    text; the prompts ask for the form that the verifier reads; a crash in ``verify`` surfaces as an error, never as a
    reward of 0; no question has two answers, or is in two splits.

    Args:
        env_id: A registered id.
        tokenizer: Of the model that is to be trained: every word that is said to it must be in its vocabulary.
        kwargs: Passed on to :func:`envs.make`.

    Raises:
        ContractError: With the rule that is broken and the likely cause.
    """
    print(f"{env_id} {contract(lambda: make(env_id, **kwargs), tokenizer)}")  # type: ignore[arg-type]


def contract(build: Callable[[], SelfCorrectEnv], tokenizer: Any = None) -> str:
    """The same for environments that a function builds, each with a task set of its own; returns what was checked.

    Raises:
        ContractError: As :func:`check_env`.
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
            f"{unknown_id(tokenizer)} instead; say it in words that the model knows, or take another model"
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
    """What splits of these sizes cannot do."""
    notes = []
    if not sizes["train"]:
        notes.append("there are no training tasks, so it can be evaluated on and not trained on")
    elif sizes["train"] < 32:
        notes.append(f"{counted(sizes['train'], 'training task is', 'training tasks are')} soon known by heart")
    if not sizes["validation"]:
        notes.append("there are no validation tasks: runs need training.validate_every=0, and tuning cannot be done")
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
    """Words of texts for which a tokenizer has no token; none where no token of it stands for unknown ones."""
    unknown = unknown_id(tokenizer)
    if unknown is None:
        return []

    def lacks(text: str) -> bool:
        return unknown in tokenizer.encode(text, add_special_tokens=False)

    lacking = [text for text in dict.fromkeys(texts) if lacks(text)]
    words = dict.fromkeys(word for text in lacking for word in text.split())
    return [word for word in words if lacks(word)] or lacking


def unknown_id(tokenizer: Any) -> int | None:
    """The token that stands for words without one: by its name, or as the library behind the tokenizer has it."""
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
    """The gold response to a task; ``None`` where the task set says that it knows none."""
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
            f"the same action gave two different steps, {found}, in {env.task.id}: verify() varies. Where it runs "
            "programs, a busy machine may have broken one off: raise its time limit",
        )
    return n_golds


def _check_rewards(env: SelfCorrectEnv) -> None:
    tasks = env.tasks[:MAX_TASKS]
    # The answer to another task, and half of one's own, may be right by chance; they must not raise or be worth more
    # than their verdict.
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
    """A value and its verdict say the same thing, unless the task set declares that it pays in part."""
    if score.verdict == Verdict.CORRECT:
        _require(score.value == 1.0, f"{where} is correct and worth {score.value}: what is right is worth 1")
    elif score.value:
        in_part = getattr(env.taskset, "partial_credit", False) and score.value < 1.0
        _require(
            in_part,
            f"{where} is {score.verdict} and worth {score.value}: accuracy counts verdicts, training pays values. If "
            "what is wrong is to be paid in part, the task set says so by partial_credit = True; else use Score.of",
        )


def _check_failure(env: SelfCorrectEnv) -> None:
    """A verifier that cannot tell must say so, and the environment must not turn that into a reward of 0."""
    broken = SelfCorrectEnv(_Failing(env), attempts=env.attempts, prompts="toy-v1")
    broken.reset(options={"task": env.tasks[0]})
    *_, truncated, info = broken.step("anything")
    _require(
        truncated and info.get("stop_reason") is StopReason.ENV_ERROR,
        "a failed verification must truncate the episode with stop_reason ENV_ERROR",
    )


def _check_form(env: SelfCorrectEnv) -> None:
    """An answer in a form that the prompts name earns what the gold response earns."""
    task = env.tasks[0]
    gold, texts = gold_of(env, task) or "", env.prompts.task + env.prompts.retry
    for mark, stated in _FORMS.items() if gold else ():
        if mark in texts and mark not in gold:
            answers = [task.gold, gold, *(answer for form in STATED for answer in candidates(gold, form))]
            paid = any(env.taskset.verify(task, stated.format(answer)).value == 1.0 for answer in answers)
            _require(
                paid,
                f"the prompts ask for {mark}, which verify does not read: it wants {gold[:80]!r}. Take other prompts "
                "(env.prompts, or prompts= of envs.register), or another answer form",
            )


def _step(env: SelfCorrectEnv, response: str) -> tuple[Any, ...]:
    """A step that must not raise, and must say something."""
    try:
        step = env.step(response)
    except Exception as error:
        raise ContractError(f"step raises after {response[:80]!r} in {env.task.id}: {error!r}") from error
    _require(
        env.observation_space.contains(step[0])
        and all(message.content.strip() or message.role == "assistant" for message in step[0]),
        f"what is said after {response[:80]!r} in {env.task.id} must be Messages with a text, got {step[0]!r}",
    )
    return step


def _play(env: SelfCorrectEnv, task: Task, response: str) -> list[tuple[float, dict]]:
    _, info = env.reset(options={"task": task})
    steps, over = [], False
    while not over:
        attempts = "role" not in info  # else somebody speaks between two attempts
        _, reward, terminated, truncated, info = _step(env, response if attempts else "")
        _require(not (terminated and truncated), "an episode either terminates or is truncated")
        over = terminated or truncated
        _require(over == ("stop_reason" in info), "info must hold stop_reason exactly when the episode ended")
        if attempts:
            steps.append((reward, info))
    return steps


def said(env: SelfCorrectEnv) -> list[str]:
    """What is said to the policy, and what it would have to say, over a few tasks."""
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
    """The same tasks behind a verifier that cannot tell."""

    def __init__(self, env: SelfCorrectEnv) -> None:
        self.load, self.gold_response = env.taskset.load, env.taskset.gold_response

    def verify(self, task: Task, response: str) -> Score:
        return Score(0.0, Verdict.ERROR, None, "deliberate failure of the contract test")
