"""Losses, KL penalties and importance weights against numbers that a reader can check by hand, and against TRL."""

import math
from unittest.mock import MagicMock

import pytest
import torch

from rl.config import StageConfig
from rl.kl import KLS, KLControl, full_kl
from rl.losses import (
    IMPORTANCE,
    LOSSES,
    NORMALISERS,
    StepSize,
    cispo_loss,
    clipped_pg_loss,
    gspo_loss,
    masked_sum,
    off_policy_mask,
    value_loss,
)
from rl.types import SampledStats
from tests.helpers import loss_inputs

CLIP = {"clip_low": 0.2, "clip_high": 0.2}
TURNS = torch.tensor([[-1, 0, 1, 1], [-1, 0, -1, -1]])
SIZE = StepSize(episodes=2.0, turns=3.0, tokens=4.0, token_budget=10.0)


def logs(*values):
    return torch.tensor([values]).log()


def token_weights(turns, normaliser, size=SIZE):
    """Weight of each token in the loss: the normaliser's weight, set to 0 off the response as in the learner."""
    return torch.where(turns >= 0, NORMALISERS[normaliser](turns, size), 0.0)


def surrogate(loss, logprobs, old, advantages, weights, turns=None, **clip):
    """Evaluates a term of the loss; without ``turns``, every token is a response token of the first turn."""
    turns = torch.zeros(logprobs.shape, dtype=torch.long) if turns is None else turns
    return loss(*loss_inputs(logprobs, old, advantages, turns), weights, **(CLIP | clip))


def kl_of(name, logprobs, ref, mask, old=None):
    """KL estimate at each sampled token; without ``old``, the current policy also counts as the sampling policy."""
    stats, _ = loss_inputs(logprobs, logprobs, logprobs, torch.where(mask, 0, -1))
    reference = stats._replace(logprobs=ref)
    return KLS[name](stats, reference, logprobs.detach() if old is None else old, mask)


@pytest.mark.parametrize(
    ("normaliser", "expected"),
    [
        ("episodes", [[0, 1 / 2, 1 / 2, 1 / 2], [0, 1 / 2, 0, 0]]),
        ("tokens", [[0, 1 / 4, 1 / 4, 1 / 4], [0, 1 / 4, 0, 0]]),
        ("token_budget", [[0, 1 / 20, 1 / 20, 1 / 20], [0, 1 / 20, 0, 0]]),
        ("episode_mean", [[0, 1 / 6, 1 / 6, 1 / 6], [0, 1 / 2, 0, 0]]),  # 3 tokens and 1 token in 2 episodes
        ("turn_mean", [[0, 1 / 3, 1 / 6, 1 / 6], [0, 1 / 3, 0, 0]]),  # 1, 2 and 1 tokens in 3 turns
    ],
)
def test_token_weights_by_hand(normaliser, expected):
    torch.testing.assert_close(token_weights(TURNS, normaliser), torch.tensor(expected))


def test_means_add_up_to_one():
    for normaliser in ("tokens", "episode_mean", "turn_mean"):
        assert token_weights(TURNS, normaliser).sum().item() == pytest.approx(1.0)


def test_clipped_loss_by_hand():
    # rho = 1 and 2, advantage 1: -min(1, 1) = -1 and -min(2, 1.2) = -1.2, each with weight 1/2: -1.1
    ones = torch.ones(1, 2)
    out = surrogate(clipped_pg_loss, logs(1.0, 2.0), torch.zeros(1, 2), ones, ones / 2)
    assert out.loss.item() == pytest.approx(-1.1)
    assert out.metrics["policy/clip_fraction"].value == 0.5
    assert out.metrics["policy/ratio"].value == pytest.approx(1.5)


def test_a_negative_advantage_is_clipped_from_below():
    # rho = 0.5, A = -1: -min(-0.5, 0.8 * -1) = 0.8
    ones = torch.ones(1, 1)
    out = surrogate(clipped_pg_loss, logs(0.5), torch.zeros(1, 1), -ones, ones)
    assert out.loss.item() == pytest.approx(0.8)


