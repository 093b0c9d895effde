"""Decoding on a GPU without waiting for the host: a step is captured once for a batch (CUDA graph), then replayed.

A decoding step of a transformers model is about a thousand small kernels, and the host takes longer to start them than
the GPU to run them. A graph starts them all at once. It asks for addresses and shapes that never change, so the cache
is static: all of its columns are there from the start, and where the next one goes is a number on the device.

A graph holds the addresses of the batch's cache, mask and input buffers. It therefore lives as long as the batch keeps
its rows: when rows are dropped the cache is copied to other addresses, and a new step is captured on it. The weights
are read where they lie; they do not change while a batch is decoded.
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
"""Capturing a step takes about as long as three steps do, so it pays from so many on."""


@lru_cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which all steps of a device are captured: the default stream cannot be captured.

    It is always the same one, since PyTorch keeps freed memory, and a workspace of cuBLAS, for every stream apart.
    """
    return torch.cuda.Stream(device)


class FixedLayer(DynamicLayer):
    """Keys and values of a layer, with all of its columns; those behind the newest one are masked.

    To the model the cache looks full from the first step on: ``get_seq_length()`` is the number of all columns. So
    positions and mask must be given to it, and may not be derived from the length of the cache.

    Args:
        held: The layer until now; its columns are copied, or taken over if they are fixed already.
        room: Columns.
        column: ``[1]`` int64 on the device, where the next key and value go.
    """

    def __init__(self, held: Any, room: int, column: Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = held.keys.dtype, held.keys.device, True
        self._column = column
        if held.keys.shape[-2] == room:  # rows were dropped: the layer is a fixed one already
            self.keys, self.values = held.keys, held.values
            return
        # Zeros, since a weight of 0 times a number that was never written might not be 0.
        behind = (0, 0, 0, room - held.keys.shape[-2])
        self.keys, self.values = (torch.nn.functional.pad(x, behind) for x in (held.keys, held.values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the column ``[B, H, 1, D]`` of the new token; returns all columns."""
        assert self.keys is not None
        assert self.values is not None
        # Slicing would need the column's number on the host, and a graph would write to the same column for ever.
        # index_copy_ asks for the precision of the cache, which concatenation, as in a cache that grows, does not.
        self.keys.index_copy_(2, self._column, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self._column, value_states.to(self.values.dtype))
        return self.keys, self.values


class FixedStep:
    """A decoding step of a fixed number of rows, which :meth:`record` captures as a CUDA graph.

    What changes from step to step lies in buffers that are written in place: the tokens ``[B, 1]``, their positions
    ``[B, 1]``, the mask ``[B, T]`` of all T columns, and the column that the next key goes to, ``[1]``.

    Args:
        causal: A causal language model whose layers keep all keys and values, with sdpa attention.
        cache: Of the rows; its layers become fixed ones.
        mask_BC: ``[B, C]`` which of the cache's C columns a row may read.
        last_B1: ``[B, 1]`` the last position that a row may have; one that is done stays there.
        n_steps: How many tokens will be read at most.
    """

    def __init__(self, causal: Any, cache: Any, mask_BC: Tensor, last_B1: Tensor, n_steps: int) -> None:
        self._causal, self._cache, self._last_B1 = causal, cache, last_B1
        n_columns = mask_BC.shape[1]
        # A cache that is fixed already has room for the longest of its first rows, so for all that are left of them.
        room = cache.layers[0].keys.shape[-2]
        room = room if isinstance(cache.layers[0], FixedLayer) else n_columns + n_steps
        self._column = torch.tensor([n_columns], device=mask_BC.device)
        self._mask_BT = torch.nn.functional.pad(mask_BC.bool(), (0, room - n_columns))
        # The columns of padding have no position, so the next one is the number of a row's real tokens.
        self._positions_B1 = mask_BC.sum(1, keepdim=True)
        self._ids_B1 = torch.zeros_like(self._positions_B1)
        self._graph: Any = None
        cache.layers = [FixedLayer(layer, room, self._column) for layer in cache.layers]

    def __call__(self, tokens_B: Tensor) -> Tensor:
        """Reads a token of every row; ``[B, V]`` logits of the next ones, which the next call may overwrite."""
        self._ids_B1.copy_(tokens_B[:, None])
        if self._graph is None:
            self._logits = self._step()
        else:
            self._graph.replay()
        return self._logits

    def peek(self, tokens_B: Tensor) -> Tensor:
        """The same without going on: the next call reads its tokens at the same place."""
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
            # [B, 1, 1, T] is used as it is. Two dimensions would be read as those of a cache that grows to T + 1.
            attention_mask=self._mask_BT[:, None, None],
            position_ids=torch.minimum(self._positions_B1, self._last_B1),
            logits_to_keep=1,
        ).logits[:, -1]
        # In the graph too: every replay moves on by itself.
        self._column += 1
        self._positions_B1 += 1
        return logits_BV

    def record(self, tokens_B: Tensor) -> None:
        """Captures the step in a CUDA graph; the tokens are those that the first replay will read.

        Capturing computes nothing: what the kernels would write, column and positions among it, stays as it is.

        Raises:
            RuntimeError: If the model does what cannot be captured, such as reading from the device.
        """
        with torch.cuda.device(tokens_B.device):
            here, stream = torch.cuda.current_stream(), _capture_stream(tokens_B.device)
            stream.wait_stream(here)
            try:
                with torch.cuda.stream(stream):
                    # Once without a capture, on the same stream: libraries allocate their workspaces and load their
                    # kernels at the first call, which may not be captured. What it writes to the cache the first replay
                    # writes again. A model that waits for the device is found out here, since it would break the
                    # capture; after a broken one PyTorch's allocator goes on as if the capture did, and no longer gives
                    # back memory that is cached and free.
                    with _no_waiting():
                        self.peek(tokens_B)
                    graph = torch.cuda.CUDAGraph()
                    # Other threads, such as a watchdog of NCCL, may go on with what a capture forbids.
                    graph.capture_begin(capture_error_mode="thread_local")
                    try:
                        # Its memory is the graph's own from now on, so every replay writes its logits to this tensor.
                        self._logits = self._step()
                    finally:
                        graph.capture_end()
            finally:
                here.wait_stream(stream)
        self._graph = graph


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Inside, PyTorch raises RuntimeError where a call would make the host wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode does not find all such calls yet
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Replays:
    """Whether and how an engine replays its decoding steps.

    Args:
        causal: Its model.

    Attributes:
        possible: Whether it may go on doing so; nothing has been refused.
    """

    def __init__(self, causal: Any) -> None:
        self._causal, self.possible, self._compared = causal, True, False

    @staticmethod
    def suit(causal: Any) -> bool:
        """Whether a model keeps all keys and values, takes positions and a mask, and asks its device nothing."""
        scaling = str(getattr(causal.config.get_text_config(), "rope_parameters", None))
        if "longrope" in scaling or "dynamic" in scaling:  # frequencies follow the longest position
            return False
        takes = "position_ids" in known_parameters(type(causal)) and keeps_everything(trunk_of(causal))
        return takes and getattr(causal.config, "_attn_implementation", "") == "sdpa"

    def start(self, cache: Any, mask_BC: Tensor, last_B1: Tensor, tokens_B: Tensor, n_steps: int) -> FixedStep | None:
        """The next steps of a batch; ``None`` where the cache is to grow as before.

        Called when a batch has read its prompts, and again whenever rows were dropped from it. A cache that is fixed
        stays fixed, whatever happens: where there is no graph for it, its steps are computed one by one.

        The first time in an engine's life the step is compared with one as before, since a model may read its mask or
        its cache in a way of its own.

        Args:
            cache: Of the batch.
            mask_BC: ``[B, C]`` of the cache's columns.
            last_B1: ``[B, 1]`` the last position that each row may have.
            tokens_B: The tokens that are read next.
            n_steps: How many will be read at most.
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
        except torch.OutOfMemoryError:  # all columns at once do not fit; the cache is as it was
            if fixed:
                raise
            return None
        if self.possible and mask_BC.device.type == "cuda" and n_steps >= MIN_STEPS:
            self._record(step, tokens_B)
        return step

    def _record(self, step: FixedStep, tokens_B: Tensor) -> None:
        """Captures a step, or leaves it to be computed one by one: for want of memory once, else from now on."""
        for again in (True, False):
            try:
                return step.record(tokens_B)
            except torch.OutOfMemoryError:
                if not again:
                    warnings.warn("no memory to capture a decoding step: a batch decodes step by step", stacklevel=3)
            except RuntimeError as error:
                # Where a capture broke, its end fails too: the cause is the error before that one.
                return self._refuse(error.__context__ or error)
            # While a graph is captured, memory that is cached and free, as that of earlier graphs, is not given back
            # to make room. It is given back here, and not in the handler, whose error holds on to the failed step.
            torch.cuda.empty_cache()

    def _difference(
        self, cache: Any, mask_BC: Tensor, last_B1: Tensor, tokens_B: Tensor, n_steps: int
    ) -> str | Exception | None:
        """How a fixed step differs from one as before, if it does; the cache stays as it is."""
        held, mask = list(cache.layers), torch.nn.functional.pad(mask_BC, (0, 1), value=1)
        try:
            ours_BV = FixedStep(self._causal, cache, mask_BC, last_B1, n_steps).peek(tokens_B)
        except torch.OutOfMemoryError:
            return None  # it is asked for again, and then left
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
        for layer in held:  # the token is read in earnest later
            layer.crop(-1)
        # The same sums in another order: over T columns, of which most are masked, instead of over C + 1.
        tolerance = 1e-3 if theirs_BV.dtype is torch.float32 else 0.1
        gap = (ours_BV.float().log_softmax(-1) - theirs_BV.float().log_softmax(-1)).square().mean().sqrt()
        # A gap that is not a number is none that is small.
        return None if gap <= tolerance else f"its log-probs differ by {float(gap):.3g} nats"

    def _refuse(self, why: str | BaseException) -> None:
        self.possible = False
        name, said = type(self._causal).__name__, str(why).partition("\n")[0] or type(why).__name__
        warnings.warn(f"{name} decodes step by step: a replayed step would not do ({said})", stacklevel=2)
