"""The schema of what a run is made of: model, environment, engine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import envs
from envs import Split
from envs.prompts import get_prompts
from envs.registry import find
from rewards.lookup import nearest
from rl.config.checks import check_numbers, refuse, refuse_idle, refuse_unknown

EPISODE = (
    "attempts",
    "feedback",
    "feedback_options",
    "prompts",
    "prompts_text",
    "stop_rule",
    "stop_rule_options",
    "between",
    "between_options",
)
"""The fields of :class:`EnvConfig` that are arguments of :class:`envs.SelfCorrectEnv`."""


@dataclass
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) instead of full tuning; the reference is then the model without them.

    Args:
        rank: 0 for full tuning.
        alpha: Scale of the update, divided by the rank.
        targets: Names of the layers that get an adapter; empty for all linear layers but the head.
    """

    rank: int = 0
    alpha: float = 32.0
    targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_numbers(self, "model.lora", positive="alpha", not_negative="rank")
        if not self.rank:
            refuse_idle(self, "model.lora", "alpha targets", "model.lora.rank=0")


@dataclass
class ModelConfig:
    """The base model, the same for every arm.

    Args:
        path: A folder in transformers' format, or a hub id.
        revision: Of a hub id.
        dtype: Of the weights: ``float32`` or ``bfloat16``. Train in ``float32`` with ``mixed_precision=bf16``
            rather than in bfloat16, whose steps are too coarse for small learning rates.
        chat_template: A Jinja file that replaces the tokenizer's own template, or one of TRL's training templates by
            name, ``trl:qwen3``: they leave earlier turns as they were.
        chat_template_kwargs: Arguments of the template, as ``enable_thinking: false``.
        thoughts: Whether earlier answers are read with their thoughts. ``refuse`` takes a template that leaves answers
            as they were sampled, and no other; ``keep`` leaves them as sampled whatever the template would do; ``drop``
            takes the thoughts of earlier answers out, and then every turn is trained on as a sequence of its own.
        template_date: What a template reads as today's date (``YYYY-MM-DD``), the same in all of a run.
        context_length: 0 takes the model's own limit.
        lora: Low-rank adapters.
        attention: transformers' attention implementation; ``None`` for its choice.
    """

    path: str = MISSING
    revision: str | None = None
    dtype: str = "float32"
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    thoughts: str = "refuse"
    template_date: str = "2026-01-01"
    context_length: int = 0
    lora: LoraConfig = field(default_factory=LoraConfig)
    attention: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "model", not_negative="context_length")
        refuse_unknown(self.dtype, ("float32", "bfloat16"), "model.dtype")
        refuse_unknown(self.thoughts, ("refuse", "keep", "drop"), "model.thoughts")
        # A date alone, in one form: ISO knows 20260131 and 2026-W05-6 too, which templates are not written for.
        form = re.fullmatch(r"\d{4}-\d\d-\d\d", self.template_date)
        try:
            date.fromisoformat(self.template_date if form else "")
        except ValueError:
            refuse(True, f"model.template_date={self.template_date}: is no date; write one as 2026-01-31")
        local = self.path.startswith((".", "/", "~"))
        refuse(
            self.revision is not None and local,
            f"model.revision={self.revision}: has no effect, because model.path={self.path} is a folder; leave it away",
        )

    def refuse_missing(self) -> None:
        """Raises ``FileNotFoundError`` if the path is a folder's, not a hub id, and no model is there."""
        path = Path(self.path)
        # An id of the hub is a name, or an owner's and a name.
        is_id = not self.path.startswith((".", "/", "~")) and path.parts[:1] != ("models",) and len(path.parts) < 3
        if (not is_id or path.is_dir()) and not (path / "config.json").exists():
            if (path / "policy" / "config.json").exists():
                raise FileNotFoundError(
                    f"model.path={self.path}: that is the folder of a run; its policy is model.path={path / 'policy'}"
                )
            raise FileNotFoundError(
                f"model.path={self.path}: no model there. Give one as model=path model.path=<folder or hub id>. SmolLM2"
                " is made by `python -m experiments.prepare_smollm2`, a warm start by `python -m experiments.warm_start"
                " experiment=...`, a tiny base by `python -m experiments.pretrain_tiny toy=...`"
            )


