"""Health checks on the metrics of a run's last steps, each with limits, a usual cause and a remedy.

A check only reads the log and does not change training; ``training.stop_on`` may name checks that end the run. Another
module can register a check before the run starts; ``needs`` names what the check can find nothing without
(:mod:`rl.health_needs`)::

    @CHECKS.register("slow", options=limits(below=1.0), needs="steps", cause="the disk", remedy="another disk")
    def slow(history, *, below):
        \"""Fewer episodes a second than a limit.\"""
        speed = history.mean("system/episodes_per_second", 3)
        return f"{speed:.2g} episodes a second" if speed is not None and speed < below else ""
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Any

from rewards.lookup import Lookup, nearest
from rewards.wording import counted
from rl.analysis.printing import fixed, percent
from rl.config.checks import check_numbers
from rl.health_log import VALIDATION, History, mean

PAGE = "docs/troubleshooting.md"
"""Documentation page with a section on every check, under the check's name."""


CHECKS: Lookup[Callable[..., str]] = Lookup("training.health")
"""``(history, **limits) -> message``: what is wrong, or an empty text. An entry has the facts ``cause`` and ``remedy``,
and ``needs`` if there are runs in which it finds nothing: names in :data:`rl.health_needs.NEEDS`, separated by spaces.
"""


def limits(**defaults: float) -> type:
    """Makes the dataclass of a check's limits, which must not be negative."""
    names = " ".join(defaults)
    namespace = {"__post_init__": lambda self: check_numbers(self, "training.health.<name>", not_negative=names)}
    return make_dataclass("Limits", [(n, type(v), field(default=v)) for n, v in defaults.items()], namespace=namespace)


def refuse_checks(checks: Mapping[str, Any], stop_on: Sequence[str]) -> None:
    """Raises ValueError for an unknown check, an invalid limit, or a ``stop_on`` that names a disabled check."""
    for name, given in checks.items():
        CHECKS[name]
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise ValueError(
                f"training.health.{name}={given}: limits are given by name, as training.health.{name}={{above: 0.2}}; "
                "null switches a check off"
            )
        try:
            CHECKS.options(name, given)
        except ValueError as error:
            text = str(error).replace("training.health_options.", f"training.health.{name}.")
            raise ValueError(text.replace("<name>", name)) from None
    for name in stop_on:
        if name not in CHECKS:
            raise ValueError(f"training.stop_on={name}: unknown{nearest(name, CHECKS)} Known: {', '.join(CHECKS)}")
        if name in checks and checks[name] is None:
            raise ValueError(f"training.stop_on: {name} is switched off by training.health.{name}=null")


# ---------------------------------------------------------------- what is sampled


@CHECKS.register(
    "cut_off",
    options=limits(above=0.5, steps=3),
    cause="env.max_new_tokens is too small, or the policy no longer ends its answers, often after too large steps",
    remedy="a larger env.max_new_tokens; if it began during training, a smaller algorithm.optim.lr",
)
def cut_off(history: History, *, above: float, steps: int) -> str:
    """A large fraction of responses is cut off by the token limit."""
    return _share_of_responses(history, "truncated", "are cut off by the token limit", above, steps)


@CHECKS.register(
    "no_answer",
    options=limits(above=0.5, steps=3),
    cause="the prompt asks for another form of answer than the verifier reads, or the base does not know the form",
    remedy="env.prompts=... or env.prompts_text.system=...; a warm start (experiments.warm_start) for a small base",
)
def no_answer(history: History, *, above: float, steps: int) -> str:
    """A large fraction of responses has no answer in the expected form; responses cut off are not counted."""
    return _share_of_responses(history, "no_answer", "hold no answer in the expected form", above, steps, "truncated")


def _share_of_responses(history: History, name: str, what: str, above: float, steps: int, but: str = "") -> str:
    """Message if a fraction of responses exceeds its limit, in training or in the newest validation; empty otherwise.

    Args:
        history: The run's metrics so far.
        name: Name of the fraction's metric.
        what: What these responses do, for the message.
        above: Limit of the fraction.
        steps: Number of steps over which the training metric is averaged.
        but: Name of a fraction that is subtracted first, if any.
    """
    # Responses that are cut off mostly have no answer either; they are subtracted, since `cut_off` reports them.
    rest = dict(history.attempts(f"rollout/{but}", steps)) if but else {}
    for k, whole in history.attempts(f"rollout/{name}", steps):
        if (share := whole - rest.get(k, 0.0)) > above:
            return f"{percent(share, 0)} % of attempts {k} {what} in the last {counted(steps, 'step')} of training"
    whole = history.validated(f"{name}_fraction")
    cut = history.validated(f"{but}_fraction") if but else 0.0
    if whole is not None and (share := whole - (cut or 0.0)) > above:
        return f"{percent(share, 0)} % of the attempts {what} in the evaluation"
    return ""


