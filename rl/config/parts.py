"""The schema of the parts of a run: model, environment, sampling engine."""

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
    """Low-rank adapters (LoRA, arXiv 2106.09685); the reference policy is then the model without adapters.

    Args:
        rank: Rank of the adapters; 0 for full fine-tuning.
        alpha: Scale of the adapters' update, which is multiplied by ``alpha / rank``.
        targets: Names of the layers that get an adapter; empty for all linear layers except the language-model head.
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
        revision: Revision of the model, if ``path`` is a hub id.
        dtype: Type of the weights: ``float32`` or ``bfloat16``. For training use ``float32`` with
            ``mixed_precision=bf16``: bfloat16 weights are too coarse for small learning rates.
        chat_template: A Jinja file that replaces the tokenizer's chat template, or the name of one of TRL's training
            templates, such as ``trl:qwen3``, which do not rewrite earlier turns.
        chat_template_kwargs: Arguments of the chat template, such as ``enable_thinking: false``.
        thoughts: Whether later prompts contain the thoughts of earlier answers. ``refuse`` rejects a chat template that
            rewrites earlier answers; ``keep`` leaves answers as sampled, whatever the template does; ``drop`` removes
            earlier thoughts and trains on every turn as a separate sequence.
        template_date: Date (``YYYY-MM-DD``) that the chat template reads as today's, the same throughout a run.
        context_length: Maximum length of prompt and answer in tokens; 0 takes the model's own limit.
        lora: Low-rank adapters.
        attention: Name of the attention implementation in transformers; ``None`` lets transformers choose.
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
        # Accept only YYYY-MM-DD: fromisoformat also takes 20260131 and 2026-W05-6, which chat templates cannot parse.
        form = re.fullmatch(r"\d{4}-\d\d-\d\d", self.template_date)
        try:
            date.fromisoformat(self.template_date if form else "")
        except ValueError:
            refuse(True, f"model.template_date={self.template_date}: is no date; write one as 2026-01-31")
        local = self.path.startswith((".", "/", "~"))
        refuse(
            self.revision is not None and local,
            f"model.revision={self.revision}: has no effect, because model.path={self.path} is a folder; remove it",
        )

    def refuse_missing(self) -> None:
        """Raises ``FileNotFoundError`` if the path is that of a folder, not a hub id, and there is no model in it."""
        path = Path(self.path)
        # A hub id is <name> or <owner>/<name>.
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
    """The engine that samples episodes.

    Args:
        name: ``hf`` (the trained model itself), ``vllm`` (in this process), ``vllm_http`` (served replicas), or
            another name in :data:`rl.backends.engines.ENGINES`.
        max_batch_size: Maximum number of rows decoded together.
        stop_strings: Texts that end an answer, in addition to the end tokens of the model and its chat template.
        dtype: For ``vllm``: type of the engine's weights; ``None`` takes the trainer's precision.
        gpu_memory_utilization: For ``vllm`` on a GPU: fraction of the GPU memory that the engine may use.
        enforce_eager: For ``vllm``: disable CUDA graphs; sampling is slower, the start is faster.
        prefix_caching: For ``vllm``: reuse cached prefixes, so that a second attempt does not prefill the first again.
        sleep_level: For ``vllm`` on a GPU: 0 stays awake during updates, 1 moves the weights to the host, 2 discards
            them.
        options: For ``vllm``: further arguments of vLLM's ``LLM``; a user-defined engine reads its options here.
        urls: For ``vllm_http``: base URLs of the replicas.
        weights_dir: For ``vllm_http``: a folder that the trainer and the replicas share, used to transfer weights.
        retries: For ``vllm_http``: how often a failed request is retried, each time on the next replica.
        timeout_s: For ``vllm_http``: time limit of a request in seconds.
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
        # Refuse options that the chosen engine does not read. A user-defined engine may read any of them.
        local, served = (
            "dtype gpu_memory_utilization enforce_eager prefix_caching sleep_level options",
            "urls weights_dir",
        )
        idle = {"hf": f"{local} {served} retries timeout_s", "vllm": f"{served} retries timeout_s", "vllm_http": local}
        refuse_idle(self, "engine", idle.get(self.name, ""), f"engine.name={self.name}")
        refuse(self.gpu_memory_utilization > 1, "engine.gpu_memory_utilization: is a share of the memory, at most 1")
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

    Where one of the fields from ``attempts`` to ``between_options`` is 0, ``None`` or empty, the environment's own
    default holds.

    Args:
        name: Short name of the environment, used in paths.
        id: A registered environment id.
        attempts: Maximum number of attempts per episode, K; 0 takes the environment's default.
        feedback: What the policy is told between attempts: a name in :data:`envs.FEEDBACK`.
        feedback_options: Options of the feedback function.
        prompts: Version of the prompt texts.
        prompts_text: Single prompt texts that replace those of the version, such as ``system``; see
            :class:`envs.prompts.Prompts`.
        stop_rule: When an episode ends before its last attempt: a name in :data:`envs.STOP_RULES`.
        stop_rule_options: Options of the stop rule.
        between: Who speaks between attempts: a name in :data:`envs.BETWEEN`.
        between_options: Options of the function in ``between``.
        group_reward: Reward of training episodes that is computed from their whole group: a name in
            :data:`rl.group_rewards.GROUP_REWARDS`; ``None`` keeps the environment's rewards.
        group_reward_options: Options of the group reward.
        max_new_tokens: Token limit of each attempt; the last entry holds for all later attempts.
        dataset: Name of the data set, for task sets that hold several (``reasoning_gym``).
        options: Further arguments of the task set or of the gymnasium environment.
        seeds: For a gymnasium environment, whose tasks are seeds: number of seeds in each split.
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
        """This config with the environment's own defaults wherever nothing is given; the result is validated.

        Raises:
            UnknownNameError: If there is no such environment, feedback, stop rule or version of prompts.
            TypeError: If the task set has no such option.
            ValueError: If a function has no such option, or the number of attempts is given neither here nor by the
                environment.
        """
        # Given values win over the environment's defaults. Names are checked afterwards, so that the defaults are
        # checked too.
        envs.refuse_unknown_options(self.id, self.task_options)
        chosen = envs.settings(self.id, {name: getattr(self, name) or None for name in EPISODE}, self.task_options)
        refuse(not chosen["attempts"], f"env.attempts: {self.id} sets no maximum number of turns; give one")
        found = replace(self, **chosen)
        if found.feedback is not None:
            envs.FEEDBACK.options(found.feedback, found.feedback_options)
        if found.stop_rule is not None:
            envs.STOP_RULES.options(found.stop_rule, found.stop_rule_options)
        if found.between is not None:
            envs.BETWEEN.options(found.between, found.between_options)
        else:
            refuse(bool(found.between_options), "env.between_options: has no effect, because env.between is not set")
        if found.prompts is not None:
            get_prompts(found.prompts, found.prompts_text)
        if found.group_reward is not None:
            from rl.group_rewards import GROUP_REWARDS  # imports torch, which the bare schema does not need

            GROUP_REWARDS.options(found.group_reward, found.group_reward_options)
            refuse(
                bool(GROUP_REWARDS.fact(found.group_reward, "between"))
                and found.between is None
                and find(found.id) in envs.ENVIRONMENTS,
                f"env.group_reward={found.group_reward}: pays a role between attempts, and there is none; "
                f"set env.between, one of {', '.join(envs.BETWEEN)}",
            )
        else:
            because = "env.group_reward is not set; set it, or remove the options"
            refuse_idle(found, "env", "group_reward_options", because)
        if find(found.id) in envs.ENVIRONMENTS:
            because = f"{found.id} has a fixed set of tasks; only an environment of gymnasium makes them from seeds"
            refuse_idle(found, "env", "seeds", because)
        return found

    def changed(self, changes: Any, key: str = "env") -> "EnvConfig":
        """A settled copy of this config with some fields changed; inner mappings are merged.

        Args:
            changes: The fields that differ, with the keys of ``env``.
            key: Config key under which the changes were given, for error messages.

        Raises:
            ValueError: For an unknown key or an invalid value; the message names the whole key.
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
        """Arguments of the task set: ``options``, and ``dataset`` if it is given."""
        return self.options | ({"dataset": self.dataset} if self.dataset is not None else {})

    def token_budget(self, attempts: int) -> int:
        """Maximum number of tokens that the given number of attempts can sample."""
        limits = self.max_new_tokens
        return sum(limits[min(k, len(limits) - 1)] for k in range(attempts))
