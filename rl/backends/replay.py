"""Decoding on a GPU without waiting for the host: a step is captured once per batch (CUDA graph) and then replayed.

A decoding step of a transformers model is about a thousand small kernels, and the host takes longer to launch them than
the GPU to run them. A graph launches all of them at once. It needs fixed addresses and shapes, so the cache is static:
all of its columns exist from the start, and the index of the next column is a number on the device.

A graph holds the addresses of the batch's cache, mask and input buffers, so it is valid only as long as the batch keeps
its rows. When rows are dropped, the cache is copied to other addresses and a new step is captured. The weights are read
in place; they do not change while a batch is decoded.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from rl.backends.trunk import call_decoder, keeps_everything, known_parameters, trunk_of

MIN_STEPS = 8
"""Smallest number of steps for which a step is captured. Capturing takes about as long as three steps."""


@lru_cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which all steps of a device are captured, since the default stream cannot be captured.

    The stream is reused, because PyTorch keeps freed memory and a cuBLAS workspace separately for every stream.
    """
    return torch.cuda.Stream(device)


class FixedLayer(DynamicLayer):
    """Keys and values of a layer with a fixed number of columns; columns that are not written yet are masked.

    The cache looks full to the model from the first step on: ``get_seq_length()`` is the number of all columns.
    Positions and mask must therefore be passed to the model, which must not derive them from the cache's length.

    Args:
        held: The layer so far. Its tensors are copied, or reused if they have the right number of columns.
        room: Number of columns.
        column: ``[1]`` int64 on the device, the column to which the next key and value are written.
    """

    def __init__(self, held: Any, room: int, column: Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = held.keys.dtype, held.keys.device, True
        self._column = column
        if held.keys.shape[-2] == room:  # the layer was fixed before, and rows were dropped
            self.keys, self.values = held.keys, held.values
            return
        # Fill with zeros: uninitialised memory may hold nan, which a masked weight of 0 would not remove.
        behind = (0, 0, 0, room - held.keys.shape[-2])
        self.keys, self.values = (torch.nn.functional.pad(x, behind) for x in (held.keys, held.values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the column ``[B, H, 1, D]`` of the new token; returns all columns."""
        assert self.keys is not None
        assert self.values is not None
        # Slicing would need the column's number on the host, and a replayed graph would always write to one column.
        # index_copy_ needs the precision of the cache, unlike the concatenation in a growing cache.
        self.keys.index_copy_(2, self._column, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self._column, value_states.to(self.values.dtype))
        return self.keys, self.values


class FixedStep:
    """A decoding step of a fixed number of rows, which :meth:`record` captures as a CUDA graph.

    All inputs that change from step to step are in buffers that are written in place: the tokens ``[B, 1]``, their
    positions ``[B, 1]``, the mask ``[B, T]`` of all T columns, and the column of the next key, ``[1]``.

    Args:
        causal: A causal language model whose layers keep all keys and values, with sdpa attention.
        cache: Cache of the rows; its layers are replaced by :class:`FixedLayer`.
        mask_BC: ``[B, C]``, which of the cache's C columns a row may read.
        last_B1: ``[B, 1]``, the largest position of each row; a finished row stays at this position.
        n_steps: Maximum number of tokens that will be read.
    """

    def __init__(self, causal: Any, cache: Any, mask_BC: Tensor, last_B1: Tensor, n_steps: int) -> None:
        self._causal, self._cache, self._last_B1 = causal, cache, last_B1
        n_columns = mask_BC.shape[1]
        # A fixed cache has enough columns for the longest of its first rows, so also for the remaining rows.
        room = cache.layers[0].keys.shape[-2]
        room = room if isinstance(cache.layers[0], FixedLayer) else n_columns + n_steps
        self._column = torch.tensor([n_columns], device=mask_BC.device)
        self._mask_BT = torch.nn.functional.pad(mask_BC.bool(), (0, room - n_columns))
        # Padding has no position, so the next position is the number of a row's real tokens.
        self._positions_B1 = mask_BC.sum(1, keepdim=True)
        self._ids_B1 = torch.zeros_like(self._positions_B1)
        self._graph: Any = None
        cache.layers = [FixedLayer(layer, room, self._column) for layer in cache.layers]

    def __call__(self, tokens_B: Tensor) -> Tensor:
        """Reads one token per row; returns the next tokens' logits ``[B, V]``, which the next call may overwrite."""
        self._ids_B1.copy_(tokens_B[:, None])
        if self._graph is None:
            self._logits = self._step()
        else:
            self._graph.replay()
        return self._logits

    def peek(self, tokens_B: Tensor) -> Tensor:
        """Returns the logits without advancing: the next call reads its tokens at the same position."""
        logits_BV = self(tokens_B)
        self._column -= 1
        self._positions_B1 -= 1
        return logits_BV

    def _step(self) -> Tensor:
        self._mask_BT.index_fill_(1, self._column, True)
        logits_BV = call_decoder(
            self._causal,
            self._cache,
            input_ids=self._ids_B1,
            # A mask [B, 1, 1, T] is used unchanged. With two dimensions, the model would expect T + 1 columns.
            attention_mask=self._mask_BT[:, None, None],
            position_ids=torch.minimum(self._positions_B1, self._last_B1),
            logits_to_keep=1,
        ).logits[:, -1]
        # These updates are part of the graph, so that every replay advances by itself.
        self._column += 1
        self._positions_B1 += 1
        return logits_BV

    def record(self, tokens_B: Tensor) -> None:
        """Captures the step in a CUDA graph; ``tokens_B`` are the tokens that the first replay will read.

        Capturing runs no kernels, so cache, column and positions are not changed by it.

        Raises:
            RuntimeError: If the model does something that cannot be captured, such as reading from the device.
        """
        with torch.cuda.device(tokens_B.device):
            here, stream = torch.cuda.current_stream(), _capture_stream(tokens_B.device)
            stream.wait_stream(here)
            try:
                with torch.cuda.stream(stream):
                    # Run the step once on the same stream without capture, because libraries allocate workspaces and
                    # load kernels at the first call, which must not be captured. The first replay overwrites what this
                    # run writes to the cache. A model that waits for the device raises an error here. It would break a
                    # capture, and after a broken capture PyTorch's allocator behaves as if the capture were still
                    # running and no longer releases free cached memory.
                    with _no_waiting():
                        self.peek(tokens_B)
                    graph = torch.cuda.CUDAGraph()
                    # "thread_local" lets other threads, such as NCCL's watchdog, make calls that a capture forbids.
                    graph.capture_begin(capture_error_mode="thread_local")
                    try:
                        # The graph owns this memory, so every replay writes its logits to this tensor.
                        self._logits = self._step()
                    finally:
                        graph.capture_end()
            finally:
                here.wait_stream(stream)
        self._graph = graph


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Inside this context, PyTorch raises RuntimeError if a call would make the host wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that this mode does not find all such calls
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Replays:
    """Builds and captures decoding steps for an engine, as long as its model allows it.

    Args:
        causal: The engine's model.

    Attributes:
        possible: Whether steps may be captured; becomes false when a step turns out wrong or cannot be captured.
    """

    def __init__(self, causal: Any) -> None:
        self._causal, self.possible, self._compared = causal, True, False

    @staticmethod
    def suit(causal: Any) -> bool:
        """Whether a model can be replayed, judged by its class and config.

        It must keep all keys and values, take positions, use sdpa attention, and not wait for the device.
        """
        scaling = str(getattr(causal.config.get_text_config(), "rope_parameters", None))
        # These models choose rotation frequencies by the longest position, for which they wait for the device.
        if "longrope" in scaling or "dynamic" in scaling:
            return False
        takes = "position_ids" in known_parameters(type(causal)) and keeps_everything(trunk_of(causal))
        return takes and getattr(causal.config, "_attn_implementation", "") == "sdpa"

    def start(self, cache: Any, mask_BC: Tensor, last_B1: Tensor, tokens_B: Tensor, n_steps: int) -> FixedStep | None:
        """Prepares the next decoding steps of a batch; ``None`` if the batch continues with a growing cache.

        Called when a batch has read its prompts, and again whenever rows were dropped. A cache that is fixed stays
        fixed; without a graph its steps are computed one by one.

        The first fixed step of an engine is compared with an ordinary step, since a model may use its mask or its cache
        in an unexpected way.

        Args:
            cache: Cache of the batch.
            mask_BC: ``[B, C]`` mask of the cache's columns.
            last_B1: ``[B, 1]`` largest position of each row.
            tokens_B: Tokens that are read next.
            n_steps: Maximum number of tokens that will be read.
        """
        fixed = isinstance(cache.layers[0], FixedLayer)
        if not fixed and (not self.possible or n_steps < MIN_STEPS):
            return None
        if not self._compared:
            self._compared = True
            if why := self._difference(cache, mask_BC, last_B1, tokens_B, n_steps):
                self._refuse(why)
                return None
        try:
            step = FixedStep(self._causal, cache, mask_BC, last_B1, n_steps)
        except torch.OutOfMemoryError:  # there is no memory for all columns at once; the cache is unchanged
            if fixed:
                raise
            return None
        if self.possible and mask_BC.device.type == "cuda" and n_steps >= MIN_STEPS:
            self._record(step, tokens_B)
        return step

    def _record(self, step: FixedStep, tokens_B: Tensor) -> None:
        """Captures a step, if possible.

        If memory is short even at a second try, only this batch decodes without a graph; after any other error, the
        engine captures no further steps.
        """
        for again in (True, False):
            try:
                return step.record(tokens_B)
            except torch.OutOfMemoryError:
                if not again:
                    warnings.warn(
                        "not enough GPU memory to capture a decoding step: this batch decodes without a CUDA graph",
                        stacklevel=3,
                    )
            except RuntimeError as error:
                # After a broken capture, ending the capture fails too; the cause is the error before that.
                return self._refuse(error.__context__ or error)
            # During a capture PyTorch does not release free cached memory, such as that of earlier graphs, so it is
            # released here. Inside the handler this would not help, because the error refers to the failed step.
            torch.cuda.empty_cache()

    def _difference(
        self, cache: Any, mask_BC: Tensor, last_B1: Tensor, tokens_B: Tensor, n_steps: int
    ) -> str | Exception | None:
        """How a fixed step differs from an ordinary step; ``None`` if it does not. The cache is not changed."""
        held, mask = list(cache.layers), torch.nn.functional.pad(mask_BC, (0, 1), value=1)
        try:
            ours_BV = FixedStep(self._causal, cache, mask_BC, last_B1, n_steps).peek(tokens_B)
        except torch.OutOfMemoryError:
            return None  # building the step will fail again in ``start``, which handles the error
        except Exception as error:
            return error
        finally:
            cache.layers = held
        theirs_BV = call_decoder(
            self._causal,
            cache,
            input_ids=tokens_B[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            logits_to_keep=1,
        ).logits[:, -1]
        for layer in held:  # remove the token again, since the batch has still to read it
            layer.crop(-1)
        # The sums run over T columns, most of them masked, instead of C + 1, so results differ by rounding.
        tolerance = 1e-3 if theirs_BV.dtype is torch.float32 else 0.1
        gap = (ours_BV.float().log_softmax(-1) - theirs_BV.float().log_softmax(-1)).square().mean().sqrt()
        # If the gap is nan, the comparison is false, and the step is refused.
        return None if gap <= tolerance else f"its log-probs differ by {float(gap):.3g} nats"

    def _refuse(self, why: str | BaseException) -> None:
        self.possible = False
        name, said = type(self._causal).__name__, str(why).partition("\n")[0] or type(why).__name__
        warnings.warn(f"{name} decodes without CUDA graphs: a captured step fails or differs ({said})", stacklevel=2)
