"""Converts conversations recorded elsewhere, by another framework or an API, to episodes of an environment.

Only the policy's replies are taken from the file. They are replayed in the environment, so verdicts are computed anew
and the messages between attempts are the environment's own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from envs import Message, Split, StopReason, Task, TextEnv
from envs.rows import Fault, Row, read_table
from rewards.wording import counted
from rl.backends.hub import read_splits
from rl.rendering import Renderer
from rl.rollout import EpisodePlan, Rollout
from rl.types import SOLVER, Completion, Episode, Finish, Request

MESSAGES = ("messages", "conversations", "conversation")
"""Names of the column that may hold the conversation."""
_SHOWN = 20
_TOGETHER = 256
"""Number of conversations that are played at the same time."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded conversation: its task and the policy's replies.

    Args:
        where: File and line of the conversation, for error messages.
        task: Task of the environment in which the conversation will be played.
        texts: Text of each of the policy's turns.
        failed: Whether the file is an export of this project that marks the conversation as broken off.
    """

    where: str
    task: Task
    texts: tuple[str, ...]
    failed: bool = False


def read_conversations(path: str, env: TextEnv, tasks: Sequence[Task], one_origin: bool = False) -> list[Recorded]:
    """Reads conversations from a JSON Lines, JSON or Parquet file, or from a folder that ``datasets`` saved.

    A row has ``messages``, ``[{"role": ..., "content": ...}, ...]``. Its task is the one that ``task_id`` names, else
    the one whose question is in ``question`` or in a user message (the last one that asks a known question). Assistant
    messages before the question are examples and are ignored. Rows that ``experiments.export`` wrote list the policy's
    messages in ``replies`` and say which run they are from.

    Args:
        path: The file or folder.
        env: Environment whose way to ask a question is recognised.
        tasks: Tasks that the conversations may be about.
        one_origin: Whether to refuse rows of an export that are from several runs or modes.

    Raises:
        FileNotFoundError: If the path does not exist, or is a folder in which ``datasets`` saved nothing.
        ValueError: If rows cannot be used (the message lists them by line), as those whose ``task_id`` asks another
            question than they do, or that hold more attempts than the environment allows; if there are no
            conversations, or if another role speaks between the attempts of the environment.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder, so no conversation can be read from it")
    if getattr(getattr(env, "unwrapped", env), "has_roles", False):
        raise ValueError(
            "env.between: a file's row holds one conversation, but each role has one; set env.between=null"
        )
    rows, faults = _rows(path, place)
    n_rows = len(rows) + len(faults)
    if one_origin:
        _refuse_several_origins(path, rows)
    # Collect all faulty rows before raising, so that a file can be corrected in one go.
    by_id, asked = {task.id: task for task in tasks}, _asked(env, tasks)
    found, elsewhere = [], None
    for row in rows:
        try:
            found.append(_recorded(row, by_id, asked))
            _refuse_more_attempts(found[-1], env)
        except _NoTaskError as error:
            elsewhere = _other_splits(env, by_id) if elsewhere is None else elsewhere
            split = next((elsewhere[one] for one in error.asks if one in elsewhere), None)
            said = f"it is about a task of the split {split}, and no task of that split is read here; leave it out"
            faults.append(Fault(row.where, said if split else str(error)))
        except ValueError as error:
            faults.append(Fault(row.where, str(error)))
    if faults:
        lines = [f"{one.where.removeprefix(f'{place}, ')}: {one.said}" for one in faults]
        raise ValueError(_listed(f"{path}: {len(faults)} of {counted(n_rows, 'conversation')} cannot be used:", lines))
    if not found:
        raise ValueError(f"{path}: it holds no conversation")
    return found


def _rows(path: str, place: Path) -> tuple[list[Row], list[Fault]]:
    """The rows of a file, or of a folder that ``datasets`` saved, and the lines that hold no row."""
    if place.is_file():
        return read_table(place)
    try:
        parts = read_splits(str(place), None)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: datasets saved nothing in this folder. Give a file of conversations; those of a run are "
            "written by python -m experiments.export run=<folder> to=jsonl"
        ) from error
    rows = []
    for name, part in parts.items():
        where = f"{place}, split {name}" if name else str(place)
        rows += [Row(f"{where}, row {i}", row) for i, row in enumerate(part, 1)]
    return rows, []


def _listed(head: str, lines: Sequence[str]) -> str:
    """A message with one line for each of up to :data:`_SHOWN` things, and the number of those that are left out."""
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join([head, *lines[:_SHOWN], *more])


class _NoTaskError(ValueError):
    """A row is about none of the tasks; ``asks`` is the id and the texts by which it may name its task."""

    def __init__(self, said: str, asks: Sequence[str]) -> None:
        super().__init__(said)
        self.asks = asks


