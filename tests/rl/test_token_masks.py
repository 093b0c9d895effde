"""Token masks by hand: masked tokens, values and gradients, and that micro-batches and processes do not matter."""

import math
from dataclasses import replace

import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer

from rl.batching import to_rollout_batch
from rl.config import AlgorithmConfig, StageConfig, TermConfig
from rl.losses import clipped_pg_loss, kl_cov_loss
from rl.token_masks import TOKEN_MASKS, Whole, row_noise, token_covariance
from rl.types import SampledStats
from tests.helpers import build_trainer, log_step, loss_inputs, modchain_config, named

TURNS = torch.tensor([[0, 0, 0, -1, 1, 1], [0, 0, -1, 1, 1, -1]])
ENTROPY = torch.tensor([[3.0, 1.0, 2.0, 9.0, 0.4, 0.1], [2.5, 0.5, 9.0, 0.3, 0.2, 9.0]])
HERE = Whole(torch.zeros(2, 6), lambda x: x)


def stats_of(logprobs, entropy=ENTROPY):
    return SampledStats(logprobs, entropy, torch.zeros(2, 6), torch.zeros(0))


def scored(logprobs=None, old=None, advantages=None, turns=TURNS):
    zeros = torch.zeros(turns.shape)
    return loss_inputs(*(zeros if x is None else x for x in (logprobs, old, advantages)), turns)[1]


def test_the_tokens_of_highest_entropy_by_hand():
    kept = TOKEN_MASKS["entropy"](stats_of(torch.zeros(2, 6)), scored(), HERE, share=0.4, by_turn=False)
    # 9 response tokens: the top 40 % are 4, with entropies 3, 2.5, 2 and 1.
    assert kept.tolist() == [[True, True, True, False, False, False], [True, False, False, False, False, False]]
    # By turn: 2 of the 5 first-turn tokens (3, 2.5), and 2 of the 4 second-turn ones (0.4, 0.3).
    kept = TOKEN_MASKS["entropy"](stats_of(torch.zeros(2, 6)), scored(), HERE, share=0.4, by_turn=True)
    assert kept.tolist() == [[True, False, False, False, True, False], [True, False, False, True, False, False]]
    kept = TOKEN_MASKS["entropy"](stats_of(torch.zeros(2, 6)), scored(), HERE, share=1.0, by_turn=True)
    assert kept.tolist() == (TURNS >= 0).tolist()


def test_the_threshold_is_that_of_all_processes():
    """If all tokens of another process have higher entropy, no token of this process is among the top share."""
    elsewhere = Whole(torch.zeros(2, 6), lambda x: torch.cat([x, torch.full((20,), 5.0)]))
    kept = TOKEN_MASKS["entropy"](stats_of(torch.zeros(2, 6)), scored(), elsewhere, share=0.2, by_turn=False)
    assert not kept.any()


def test_entropy_masks_equal_trls():
    torch.manual_seed(0)
    entropy, turns = torch.rand(4, 50), torch.where(torch.rand(4, 50) < 0.8, 0, -1)
    stats = SampledStats(torch.zeros(4, 50), entropy, entropy, entropy)
    own = TOKEN_MASKS["entropy"](stats, scored(turns=turns), HERE, share=0.2, by_turn=True)
    trainer = object.__new__(GRPOTrainer)
    trainer.accelerator = type("Alone", (), {"pad_across_processes": lambda *a, **k: a[1], "gather": lambda _, x: x})()
    theirs = GRPOTrainer.get_high_entropy_mask(trainer, entropy, (turns == 0).long(), 0.8)
    assert (own != theirs.bool()).sum() <= 1  # TRL's quantile lies between two tokens
    assert own.sum() == math.ceil(0.2 * int((turns == 0).sum()))


def test_a_token_that_is_left_out_has_neither_value_nor_gradient_and_the_others_keep_theirs():
    trainer, _ = build_trainer(config(token_mask="entropy", token_mask_options={"share": 0.4}))
    torch.manual_seed(0)
    logprobs = torch.randn(2, 6, requires_grad=True)
    advantages = torch.tensor([[1.0] * 6, [-2.0] * 6])
    mask, weights = TURNS >= 0, torch.where(TURNS >= 0, 0.1, 0.0)
    train = scored(logprobs.detach(), logprobs.detach(), advantages)
    kept = TOKEN_MASKS["entropy"](stats_of(logprobs), train, HERE, share=0.4, by_turn=True)
    out = trainer.learner._surrogate(stats_of(logprobs), replace(train, kept=kept), weights)
    out.loss.backward()
    # At the first update the ratio is 1: over the kept tokens the value is -sum(w A) and the gradient -w A.
    assert out.loss.item() == pytest.approx(-(0.1 * advantages)[kept].sum().item())
    assert torch.allclose(logprobs.grad, torch.where(kept, -0.1 * advantages, 0.0))
    left_out = out.metrics["policy/token_mask"]
    assert (left_out.num, left_out.den) == ((mask & ~kept).sum(), mask.sum())


