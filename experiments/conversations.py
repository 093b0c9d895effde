"""What was said in the episodes of a folder of runs, in the ``messages`` form that other tools read.

A run stores what the policy wrote and what its verifier said. What the environment said is played again: the run's
environment is built from its config, and its verifier repeats the stored scores instead of computing them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from envs import FEEDBACK, Message, Split, Task, TaskSet
from experiments.cli import UserError
from experiments.evidence.frames import TRAINING, study_of, study_seeds, training_row
from experiments.evidence.store import Run, Store
from rewards import Score, Verdict
from rl.analysis.controls import CONTROLS
from rl.analysis.rows import TRANSFER, EvalRow
from rl.config import EnvConfig
from rl.tracking import read_jsonl

SOLVER = "solver"


@dataclass(frozen=True, slots=True)
class Reply:
    """One of the policy's own messages.

    Args:
        message: Its index in the conversation.
        reward: Raw reward.
        verdict: What the verifier said, by name; ``None`` where nobody verified it.
        answer: The final answer as people read it.
        tokens: How many were sampled; ``None`` where that was not stored.
        truncated: Whether the token limit cut it off.
        advantages: Of every sampled token; empty off the training episodes.
    """

    message: int
    reward: float
    verdict: str | None = None
    answer: str | None = None
    tokens: int | None = None
    truncated: bool | None = None
    advantages: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one role of one episode read and wrote.

    Args:
        messages: ``{"role", "content"}``, system, user and assistant.
        replies: The policy's own among them, with scores and advantages; other assistant messages are examples.
        role: Who speaks as the assistant: ``solver``, ``verifier``, ...
        run: The run's folder, below the exported one.
        arm: Which method.
        seed: Which training run.
        mode: ``greedy``, ``sampled``, ..., or ``training``.
        step: Of a training episode, or of a study's sample.
        task_id: Which task.
        sample: Index of the sample of this task.
        question: Of the task.
        gold: The right answer.
        stop_reason: Why the episode ended.
        failed: Whether it was broken off; then its scores count in no rate.
        more: Whatever else a study wrote about its sample.
    """

    messages: list[dict[str, str]]
    replies: list[Reply]
    role: str
    run: str
    arm: str
    seed: int
    mode: str
    step: int | None
    task_id: str
    sample: int
    question: str
    gold: str | None
    stop_reason: str = ""
    failed: bool = False
    more: dict[str, Any] = field(default_factory=dict)


class _Recorded:
    """A task set whose verifier says what was stored, and verifies what was not."""

    def __init__(self, taskset: TaskSet) -> None:
        self._taskset = taskset
        self.scores: Iterator[Score | None] = iter(())

    def __getattr__(self, name: str) -> Any:  # what else a task set may have, such as its examples
        return getattr(self._taskset, name)

    def load(self, split: Split) -> Sequence[Task]:
        return self._taskset.load(split)

    def gold_response(self, task: Task) -> str:
        return self._taskset.gold_response(task)

    # Environments verify their attempts in order, so the stored scores are handed out in order. Verifying again could
    # give another verdict (a time limit, chance), and code would have to be run.
    def verify(self, task: Task, response: str) -> Score:
        return next(self.scores, None) or self._taskset.verify(task, response)


@dataclass(frozen=True, slots=True)
class _Spoken:
    """Where the policy's text stands: which message, which turn of the episode, which attempt or other words."""

    message: int
    turn: int
    index: int
    is_other: bool


@dataclass(slots=True)
class _Part:
    """A role's side of an episode."""

    messages: list[Message] = field(default_factory=list)
    spoken: list[_Spoken] = field(default_factory=list)


class Replay:
    """The environment of a run, once more.

    Args:
        config: Of the environment, as a run stored it; keys of another version are left out.
        split: Of its tasks.

    Raises:
        UserError: If the environment cannot be built here.
    """

    def __init__(self, config: Any, split: Split) -> None:
        from rl.workbench import make_env, make_taskset  # torch, which a frame does without

        known = {one.name for one in fields(EnvConfig)}
        given = {str(name): value for name, value in config.items() if name in known}
        try:
            found: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EnvConfig), given))
            self._config: EnvConfig = found.settled()
            self._taskset = _Recorded(make_taskset(self._config))
            self.tasks = {task.id: task for task in self._taskset.load(split)}
        except (ValueError, TypeError, OSError, ImportError) as error:
            raise UserError(
                f"the environment {given.get('id')} of these runs cannot be built here, so what it said is not known: "
                f"{error}. Formats without conversations (to=csv, to=latex) need no environment"
            ) from error
        self._observes = bool(FEEDBACK.fact(self._config.feedback, "observes")) if self._config.feedback else False
        self._make: Callable[[int], Any] = lambda attempts: make_env(self._config, self._taskset, split, attempts)
        self._envs: dict[int, Any] = {}

    def play(self, row: EvalRow) -> dict[str, "_Part"]:
        """What every role of an episode read and wrote, in its order."""
        if (task := self.tasks.get(row.task_id)) is None:
            raise UserError(
                f"task {row.task_id!r} of these runs is not in {self._config.id} any more: was its data changed?"
            )
        env = self._envs[row.attempts] = self._envs.get(row.attempts) or self._make(row.attempts)
        self._taskset.scores = iter(self._scores(row))
        # Rows keep the solver's attempts apart from what other roles said; together, in the order of turns, they are
        # the episode.
        others = {role for role, _, _ in row.said}
        own, said = iter(enumerate(row.texts)), iter(enumerate(text for _, text, _ in row.said))
        parts: dict[str, _Part] = {}
        try:
            # A generated task is drawn from its seed, any other is handed over.
            seeded = {"seed": task.seed} if task.seed is not None else {"options": {"task": task}}
            observation, info = env.reset(**seeded)
            for turn in range(len(row.texts) + len(row.said)):
                role = str(info.get("role", SOLVER))
                index, text = next(said if role in others else own)
                part = parts.setdefault(role, _Part())
                part.messages += [Message("user", observation)] if isinstance(observation, str) else observation
                part.spoken.append(_Spoken(len(part.messages), turn, index, role in others))
                part.messages.append(Message("assistant", text))
                observation, _, terminated, truncated, info = env.step(text)
                if terminated or truncated:
                    break
        except Exception:  # of an environment's author; it is what broke the episode off then
            if not row.failed:
                raise
        return parts

    def _scores(self, row: EvalRow) -> Iterator[Score | None]:
        # An environment whose feedback shows a program's run needs what the verifier observed. Rows of an older version
        # have none, so there the program is verified again.
        seen = row.observations or ("",) * len(row.verdicts)
        for verdict, reward, answer, observation in zip(row.verdicts, row.rewards, row.answers, seen, strict=True):
            told = verdict in tuple(Verdict) and (row.observations or not self._observes)
            yield Score(min(max(reward, 0.0), 1.0), Verdict(verdict), answer, observation=observation) if told else None


