"""The only place that imports transformers, trl, accelerate, peft or vllm: one module around each piece we use."""
