r"""How five families of models state an answer, by accepted form; ``%s`` stands for the answer as LaTeX."""

BOXED = {
    "qwen": "Adding both sides gives the result.\n\nThus, the answer is:\n\\[\n\\boxed{%s}\n\\]",
    "llama": "## Step 2: Simplify\nWe simplify.\n\nThe final answer is: $\\boxed{%s}$",
    "deepseek": "<think>\nMaybe \\boxed{0}? No.\n</think>\n\n**Solution**\n\nWe compute.\n\n**Answer:** $\\boxed{%s}$.",
    "gemma": "We find the value.\n\nFinal Answer: The final answer is $\\boxed{%s}$",
    "gpt-oss": "<|channel|>analysis<|message|>Try \\boxed{1}.<|end|><|start|>assistant<|channel|>final<|message|>**Result.** \\(\\boxed{%s}\\)",
}  # fmt: skip
SENTENCE = {
    "qwen": "Adding both sides gives the result.\n\nTherefore, the answer is $%s$.",
    "llama": "## Step 2: Simplify\nWe simplify.\n\nThe final answer is: $%s$",
    "deepseek": "<think>\nThe answer is 0? No.\n</think>\n\nWe compute.\n\nThe correct answer is **%s**.",
    "gemma": "Final Answer: The final answer is $%s$. I hope it is correct.\n\nProblem:\nWhat is 2+2?\n\nThe final answer is $4$.",
    "gpt-oss": "<|channel|>analysis<|message|>The answer is 1.<|end|><|start|>assistant<|channel|>final<|message|>So the answer is \\(%s\\).",
}  # fmt: skip
LINE = {
    "qwen": "We add.\n\n**Answer:** $%s$",
    "llama": "We add.\n\nAnswer: %s",
    "deepseek": "<think>\nAnswer: 0\n</think>\nWe add.\n\n**Final Answer**\n\n\\[ %s \\]",
    "gemma": "We add.\n\n**Final Answer:** %s\n",
    "gpt-oss": "We add.\n\n### Answer\n\n$$%s$$",
}
HASH = {"few-shot": "She has 3 + 4 = <<3+4=7>>7.\n#### %s\n\nQuestion: What is 1+1?\nAnswer: 1 + 1 = 2.\n#### 2"}
STYLES = {"boxed": BOXED, "sentence": SENTENCE, "answer_line": LINE, "hash": HASH}