def config(**algorithm):
    given = {"name": "x", "group_size": 4} | algorithm
    return modchain_config(algorithm=AlgorithmConfig(**given), lr=3e-3)


def test_dual_clip_by_hand():
    """The mask gives the gradient of ``max(clipped surrogate, c A)`` for negative A; the loss lacks only ``c A``."""
    ratios = torch.tensor([[0.5, 1.0, 1.5, 1.0, 2.9, 3.1], [0.5, 4.0, 1.0, 1.5, 3.1, 1.0]])
    logprobs = ratios.log().requires_grad_()
    advantages = torch.tensor([[-1.0] * 6, [1.0] * 6])
    train, weights = scored(old=torch.zeros(2, 6), advantages=advantages), torch.where(TURNS >= 0, 1.0, 0.0)
    kept = TOKEN_MASKS["dual_clip"](stats_of(logprobs), train, None, limit=3.0)
    assert ((TURNS >= 0) & ~kept).nonzero().tolist() == [[0, 5]], "bad tokens above the limit, and no good ones"
    ours = clipped_pg_loss(stats_of(logprobs), train, torch.where(kept, weights, 0.0), clip_low=0.2, clip_high=0.2)
    ours.loss.backward()
    mine, logprobs.grad = logprobs.grad.clone(), None
    rho = logprobs.exp()
    surrogate = torch.minimum(rho * advantages, rho.clamp(0.8, 1.2) * advantages)
    published = torch.where(advantages < 0, torch.maximum(surrogate, 3.0 * advantages), surrogate)
    loss = -(weights * published).sum()
    loss.backward()
    assert torch.allclose(mine, logprobs.grad)
    assert loss.item() - ours.loss.item() == pytest.approx(3.0)  # the constant of the one masked token


LOGPROBS = torch.tensor([[-0.1, -0.2, -4.0, 0.0, -0.3, -0.15], [-0.2, -6.0, 0.0, -0.2, -0.1, 0.0]])
ADVANTAGES = torch.tensor([[2.0, 2.0, 2.0, 0.0, 2.0, 2.0], [-1.0, -1.0, 0.0, -1.0, -1.0, 0.0]])


def test_covariances_by_hand():
    covariance, mask = token_covariance(LOGPROBS, scored(LOGPROBS, advantages=ADVANTAGES), HERE)
    a, b = LOGPROBS[mask], ADVANTAGES[mask]
    expected = (a - a.mean()) * (b - b.mean())
    assert torch.allclose(covariance[mask], expected, atol=1e-6)
    # The mean over tokens is the covariance of log-prob and advantage, which determines how fast entropy falls.
    assert covariance[mask].mean() == pytest.approx(torch.cov(torch.stack([a, b]), correction=0)[0, 1].item(), abs=1e-6)
    assert covariance[1, 1] == covariance.max(), "an unlikely token that is bad"
    assert covariance[0, 2] == covariance.min(), "an unlikely token that is good"


def test_clip_cov_leaves_a_few_tokens_of_its_band_out():
    stats, train = stats_of(LOGPROBS), scored(LOGPROBS, advantages=ADVANTAGES)
    covariance, mask = token_covariance(LOGPROBS, train, HERE)
    band = mask & (covariance >= 1.0) & (covariance <= 5.0)
    assert 2 <= int(band.sum()) < int(mask.sum())
    noise = torch.linspace(0.9, 0.1, 12).view(2, 6)
    for share, n in ((2 / 9, 2), (1 / 9, 1), (0.05, 0), (1.0, int(band.sum()))):
        kept = TOKEN_MASKS["clip_cov"](stats, train, Whole(noise, lambda x: x), share=share + 1e-6, low=1.0, high=5.0)
        out = mask & ~kept
        assert not (out & ~band).any()
        assert int(out.sum()) == n
        if 0 < n < int(band.sum()):
            assert noise[out].max() < noise[band & ~out].min(), "those that the noise puts first"