def test_clip_higher_lets_a_rare_token_grow_further():
    # rho = 1.25, A = 1: cut to 1.2 with 0.2, untouched with DAPO's 0.28
    ones = torch.ones(1, 1)
    for high, expected in ((0.2, -1.2), (0.28, -1.25)):
        out = surrogate(clipped_pg_loss, logs(1.25), torch.zeros(1, 1), ones, ones, clip_high=high)
        assert out.loss.item() == pytest.approx(expected)


def test_cispo_keeps_the_gradient_of_a_clipped_token():
    """CISPO clips the ratio 2 to a weight of 1.28, so the gradient is -1.28 A; PPO's clip makes the gradient 0."""
    ones = torch.ones(1, 1)
    for loss, expected in ((cispo_loss, -1.28), (clipped_pg_loss, 0.0)):
        logprobs = logs(2.0).requires_grad_()
        surrogate(loss, logprobs, torch.zeros(1, 1), ones, ones, clip_low=1.0, clip_high=0.28).loss.backward()
        assert logprobs.grad is not None
        assert logprobs.grad.item() == pytest.approx(expected)


def test_gspo_has_one_ratio_per_turn():
    # turn 0: ratios 2 and 1/2, geometric mean 1; turn 1: ratio 4, cut to 1.1
    turns = torch.tensor([[0, 0, 1]])
    ones, weights = torch.ones(1, 3), torch.tensor([[0.25, 0.25, 0.5]])
    out = surrogate(
        gspo_loss, logs(2.0, 0.5, 4.0), torch.zeros(1, 3), ones, weights, turns, clip_low=0.1, clip_high=0.1
    )
    assert out.loss.item() == pytest.approx(-(0.25 + 0.25 + 0.5 * 1.1))
    assert out.metrics["policy/clip_fraction"].value == pytest.approx(1 / 3)


def test_value_loss_by_hand():
    # V = 2, R = 1: (2 - 1)^2 / 2; with an old value of 0, clip 0.5 limits V to 0.5: max(1, 0.25) / 2
    value, zero, one = torch.tensor([[2.0]]), torch.zeros(1, 1), torch.ones(1, 1)
    assert value_loss(value, zero, one, one.bool(), one, clip=0.0).loss.item() == 0.5
    assert value_loss(value, zero, one, one.bool(), one, clip=0.5).loss.item() == 0.5
    # V = 1, R = 1: V has no error, but V clipped to 0.5 has one, and the larger error counts: max(0, 0.25) / 2
    assert value_loss(one, zero, one, one.bool(), one, clip=0.5).loss.item() == 0.125


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_garbage_under_the_mask_reaches_neither_value_nor_gradient(garbage):
    turns, weights = torch.tensor([[-1, 0]]), torch.tensor([[0.0, 1.0]])
    mask = turns >= 0
    other = torch.tensor([[garbage, -0.5]])
    ones = torch.ones(1, 2)
    for loss in ("ppo", "cispo", "gspo"):
        logprobs = torch.tensor([[garbage, -0.5]], requires_grad=True)
        out = surrogate(LOSSES[loss], logprobs, other, ones, weights, turns)
        kl = kl_of("k3", logprobs, other, mask)
        value = value_loss(logprobs, other, other, mask, weights, clip=0.2)
        (out.loss + masked_sum(weights * kl, mask) + value.loss).backward()
        assert torch.isfinite(out.loss)
        assert logprobs.grad is not None
        assert logprobs.grad.tolist() == [[0.0, -1.0]]


def test_an_empty_mask_is_a_loss_of_zero():
    none, zeros = torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    turns = torch.full((1, 2), -1)
    assert surrogate(clipped_pg_loss, zeros, zeros, zeros, zeros, turns).loss.item() == 0.0
    assert surrogate(gspo_loss, zeros, zeros, zeros, zeros, turns).loss.item() == 0.0
    assert token_weights(turns, "turn_mean").sum().item() == 0.0
    assert masked_sum(torch.full((1, 2), float("nan")), none).item() == 0.0


