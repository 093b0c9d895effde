"""Checks an environment before a run: ``python -m experiments.check env=rows env.options.path=my.jsonl``.

Prints the numbers of tasks per split, whether the environment keeps its contract, gold responses that fail, lengths in
the model's tokens, two episodes token by token, the verdicts and rewards of sampled responses, and what to change. Ends
with an error if a run would go wrong.
"""

import inspect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

import envs
from envs import SelfCorrectEnv, Split, Task
from envs.checker import ContractError, contract, gold_of, said, size_notes, unknown_words
from experiments.cli import UserError, console, entry_point
from experiments.schema import CheckConfig
from rewards import Verdict
from rewards.wording import counted
from rl.backends import hub

if TYPE_CHECKING:
    from rl.types import Episode
    from rl.workbench import Workbench

SHOWN = 5
"""How many failing golds, unknown words and the like a message names at most."""
MAX_SHOWN_TOKENS = 160
ANSWERED = 20
"""Tasks that are answered, wrongly, to measure the messages between two attempts."""


@dataclass(slots=True)
class Findings:
    """What must be changed because a run would go wrong (``wrong``), and what could be improved (``better``)."""

    wrong: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)


def run(cfg: CheckConfig) -> None:
    """Checks the environment and prints what was found; the tasks come first, before torch is loaded."""
    # The default path may be missing, since most checks need no model; a path that the user has given must exist.
    if cfg.model.path != f"models/{cfg.env.name}":
        cfg.model.refuse_missing()
    hub.register()
    found, taskset = Findings(), envs.make_taskset(cfg.env.id, cfg.env.task_options, cfg.env.seeds)
    tasks = {split: list(taskset.load(split)) for split in Split}
    sizes = {split.value: len(tasks[split]) for split in Split}
    _title("Tasks")
    console.print(
        f"{cfg.env.id}: {', '.join(f'{n} {split}' for split, n in sizes.items())}; "
        f"{counted(cfg.env.attempts, 'attempt')}"
    )
    if "few_shot" in cfg.env.task_options and (shown := len(getattr(taskset, "examples", ()))):
        console.print(
            f"{counted(shown, 'more training row is', 'more training rows are')} shown as examples "
            "(env.options.few_shot)."
        )
    check_sizes(sizes, cfg.env.task_options, found)
    first = next((split for split in Split if tasks[split]), None)
    if first is None:
        raise UserError(f"{cfg.env.id} has no tasks at all")
    from rl.workbench import make_env, make_taskset

    env: Any = make_env(cfg.env, taskset, first)
    if isinstance(env, SelfCorrectEnv):
        try:
            kept = contract(lambda: make_env(cfg.env, make_taskset(cfg.env), first))  # type: ignore[arg-type, return-value]
            console.print(f"The environment {kept.partition('. Tasks')[0]} (played on {first}).")
        except ContractError as error:
            found.wrong.append(str(error))
        check_golds(env, tasks, cfg.golds, found)
    split = next((split for split in (Split.VALIDATION, Split.TEST) if tasks[split]), None)
    if split is None:
        return _conclude(found)
    try:
        cfg.model.refuse_missing()
    except FileNotFoundError as error:
        found.better.append(f"name a model, so that lengths, tokens and samples can be checked: {error}")
        return _conclude(found)
    bench = build(cfg, split)
    check_lengths(bench, env, [task for part in tasks.values() for task in part], found)
    episodes = sample(bench, tasks[first], first, cfg.samples)
    show_episodes(bench, episodes[: cfg.shown])
    check_samples(bench, episodes, taskset, found)
    _conclude(found)


main = entry_point("check", runs=False)(run)


def check_sizes(sizes: dict[str, int], options: Mapping[str, Any], found: Findings) -> None:
    """Notes splits that are empty or small, and how to enlarge them."""
    if not sizes["validation"] and not sizes["test"]:
        found.wrong.append(size_notes(sizes)[-1])
    else:
        found.better += size_notes(sizes)
    # If the splits are cut from one file by shares, a larger share gives more tasks; of a few rows, none is enough.
    few = [name for name in ("validation", "test") if sizes[name] < 100 and name in options]
    if few and (rows := sum(sizes.values())) < 100:
        found.better.append(
            f"write more rows: {counted(rows, 'row')} cannot fill a split of 100 tasks and train a model"
        )
    elif few:
        shares = " ".join(f"env.options.{name}=..." for name in few)
        found.better.append(f"if the data have no such split, take a larger share of the rows for it, {shares}")