def conversations(folder: Path) -> Iterator[Conversation]:
    """Every conversation below a folder: evaluated episodes, training episodes that runs kept, samples of studies.

    Episodes of controls are left out: what they were asked was exchanged, and is not stored.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
        UserError: If an environment cannot be built here, or has other tasks now.
    """
    seeds = study_seeds(folder)
    for seed in seeds:
        for line, sample in enumerate(read_jsonl(seed / "rows.jsonl")):
            yield _of_study(sample, line, seed, folder)
    try:
        store = Store(folder)
    except FileNotFoundError:
        if not seeds:
            raise
        return
    rows: dict[tuple[str, int], list[EvalRow]] = {}
    for row in store.rows:
        if row.mode not in CONTROLS:
            rows.setdefault((row.arm, row.seed), []).append(row)
    replays: dict[str, Replay] = {}  # environments and their tasks are loaded once, not once a run
    for key, run in store.runs.items():
        yield from _of_run(run, rows.get(key, []), store, replays)


def _of_study(sample: dict[str, Any], line: int, seed: Path, folder: Path) -> Conversation:
    """One sample of a study: its prompt and its answer, whatever its notation."""
    known = ("arm", "seed", "step", "prompt", "answer", "gold")
    prompt, answer, gold = (sample.get(name) for name in known[3:])
    right = sample.get("right")
    verdict = None if right is None else ("correct" if right else "wrong")
    worth = sample.get("reward", right)
    return Conversation(
        messages=[{"role": "user", "content": str(prompt)}, {"role": "assistant", "content": str(answer)}],
        replies=[Reply(1, float(worth) if isinstance(worth, int | float) else 0.0, verdict, str(answer))],
        role=SOLVER,
        run=seed.relative_to(folder).as_posix(),
        arm=sample["arm"],
        seed=sample["seed"],
        mode=study_of(seed),
        step=sample.get("step"),
        task_id=str(prompt),
        sample=line,
        question=str(prompt),
        gold=None if gold is None else str(gold),
        more={name: value for name, value in sample.items() if name not in known},
    )


def _of_run(run: Run, rows: list[EvalRow], store: Store, replays: dict[str, Replay]) -> Iterator[Conversation]:
    config = run.config if run.config.get("env") else store.config  # a comparison keeps it once, in its own folder
    if not config.get("env"):
        raise UserError(f"{run.folder}: no config.yaml says which environment it was played in")
    settings = config.get("evaluation") or {}

    def replay(mode: str) -> Replay:
        split, changes = Split(settings.get("split", Split.TEST)), {}
        if mode.startswith(TRANSFER):
            split, changes = Split.TEST, settings["transfer"][mode.removeprefix(TRANSFER)]
        env = OmegaConf.merge(config.env, changes)
        split = Split.TRAIN if mode == TRAINING else split
        key = f"{split.value} {OmegaConf.to_yaml(env)}"
        replays[key] = replays.get(key) or Replay(env, split)
        return replays[key]

    of_mode = {mode: replay(mode) for mode in dict.fromkeys(row.mode for row in rows)}
    for row in rows:
        yield from _told(row, of_mode[row.mode], run, store)
    if kept := store.episodes(run.arm, run.seed):
        env = replay(TRAINING)
        for episode in kept:
            row = training_row(episode, run.arm, run.seed)
            yield from _told(row, env, run, store, episode["step"], episode.get("advantages") or ())


def _told(
    row: EvalRow,
    replay: Replay,
    run: Run,
    store: Store,
    step: int | None = None,
    advantages: Sequence[list[float]] = (),
) -> Iterator[Conversation]:
    """A conversation for each role of an episode."""
    columns = (row.rewards, row.verdicts, row.answers, row.n_tokens, row.truncated)
    scored: list[Any] = list(zip(*columns, strict=True))
    task = replay.tasks[row.task_id]
    for role, part in replay.play(row).items():
        replies = []
        for one in part.spoken:
            values: Any = (row.said[one.index][2],) if one.is_other else scored[one.index]
            paid = advantages[one.turn] if advantages else []
            replies.append(replace(Reply(one.message, *values), advantages=list(paid)))
        yield Conversation(
            messages=[{"role": one.role, "content": one.content} for one in part.messages],
            replies=replies,
            role=role,
            run=run.folder.relative_to(store.folder).as_posix(),
            arm=row.arm,
            seed=row.seed,
            mode=row.mode,
            step=step,
            task_id=row.task_id,
            sample=row.sample,
            question=task.question,
            gold=task.gold,
            stop_reason=row.stop_reason,
            failed=row.failed,
        )
