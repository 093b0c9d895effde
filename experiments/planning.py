"""Estimates of a run that need no real steps: counts, sizes, memory by formulas, and options that make it smaller."""

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, replace
from functools import reduce
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
import torch

from envs import Split, messages_of
from experiments.calibration import Estimate, load_of, n_saves
from experiments.check import said_after
from experiments.planned import PlanConfig, size
from rl.backends.memory import Sizes, memory
from rl.backends.policy import load_tokenizer
from rl.budget import planned_steps, steps_of_stages
from rl.config import SFTConfig, TrainConfig
from rl.recorded import read_conversations
from rl.rendering import Renderer
from rl.workbench import make_env, make_taskset

if TYPE_CHECKING:
    from experiments.plan import Planned

LOOKED_AT = 50
"""Number of tasks whose questions are measured in tokens."""
CGROUP = Path("/sys/fs/cgroup")
OF_TRL = 2**27
"""Measured number of bytes that importing TRL's trainers and datasets adds to a process."""


def counted(config: Any, options: PlanConfig) -> Estimate:
    """Estimates a run from its config and the sizes of the model, with answers of maximal length."""
    sizes, found = Sizes.of(config.model), Estimate()
    limits = config.env.max_new_tokens
    answers = [limits[min(k, len(limits) - 1)] for k in range(config.env.attempts)]
    prompt, between, tasks = _lengths(config)
    load = load_of(config, tasks, prompt, answers, between)
    if options.processes > 1:
        rows, update_rows = (-(-n // options.processes) for n in (load.rows, load.update_rows))
        load = replace(load, rows=rows, update_rows=update_rows)
    on_cpu = not torch.cuda.is_available() and not options.memory_gib
    parts = memory(config, sizes, load, options.processes, options.sharded, on_cpu)
    # On a CPU the memory is that of the process, including libraries; on a GPU it is that of tensors alone.
    if on_cpu:
        own = psutil.Process().memory_info().rss + (OF_TRL if isinstance(config, SFTConfig) else 0)
        for phase in (parts.sampling, parts.update):
            phase["Python and libraries"] = own
    found.memory, found.peak_memory = {"sampling": parts.sampling, "update": parts.update}, parts.peak / 2**30
    # Disk: the final policy and all kept checkpoints, each with the trained weights and Adam's two moments (offline:
    # the weights alone). Adapters are stored in float32.
    trained = sizes.adapters * 4 or sizes.parameters * sizes.bytes
    found.disk = sizes.parameters * sizes.bytes + 4 * sizes.adapters
    if isinstance(config, TrainConfig):
        _count_online(config, found)
        saves = n_saves(config.training, _n_steps(config), found.updates)
        found.disk += min(config.training.keep_last, saves) * 3 * trained
    elif isinstance(config, SFTConfig):
        _count_offline(config, found, sum(answers))
        found.disk += min(config.training.keep_last, config.offline.iterations) * trained
    return found


def _n_steps(config: TrainConfig) -> int:
    budget, algorithm = config.training, config.algorithm
    per_step = budget.tasks_per_step * algorithm.group_size
    if not budget.tokens:
        return planned_steps(config)
    most = per_step * max(config.env.token_budget(one.attempts) for one in algorithm.resolved(config.env.attempts))
    return max(1, -(-budget.tokens // most))


def _count_online(config: TrainConfig, found: Estimate) -> None:
    algorithm, stages = config.algorithm, config.algorithm.resolved(config.env.attempts)
    # The budget is split over stages in whole batches, so a stage with larger groups takes fewer steps.
    for stage, steps in zip(stages, steps_of_stages(config, _n_steps(config)), strict=True):
        episodes = steps * config.training.tasks_per_step * stage.group_size
        found.episodes += episodes
        found.responses += episodes * stage.attempts
        found.sampled_tokens += episodes * config.env.token_budget(stage.attempts)
        found.updates += steps * algorithm.epochs * algorithm.minibatches
    found.gradient_tokens = found.sampled_tokens * algorithm.epochs


def _count_offline(config: SFTConfig, found: Estimate, tokens: int) -> None:
    budget, offline = config.training, config.offline
    unit = offline.iterations * offline.group_size
    if offline.conversations:
        found.episodes, found.responses, found.sampled_tokens = _recorded(config)
    else:
        found.episodes = -(-budget.tokens // tokens) if budget.tokens else budget.episodes // unit * unit
        found.responses, found.sampled_tokens = found.episodes * config.env.attempts, found.episodes * tokens
    per_round = found.episodes / offline.iterations
    steps = budget.updates // offline.iterations or -(-per_round // offline.batch_size) * offline.epochs
    found.updates = steps * offline.iterations
    found.gradient_tokens = found.sampled_tokens * offline.epochs
    found.notes.append("how many rows offline.rule keeps is not known without sampling: all are counted")


def _recorded(config: SFTConfig) -> tuple[int, int, int]:
    """Number of conversations in ``offline.conversations``, of their attempts, and of the tokens of these."""
    taskset, tokenizer = make_taskset(config.env), load_tokenizer(config.model)
    env = make_env(config.env, taskset, Split.TRAIN)
    told = read_conversations(config.offline.conversations, env, list(taskset.load(Split.TRAIN)))
    texts = [text for one in told for text in one.texts]
    # The end of a turn is one more token.
    n_tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) + 1 for text in texts)
    return len(told), len(texts), n_tokens


def _lengths(config: Any) -> tuple[int, int, int]:
    """Tokens of the longest measured question, median tokens between two attempts, and number of evaluation tasks."""
    tokenizer = load_tokenizer(config.model)
    renderer = Renderer(tokenizer, template_kwargs=config.model.chat_template_kwargs, thoughts=config.model.thoughts)
    taskset = make_taskset(config.env)
    tasks = list(taskset.load(Split.TRAIN)) or list(taskset.load(Split(config.evaluation.split)))
    env: Any = make_env(config.env, taskset, Split.TRAIN)
    questions, between = [0], list[int]()
    # The measured tasks are spread evenly over the data set, which is often sorted by length or difficulty.
    for task in tasks[:: -(-len(tasks) // LOOKED_AT)]:
        observation, _ = env.reset(options={"task": task}) if task.seed is None else env.reset(seed=task.seed)
        questions.append(len(renderer.opening(messages_of(observation))))
        if config.env.attempts > 1:
            between.append(renderer.added_by(said_after(env)))
    there = len(list(taskset.load(Split(config.evaluation.split))))
    asked = min(config.evaluation.n_tasks or there, there)
    return max(questions), int(median(between or [0])), asked


def device(options: PlanConfig) -> tuple[str, float, bool]:
    """Name of the device whose memory a run uses, its GiB, and whether all runs at once share it."""
    if options.memory_gib:
        return "A device", options.memory_gib, False
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory / 2**30, False
    room = psutil.virtual_memory().available
    # Limits of a container, less what its other processes use already.
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        texts = [path.read_text().strip() for name in (limit, used) if (path := CGROUP / name).exists()]
        if len(texts) == 2 and all(map(str.isdigit, texts)):
            room = min(room, max(0, int(texts[0]) - int(texts[1])))
    return "This machine", room / 2**30, True


def smaller(
    one: "Planned", needed: float, n: int, room: float, options: PlanConfig, changes: Mapping[str, tuple[str, Any]]
) -> Iterator[str]:
    """Yields a line for every option that makes a run smaller, the one that saves most first.

    Args:
        one: The planned run.
        needed: GiB that all runs at once need together.
        n: Number of runs at once.
        room: GiB that are available.
        options: Options of the plan.
        changes: Key of a config and a function from its present to its new value, by name.
    """
    before = counted(one.config, options).peak_memory
    found = []
    for key, change in changes.values():
        # The same option lies below algorithm or offline, depending on what is planned.
        part = "algorithm" if isinstance(one.config, TrainConfig) else "offline"
        whole = key if key.split(".")[0] in ("model", "engine") else f"{part}.{key}"
        try:
            value = reduce(getattr, whole.split("."), one.config)
            if (new := change(value)) == value:
                continue
            changed = _changed(one.config, whole, new)
        except (AttributeError, ValueError, TypeError):  # This run has no such option.
            continue
        saved = n * (before - counted(changed, options).peak_memory)
        if saved > 0.01 * needed:
            text = str(new).lower() if isinstance(new, bool) else str(new)
            found.append((saved, f"{whole}={text}", needed - saved <= room))
    for saved, override, enough in sorted(found, reverse=True):
        yield f"{override}  {size(saved * 2**30)}{'  (then it fits)' if enough else ''}"


def _changed(config: Any, key: str, value: Any) -> Any:
    """Returns a copy of the config with another value at a dotted key."""
    name, _, rest = key.partition(".")
    inner = getattr(config, name)
    return replace(config, **{name: _changed(inner, rest, value) if rest and is_dataclass(inner) else value})