def _title(text: str) -> None:
    console.print(f"\n[bold cyan]{text}[/]")


def _conclude(found: Findings) -> None:
    _title("What to change")
    for line in found.wrong:
        console.print(Text.assemble(("must: ", "bold red"), line))
    for line in found.better:
        console.print(Text.assemble(("could: ", "yellow"), line))
    if not found.wrong and not found.better:
        console.print("Nothing: all is well.")
    if found.wrong:
        raise UserError("a run would go wrong: change what is marked with must above")


def build(cfg: CheckConfig, split: Split) -> "Workbench":
    """Builds the model and its environment."""
    from rl.config import EvalConfig, RunConfig
    from rl.workbench import Workbench

    evaluation = EvalConfig(split=split.value)
    return Workbench.build(
        RunConfig(
            cfg.seed, cfg.threads, name="check", model=cfg.model, env=cfg.env, engine=cfg.engine, evaluation=evaluation
        )
    )


def check_golds(env: SelfCorrectEnv, tasks: dict[Split, list[Task]], limit: int, found: Findings) -> None:
    """Grades gold responses of every split, at most ``limit`` each (0 for all), and names those that do not earn 1."""
    failing, graded, unknown = [], 0, 0
    for split in Split:
        for task in tasks[split][: limit or None]:
            gold = gold_of(env, task)
            if gold is None:
                unknown += 1
                continue
            graded += 1
            try:
                score = env.taskset.verify(task, gold)
                if score.value != 1.0:
                    failing.append(f"{task.id} ({score.verdict}{score.reason and ': ' + score.reason})")
            except Exception as error:  # a user's own verifier may raise anything
                failing.append(f"{task.id} ({type(error).__name__}: {error})")
    of = f"of {counted(graded, 'gold that was graded', 'golds that were graded')}"
    earn = counted(graded - len(failing), f"{of} earns 1.", f"{of} earn 1.")
    console.print(earn if graded else "No golds to grade.")
    if unknown:
        console.print(f"{counted(unknown, 'task has', 'tasks have')} no gold response.")
    if failing:
        more = f" and {len(failing) - SHOWN} more" if len(failing) > SHOWN else ""
        found.wrong.append(
            f"{counted(len(failing), 'gold does', 'golds do')} not earn 1, so no response to these tasks can be "
            f"right: {', '.join(failing[:SHOWN])}{more}. Correct or remove these rows, or use another verifier"
        )


def said_after(env: Any) -> tuple[envs.Message, ...]:
    """What an environment says after an empty first attempt; nothing if it or its verifier raises on one."""
    try:
        return envs.messages_of(env.step("")[0])
    except Exception:  # Only a length is wanted here; the check of the contract reports the error.
        return ()


def measure(
    bench: "Workbench", env: Any, tasks: Sequence[Task]
) -> tuple[dict[str, int], dict[str, int], int, list[str]]:
    """Tokens of every task's prompt and gold, most tokens between two attempts, and the texts that were counted."""
    config = bench.config.env
    prompts, golds, texts, between = {}, {}, [], 0
    for i, task in enumerate(tasks):
        observation, _ = env.reset(options={"task": task}) if task.seed is None else env.reset(seed=task.seed)
        messages = envs.messages_of(observation)
        prompts[task.id] = len(bench.renderer.opening(messages))
        texts += [message.content for message in messages[-2:]]
        # What is said after a wrong attempt. Verification may be slow, so only few tasks are answered.
        if config.attempts > 1 and i % math.ceil(len(tasks) / ANSWERED) == 0:
            between = max(between, bench.renderer.added_by(said_after(env)))
        gold = gold_of(env, task) if isinstance(env, SelfCorrectEnv) else None
        if gold is not None:
            # One more for the token that ends the turn, which counts against the limit.
            golds[task.id] = len(bench.tokenizer.encode(gold, add_special_tokens=False)) + 1
            texts.append(gold)
    return prompts, golds, between, texts