@CHECKS.register(
    "longer",
    options=limits(above=3.0, tokens=32.0, steps=3),
    needs="steps",
    cause="long answers cost nothing, or a loss that is averaged per answer favours long wrong ones",
    remedy="algorithm.normaliser=tokens, or a smaller env.max_new_tokens",
)
def longer(history: History, *, above: float, tokens: float, steps: int) -> str:
    """Responses have become several times as long as in the first steps."""
    for k, now in history.attempts("rollout/tokens", steps):
        before = mean(history.steps[:steps], f"rollout/tokens_t{k}")
        if before and now > above * before and now > tokens:
            more = fixed(now / before)
            return f"attempts {k} have {fixed(now, 0)} tokens on average, {more} times as many as in the first steps"
    return ""


@CHECKS.register(
    "copied",
    options=limits(above=0.98, after=0.5, steps=3),
    needs="steps attempts",
    cause="repeating the first attempt is safest, and no reward favours trying another (SCoRe, arXiv 2409.12917, calls "
    "this collapse)",
    remedy="algorithm=score, whose first stage keeps the first attempt near the base and whose bonus pays corrections",
)
def copied(history: History, *, above: float, after: float, steps: int) -> str:
    """Nearly all second attempts are copies of the first, late in the run."""
    kinds = [history.mean(f"data/{name}_copied", steps) for name in ("c_to_c", "i_to_i")]
    share = sum(one or 0.0 for one in kinds)
    if history.progress < after or share <= above:
        return ""
    return f"{percent(share, 0)} % of the second attempts are copies of the first"


@CHECKS.register(
    "always_changed",
    options=limits(above=0.7, steps=5),
    needs="attempts",
    cause="the policy has learned that the first attempt is always wrong, for example because changing an answer earns "
    "more than keeping a right one",
    remedy="reward_weights=[1,1] in the algorithm's stages, so that first attempts count; a smaller progress_alpha",
)
def always_changed(history: History, *, above: float, steps: int) -> str:
    """Second attempts turn a large fraction of right first attempts into wrong ones."""
    if not history.steps:
        share, right = history.trained("break_rate", steps), history.trained("accuracy_t1", steps)
    else:
        names = ("c_to_i", "c_to_c_rewritten", "c_to_c_copied")
        kinds = [one for name in names if (one := history.mean(f"data/{name}", steps)) is not None]
        right = sum(kinds) if len(kinds) == len(names) else None
        share = kinds[0] / right if right else None
    if share is None or right is None or right < 0.05 or share <= above:  # with few right ones it is too noisy
        return ""
    return f"{percent(share, 0)} % of the right first attempts are made wrong by the second"


# ---------------------------------------------------------------- training data


@CHECKS.register(
    "all_right",
    options=limits(above=0.9, steps=5),
    needs="steps groups",
    cause="the tasks have become too easy, and groups of equal rewards have no gradient",
    remedy="harder tasks, training.curriculum=pass_rate, or fewer episodes",
)
def all_right(history: History, *, above: float, steps: int) -> str:
    """Nearly all groups give no signal, and in most groups all episodes are right."""
    return _without_signal(history, "all_correct", "right", above, steps)


@CHECKS.register(
    "all_wrong",
    options=limits(above=0.9, steps=5),
    needs="steps groups",
    cause="the tasks are too hard for the base, or the verifier does not read its answers",
    remedy="easier tasks, a larger algorithm.group_size, a warm start (experiments.warm_start)",
)
def all_wrong(history: History, *, above: float, steps: int) -> str:
    """Nearly all groups give no signal, and in most groups all episodes are wrong."""
    return _without_signal(history, "all_wrong", "wrong", above, steps)


def _without_signal(history: History, which: str, word: str, above: float, steps: int) -> str:
    signal, share = history.mean("group/mixed_fraction", steps), history.mean(f"group/{which}_fraction", steps)
    if history.group_size < 2 or signal is None or share is None or 1 - signal <= above or share <= 0.5:
        return ""
    return f"{percent(1 - signal, 0)} % of the groups have no signal; in {percent(share, 0)} % all episodes are {word}"


@CHECKS.register(
    "failed",
    options=limits(above=0.02, steps=1),
    needs="steps",
    cause="the environment or a verifier raises, or prompts and answers do not fit the model's context",
    remedy="python -m experiments.check with the same env; the errors are in episodes.jsonl",
)
def failed(history: History, *, above: float, steps: int) -> str:
    """Too many episodes break off and are not trained on."""
    share = history.mean("rollout/failed_fraction", steps)
    return f"{percent(share)} % of the episodes are broken off" if share is not None and share > above else ""


