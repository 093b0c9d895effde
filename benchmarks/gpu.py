"""Speed and memory of training on one GPU, compared with TRL's ``GRPOTrainer``, in less than ten minutes.

``python -m benchmarks.gpu`` measures tokens per second of sampling and update, model FLOPs utilisation and peak memory,
then runs the tests that need a GPU; ``size=smoke`` does the same with a toy model on any machine. Nothing is
downloaded: the models have Qwen2's shapes and random weights, and the tokenizer's words are made up. A hash decides
which answers are right, about half of them, so that groups have a gradient. Rows that cannot be measured because
memory, time or TRL is missing are listed as skipped. Prints a table, and writes ``runs/benchmarks/gpu.json`` and
``gpu.md``.

Options: ``--minutes`` limits the total time, ``--tests 0`` skips the tests; overrides of ``experiments.train`` apply to
every row.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from benchmarks.train_step import ShortageError, Side, SideError, machine, split_arguments, summarise

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("runs/benchmarks")
VOCABULARY = 151936
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "smoke": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
"""Shapes of Qwen2.5 models and of a toy model; all have two key-value heads."""
TESTS_S = 100
"""Seconds reserved for the tests."""


class Row(NamedTuple):
    """One row of the table: the model, the side (``ours`` or ``trl``), the precision and whether the head is fused."""

    model: str
    side: str
    precision: str
    fused: bool


class Size(NamedTuple):
    """Size of the benchmark: its rows, most important first, the vocabulary, and the shape of a batch."""

    rows: Sequence[Row]
    vocabulary: int
    new_tokens: int
    prompt: int
    tasks: int


_BF16 = (("ours", "bf16", False), ("trl", "bf16", False), ("ours", "bf16", True))
_FLOAT32 = (("ours", "no", False), ("trl", "no", False), ("ours", "no", True))
_ALL = [Row(model, *rest) for rows in (_BF16, _FLOAT32) for model in ("0.5B", "1.5B") for rest in rows]
SIZES = {
    "full": Size(_ALL, VOCABULARY, 512, 128, 8),
    "smoke": Size([Row("smoke", *rest) for rest in (*_FLOAT32[:2], _BF16[2])], 512, 8, 16, 2),
}
GROUP = 8


def make_model(name: str, vocabulary: int, folder: Path) -> Path:
    """Saves a model with random bfloat16 weights and its tokenizer, unless the folder already holds a model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from benchmarks.words import words
    from rl.backends.tiny import END, PAD, tiny_tokenizer

    if (folder / "model.safetensors").exists():
        return folder
    tokenizer = tiny_tokenizer(words(vocabulary), spaced=True)
    ids: dict[str, Any] = {
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
    }
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        **SHAPES[name],
        **ids,
    )
    torch.manual_seed(0)
    tokenizer.save_pretrained(folder)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # a CPU takes a minute for 1.5B weights
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def measure(row: Row, size: Size, overrides: list[str], limit_s: float) -> dict[str, float]:
    """Measures one training step of a row, after a warm-up step with short answers.

    Raises:
        SideError: If the row cannot be measured; the message is the cause.
    """
    began = time.perf_counter()
    if importlib.util.find_spec("trl") is None and (row.side == "trl" or row.fused):
        raise ShortageError("TRL is not installed")
    settings = {
        "experiment": "none",
        "plugins": "[benchmarks.words]",
        "model.path": make_model(row.model, size.vocabulary, (OUT / "models" / row.model).resolve()),
        "env": "custom",
        "env.id": "benchmark/words-v1",
        "env.attempts": 2,
        "env.max_new_tokens": f"[{size.new_tokens}]",
        "env.options.n_words": size.prompt,
        "env.options.vocabulary": size.vocabulary,
        "algorithm": "grpo",
        "algorithm.group_size": GROUP,
        "algorithm.fused_head": row.fused,
        "algorithm.optim.lr": 1e-6,
        "algorithm.optim.micro_batch_tokens": 8192,
        "algorithm.optim.mixed_precision": row.precision,
        "training.tasks_per_step": size.tasks,
        "training.max_sampler_gap": 0,
    }
    arguments = ["--warmup", str(max(2, size.new_tokens // 32)), *(f"{k}={v}" for k, v in settings.items()), *overrides]
    with Side("benchmarks.train_step", row.side, arguments) as side:
        side.step(limit_s)  # warm-up: libraries choose kernels and memory is reserved
        return summarise([side.step(max(1.0, limit_s - time.perf_counter() + began))])


def utilisation(row: Row, size: Size, found: dict[str, float]) -> float | None:
    """Model FLOPs utilisation (MFU) of the update; ``None`` without a GPU of known peak or without TRL.

    FLOPs are those of the policy's forward and backward pass, as TRL counts them. Time is all of the step that is not
    sampling: it includes the reference policy's forward pass, whose FLOPs are not counted.
    """
    if not torch.cuda.is_available() or importlib.util.find_spec("trl") is None:
        return None
    from transformers import AutoConfig
    from trl.trainer.utils import compute_flops_per_token, get_peak_flops

    peak = get_peak_flops(torch.cuda.get_device_name(), "bfloat16" if row.precision == "bf16" else "float32")
    if peak is None:
        return None
    config = AutoConfig.from_pretrained(OUT / "models" / row.model)
    per_token = compute_flops_per_token(config, size.prompt + 2 * size.new_tokens)
    read = found["sampled_tokens_per_step"] + size.tasks * GROUP * size.prompt
    return per_token * read * found["update_tokens_per_second"] / found["sampled_tokens_per_step"] / peak


def run_tests(limit_s: float) -> str:
    """Runs the tests that need a GPU and returns their outcome in one line."""
    if not torch.cuda.is_available():
        return "skipped: no GPU"
    # pytest-benchmark, if installed, warns when tests run in several processes, and our pytest settings turn warnings
    # into errors.
    options = ["-q", "-n", "4", "-p", "no:benchmark", "-m", "gpu"]
    command = [sys.executable, "-m", "pytest", *options, str(ROOT / "tests" / "rl" / "test_gpu.py")]
    try:
        done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"failed: stopped after {limit_s:.0f} s"
    except OSError as error:
        return f"skipped: {error}"
    said = (done.stdout.strip() or done.stderr.strip() or "nothing was said").splitlines()[-1].strip("= ")
    return f"failed: {said}" if done.returncode else said


def markdown(results: list[dict[str, Any]], tests: str, device: str) -> str:
    """Formats the results as the Markdown table for ``docs/performance.md``."""
    lines = [
        "| model | side | precision | head | s per step | sampling tokens/s | update tokens/s | MFU | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        row, found, mfu = one["row"], one["found"], one["mfu"]
        head = "fused" if row["fused"] else "plain"
        start = f"| {row['model']} | {row['side']} | {'float32' if row['precision'] == 'no' else 'bf16'} | {head} | "
        if found is None:
            lines.append(f"{start}{one['skipped'].replace('|', '/')} | | | | |")
            continue
        share = "-" if mfu is None else f"{mfu:.1%}"
        numbers = (
            f"{found['seconds_per_step']:.3g} | {found['sampling_tokens_per_second']:,.0f} | "
            f"{found['update_tokens_per_second']:,.0f} | {share} | {found['peak_memory_gib']:.1f} GiB |"
        )
        lines.append(start + numbers)
    return "\n".join([*lines, "", f"{device}; GPU tests: {tests}.", ""])


def main() -> None:
    """Measures each row in its own process, then runs the tests; stores the results so far after each row."""
    options, overrides = split_arguments(sys.argv[1:])
    name = next((word.removeprefix("size=") for word in overrides if word.startswith("size=")), "full")
    overrides = [word for word in overrides if not word.startswith("size=")]
    if name not in SIZES:
        sys.exit(f"size={name}: use one of {', '.join(SIZES)}")
    if name == "full" and not torch.cuda.is_available():
        sys.exit("no GPU here: size=smoke runs the same with a toy model")
    console, size, where = Console(soft_wrap=True), SIZES[name], machine()
    began, longest, failed, results, tests = time.perf_counter(), dict[str, float](), False, [], "not run yet"
    kept = TESTS_S * (float(options.get("tests", 1)) > 0)
    deadline = began + 60 * float(options.get("minutes", 9))
    OUT.mkdir(parents=True, exist_ok=True)

    def write() -> str:
        text = markdown(results, tests, where["device"])
        (OUT / "gpu.md").write_text(text, encoding="utf-8")
        stored = {"size": name, "results": results, "tests": tests, "machine": where, "command": sys.argv}
        (OUT / "gpu.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")
        return text

    for row in size.rows:
        started = time.perf_counter()
        left, found, mfu, skipped = deadline - started - kept, None, None, ""
        try:
            # A row that is stopped halfway wastes time that later rows could use, so a row is skipped if the slowest
            # row of its side so far took longer than the time left. TRL's rows take the longest.
            if left < longest.get(row.side, 0.0):
                raise ShortageError("no time left; more with --minutes")
            found = measure(row, size, overrides, left)
            mfu = utilisation(row, size, found)
            longest[row.side] = max(longest.get(row.side, 0.0), time.perf_counter() - started)
        except SideError as error:
            failed |= not isinstance(error, ShortageError)
            skipped = f"{'skipped' if isinstance(error, ShortageError) else 'failed'}: {error}"
        results.append({"row": row._asdict(), "found": found, "mfu": mfu, "skipped": skipped})
        said = skipped if found is None else f"{found['tokens_per_second']:,.0f} tokens/s"
        console.print(f"{time.perf_counter() - began:4.0f} s  {' '.join(map(str, row[:3]))} fused={row.fused}: {said}")
        write()
    tests = run_tests(max(kept, deadline - time.perf_counter())) if kept else "left out"
    console.print(write(), markup=False)
    sys.exit(failed or tests.startswith("failed"))


if __name__ == "__main__":
    main()
