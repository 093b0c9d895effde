"""The schema of what a run is made of: model, environment, engine."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from omegaconf import MISSING

from rl.config.checks import refuse

ENGINES = ("hf", "vllm", "vllm_http")


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
        refuse(self.rank < 0, f"model.lora.rank={self.rank}: must not be negative; 0 is full tuning")
        refuse(self.alpha <= 0, f"model.lora.alpha={self.alpha}: must be positive")


@dataclass
class ModelConfig:
    """The base model, the same for every arm.

    Args:
        path: A folder in transformers' format, or a hub id.
        revision: Of a hub id.
        dtype: Of the weights: ``float32`` or ``bfloat16``. Train in ``float32`` with ``optim.mixed_precision=bf16``
            rather than in bfloat16, whose steps are too coarse for small learning rates.
        chat_template: A Jinja file that replaces the tokenizer's own template, or one of TRL's training templates by
            name, ``trl:qwen3``: they leave earlier turns as they were.
        chat_template_kwargs: Arguments of the template, as ``enable_thinking: false``.
        thoughts: What becomes of a template that writes earlier answers otherwise than they were sampled, without
            their thoughts for example: ``refuse``, or ``keep`` them in the context as sampled.
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
        refuse(self.dtype not in ("float32", "bfloat16"), f"model.dtype={self.dtype}: use float32 or bfloat16")
        refuse(self.thoughts not in ("refuse", "keep"), f"model.thoughts={self.thoughts}: use refuse or keep")
        try:
            date.fromisoformat(self.template_date)
        except ValueError:
            refuse(True, f"model.template_date={self.template_date}: write it as 2026-01-31")


@dataclass
class EngineConfig:
    """What samples.

    Args:
        name: ``hf`` (the trained model itself), ``vllm`` (in this process) or ``vllm_http`` (served replicas).
        max_batch_size: Rows decoded together.
        stop_strings: Texts that end an answer, beside the end tokens of the model and its template.
        dtype: For ``vllm``: of the engine's weights; ``None`` takes the trainer's precision.
        gpu_memory_utilization: For ``vllm`` on a GPU: part of its memory that the engine may take.
        enforce_eager: For ``vllm``: no CUDA graphs; slower to sample, quicker to start.
        prefix_caching: For ``vllm``: a second attempt does not read its first one again.
        sleep_level: For ``vllm`` on a GPU: 0 stays awake during updates, 1 moves the weights to the host, 2 drops them.
        options: For ``vllm``: further arguments of its ``LLM``.
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
        refuse(self.name not in ENGINES, f"engine.name={self.name}: use {', '.join(ENGINES)}")
        refuse(self.max_batch_size < 1, f"engine.max_batch_size={self.max_batch_size}: must be positive")
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
        attempts: K.
        feedback: ``none``, ``verdict`` or ``execution``.
        prompts: Version of the prompt texts.
        stop_on_correct: End an episode at the first right attempt (tells the policy that it was right).
        max_new_tokens: Token limit of each attempt; the last entry holds for further attempts.
        dataset: Which data set, for task sets that hold many (``reasoning_gym``).
        options: Further arguments of the task set.
    """

    name: str = MISSING
    id: str = MISSING
    attempts: int = 2
    feedback: str = "none"
    prompts: str = "math-v1"
    stop_on_correct: bool = False
    max_new_tokens: list[int] = field(default_factory=lambda: [512])
    dataset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse(self.attempts < 1, f"env.attempts={self.attempts}: an episode needs at least one attempt")
        refuse(not self.max_new_tokens, "env.max_new_tokens is empty: give a token limit")
        refuse(min(self.max_new_tokens) < 1, f"env.max_new_tokens={self.max_new_tokens}: limits must be positive")
        modes = ("none", "verdict", "execution")
        refuse(self.feedback not in modes, f"env.feedback={self.feedback}: use {', '.join(modes)}")

    @property
    def task_options(self) -> dict[str, Any]:
        """Arguments of the task set, ``dataset`` among them where one is named."""
        return self.options | ({"dataset": self.dataset} if self.dataset is not None else {})

    def token_budget(self, attempts: int) -> int:
        """The most tokens that the given number of attempts can sample."""
        limits = self.max_new_tokens
        return sum(limits[min(k, len(limits) - 1)] for k in range(attempts))