def _origin(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Run, arm, seed and mode of a row that ``experiments.export`` wrote; empty for a row of another program."""
    # Other programs may use one of these names for something else, so a row counts as an export only with all of them.
    names = ("run", "arm", "seed", "mode")
    ours = isinstance(values.get("replies"), list) and {*names, "failed", "stop_reason"} <= set(values)
    return tuple(str(values[name]) for name in names) if ours else ()


def _refuse_several_origins(path: str, rows: Sequence[Row]) -> None:
    """Raises ValueError if rows of an export are from several runs or modes, which one rate would mix."""
    counts = Counter(_origin(row.values) for row in rows)
    if len(counts) < 2:
        return
    where = {one: "run {}: {}, seed {}, {}".format(*one) if one else "no export" for one in counts}
    head = (
        f"{path}: its conversations are of several runs or modes, which one rate would mix. Give those of one run and "
        """mode in a file of their own, as of jq -c 'select(.arm == "score" and .mode == "greedy")':"""
    )
    raise ValueError(_listed(head, [f"{where[one]}: {counted(n, 'conversation')}" for one, n in counts.most_common()]))


def _other_splits(env: TextEnv, own: Mapping[str, Task]) -> dict[str, str]:
    """Name of the split by the id, the question and the opening message of every task that is not among one's own."""
    taskset = getattr(getattr(env, "unwrapped", env), "taskset", None)
    found: dict[str, str] = {}
    if taskset is None:
        return found
    for split in Split:
        others = [task for task in taskset.load(split) if task.id not in own]
        found |= dict.fromkeys([*(task.id for task in others), *_asked(env, others)], split.value)
    return found


def _asked(env: TextEnv, tasks: Sequence[Task]) -> dict[str, Task]:
    """Tasks by their question, and by the message in which the environment asks the question."""
    found = {}
    for task in tasks:
        if task.seed is not None:  # the environment makes the question from the seed; only the id identifies the task
            continue
        observation, _ = env.reset(options={"task": task})
        opening = observation if isinstance(observation, str) else observation[-1].content
        found[task.question.strip()] = found[opening.strip()] = task
    return found


def _recorded(row: Row, by_id: dict[str, Task], asked: dict[str, Task]) -> Recorded:
    """Parses a row; raises ValueError if it is not a conversation about one of the tasks."""
    # Find the task. If several messages ask a known question, the last one counts; those before belong to examples.
    messages = _messages(row.values)
    users = [i for i, one in enumerate(messages) if one.role == "user" and one.content.strip() in asked]
    if isinstance(task_id := row.values.get("task_id"), str) and task_id in by_id:
        task = by_id[task_id]
        _refuse_other_question(row, task, asked, [asked[messages[i].content.strip()] for i in users])
    elif str(question := row.values.get("question", "")).strip() in asked:
        task = asked[str(question).strip()]
    elif users:
        task = asked[messages[users[-1]].content.strip()]
    else:
        heard = [one.content.strip() for one in messages if one.role == "user"]
        raise _NoTaskError(
            f"no task of this environment asks {next(iter(heard), '')[:60]!r}; add a column task_id or question",
            [str(task_id), str(question).strip(), *heard],
        )
    if (role := row.values.get("role", SOLVER)) != SOLVER:
        raise ValueError(f"it was written by the role {role}, so it holds no attempt; leave it out")

    # Find the policy's messages.
    if replies := row.values.get("replies"):
        own = _named(messages, replies)
    else:  # begin at the task's first question, since feedback may repeat it; messages before it are examples
        start = next((i for i in users if asked[messages[i].content.strip()] is task), 0)
        own = [one for one in messages[start:] if one.role == "assistant"]
    # A verdict on what was broken off would say nothing about the policy. The mark counts in exports of this project
    # alone: elsewhere ``failed`` may mean a wrong answer.
    failed = bool(_origin(row.values)) and row.values["failed"] is True
    if not own and not failed:
        raise ValueError("it holds no message of the policy: one with the role assistant is needed")
    return Recorded(row.where, task, tuple(one.content for one in own), failed)


def _refuse_other_question(row: Row, task: Task, asked: Mapping[str, Task], heard: Sequence[Task]) -> None:
    """Raises ValueError if a row asks another question than its ``task_id`` stands for, as after a change of the data.

    Args:
        row: The row.
        task: The task of this id.
        asked: All tasks by what is asked.
        heard: Tasks whose questions the row's user messages ask.
    """
    if task.seed is not None:  # its question is made from the seed
        return
    said = row.values.get("question")
    if isinstance(said, str) and said.strip():
        # The environment may have added lines to the question of a file, such as the choices.
        whole, part = ("\n".join(map(str.strip, text.strip().splitlines())) for text in (task.question, said))
        differs = asked.get(said.strip()) is not task and whole != part and not whole.startswith(f"{part}\n")
    else:
        said = heard[-1].question if heard else ""
        differs = bool(heard) and all(one.id != task.id for one in heard)
    if differs:
        raise ValueError(
            f"its task_id {task.id!r} asks {task.question[:60]!r} here, but it is about {said.strip()[:60]!r}; if the "
            "data have changed since, leave out the column task_id"
        )


def _refuse_more_attempts(recorded: Recorded, env: TextEnv) -> None:
    attempts, n = getattr(getattr(env, "unwrapped", env), "attempts", None), len(recorded.texts)
    if attempts is not None and n > attempts and not recorded.failed:
        raise ValueError(
            f"it holds {n} attempts, more than env.attempts={attempts}; set env.attempts={n}, or leave it out"
        )


def _messages(values: dict[str, Any]) -> list[Message]:
    """The conversation of a row; raises ValueError if a role or content is invalid."""
    column = next((name for name in MESSAGES if name in values), None)
    if column is None:
        raise ValueError(f"no column is called {' or '.join(MESSAGES)}; it has {', '.join(values)}")
    if not isinstance(cell := values[column], list) or not cell:
        raise ValueError(f"{column} must be a list of messages; this is {str(cell)[:60]}")
    messages = []
    for place, one in enumerate(cell, 1):
        role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise ValueError(
                f"message {place} must be {{role: system, user or assistant, content: a text}}; this is {str(one)[:60]}"
            )
        messages.append(Message(role, content))
    return messages


def _named(messages: Sequence[Message], replies: Any) -> list[Message]:
    """The messages that ``replies`` lists by index, in the format of ``experiments.export``."""
    try:
        own = [messages[reply["message"]] for reply in replies]
    except (TypeError, KeyError, IndexError):
        raise ValueError("replies must name messages by their index, as in [{message: 1}, ...]") from None
    if any(one.role != "assistant" for one in own):
        raise ValueError("replies names a message that the assistant did not write")
    return own


class _Told:
    """An environment that gets the recorded texts instead of decoded tokens, and ends after the last text."""

    def __init__(self, env: TextEnv, texts: Sequence[str]) -> None:
        self.unwrapped, self._env, self._texts = getattr(env, "unwrapped", env), env, list(texts)

    def reset(self, **given: Any) -> Any:
        return self._env.reset(**given)

    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = self._env.step(self._texts.pop(0))
        if not self._texts and not terminated and not truncated:
            terminated, info = True, info | {"stop_reason": StopReason.ENDED}
        return observation, reward, terminated, truncated, info


class _Reader:
    """An engine that answers each request of an episode with the next recorded text of that episode."""

    streams = True

    def __init__(self, renderer: Renderer, texts: Sequence[Sequence[str]]) -> None:
        self._renderer, self._texts = renderer, texts
        self._said = Counter[int]()
        self._done: list[Completion] = []

    @property
    def pending(self) -> int:
        return len(self._done)

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            text = self._texts[request.id][self._said[request.id]]
            self._said[request.id] += 1
            # Return ids as a policy would sample them, with the end of turn, so that the next prompt extends them.
            ids = (*self._renderer.tokenizer.encode(text, add_special_tokens=False), self._renderer.end_id)
            cut = ids[: request.max_new_tokens]  # only the context length limits the tokens here
            finish = Finish.STOP if cut == ids else Finish.LENGTH
            self._done.append(Completion(request.id, cut, (0.0,) * len(cut), finish, 0))

    def step(self) -> list[Completion]:
        done, self._done = self._done, []
        return done

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Nothing to load."""

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


def replay(
    recorded: Sequence[Recorded], make_env: Callable[[], TextEnv], renderer: Renderer, context_length: int
) -> Iterator[Episode]:
    """Plays recorded conversations and yields their episodes in order; log-probs are 0, since none were recorded.

    A conversation that is marked as failed is not played: its episode has no turns and has failed.

    Args:
        recorded: Conversations from :func:`read_conversations`.
        make_env: Builds an environment.
        renderer: Turns texts into token ids.
        context_length: Longest sequence that the model can process; longer conversations are cut off.
    """
    groups = {task: i for i, task in enumerate(dict.fromkeys(one.task.id for one in recorded))}
    for start in range(0, len(recorded), _TOGETHER):
        part = recorded[start : start + _TOGETHER]
        whole = [(i, one) for i, one in enumerate(part, start) if not one.failed]
        # The rollout builds one environment per plan, in the order of the plans, so each environment gets the texts of
        # its own conversation.
        environments = iter([_Told(make_env(), one.texts) for _, one in whole])
        reader = _Reader(renderer, [one.texts for _, one in whole])
        rollout = Rollout(reader, renderer, lambda envs=environments: next(envs), [context_length], context_length)
        plans = [EpisodePlan(one.task, groups[one.task.id], i) for i, one in whole]
        played = iter(rollout.run(plans, 1.0) if plans else [])
        for i, one in enumerate(part, start):
            yield _broken_off(one, groups[one.task.id], i) if one.failed else next(played)


def _broken_off(recorded: Recorded, group: int, seed: int) -> Episode:
    said = "the file marks this conversation as failed"
    return Episode(recorded.task.id, group, seed, 0, (), False, True, StopReason.ENV_ERROR, said)