@CHECKS.register(
    "masked",
    options=limits(above=0.5, steps=3),
    needs="steps",
    cause="the environment gives no reward (None) or says that a turn is not trained, as when a server or judge fails",
    remedy="a look at the turns without a reward in episodes.jsonl, and at the environment or server that left it out",
)
def masked(history: History, *, above: float, steps: int) -> str:
    """A large fraction of sampled turns is not trained on."""
    share = history.mean("rollout/masked_fraction", steps)
    if share is None or share <= above:
        return ""
    return f"{percent(share, 0)} % of the sampled turns are not trained on"


@CHECKS.register(
    "overfitting",
    options=limits(above=0.1),
    needs="steps validations",
    cause="training tasks are learned by heart, or training rewards something that validation does not",
    remedy="more training tasks, fewer episodes, training.select=best, and a look at the rewards in episodes.jsonl",
)
def overfitting(history: History, *, above: float) -> str:
    """Accuracy rises in training but has fallen in validation."""
    name = f"accuracy_t{history.n_attempts}"
    found = [row for row in history.validations if mean([row], f"{VALIDATION}{name}") is not None]
    if len(found) < 3 or not history.n_attempts:
        return ""
    # Compare with the best validation so far. Training accuracy, averaged over the five steps before either validation,
    # must have risen: if both accuracies fall, it is not overfitting.
    best, now = max(found[:-1], key=lambda row: row[f"{VALIDATION}{name}"]), found[-1]
    fallen = best[f"{VALIDATION}{name}"] - now[f"{VALIDATION}{name}"]
    around = [[step for step in history.steps if step["step"] <= row["step"]][-5:] for row in (best, now)]
    before, after = (mean(steps, f"rollout/{name}") for steps in around)
    if before is None or after is None or after <= before or fallen <= above:
        return ""
    return (
        f"validation accuracy has fallen by {percent(fallen)} points since step {best['step']}, while that of training "
        f"rose by {percent(after - before)}"
    )


# ---------------------------------------------------------------- the optimisation


@CHECKS.register(
    "entropy_collapse",
    options=limits(below=0.02, steps=5),
    needs="steps",
    cause="the policy's samples are all alike, so nothing new is found",
    remedy="a smaller algorithm.optim.lr, larger kl_coefs in the stages, or algorithm.terms={entropy: {loss: entropy}}",
)
def entropy_collapse(history: History, *, below: float, steps: int) -> str:
    """Entropy at the sampled tokens is near 0 and was higher in the first step."""
    now, first = history.mean("policy/entropy", steps), mean(history.steps[:1], "policy/entropy")
    # A base with little entropy from the beginning has not collapsed, so half of the first step's must be lost too.
    if now is None or first is None or now >= below or now > first / 2:
        return ""
    return f"the policy's entropy is {now:.2g} nats per token, down from {first:.2g} in the first step"


@CHECKS.register(
    "entropy_explosion",
    options=limits(above=2.0, nats=0.5, steps=3),
    needs="steps",
    cause="steps that are too large take the policy towards noise, or an entropy term is too strong",
    remedy="a smaller algorithm.optim.lr, or a smaller weight of the entropy term",
)
def entropy_explosion(history: History, *, above: float, nats: float, steps: int) -> str:
    """Entropy at the sampled tokens is large and a multiple of that in the first step."""
    now, first = history.mean("policy/entropy", steps), mean(history.steps[:1], "policy/entropy")
    if now is None or first is None or now <= nats or now <= above * first:
        return ""
    return f"the policy's entropy is {now:.2g} nats per token, up from {first:.2g} in the first step"


@CHECKS.register(
    "far_from_reference",
    options=limits(above=100.0, steps=3),
    needs="steps kl",
    cause="nothing holds the policy near the base, or the learning rate is too high",
    remedy="larger kl_coefs in the algorithm's stages, or a smaller algorithm.optim.lr",
)
def far_from_reference(history: History, *, above: float, steps: int) -> str:
    """An attempt's KL to the reference, in nats per episode, is large."""
    for k, kl in history.attempts("policy/kl_ref", steps):
        if kl > above:
            return f"attempt {k} is {fixed(kl, 0)} nats per episode away from the reference"
    return ""


@CHECKS.register(
    "clipped",
    options=limits(above=0.3, steps=3),
    needs="steps updates",
    cause="many or large optimiser steps on one batch, after which most of its tokens have no gradient",
    remedy="fewer algorithm.epochs or algorithm.minibatches, or a smaller algorithm.optim.lr",
)
def clipped(history: History, *, above: float, steps: int) -> str:
    """A large fraction of tokens has a clipped ratio."""
    share = history.mean("policy/clip_fraction", steps)
    return f"the ratio of {percent(share, 0)} % of the tokens is clipped" if share is not None and share > above else ""


