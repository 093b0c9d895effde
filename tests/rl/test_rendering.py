"""Rendering only appends to a prompt, and templates that would rewrite earlier turns are refused."""

import pytest

from envs import Message
from rl.backends.tiny import tiny_tokenizer
from rl.rendering import Renderer, TemplateError

CHATML = (
    "{% for m in messages %}<|user|>{{ m['role'][0] }}{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|user|>a{% endif %}"
)
DROPS_EARLIER = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
    "{% elif loop.index0 > messages | length - 3 %}<|assistant|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_END = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
    "{% else %}<|assistant|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(template=None):
    tiny = tiny_tokenizer((*"0123456789", "check", "a", "u"), spaced=False)
    if template is not None:
        tiny.chat_template = template
    return tiny


def test_turns_are_appended_as_sampled():
    renderer = Renderer(tokenizer())
    prompt = renderer.opening([Message("user", "1 2")])
    # Ids stay as sampled; rendering the conversation again could tokenise the answer differently.
    action = (*renderer.tokenizer.encode("34"), renderer.end_id)
    longer = renderer.extend(prompt, action, [Message("user", "check")])
    assert longer[: len(prompt) + len(action)] == prompt + action
    assert renderer.tokenizer.decode(longer) == "<|user|>12<|assistant|>34<|end|><|user|>check<|assistant|>"
    assert renderer.text(action) == "34"


def test_a_cut_off_action_is_closed_in_the_context():
    renderer = Renderer(tokenizer())
    prompt = renderer.opening([Message("user", "1")])
    longer = renderer.extend(prompt, prompt[:1], [Message("user", "check")])
    assert longer[len(prompt) + 1] == renderer.end_id


def test_a_template_whose_end_token_is_shared_between_roles_works():
    assert Renderer(tokenizer(CHATML)).end_id == tokenizer().convert_tokens_to_ids("<|end|>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (DROPS_EARLIER, "not append-only"),
        (NO_END, "does not end an assistant turn"),
        ("", "no chat template"),
    ],
)
def test_a_template_that_rewrites_history_is_refused(template, message):
    with pytest.raises(TemplateError, match=message):
        Renderer(tokenizer(template))
