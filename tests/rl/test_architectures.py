"""Tiny models of current architectures either sample and train correctly in a whole step, or are refused by name."""

import pytest
import torch

from envs.tasks.modchain import ModChain
from rewards import Score
from rl.backends.model_check import ModelError
from rl.backends.policy import load_policy
from rl.backends.trunk import keeps_everything, trunk_of
from rl.checkpoint import save_policy
from rl.config import ModelConfig
from tests.helpers import build_trainer, log_step, modchain_config
from tests.rl.architectures import ROWS, save_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # transformers warns of kernels and odd sizes
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
def test_a_model_is_sampled_and_trained_as_it_computes_or_is_refused(row, tmp_path, monkeypatch):
    save_tiny(row, tmp_path / "model")
    cfg = modchain_config(episodes=8, tasks_per_step=2, lr=1e-4)
    cfg.model = ModelConfig(path=str(tmp_path / "model"))
    cfg.env.max_new_tokens = [6, 12]
    if row.error:
        with pytest.raises(ModelError, match=f"ForCausalLM {row.error}"):
            build_trainer(cfg)
        return
    monkeypatch.setattr(ModChain, "verify", lambda _, task, text: Score.of(len(text) % 2 == 0, text))
    trainer, bench = build_trainer(cfg)
    assert keeps_everything(trunk_of(bench.model)) == row.lends
    before = {name: p.detach().clone() for name, p in bench.model.named_parameters()}
    metrics, episodes = log_step(trainer)
    assert {len(e.turns) for e in episodes} == {2}
    assert metrics["policy/sampler_gap"] < 1e-4, "the trainer finds what the engine sampled as likely as the engine"
    assert metrics["optim/grad_norm"] > 0
    assert any(not torch.equal(p, before[name]) for name, p in bench.model.named_parameters())
    save_policy(tmp_path / "policy", bench.model, bench.tokenizer)
    again, _ = load_policy(ModelConfig(path=str(tmp_path / "policy")))
    ids = torch.tensor([episodes[0].turns[-1].prompt_ids])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(input_ids=ids).logits, bench.model.eval()(input_ids=ids).logits)
