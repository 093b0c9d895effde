"""Chat templates that behave like those of published models, mostly in our own words, and what is expected of each."""

from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rl.rendering import trl_templates


def each(user: str, answer: str, start: str = "", system: str | None = None, before: str = "") -> str:
    """A template that renders every message independently of the others; ``C`` stands for the message's content."""
    written = {"user": user, "assistant": answer, "system": user if system is None else system}
    branches = "".join(
        "{% elif m.role == '" + role + "' %}" + text.replace("C", "{{ m.content }}") for role, text in written.items()
    )
    return (
        before
        + "{% for m in messages %}{% if false %}"
        + branches
        + "{% endif %}{% endfor %}"
        + ("{% if add_generation_prompt %}" + start + "{% endif %}")
    )


CHATML = "<|im_start|>{{ m.role }}\nC<|im_end|>\n"
FORGETS = "{{ m.content.split('</think>')[-1].lstrip() }}"
RAISES = "{{ raise_exception('no system role here') }}"
DATE = "<|system|>Today is {{ strftime_now('%d %B %Y') }}<|end|>"
START = "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Row:
    """A template and what is expected of it.

    Args:
        like: Models that have such a template.
        template: The template.
        error: Pattern of the refusal; empty if the template works as it is.
        keeps: Whether the template works with ``model.thoughts=keep``, though it is refused otherwise.
        system: Pattern of the refusal of a system prompt; empty if system prompts work.
        kwargs: Arguments of the template.
        end: Token that ends an answer.
        listed: Further end tokens, as a model's generation config lists them.
        tokens: Kind of tokenizer: ``bytes``, ``rstrip`` (special tokens swallow white space) or ``spm``.
    """

    like: str
    template: str
    error: str = ""
    keeps: bool = False
    system: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)
    end: str = "<|im_end|>"
    listed: tuple[str, ...] = ()
    tokens: str = "bytes"


def shipped(name: str) -> str:
    return (trl_templates() / f"{name}.jinja").read_text(encoding="utf-8")


REWRITES = "changes earlier answers, which were sampled differently"
ROWS = (
    Row("ChatML (Qwen2.5, SmolLM2, Yi)", each(CHATML, CHATML, START)),
    Row(
        "Llama 3",
        each("<|head|>user\n\nC<|eot|>", "<|head|>assistant\n\nC<|eot|>", "<|head|>assistant\n\n"),
        end="<|eot|>",
    ),
    Row(
        "Llama 3.2, with today's date",
        each("<|user|>C<|end|>", "<|bot|>C<|end|>", "<|bot|>", before=DATE),
        end="<|end|>",
    ),
    Row(
        "Llama 2 (SentencePiece)",
        each("<s>[INST] C [/INST]", " C </s>", system=RAISES),
        end="</s>",
        tokens="spm",
        system="cannot render the roles system",
    ),
    Row(
        "Mistral v0.3 (SentencePiece)",
        each("[INST] C[/INST]", " C</s>", system="", before="<s>"),
        end="</s>",
        tokens="spm",
        system="leaves out the system prompt",
    ),
    Row(
        "Gemma",
        each("<turn>user\nC<eot>\n", "<turn>model\nC<eot>\n", "<turn>model\n", RAISES, "<s>"),
        end="<eot>",
        system="cannot render the roles system",
    ),
    Row(
        "Phi-3 (tokens that swallow white space)",
        each("<|user|>\nC<|end|>\n", "<|assistant|>\nC<|end|>\n", "<|assistant|>\n"),
        end="<|end|>",
        tokens="rstrip",
    ),
    Row("Zephyr", each("<|user|>\nC</s>\n", "<|assistant|>\nC</s>\n", "<|assistant|>\n"), end="</s>"),
    Row("Command R", each("<|t|><|u|>C<|e|>", "<|t|><|c|>C<|e|>", "<|t|><|c|>", before="<s>"), end="<|e|>"),
    Row(
        "GLM-4 (the next question's token ends an answer)",
        each("<|user|>\nC", "<|assistant|>\nC", "<|assistant|>\n"),
        end="<|user|>",
        listed=("<|user|>",),
    ),
    Row("Plain text", each("User: C\n", "Bot: C\n", "Bot: "), error="does not end an assistant turn with a special"),
    Row("Qwen3, DeepSeek-R1: forgets thoughts", each(CHATML, CHATML.replace("C", FORGETS), START), REWRITES, True),
    Row(
        "DeepSeek-R1: opens a thought",
        each("<|U|>C", "<|A|>" + FORGETS + "<|E|>", "<|A|><think>\n"),
        REWRITES,
        True,
        end="<|E|>",
    ),
    Row(
        "gpt-oss: channels",
        each("<|s|>user<|m|>C<|e|>", "<|s|>bot<|final|><|m|>C<|e|>", "<|s|>bot"),
        REWRITES,
        True,
        end="<|e|>",
        listed=("<|return|>",),
    ),
    Row(
        "Shows the last question only",
        "{% for m in messages[-1:] %}" + CHATML.replace("C", "{{ m.content }}") + "{% endfor %}" + START,
        error="leaves messages out",
    ),
    Row(
        "Mistral: the system prompt moves to the last question",
        each(
            "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}"
            "<|user|>C<|im_end|>",
            "C<|im_end|>",
            system="",
        ),
        system="not append-only",
    ),
    Row("SmolVLM, Idefics: content in blocks", shipped("smolvlm"), end="<end_of_utterance>"),
    Row("Qwen3 of today", shipped("qwen3"), REWRITES + ".*trl:qwen3", True),
    Row("TRL's training template for Qwen3", shipped("qwen3_training")),
    Row(
        "GLM-4.5 without thoughts",
        shipped("glm4moe"),
        kwargs={"enable_thinking": False},
        end="<|user|>",
        listed=("<|user|>",),
    ),
)


def tokenizer_for(row: Row) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and the template's special tokens; ``spm`` is one of characters with a dummy prefix."""
    import re

    names = sorted(set(re.findall(r"<[|a-zA-Z_/]{1,30}>|</s>|\[/?INST\]", row.template)) - {"<think>", "</think>"})
    names = [*dict.fromkeys([row.end, *row.listed, *names])]
    if row.tokens == "spm":
        letters = ["<pad>", *map(chr, range(32, 127)), "▁", "\n", "<0x0A>"]
        inner = Tokenizer(models.BPE({text: i for i, text in enumerate(letters)}, [], unk_token="<pad>"))
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        letters = ["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        inner = Tokenizer(models.BPE({text: i for i, text in enumerate(letters)}, []))
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name, rstrip=row.tokens == "rstrip", special=True) for name in names])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token=row.end)
    tokenizer.chat_template = row.template
    return tokenizer
