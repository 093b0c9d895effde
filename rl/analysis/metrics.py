"""Every metric that may be logged, and how metrics travel: as ratios, divided once, at logging time."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """Unit and meaning of a metric."""

    unit: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """A mean that can be added over micro-batches and ranks: numerator and denominator travel apart."""

    num: float
    den: float

    def __add__(self, other: "Ratio") -> "Ratio":
        return Ratio(self.num + other.num, self.den + other.den)

    @property
    def value(self) -> float:
        """The quotient, ``nan`` for an empty mean."""
        return self.num / self.den if self.den else float("nan")


_PER_TURN = {
    "reward/raw": Metric("reward", "mean raw reward of the turn"),
    "reward/shaped": Metric("reward", "mean reward of the turn after weights and progress bonus"),
    "policy/kl_ref": Metric("nats per episode", "KL(policy || reference) summed over the turn's tokens"),
    "policy/kl_coef": Metric("1", "weight of the turn's KL penalty"),
    "policy/abs_advantage": Metric("1", "|advantage| summed over the turn's tokens, per episode"),
    "rollout/tokens": Metric("tokens", "mean sampled tokens of the turn"),
    "rollout/truncated": Metric("fraction", "turns cut off by the token limit"),
    "rollout/no_answer": Metric("fraction", "turns without an answer in the accepted form"),
    "rollout/ambiguous": Metric("fraction", "turns that offer several answers as final"),
    "rollout/verifier_timeout": Metric("fraction", "turns whose verification was killed at its deadline"),
    "rollout/accuracy": Metric("fraction", "turns with verdict correct"),
}
_EVAL = {
    "delta": Metric("fraction", "accuracy_t2 - accuracy_t1"),
    "delta_i_to_c": Metric("fraction", "wrong at the first, right at the last attempt, over all episodes"),
    "delta_c_to_i": Metric("fraction", "right at the first, wrong at the last attempt, over all episodes"),
    "fix_rate": Metric("fraction", "right at the last attempt, of those wrong at the first"),
    "break_rate": Metric("fraction", "wrong at the last attempt, of those right at the first"),
    "change_if_wrong": Metric("fraction", "another final answer at the last attempt, of those wrong at the first"),
    "change_if_right": Metric("fraction", "another final answer at the last attempt, of those right at the first"),
    "edit_rate": Metric("fraction", "episodes whose last text differs from the first"),
    "edit_distance": Metric("ratio", "mean edit distance between first and last text over the sum of their lengths"),
    "same_answer": Metric("fraction", "episodes whose last answer equals the first"),
    "changed_answer": Metric("fraction", "episodes whose last answer differs from the first; no answer counts as one"),
    "truncated_fraction": Metric("fraction", "attempts cut off by the token limit"),
    "no_answer_fraction": Metric("fraction", "attempts without an answer"),
    "failed_fraction": Metric("fraction", "episodes broken off by us, left out of everything else"),
    "response_tokens": Metric("tokens", "sampled tokens per episode"),
    "n": Metric("episodes", "how many episodes the numbers rest on"),
}
_PLAIN = {
    "group/mixed_fraction": Metric("fraction", "groups with a gradient: rewards differ at some turn"),
    "group/all_correct_fraction": Metric("fraction", "groups whose last attempts are all right"),
    "group/all_wrong_fraction": Metric("fraction", "groups whose last attempts are all wrong"),
    "rollout/env_error": Metric("episodes", "episodes broken off by an environment or verifier error"),
    "rollout/context_full": Metric("episodes", "episodes that ended early, their context being full"),
    "rollout/failed_fraction": Metric("fraction", "episodes masked out of training"),
    "rollout/episodes": Metric("episodes", "sampled episodes so far, failed ones included"),
    "rollout/sampled_tokens": Metric("tokens", "sampled tokens so far"),
    "policy/loss": Metric("1", "the loss that was minimised"),
    "policy/entropy": Metric("nats per token", "entropy of the policy at sampled positions"),
    "policy/clip_fraction": Metric("fraction", "tokens whose ratio was clipped"),
    "policy/ratio": Metric("1", "mean of policy over old policy at sampled tokens"),
    "policy/sampler_gap": Metric("nats per token", "mean |trainer - sampler| log-prob before the update"),
    "policy/importance_weight": Metric("1", "mean weight of samples for the gap between sampler and trainer"),
    "policy/importance_capped": Metric("fraction", "tokens whose importance weight was cut to the cap"),
    "policy/off_policy_masked": Metric("fraction", "response tokens dropped because the policy has left them behind"),
    "critic/loss": Metric("1", "the value loss that was minimised"),
    "critic/error": Metric("reward^2", "mean squared distance between value and return"),
    "critic/value": Metric("reward", "mean value"),
    "critic/return": Metric("reward", "mean return that the values should have"),
    "critic/return_square": Metric("reward^2", "mean squared return"),
    "critic/grad_norm": Metric("1", "gradient norm of a separate critic before clipping"),
    "critic/explained_variance": Metric(
        "fraction", "1 - error / variance of the returns; 0 is no better than a constant"
    ),
    "group/resampled": Metric("groups", "groups without a gradient that dynamic sampling replaced"),
    "group/offline_first_fraction": Metric("fraction", "episodes whose first attempt was read, not sampled"),
    "optim/lr": Metric("1", "learning rate"),
    "optim/grad_norm": Metric("1", "gradient norm before clipping"),
    "stage": Metric("index", "stage of the algorithm, from 0"),
    "time/sampling": Metric("seconds", "spent in the engine this step"),
    "time/verification": Metric("seconds", "spent in environments and verifiers this step"),
    "time/update": Metric("seconds", "spent in forward, backward and optimiser this step"),
    "time/other": Metric("seconds", "the rest of this step: rendering, batching, logging, validation"),
    "time/checkpoint": Metric("seconds", "spent in writing checkpoints since the step before"),
    "system/sampling_tokens_per_second": Metric("tokens/s", "sampled tokens over the time in the engine"),
    "system/update_tokens_per_second": Metric(
        "tokens/s", "prompt and response tokens trained on, over the update's time"
    ),
    "system/mfu": Metric("fraction", "model FLOPs of the update over what the device can do; on known GPUs only"),
    "system/peak_memory": Metric("GiB", "peak memory of this process: the GPU's where there is one, else resident"),
    "system/episodes_per_second": Metric("episodes/s", "sampled and trained on, over the whole step"),
    "system/tokens_per_second": Metric("tokens/s", "sampled tokens over the whole step"),
}
_REVISIONS = {
    "i_to_c": "wrong -> right",
    "c_to_i": "right -> wrong",
    "c_to_c_copied": "right -> the same text",
    "c_to_c_rewritten": "right -> another text that is right",
    "i_to_i_copied": "wrong -> the same text",
    "i_to_i_rewritten": "wrong -> another text that is wrong",
}
_PLAIN |= {f"data/{kind}": Metric("fraction", f"training samples that go {what}") for kind, what in _REVISIONS.items()}
_KINDS = ("greedy", "sampled", "validation", "base_train", "base_validation")
MAX_TURNS = 16


def catalogue() -> dict[str, Metric]:
    """Every metric by name. ``_t1`` is the first attempt."""
    names = dict(_PLAIN)
    for name, metric in _PER_TURN.items():
        names |= {f"{name}_t{k + 1}": metric for k in range(MAX_TURNS)}
    for kind in _KINDS:
        names |= {f"eval/{kind}/{name}": metric for name, metric in _EVAL.items()}
        accuracy = Metric("fraction", "attempts of this index that are right")
        names |= {f"eval/{kind}/accuracy_t{k + 1}": accuracy for k in range(MAX_TURNS)}
    return names


_CATALOGUE = catalogue()


def check_names(metrics: Mapping[str, float]) -> None:
    """Refuses metrics that are not in the catalogue.

    Raises:
        KeyError: Naming the unlisted metric.
    """
    for name in metrics:
        if name not in _CATALOGUE:
            raise KeyError(f"metric {name!r} is not in rl/analysis/metrics.py: add it there with its unit and meaning")


def page() -> str:
    """The catalogue as a page of documentation: ``python -m rl.analysis.metrics > docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "Every name in `metrics.jsonl`, on dashboards and in tables, with its unit and meaning. Made by",
        "`python -m rl.analysis.metrics > docs/metrics.md`; a metric that is not listed cannot be logged. `_t<k>` is",
        "attempt k, from 1; `eval/<kind>` is `greedy`, `sampled`, `validation`, or `base_train` and `base_validation`,",
        "where first attempts are the base's and stay fixed.",
        "",
        "| name | unit | meaning |",
        "|---|---|---|",
    ]
    accuracy = {"accuracy_t<k>": Metric("fraction", "attempts of this index that are right")}
    tables = (
        {f"{name}_t<k>": metric for name, metric in _PER_TURN.items()},
        _PLAIN,
        {f"eval/<kind>/{name}": metric for name, metric in (accuracy | _EVAL).items()},
    )
    entries = sorted(((n, m) for table in tables for n, m in table.items()), key=lambda entry: entry[0])
    lines += [f"| `{name}` | {metric.unit} | {metric.meaning.replace('|', '&#124;')} |" for name, metric in entries]
    return "\n".join(lines) + "\n"


def total(parts: list[dict[str, Ratio]]) -> dict[str, Ratio]:
    """Sums of ratios by name."""
    out: dict[str, Ratio] = {}
    for part in parts:
        for name, ratio in part.items():
            out[name] = out[name] + ratio if name in out else ratio
    return out


if __name__ == "__main__":
    print(page(), end="")