def test_kl_estimators_by_hand():
    # The policy gives the sampled token probability 1/2, the reference 1/4: r = ref / policy = 1/2.
    log_p, log_ref = logs(0.5), logs(0.25)
    mask = torch.tensor([[True]])
    expected = {"k1": math.log(2), "k2": math.log(2) ** 2 / 2, "k3": math.log(2) - 0.5}
    for estimator, value in expected.items():
        assert kl_of(estimator, log_p, log_ref, mask).item() == pytest.approx(value)


def exact_and_estimated(estimator, old_logits, logits, ref_logits):
    """Exact KL(policy || reference) of a small softmax, an estimator's expectation, and the gradients of the two.

    The expectation is a sum over all tokens that the policy before the update (``old_logits``) can sample.
    """
    logits = logits.clone().requires_grad_()
    logp, ref, old = logits.log_softmax(-1), ref_logits.log_softmax(-1), old_logits.log_softmax(-1)
    exact = (logp.exp() * (logp - ref)).sum()
    mask = torch.ones(1, len(logits), dtype=torch.bool)
    stats = SampledStats(logp[None], logp[None], logp[None], logp.expand(len(logits), -1))
    reference = stats._replace(logprobs=ref[None], distribution=ref.expand(len(logits), -1))
    estimated = (old.exp() * KLS[estimator](stats, reference, old[None], mask)[0]).sum()
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (exact, estimated)]
    return exact.detach(), estimated.detach(), *gradients


ON_POLICY = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64)
MOVED = torch.tensor([0.9, -1.4, 1.0, 0.3], dtype=torch.float64)
REFERENCE = torch.tensor([-0.5, 0.6, 0.2, 1.5], dtype=torch.float64)


@pytest.mark.parametrize("now", [ON_POLICY, MOVED], ids=["first update", "later update"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
def test_a_kl_penalty_has_the_gradient_of_the_kl(estimator, now):
    """The expected gradient is the KL's, even after updates have moved the policy away from the one that sampled."""
    exact, estimated, exact_gradient, gradient = exact_and_estimated(estimator, ON_POLICY, now, REFERENCE)
    torch.testing.assert_close(gradient, exact_gradient)
    if estimator != "k2":  # k2 is biased in value and unbiased in gradient only
        torch.testing.assert_close(estimated, exact)


def test_published_estimators_have_other_gradients():
    """Without importance weight, k1 has expected gradient 0 and k3 has the gradient of KL(reference || policy)."""
    _, _, exact, gradient = exact_and_estimated("k1_published", ON_POLICY, ON_POLICY, REFERENCE)
    assert gradient.abs().max() < 1e-12 < exact.abs().max()
    _, _, _, gradient = exact_and_estimated("k3_published", ON_POLICY, ON_POLICY, REFERENCE)
    logits = ON_POLICY.clone().requires_grad_()
    ref = REFERENCE.log_softmax(-1)
    (ref.exp() * (ref - logits.log_softmax(-1))).sum().backward()
    torch.testing.assert_close(gradient, logits.grad)


@pytest.mark.parametrize("gap", [100.0, -100.0, 1e4])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("test_")])
def test_ratios_beyond_float_range_give_finite_losses_and_gradients(name, advantage, gap):
    logprobs = torch.tensor([[-0.5 + gap, -0.5]], requires_grad=True)
    old = torch.full((1, 2), -0.5)
    options = CLIP if LOSSES.options(name, {}) is not None else {}
    stats, batch = loss_inputs(logprobs, old, torch.full((1, 2), advantage), torch.zeros(1, 2, dtype=torch.long))
    stats = stats._replace(entropy=logprobs)
    LOSSES[name](stats, batch, torch.ones(1, 2), **options).loss.backward()
    assert torch.isfinite(logprobs.grad).all()