def check_lengths(bench: "Workbench", env: Any, tasks: Sequence[Task], found: Findings) -> None:
    """Compares the lengths of prompts and golds, in tokens, with the limits of responses and of the context."""
    config, limit = bench.config.env, bench.context_length
    # Look at no more than a thousand tasks, evenly spread: tokenizing all of a large data set would take minutes.
    prompts, golds, between, texts = measure(bench, env, tasks[:: math.ceil(len(tasks) / 1000)])
    # Print the table, and collect the tasks that exceed each limit.
    _title("Lengths, in tokens of the model")
    table = Table(box=None, pad_edge=False)
    for name in ("", "median", "longest", "limit", "over it"):
        table.add_column(name, justify="left" if not name else "right")
    all_between = between * (config.attempts - 1)
    budget = config.token_budget(config.attempts) + all_between
    longest = max(config.max_new_tokens)
    rows = {
        "question": (prompts, limit - 1, "context"),
        "question and all attempts": ({i: n + budget for i, n in prompts.items()}, limit, "context"),
        "gold response": (golds, longest, "env.max_new_tokens"),
    }
    over = {name: [i for i, n in lengths.items() if n > most] for name, (lengths, most, _) in rows.items()}
    for name, (lengths, most, whose) in rows.items():
        if lengths:
            cells = (f"{median(lengths.values()):.0f}", str(max(lengths.values())), f"{most} ({whose})")
            table.add_row(name, *cells, f"{len(over[name])} of {len(lengths)}")
    console.print(table)
    # Report what would go wrong, the worst problem first.
    if too_long := over["question"]:
        found.wrong.append(
            f"{counted(len(too_long), 'question leaves', 'questions leave')} no room in the model's context of "
            f"{counted(limit, 'token')}, the longest has {max(prompts.values())}: {', '.join(too_long[:SHOWN])}. "
            "Leave them out, or use a longer context"
        )
    elif tight := over["question and all attempts"]:
        room = (limit - max(prompts.values()) - all_between) // config.attempts
        found.better.append(
            f"{counted(len(tight), 'episode')} may outgrow the context of {counted(limit, 'token')} and be broken "
            f"off; env.max_new_tokens=[{max(room, 1)}] leaves room for {counted(config.attempts, 'attempt')} after the "
            "longest question"
        )
    if cut := over["gold response"]:
        found.wrong.append(
            f"{counted(len(cut), 'gold is', 'golds are')} longer than env.max_new_tokens={longest} and would be cut "
            f"off: {', '.join(cut[:SHOWN])}. Set env.max_new_tokens=[{-(-max(golds.values()) // 8) * 8}]"
        )
    with suppress(ContractError):  # The check of the contract has reported it.
        texts += said(env) if isinstance(env, SelfCorrectEnv) else []
    if unknown := unknown_words(bench.tokenizer, texts):
        found.wrong.append(
            f"the model has no token for {counted(len(unknown), 'word')}, {', '.join(map(repr, unknown[:SHOWN]))}, and "
            "would read the same token for all of them: use another model, as model=path model.path=..."
        )