def test_kl_cov_prices_the_tokens_of_largest_covariance_and_leaves_their_gradient():
    stats, train = stats_of(LOGPROBS), scored(LOGPROBS, advantages=ADVANTAGES)
    kept = TOKEN_MASKS["kl_cov"](stats, train, HERE, share=2 / 9 + 1e-6)
    covariance, mask = token_covariance(LOGPROBS, train, HERE)
    marked = mask & ~kept
    assert covariance[marked].min() >= covariance[kept].max()
    assert int(marked.sum()) == 2
    now = (LOGPROBS + torch.where(ADVANTAGES > 0, 0.3, -0.2)).requires_grad_()
    train = replace(train, old_logprobs=LOGPROBS, kept=kept)
    out = kl_cov_loss(stats_of(now), train, torch.where(mask, 0.5, 0.0))
    out.loss.backward()
    change = torch.where(ADVANTAGES > 0, 0.3, -0.2)
    assert out.loss.item() == pytest.approx((0.5 * change.abs())[marked].sum().item(), abs=1e-6)
    assert torch.allclose(now.grad, torch.where(marked, 0.5 * change.sign(), 0.0))


@pytest.mark.parametrize(
    "mask",
    [
        {"token_mask": "entropy", "token_mask_options": {"share": 0.3}},
        {"token_mask": "clip_cov", "token_mask_options": {"share": 0.2, "low": 0.0}},
        {"token_mask": "kl_cov", "token_mask_options": {"share": 0.2}, "terms": {"kl_cov": TermConfig()}, "epochs": 2},
        {"token_mask": "dual_clip", "token_mask_options": {"limit": 1.01}, "minibatches": 4, "epochs": 2},
    ],
    ids=lambda mask: mask["token_mask"],
)
def test_micro_batches_do_not_change_what_is_trained_on(mask):
    weights, left_out = [], []
    for tokens in (30, 100_000):
        cfg = config(**mask)
        cfg.algorithm.optim.micro_batch_tokens = tokens
        trainer, bench = build_trainer(cfg)
        metrics, _ = log_step(trainer)
        weights.append(torch.cat([p.detach().flatten() for p in bench.model.parameters()]))
        left_out.append(metrics["policy/token_mask"])
    assert left_out[0] == pytest.approx(left_out[1], abs=1e-6)
    assert 0.0 < left_out[0] < 0.9
    torch.testing.assert_close(*weights, atol=1e-5, rtol=0)
    trainer, bench = build_trainer(config(epochs=mask.get("epochs", 1), minibatches=mask.get("minibatches", 1)))
    log_step(trainer)
    plain = torch.cat([p.detach().flatten() for p in bench.model.parameters()])
    assert (plain - weights[0]).abs().max() > 1e-5, "without the mask other weights come out"


def test_noise_belongs_to_the_tokens_and_not_to_their_place():
    trainer, bench = build_trainer(config())
    rows = to_rollout_batch(trainer.source.sample(trainer.stages[0], 1000).episodes, bench.renderer.pad_id, 2)
    whole, part = row_noise(rows, 0), row_noise(rows.rows([5, 2]), 0)
    assert torch.equal(whole[[5, 2]], part)
    assert not torch.equal(whole, row_noise(rows, 1))
    assert 0.4 < whole[rows.attention_mask].mean() < 0.6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"token_mask": "entropi"}, r"algorithm\.token_mask=entropi: unknown; did you mean 'entropy'"),
        ({"token_mask": "entropy", "token_mask_options": {"share": 1.2}}, r"options\.share=1\.2: must be in \[0, 1\]"),
        ({"token_mask": "entropy", "token_mask_options": {"share": 0.0}}, r"share=0: no token would be trained on"),
        ({"token_mask_options": {"share": 0.2}}, r"token_mask_options\.share: none has no such option"),
        (
            {"token_mask": "dual_clip"},
            r"token_mask=dual_clip masks by the effect of earlier updates .* set algorithm\.epochs",
        ),
        ({"token_mask": "dual_clip", "token_mask_options": {"limit": 0.5}, "epochs": 2}, "must be above 1"),
        ({"token_mask": "kl_cov", "epochs": 2}, r"token_mask=kl_cov .* so give both"),
        ({"terms": {"kl_cov": TermConfig()}, "epochs": 2}, "so give both"),
        ({"token_mask": "clip_cov", "token_mask_options": {"low": 2.0, "high": 1.0}}, r"low=2\.0 lies above high=1\.0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(given, message):
    with pytest.raises(ValueError, match=message):
        AlgorithmConfig(name="x", stages=named(StageConfig()), **given)
