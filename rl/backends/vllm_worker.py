"""Worker extension with which a ``vllm serve`` replica loads weights from a shared folder (``--worker-extension-cls``).

It runs in the server's processes, so this module imports nothing else of this project.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


class WeightReceiver:
    """Methods that are added to vLLM's worker and called over ``/collective_rpc``."""

    model_runner: Any
    _folder = ""

    def loaded_from(self) -> str:
        """The folder of the weights in use; empty if they are those with which the server was started."""
        return self._folder

    def load_from_folder(self, folder: str) -> None:
        """Loads every ``*.safetensors`` file of a folder into the running model.

        Raises:
            FileNotFoundError: If the folder has no weights, as when trainer and replica do not share it.
        """
        files = sorted(Path(folder).glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(
                f"{folder}: no weights there; engine.weights_dir must be a folder that trainer and replicas share"
            )
        self.model_runner.reload_weights(weights_iterator=_tensors(files))
        self._folder = folder


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        yield from load_file(file).items()