@CHECKS.register(
    "sampler_gap",
    options=limits(above=0.05, steps=3),
    needs="steps",
    cause="the engine samples with stale weights, in another precision, or at another temperature than is trained on",
    remedy="engine.dtype as in training, algorithm.importance=token",
)
def sampler_gap(history: History, *, above: float, steps: int) -> str:
    """Log-probs of trainer and sampler, in nats per token, differ too much."""
    gap = history.mean("policy/sampler_gap", steps)
    return f"trainer and sampler differ by {gap:.2g} nats per token" if gap is not None and gap > above else ""


@CHECKS.register(
    "gradient_spike",
    options=limits(above=100.0, steps=20),
    needs="steps",
    cause="a batch unlike the others, rewards that are out of scale, or a learning rate at the edge of stability",
    remedy="a smaller algorithm.optim.lr or algorithm.optim.max_grad_norm, and a look at that step in episodes.jsonl",
)
def gradient_spike(history: History, *, above: float, steps: int) -> str:
    """The gradient norm is many times larger than in all recent steps of the same stage.

    Since gradients are clipped to ``max_grad_norm``, spikes may be harmless: in the first stage of good SCoRe runs a
    norm of 75 times the largest one before did no harm.
    """
    found = [step.get("optim/grad_norm") for step in history.stage[-steps - 1 :]]
    norms = [norm for norm in found if norm is not None and math.isfinite(norm)]
    # With fewer than five earlier steps, the largest norm is no reliable standard. A step without a finite norm is none
    # to judge; `skipped_steps` reports it.
    if len(norms) < 6 or norms[-1] != found[-1] or norms[-1] <= above * max(norms[:-1]):
        return ""
    return f"the gradient's norm is {norms[-1]:.3g}; the largest of the steps before was {max(norms[:-1]):.3g}"


@CHECKS.register(
    "skipped_steps",
    options=limits(above=0.1, steps=3),
    needs="steps skips",
    cause="a reward or a log-prob is not finite, or steps were so large that the policy's outputs overflow",
    remedy="training.nonfinite=stop, whose message names what is not finite; a smaller algorithm.optim.lr",
)
def skipped_steps(history: History, *, above: float, steps: int) -> str:
    """A fraction of the optimiser steps is skipped, because loss or gradient is not finite."""
    share = history.mean("optim/skipped", steps)
    if share is None or share <= above:
        return ""
    return f"{percent(share, 0)} % of the optimiser steps are skipped, as loss or gradient is not finite"


@CHECKS.register(
    "learning_rate",
    options=limits(above=0.5, accuracy=0.05, steps=3),
    cause="the learning rate is too high for this model, which unlearns what it could do",
    remedy="a learning rate (algorithm.optim.lr, offline.optim.lr) ten times smaller, or more warmup_steps",
)
def learning_rate(history: History, *, above: float, accuracy: float, steps: int) -> str:
    """Accuracy at every attempt has lost a large fraction of what it was in the first step (offline: of the base's)."""
    pairs = history.accuracies(steps)
    if not pairs or max(before for before, _ in pairs) < accuracy:
        return ""
    # Accuracy must have fallen at all attempts, since self-correction may trade one attempt's accuracy for another's.
    if any(now >= (1 - above) * before for before, now in pairs):
        return ""
    lost = ", ".join(f"{percent(before)} % to {percent(now)} %" for before, now in pairs)
    where = "the first step" if history.steps else "the base's validation"
    return f"accuracy has fallen at every attempt since {where}, from {lost}"


# ---------------------------------------------------------------- time


@CHECKS.register(
    "slow_verifier",
    options=limits(above=0.5, seconds=30.0, steps=3),
    needs="steps",
    cause="a judge or a verifier that takes longer than sampling and learning together",
    remedy="a shorter time limit of the verifier, more sandboxes, a judge on another machine",
)
def slow_verifier(history: History, *, above: float, seconds: float, steps: int) -> str:
    """Environments and verifiers take a large fraction of the time and many seconds per step."""
    phases = [history.mean(f"time/{name}", steps) for name in ("verification", "sampling", "update", "other")]
    waited, total = phases[0] or 0.0, sum(one or 0.0 for one in phases)
    if waited <= seconds or waited <= above * total:
        return ""
    return f"verification takes {fixed(waited, 0)} s a step, {percent(waited / total, 0)} % of the time"


@CHECKS.register(
    "verifier_timeouts",
    options=limits(above=0.05, steps=3),
    needs="steps",
    cause="programs that do not end, a time limit that is too short for this machine, or too many processes on it",
    remedy="a longer time limit of the verifier, or fewer jobs at once",
)
def verifier_timeouts(history: History, *, above: float, steps: int) -> str:
    """Too many verifications are killed at their deadline."""
    for k, share in history.attempts("rollout/verifier_timeout", steps):
        if share > above:
            return f"{percent(share)} % of the verifications of attempts {k} are killed at their deadline"
    return ""
