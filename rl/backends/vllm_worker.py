"""What a ``vllm serve`` replica loads to take weights from a shared folder: ``--worker-extension-cls``.

It runs in the server's processes, so it imports nothing of this project that the server would not need.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


class WeightReceiver:
    """Mixed into vLLM's worker; called over ``/collective_rpc``."""

    model_runner: Any
    _folder = ""

    def loaded_from(self) -> str:
        """The folder of the newest weights; empty for those that the server was started with."""
        return self._folder

    def load_from_folder(self, folder: str) -> None:
        """Loads every ``*.safetensors`` file of a folder into the running model.

        Raises:
            FileNotFoundError: If the folder is not there: trainer and replica do not share it.
        """
        files = sorted(Path(folder).glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{folder}: no weights there; engine.weights_dir must be a folder that all share")
        self.model_runner.reload_weights(weights_iterator=_tensors(files))
        self._folder = folder


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        yield from load_file(file).items()