def sample(bench: "Workbench", tasks: Sequence[Task], split: Split, n: int) -> "list[Episode]":
    """Samples ``n`` episodes of different tasks at temperature 1; fewer if there are fewer tasks."""
    from rl.rollout import EpisodePlan
    from rl.types import derive_seed

    chosen = [tasks[i * len(tasks) // n] for i in range(n)] if len(tasks) >= n else list(tasks)
    plans = [EpisodePlan(task, i, derive_seed(bench.config.seed, "check", i)) for i, task in enumerate(chosen)]
    with console.status(f"sampling {counted(len(plans), 'episode')}"):
        return bench.rollout(split).run(plans, 1.0)


def show_episodes(bench: "Workbench", episodes: "Sequence[Episode]") -> None:
    """Prints episodes token by token, separated by bars: tokens that are read dim, sampled and learned ones bold."""
    for episode in episodes:
        _title(f"Episode of {episode.task_id}: what is read is dim, what is sampled is bold")
        before: tuple[int, ...] = ()
        for turn in episode.turns:
            # The prompt of a turn repeats the conversation so far, so only its new tokens are shown. If the template
            # has rewritten earlier turns, the whole prompt is shown.
            new = turn.prompt_ids[len(before) :] if turn.prompt_ids[: len(before)] == before else turn.prompt_ids
            console.print(_tokens(bench, new, "dim"), _tokens(bench, turn.action_ids, "bold"), sep="", end="")
            verdict = turn.score.verdict if turn.score is not None else "no verdict"
            cut = ", cut off" if turn.finish == "length" else ""
            console.print(
                f"\n[green]  {turn.role}: reward {turn.reward:g}, {verdict}, "
                f"{counted(len(turn.action_ids), 'token')}{cut}[/]"
            )
            before = turn.prompt_ids + turn.action_ids
        if episode.error is not None:
            console.print(f"[red]  {episode.stop_reason}: {episode.error}[/]", markup=True, highlight=False)


def _tokens(bench: "Workbench", ids: Sequence[int], style: str) -> Text:
    half = MAX_SHOWN_TOKENS // 2
    pieces = [bench.tokenizer.decode([one]) for one in ids]
    if len(pieces) > MAX_SHOWN_TOKENS:
        pieces = [*pieces[:half], f" ... {counted(len(pieces) - 2 * half, 'token')} ... ", *pieces[-half:]]
    return Text("|".join(pieces) + "|" if pieces else "", style)


def check_samples(bench: "Workbench", episodes: "Sequence[Episode]", taskset: Any, found: Findings) -> None:
    """Prints the verdicts of the sampled attempts, and what they mean for token limits, answer form and rewards."""
    _title(f"What {counted(len(episodes), 'sampled episode gets', 'sampled episodes get')}")
    # One row of the table per attempt.
    failed = [episode for episode in episodes if episode.failed]
    attempts = max((len(episode.turns) for episode in episodes), default=0)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # with this padding, eleven columns fit 80 characters
    others = [verdict for verdict in Verdict if verdict is not Verdict.CORRECT]
    for name in ("turn", "n", "right", *map(str, others), "cut off", "mean reward", "tokens"):
        table.add_column(name, justify="right")
    for k in range(attempts):
        turns = [episode.turns[k] for episode in episodes if len(episode.turns) > k]
        verdicts = Counter(turn.score.verdict for turn in turns if turn.score is not None)
        counts = [verdicts[verdict] for verdict in others]
        cut, reward = sum(turn.finish == "length" for turn in turns), sum(turn.reward for turn in turns) / len(turns)
        tokens = median(len(turn.action_ids) for turn in turns)
        table.add_row(
            *map(str, (k + 1, len(turns), verdicts[Verdict.CORRECT], *counts, cut, f"{reward:.2f}", f"{tokens:.0f}"))
        )
    console.print(table)
    if failed:
        found.wrong.append(
            f"{len(failed)} of {counted(len(episodes), 'episode')} failed. First: {failed[0].task_id}: "
            f"{failed[0].error}"
        )
    # Only first attempts are judged: whether token limit, answer form and difficulty fit the model shows in them.
    turns = [turn for episode in episodes for turn in episode.turns[:1]]
    if not turns:
        return
    n, of, limit = len(turns), f"of {counted(len(turns), 'first attempt')}", bench.config.env.max_new_tokens[0]
    scored = [turn.score for turn in turns if turn.score is not None]
    cut = sum(turn.finish == "length" for turn in turns)
    silent = sum(score.verdict == Verdict.NO_ANSWER for score in scored)
    right = sum(score.verdict == Verdict.CORRECT for score in scored)
    if cut > 0.2 * n:
        found.better.append(
            f"{counted(cut, f'{of} is', f'{of} are')} cut off at {counted(limit, 'token')}: "
            f"try env.max_new_tokens=[{2 * limit}]"
        )
    if silent > 0.5 * n:
        # env=rows says whether its verifier has the option; other task sets have it themselves or not at all.
        own = "answer_form" in inspect.signature(type(taskset).__init__).parameters
        has_form = getattr(taskset, "has_answer_form", own)
        more = ", allow more forms (answer_form: [boxed,answer_line,last_number])" if has_form else ""
        found.better.append(
            f"{counted(silent, f'{of} gives', f'{of} give')} no answer in a form that is read: show the form with "
            f"examples (env=rows: env.options.few_shot=3){more}, or run python -m "
            "experiments.warm_start"
        )
    if scored and right in (0, n):
        what = "none" if not right else "every one"
        found.better.append(
            f"{what} {of} is right: a group of equal rewards has no gradient. Use "
            f"{'easier tasks or a better model' if not right else 'harder tasks'}"
        )


if __name__ == "__main__":
    main()