@pytest.mark.parametrize("gap", [100.0, -100.0, 1e4])
@pytest.mark.parametrize("name", [name for name in KLS if name != "full" and not name.startswith("test_")])
def test_kl_estimates_beyond_float_range_are_finite(name, gap):
    logprobs = torch.tensor([[-0.5]], requires_grad=True)
    for ref, old in ((-0.5 + gap, -0.5), (-0.5, -0.5 + gap), (-0.5 + gap, -0.5 - gap)):
        kl = kl_of(name, logprobs, torch.tensor([[ref]]), torch.tensor([[True]]), torch.tensor([[old]]))
        (gradient,) = torch.autograd.grad(kl.sum(), logprobs)
        assert torch.isfinite(kl).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["token", "sequence"])
def test_importance_weights_beyond_float_range_are_the_cap(name):
    weights, metrics = IMPORTANCE[name](torch.tensor([[100.0, 200.0]]), torch.ones(1, 2, dtype=torch.bool), cap=2.0)
    assert weights.tolist() == [[2.0, 2.0]]
    assert all(math.isfinite(ratio.value) for ratio in metrics.values())


def test_full_kl_is_the_expectation_of_k1():
    p, q = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert full_kl(p.log(), q.log()).item() == pytest.approx(by_hand)


def control_of(**stage):
    stage = StageConfig(**stage)
    return KLControl(stage, list(stage.kl_coefs))


def test_kl_weights_follow_their_targets():
    """A coefficient grows by 2 % if its KL is more than 20 % above the target, and stays if the KL is at the target."""
    control = control_of(kl_coefs=[0.1, 0.1], kl_targets=[1.0, 1.0])
    control.update([5.0, 1.0], 0.0)
    assert control.coefs == pytest.approx([0.102, 0.1])
    control.update([0.9, 0.0], 0.0)
    assert control.coefs == pytest.approx([0.102 * 0.99, 0.098])
    control.update([float("nan"), 1.0], 0.0)  # nan: no episode sampled the first turn
    assert control.coefs == pytest.approx([0.102 * 0.99, 0.098])


def test_a_balanced_first_turn_follows_the_second_turns_advantages():
    """The first coefficient moves a tenth of the way per step to |A| of turn 2 over KL of turn 1, here 2 / 10."""
    control = control_of(kl_coefs=[0.1, 0.01], kl_balance=1.0)
    control.update([10.0, 0.1], 2.0 / 10.0)
    assert control.coefs == pytest.approx([0.1 + 0.1 * (0.2 - 0.1), 0.01])
    for _ in range(200):
        control.update([1e-9, 0.1], 2.0 / 1e-9)
    assert control.coefs[0] == pytest.approx(10.0)  # limited to 100 times its initial value


def test_a_balance_does_not_jump_while_the_policy_is_still_the_reference():
    """A KL near 0, as in the first steps, gives huge targets, so a KL of 0 is ignored and any other step is capped."""
    control = control_of(kl_coefs=[0.3, 0.03], kl_balance=1.0)
    control.update([0.0, 0.0], math.nan)
    assert control.coefs[0] == 0.3
    control.update([1e-7, 0.0], 2.0 / 1e-7)
    assert control.coefs[0] == pytest.approx(0.36)


def test_fixed_kl_weights_stay():
    control = control_of()
    control.update([1.0, 1.0], 1.0)
    assert control.coefs == [0.01, 0.01]


def test_importance_weights_by_hand():
    # The ratios trainer / sampler on the response are 2, 1/2 and 4; the first token belongs to the prompt.
    old, sampler = logs(9.0, 2.0, 0.5, 4.0), logs(1.0, 1.0, 1.0, 1.0)
    mask = torch.tensor([[False, True, True, True]])
    gap = torch.where(mask, old - sampler, 0.0)
    weights, metrics = IMPORTANCE["token"](gap, mask, cap=3.0)
    assert weights.tolist() == [[1.0, 2.0, 0.5, 3.0]]  # 4 is cut to 3
    assert metrics["policy/importance_capped"].value == pytest.approx(1 / 3)
    assert metrics["policy/importance_weight"].value == pytest.approx(5.5 / 3)
    # "sequence" uses one ratio for the whole episode: 2 * 1/2 * 4 = 4.
    weights, _ = IMPORTANCE["sequence"](gap, mask, cap=10.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 4.0, 4.0, 4.0]]))
    weights, _ = IMPORTANCE["sequence"](gap, mask, cap=3.0)
    assert weights.tolist() == [[1.0, 3.0, 3.0, 3.0]]


