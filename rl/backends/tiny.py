"""Tiny models with word-level tokenizers, in the ordinary transformers format."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(words: Sequence[str], spaced: bool) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the given words.

    Args:
        words: The vocabulary; special tokens are added.
        spaced: Whether words are separated by spaces in text (``3 +4``) or written together (``12+34``).
    """
    vocabulary = {word: i for i, word in enumerate((PAD, USER, ASSISTANT, END, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    splits: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.WhitespaceSplit()]
    if not spaced:
        splits.append(pre_tokenizers.Split(Regex(r"[a-z]+|."), behavior="isolated"))
        tokenizer.decoder = decoders.Fuse()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _TEMPLATE
    return fast


def tiny_llama(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int, n_layers: int, n_heads: int, context: int = 64
) -> LlamaForCausalLM:
    """A randomly initialised Llama model for a tiny tokenizer, with some tens of thousands of parameters."""
    vocabulary = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        pad_token_id=vocabulary[PAD],
        bos_token_id=None,
        eos_token_id=vocabulary[END],
    )
    return LlamaForCausalLM(config)


def tiny_gpt2(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int, n_layers: int, n_heads: int, context: int = 64
) -> GPT2LMHeadModel:
    """A randomly initialised GPT-2 model for a tiny tokenizer.

    With its learned position embeddings it learns tasks with a fixed layout in far fewer steps than a Llama.
    """
    vocabulary = tokenizer.get_vocab()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=hidden_size,
        n_layer=n_layers,
        n_head=n_heads,
        n_positions=context,
        tie_word_embeddings=False,
        initializer_range=0.05,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=None,  # padding is always at the end of a row, so no attention mask is needed
        bos_token_id=None,
        eos_token_id=vocabulary[END],
    )
    return GPT2LMHeadModel(config)
