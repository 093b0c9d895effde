"""What ends an answer, and that dropout and other noise are off in the model that is trained."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from envs import Message
from rl.backends.engine_hf import HFEngine
from rl.backends.policy import end_tokens, make_renderer, switch_noise_off
from rl.backends.tiny import tiny_llama, tiny_tokenizer
from rl.config import EngineConfig, ModelConfig
from rl.rollout import complete
from rl.types import Finish, Request
from tests.helpers import modchain_config

TINY = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("llama", {"attention_dropout": 0.5, "intermediate_size": 32}),
        ("qwen2", {"attention_dropout": 0.5, "intermediate_size": 32, "num_key_value_heads": 2}),
        ("gpt_neox", {"attention_dropout": 0.5, "hidden_dropout": 0.5, "intermediate_size": 32}),
        ("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        ("opt", {"dropout": 0.5, "layerdrop": 0.5, "ffn_dim": 32, "word_embed_proj_dim": 16}),
        ("mixtral", {"router_jitter_noise": 0.5, "intermediate_size": 32, "num_key_value_heads": 2}),
    ],
)
def test_in_train_mode_a_model_computes_what_it_does_when_it_samples(kind, rates):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY, **rates))
    ids = torch.randint(5, 30, (2, 12))
    with torch.no_grad():
        expected, noisy = model.eval()(input_ids=ids).logits, model.train()(input_ids=ids).logits
        assert not torch.allclose(noisy, expected, atol=1e-4)
        switch_noise_off(model)
        torch.testing.assert_close(model(input_ids=ids).logits, expected)


@pytest.fixture
def parts():
    """A random model that lists the end tokens ``9`` and ``check`` beside the template's ``<|end|>``; its tokenizer."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer((*"0123456789", "check"), spaced=False)
    model = tiny_llama(tokenizer, 16, 1, 2).eval()
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(word) for word in ("9", "check")]
    return model, tokenizer


def answers(model, renderer, n=64):
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id, stops=renderer.stops if renderer.stop_strings else None)
    prompt = renderer.opening([Message("user", "1")])
    return complete(engine, [Request(i, prompt, 12, 1.0, i) for i in range(n)])


def test_every_end_token_that_the_model_lists_ends_an_answer(parts):
    model, tokenizer = parts
    renderer = make_renderer(ModelConfig(path="x"), model, tokenizer)
    listed = end_tokens(model, tokenizer)
    assert renderer.end_ids == {*listed, renderer.end_id}
    last = set()
    for answer in answers(model, renderer):
        assert not renderer.end_ids & set(answer.action_ids[:-1])
        assert (answer.finish is Finish.STOP) == (answer.action_ids[-1] in renderer.end_ids)
        last.add(answer.action_ids[-1])
    assert renderer.end_ids < last
    # In the next prompt every answer is closed with the template's end token, whichever token ended it.
    prompt = renderer.opening([Message("user", "1")])
    for end in renderer.end_ids:
        longer = renderer.extend(prompt, (end,), [Message("user", "2")])
        assert renderer.end_id in longer[len(prompt) : len(prompt) + 2]


def test_stop_strings_end_an_answer_and_are_no_part_of_it(parts):
    model, tokenizer = parts
    renderer = make_renderer(ModelConfig(path="x"), model, tokenizer, ["12", "3"])
    stopped = [a for a in answers(model, renderer, 400) if a.action_ids[-1] not in renderer.end_ids]
    texts = {tokenizer.decode(a.action_ids) for a in stopped if a.finish is Finish.STOP}
    assert {text[-1] for text in texts} == {"2", "3"}
    assert all(text.endswith(("12", "3")) and "12" not in text[:-1] and "3" not in text[:-1] for text in texts)
    assert all("12" not in renderer.text(a.action_ids) and "3" not in renderer.text(a.action_ids) for a in stopped)
    with pytest.raises(ValueError, match=r"engine\.stop_strings: engine=vllm samples ids without a tokenizer"):
        EngineConfig(name="vllm", stop_strings=["x"])


@pytest.mark.parametrize("broken", ["compute_flops_per_token", "get_peak_flops"])
def test_a_metric_that_cannot_be_computed_is_left_out(parts, monkeypatch, broken):
    import trl.trainer.utils

    from rl.backends.flops import Flops

    def unknown(*_):
        raise AttributeError("no such layer, no such device")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(trl.trainer.utils, broken, unknown)
    assert Flops.of(parts[0], torch.device("cuda"), modchain_config()).peak is None
