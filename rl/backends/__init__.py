"""The only package that imports transformers, trl, accelerate, peft or vllm; each module wraps one part of them."""