def test_the_off_policy_mask_drops_bad_turns_that_the_policy_has_left():
    # Both turns have drifted by 1 nat per token; only the turn with a negative advantage is dropped.
    turns = torch.tensor([[-1, 0, 0, 1]])
    logprobs, sampler = torch.full((1, 4), -2.0), torch.full((1, 4), -1.0)
    advantages = torch.tensor([[0.0, -1.0, -1.0, 1.0]])
    kept = off_policy_mask(logprobs, sampler, advantages, turns, threshold=0.5)
    assert kept.tolist() == [[False, False, False, True]]
    assert off_policy_mask(logprobs, sampler, advantages, turns, threshold=1.5).sum() == 3


@pytest.mark.parametrize(
    ("loss_type", "level", "normaliser"),
    [
        ("grpo", "token", "episode_mean"),
        ("dr_grpo", "token", "token_budget"),
        ("dapo", "token", "tokens"),
        ("grpo", "sequence", "turn_mean"),  # GSPO
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_our_group_losses_are_trls(loss_type, level, normaliser, weighted):
    """Our losses have the value and gradient of TRL's ``GRPOTrainer._compute_loss`` on the same log-probs.

    ``weighted`` switches on TRL's bias correction of the KL. For GSPO, TRL then weights the KL by the ratio of the
    sequence and we by the ratio of the token, so only the published KL without weight is compared.
    """
    if weighted and level == "sequence":
        pytest.skip("weighted otherwise")
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(3, 5, generator=generator) - 2
    logprobs = (old + 0.3 * torch.randn(3, 5, generator=generator)).requires_grad_()
    ref = old + 0.1 * torch.randn(3, 5, generator=generator)
    advantages = torch.tensor([1.0, -0.5, 0.25])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    theirs = trl_loss(loss_type, level, logprobs, old, ref, advantages, mask, weighted)
    turns = torch.where(mask.bool(), 0, -1)
    weights = token_weights(turns, normaliser, StepSize(3.0, 3.0, float(mask.sum()), 5.0))
    spread = advantages[:, None].expand(3, 5)
    clip = {"clip_low": 0.2, "clip_high": 0.28}
    loss = gspo_loss if level == "sequence" else clipped_pg_loss
    ours = surrogate(loss, logprobs, old, spread, weights, turns, **clip).loss
    kl = kl_of("k3" if weighted else "k3_published", logprobs, ref, mask.bool(), old)
    ours = ours + masked_sum(weights * 0.04 * kl, mask.bool())
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logprobs)[0] for loss in (ours, theirs)))


def trl_loss(loss_type, level, logprobs, old, ref, advantages, mask, weighted):
    """TRL's loss on given log-probs instead of a forward pass; the mocked trainer swallows everything it logs."""
    from trl import GRPOTrainer

    trainer = MagicMock()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None)
    trainer.loss_type, trainer.importance_sampling_level, trainer.beta = loss_type, level, 0.04
    trainer.epsilon_low, trainer.epsilon_high, trainer.max_completion_length = 0.2, 0.28, mask.shape[1]
    trainer.top_entropy_quantile, trainer.off_policy_mask_threshold = 1.0, None
    trainer.args.use_bias_correction_kl, trainer.args.delta, trainer.args.steps_per_generation = weighted, None, 1
    trainer.current_gradient_accumulation_steps, trainer.accelerator.num_processes = 1, 1
    trainer.use_vllm = trainer._entropy_bonus_enabled = trainer.aux_loss_enabled = False
    trainer.accelerator.gather = lambda x: x
    inputs = {
        "prompt_ids": torch.zeros(3, 1, dtype=torch.long),
        "prompt_mask": torch.ones(3, 1, dtype=torch.long),
        "completion_ids": torch.zeros(3, 5, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
