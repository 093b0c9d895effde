"""Conversations of the episodes in a folder of runs, as lists of ``messages`` that other tools can read.

A run stores the policy's texts and the verifier's scores, but not the environment's messages. These are generated
again: the environment is built from the run's config and replays each episode, with a verifier that returns the stored
scores instead of computing them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from envs import FEEDBACK, Message, Split, Task, TaskSet, messages_of
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
    """One message that the policy wrote, with its score.

    Args:
        message: Index of the message in the conversation.
        reward: Raw reward of the message.
        verdict: Name of the verifier's verdict; ``None`` if the message was not verified.
        answer: The final answer in readable form.
        tokens: Number of sampled tokens; ``None`` if it was not stored.
        truncated: Whether the token limit cut the message off; ``None`` if this was not stored.
        advantages: Advantage of every sampled token; empty outside training episodes.
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
    """The conversation of one episode as one of its roles saw it.

    Args:
        messages: Messages ``{"role", "content"}`` with the roles system, user and assistant.
        replies: Scores and advantages of the messages that the policy wrote; other assistant messages are examples.
        role: The environment's role that speaks as the assistant: ``solver``, ``verifier``, ...
        run: The run's folder, relative to the exported folder.
        arm: Name of the method.
        seed: Seed of the run.
        mode: ``greedy``, ``sampled``, ... or ``training``; for a study's sample, the name of the study.
        step: Training step of a training episode or of a study's sample; ``None`` for an evaluated episode.
        task_id: Id of the task.
        sample: Index of the episode among those of the same task; for a study's sample, its line in ``rows.jsonl``.
        question: Question of the task.
        gold: The correct answer; ``None`` if there is none.
        stop_reason: Why the episode ended.
        failed: Whether the episode was broken off; its scores then count in no rate.
        more: Further columns that a study wrote about its sample.
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
    """A task set whose verifier returns the stored scores, and verifies only responses without a stored score."""

    def __init__(self, taskset: TaskSet) -> None:
        self._taskset = taskset
        self.scores: Iterator[Score | None] = iter(())

    def __getattr__(self, name: str) -> Any:  # other attributes that a task set may have, such as ``examples``
        return getattr(self._taskset, name)

    def load(self, split: Split) -> Sequence[Task]:
        return self._taskset.load(split)

    def gold_response(self, task: Task) -> str:
        return self._taskset.gold_response(task)

    # Environments verify attempts in order, so the stored scores are returned in order. Verifying again would have to
    # run code, and could give another verdict because of time limits or chance.
    def verify(self, task: Task, response: str) -> Score:
        return next(self.scores, None) or self._taskset.verify(task, response)


@dataclass(frozen=True, slots=True)
class _Spoken:
    """The place of one text of the policy.

    Args:
        message: Index of the message in the role's conversation.
        turn: Index of the turn in the episode.
        index: Index of the text among the solver's attempts, or among the texts of other roles if ``is_other``.
        is_other: Whether another role than the solver wrote the text.
    """

    message: int
    turn: int
    index: int
    is_other: bool


@dataclass(slots=True)
class _Part:
    """The messages of an episode that one role read and wrote."""

    messages: list[Message] = field(default_factory=list)
    spoken: list[_Spoken] = field(default_factory=list)


class Replay:
    """Rebuilds the environment of a run to generate its messages again.

    Args:
        config: Config of the environment as stored by the run; keys that this version does not know are ignored.
        split: Split that the episodes' tasks belong to.

    Raises:
        UserError: If the environment cannot be built on this machine.
    """

    def __init__(self, config: Any, split: Split) -> None:
        from rl.workbench import make_env, make_taskset  # imported here because it loads torch

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
        """Replays an episode; returns the messages that every role read and wrote, in order."""
        if (task := self.tasks.get(row.task_id)) is None:
            raise UserError(
                f"task {row.task_id!r} of these runs is not in {self._config.id} any more: was its data changed?"
            )
        env = self._envs[row.attempts] = self._envs.get(row.attempts) or self._make(row.attempts)
        self._taskset.scores = iter(self._scores(row))
        # A row stores the solver's attempts (``texts``) apart from the texts of other roles (``said``). The role that
        # the environment names for a turn tells which of the two holds the turn's text.
        others = {role for role, _, _ in row.said}
        own, said = iter(enumerate(row.texts)), iter(enumerate(text for _, text, _ in row.said))
        parts: dict[str, _Part] = {}
        try:
            # A generated task is generated again from its seed; any other task is passed to the environment.
            seeded = {"seed": task.seed} if task.seed is not None else {"options": {"task": task}}
            observation, info = env.reset(**seeded)
            for turn in range(len(row.texts) + len(row.said)):
                role = str(info.get("role", SOLVER))
                index, text = next(said if role in others else own)
                part = parts.setdefault(role, _Part())
                part.messages += messages_of(observation)
                part.spoken.append(_Spoken(len(part.messages), turn, index, role in others))
                part.messages.append(Message("assistant", text))
                observation, _, terminated, truncated, info = env.step(text)
                if terminated or truncated:
                    break
        except Exception:  # an error in the environment, which has broken off the original episode, too
            if not row.failed:
                raise
        return parts

    def _scores(self, row: EvalRow) -> Iterator[Score | None]:
        # Feedback that shows the output of a program needs the verifier's observations. Rows of an older version have
        # none; in this case no score is given, and the program is verified again.
        seen = row.observations or ("",) * len(row.verdicts)
        for verdict, reward, answer, observation in zip(row.verdicts, row.rewards, row.answers, seen, strict=True):
            told = verdict in tuple(Verdict) and (row.observations or not self._observes)
            yield Score(min(max(reward, 0.0), 1.0), Verdict(verdict), answer, observation=observation) if told else None


def conversations(folder: Path | str) -> Iterator[Conversation]:
    """Yields the conversations below a folder: evaluated episodes, stored training episodes, samples of studies.

    Episodes of controls are left out: a control exchanges what the policy reads, and this is not stored.

    Raises:
        FileNotFoundError: If the folder holds neither a finished run nor a study.
        UserError: If an environment cannot be built on this machine, or its tasks have changed since the run.
    """
    folder = Path(folder)
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
    replays: dict[str, Replay] = {}  # shared by all runs, so that each environment and its tasks are loaded only once
    for key, run in store.runs.items():
        yield from _of_run(run, rows.get(key, []), store, replays)


def _of_study(sample: dict[str, Any], line: int, seed: Path, folder: Path) -> Conversation:
    """One sample of a study as a conversation of two messages: the prompt and the answer."""
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
    # A run without an environment in its own config belongs to a comparison, whose config names the environment.
    config = run.config if run.config.get("env") else store.config
    if not config.get("env"):
        raise UserError(f"{run.folder}: no config.yaml says which environment it was played in")
    settings = config.get("evaluation") or {}

    def replay(mode: str) -> Replay:
        split, changes = Split(settings.get("split", Split.TEST)), {}
        if mode.startswith(TRANSFER):
            changes = settings["transfer"][mode.removeprefix(TRANSFER)]
        env = OmegaConf.merge(config.env, changes)
        split = Split.TRAIN if mode == TRAINING else split
        key = f"{split.value} {OmegaConf.to_yaml(env)}"
        replays[key] = replays.get(key) or Replay(env, split)
        return replays[key]

    of_mode = {mode: replay(mode) for mode in dict.fromkeys(row.mode for row in rows)}
    for mode, one in of_mode.items():
        if not mode.startswith(TRANSFER):
            _refuse_changed_tasks(run.folder, one.tasks)
    for row in rows:
        yield from _told(row, of_mode[row.mode], run, store)
    if kept := store.episodes(run.arm, run.seed):
        env = replay(TRAINING)
        for episode in kept:
            row = training_row(episode, run.arm, run.seed)
            yield from _told(row, env, run, store, episode["step"], episode.get("advantages") or ())


def _refuse_changed_tasks(folder: Path, tasks: Mapping[str, Task]) -> None:
    """Raises UserError if ids that a run stored stand for other questions or answers now: the data were changed."""
    if not (stored := folder / "tasks.jsonl").exists():  # a run of an older version
        return
    for told in read_jsonl(stored):
        now = tasks.get(told["task_id"])
        if now is not None and (now.question, str(now.gold)) != (told["question"], told["gold"]):
            raise UserError(
                f"{folder}: its task {told['task_id']!r} asked {told['question'][:60]!r} with the answer "
                f"{told['gold'][:40]!r}, but now asks {now.question[:60]!r} with the answer {str(now.gold)[:40]!r}: "
                "the data were changed after the run; put the old data back to export its conversations"
            )


def _told(
    row: EvalRow,
    replay: Replay,
    run: Run,
    store: Store,
    step: int | None = None,
    advantages: Sequence[list[float]] = (),
) -> Iterator[Conversation]:
    """Yields one conversation for each role of an episode."""
    columns = (row.rewards, row.verdicts, row.answers, row.n_tokens, row.truncated)
    scored: list[Any] = list(zip(*columns, strict=True))
    parts = replay.play(row)
    task = replay.tasks[row.task_id]
    for role, part in parts.items():
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