@dataclass
class EngineConfig:
    """What samples.

    Args:
        name: ``hf`` (the trained model itself), ``vllm`` (in this process), ``vllm_http`` (served replicas), or
            another of :data:`rl.backends.engines.ENGINES`.
        max_batch_size: Rows decoded together.
        stop_strings: Texts that end an answer, beside the end tokens of the model and its template.
        dtype: For ``vllm``: of the engine's weights; ``None`` takes the trainer's precision.
        gpu_memory_utilization: For ``vllm`` on a GPU: part of its memory that the engine may take.
        enforce_eager: For ``vllm``: no CUDA graphs; slower to sample, quicker to start.
        prefix_caching: For ``vllm``: a second attempt does not read its first one again.
        sleep_level: For ``vllm`` on a GPU: 0 stays awake during updates, 1 moves the weights to the host, 2 drops them.
        options: For ``vllm``: further arguments of its ``LLM``; an engine of your own reads its options here.
        urls: For ``vllm_http``: base addresses of the replicas.
        weights_dir: For ``vllm_http``: a folder that trainer and replicas share; weights travel through it.
        retries: For ``vllm_http``: how often a request is tried again, on the next replica.
        timeout_s: For ``vllm_http``: seconds that a request may take.
    """

    name: str = "hf"
    max_batch_size: int = 1024
    stop_strings: list[str] = field(default_factory=list)
    dtype: str | None = None
    gpu_memory_utilization: float = 0.4
    enforce_eager: bool = False
    prefix_caching: bool = True
    sleep_level: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)
    weights_dir: str | None = None
    retries: int = 3
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "engine",
            positive="max_batch_size gpu_memory_utilization timeout_s",
            not_negative="retries sleep_level",
        )
        # An option of another engine is refused where it would do nothing; engines of one's own may read any.
        local, served = (
            "dtype gpu_memory_utilization enforce_eager prefix_caching sleep_level options",
            "urls weights_dir",
        )
        idle = {"hf": f"{local} {served} retries timeout_s", "vllm": f"{served} retries timeout_s", "vllm_http": local}
        refuse_idle(self, "engine", idle.get(self.name, ""), f"engine.name={self.name}")
        refuse(self.gpu_memory_utilization > 1, "engine.gpu_memory_utilization: is a part of the memory, at most 1")
        refuse("" in self.stop_strings, "engine.stop_strings: an empty text ends every answer at once")
        refuse(
            self.name == "vllm" and bool(self.stop_strings),
            "engine.stop_strings: engine=vllm samples ids without a tokenizer; use engine=hf or engine=vllm_http",
        )
        refuse(self.sleep_level not in (0, 1, 2), f"engine.sleep_level={self.sleep_level}: use 0, 1 or 2")
        refuse(
            self.name == "vllm_http" and not self.urls,
            "engine.urls is empty: give the addresses of the replicas, as in engine.urls=[http://localhost:8000]",
        )
        refuse(
            self.name == "vllm_http" and not self.weights_dir,
            "engine.weights_dir is missing: name a folder that the trainer and the replicas can both reach",
        )


@dataclass
class EnvConfig:
    """The environment.

    Args:
        name: Short name, used in paths.
        id: A registered environment id.
        attempts: K. The environment's author chooses this and the next eight where they are 0, ``None`` or empty.
        feedback: What the policy is told between attempts, a name in :data:`envs.FEEDBACK`.
        feedback_options: That function's own options.
        prompts: Version of the prompt texts.
        prompts_text: Single texts in place of that version's, such as ``system``; see :class:`envs.prompts.Prompts`.
        stop_rule: When an episode ends before its last attempt, a name in :data:`envs.STOP_RULES`.
        stop_rule_options: That function's own options.
        between: Who speaks between attempts, a name in :data:`envs.BETWEEN`.
        between_options: That function's own options.
        group_reward: Rewards of training episodes that need their whole group, a name in
            :data:`rl.group_rewards.GROUP_REWARDS`; ``None`` leaves the environment's.
        group_reward_options: That function's own options.
        max_new_tokens: Token limit of each attempt; the last entry holds for further attempts.
        dataset: Which data set, for task sets that hold many (``reasoning_gym``).
        options: Further arguments of the task set, or of an environment of gymnasium.
        seeds: For an environment of gymnasium, whose tasks are seeds: how many each split has.
    """

    name: str = MISSING
    id: str = MISSING
    attempts: int = 0
    feedback: str | None = None
    feedback_options: dict[str, Any] = field(default_factory=dict)
    prompts: str | None = None
    prompts_text: dict[str, str] = field(default_factory=dict)
    stop_rule: str | None = None
    stop_rule_options: dict[str, Any] = field(default_factory=dict)
    between: str | None = None
    between_options: dict[str, Any] = field(default_factory=dict)
    group_reward: str | None = None
    group_reward_options: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: list[int] = field(default_factory=lambda: [512])
    dataset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=lambda: {"train": 1000, "validation": 100, "test": 200})

    def __post_init__(self) -> None:
        check_numbers(self, "env", positive="max_new_tokens", not_negative="attempts seeds")
        refuse(not self.max_new_tokens, "env.max_new_tokens is empty: give a token limit")
        unknown = sorted(set(self.seeds) - set(Split))
        refuse(bool(unknown), f"env.seeds: unknown split {', '.join(unknown)}; use {', '.join(Split)}")

    def settled(self) -> "EnvConfig":
        """With the choice of the environment's author wherever nothing is given.

        Raises:
            UnknownNameError: If there is no such environment, feedback, stop rule or version of prompts.
            TypeError: If the task set has no such option.
            ValueError: If a function has no such option, or nobody says how many turns an episode has.
        """
        # What is given wins, then what the environment's author chose; only the result can be checked by name.
        envs.refuse_unknown_options(self.id, self.task_options)
        chosen = envs.settings(self.id, {name: getattr(self, name) or None for name in EPISODE}, self.task_options)
        refuse(not chosen["attempts"], f"env.attempts: {self.id} does not say how many turns an episode has at most")
        found = replace(self, **chosen)
        if found.feedback is not None:
            envs.FEEDBACK.options(found.feedback, found.feedback_options)
        if found.stop_rule is not None:
            envs.STOP_RULES.options(found.stop_rule, found.stop_rule_options)
        if found.between is not None:
            envs.BETWEEN.options(found.between, found.between_options)
        else:
            refuse(bool(found.between_options), "env.between_options: nobody speaks between attempts; set env.between")
        if found.prompts is not None:
            get_prompts(found.prompts, found.prompts_text)
        if found.group_reward is not None:
            from rl.group_rewards import GROUP_REWARDS  # with torch, which only runs need

            GROUP_REWARDS.options(found.group_reward, found.group_reward_options)
            refuse(
                bool(GROUP_REWARDS.fact(found.group_reward, "between"))
                and found.between is None
                and find(found.id) in envs.ENVIRONMENTS,
                f"env.group_reward={found.group_reward}: pays what is said between attempts, and nobody speaks there; "
                f"set env.between, one of {', '.join(envs.BETWEEN)}",
            )
        else:
            because = "env.group_reward is not given; name one with it, or leave the options away"
            refuse_idle(found, "env", "group_reward_options", because)
        if find(found.id) in envs.ENVIRONMENTS:
            because = f"{found.id} has tasks of its own, and only those of an environment of gymnasium are seeds"
            refuse_idle(found, "env", "seeds", because)
        return found

    def changed(self, changes: Any, key: str = "env") -> "EnvConfig":
        """Another environment, settled: what differs, in place of what is here; inner mappings are merged.

        Args:
            changes: Keys and values like those of ``env``.
            key: What the changes stand under, for errors.

        Raises:
            ValueError: For a key or a value that an environment cannot have, by its whole key.
        """
        refuse(
            not isinstance(changes, Mapping),
            f"{key}={changes}: say what differs from env there, as {key}.options.<name>=<value>",
        )
        known = [item.name for item in fields(self)]
        for name in changes:
            refuse(
                name not in known, f"{key}.{name}: there is no such key{nearest(name, known)} Known: {', '.join(known)}"
            )
        try:
            merged: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(self), changes))
            return merged.settled()
        except OmegaConfBaseException as error:
            raise ValueError(f"{key}.{error.full_key}: {str(error).splitlines()[0]}") from None
        except (ValueError, TypeError) as error:
            text = str(error)
            said = f"{key}.{text.removeprefix('env.')}" if text.startswith("env.") else f"{key}: {text}"
            raise ValueError(said) from None

    @property
    def task_options(self) -> dict[str, Any]:
        """Arguments of the task set, ``dataset`` among them where one is named."""
        return self.options | ({"dataset": self.dataset} if self.dataset is not None else {})

    def token_budget(self, attempts: int) -> int:
        """The most tokens that the given number of attempts can sample."""
        limits = self.max_new_tokens
        return sum(limits[min(k, len(limits) - 1)] for k in range(attempts))
