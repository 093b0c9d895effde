"""Decoding on a GPU without waiting for the host: a step is captured once for a batch (CUDA graph), then replayed.

A decoding step of a transformers model is about a thousand small kernels, and the host takes longer to start them than
the GPU to run them. A graph starts them all at once. It asks for addresses and shapes that never change, so the cache
is static: all of its columns are there from the start, and where the next one goes is a number on the device.
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from rl.backends.trunk import call_decoder, keeps_everything, known_parameters, trunk_of

MIN_STEPS = 8
"""Capturing a step takes about as long as three steps do, so it pays from so many on."""


class FixedLayer(DynamicLayer):
    """Keys and values of a layer, with all of its columns; those behind the newest one are masked.

    Args:
        held: The layer until now; its columns are copied, or taken over if they are fixed already.
        room: Columns.
        column: ``[1]`` int64 on the device, where the next key and value go.
    """

    def __init__(self, held: Any, room: int, column: Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = held.keys.dtype, held.keys.device, True
        self._column = column
        if held.keys.shape[-2] == room:
            self.keys, self.values = held.keys, held.values
            return
        # Zeros, since a weight of 0 times a number that was never written might not be 0.
        behind = (0, 0, 0, room - held.keys.shape[-2])
        self.keys, self.values = (torch.nn.functional.pad(x, behind) for x in (held.keys, held.values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the column ``[B, H, 1, D]`` of the new token; returns all columns."""
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(2, self._column, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self._column, value_states.to(self.values.dtype))
        return self.keys, self.values


class FixedStep:
    """A decoding step of a fixed number of rows, which :meth:`record` captures as a CUDA graph.

    Args:
        causal: A causal language model whose layers keep all keys and values, with sdpa attention.
        cache: Of the rows; its layers become fixed ones.
        mask_BC: ``[B, C]`` which of the cache's C columns a row may read.
        n_steps: How many tokens will be read at most.
    """

    def __init__(self, causal: Any, cache: Any, mask_BC: Tensor, n_steps: int) -> None:
        self._causal, self._cache = causal, cache
        n_columns = mask_BC.shape[1]
        room = cache.layers[0].keys.shape[-2]
        room = room if isinstance(cache.layers[0], FixedLayer) else n_columns + n_steps
        self._column = torch.tensor([n_columns], device=mask_BC.device)
        self._mask_BT = torch.nn.functional.pad(mask_BC.bool(), (0, room - n_columns))
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
            attention_mask=self._mask_BT[:, None, None],  # four dimensions: taken as it is
            position_ids=self._positions_B1,
            logits_to_keep=1,
        ).logits[:, -1]
        self._column += 1
        self._positions_B1 += 1
        return logits_BV

    def record(self, tokens_B: Tensor) -> None:
        """Captures the step in a CUDA graph; the tokens are those that the first replay will read.

        Raises:
            RuntimeError: If the model does what cannot be captured, such as reading from the device.
        """
        with torch.cuda.device(tokens_B.device):
            here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
            stream.wait_stream(here)
            try:
                with torch.cuda.stream(stream):
                    self.peek(tokens_B)  # libraries allocate at their first call, which may not be captured
                    graph = torch.cuda.CUDAGraph()
                    graph.capture_begin(capture_error_mode="thread_local")
                    try:
                        self._logits = self._step()
                    finally:
                        graph.capture_end()
            finally:
                here.wait_stream(stream)
        self._graph = graph


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

    def start(self, cache: Any, mask_BC: Tensor, tokens_B: Tensor, n_steps: int) -> FixedStep | None:
        """The next steps of a batch; ``None`` where the cache is to grow as before.

        The first time in an engine's life the step is compared with one as before, since a model may read its mask or
        its cache in a way of its own.

        Args:
            cache: Of the batch.
            mask_BC: ``[B, C]`` of the cache's columns.
            tokens_B: The tokens that are read next.
            n_steps: How many will be read at most.
        """
        fixed = isinstance(cache.layers[0], FixedLayer)
        if not fixed and (not self.possible or n_steps < MIN_STEPS):
            return None
        if not self._compared:
            self._compared = True
            if why := self._difference(cache, mask_BC, tokens_B, n_steps):
                self._refuse(why)
                return None
        try:
            step = FixedStep(self._causal, cache, mask_BC, n_steps)
        except torch.OutOfMemoryError:  # all columns at once do not fit; the cache is as it was
            if fixed:
                raise
            return None
        if self.possible and mask_BC.device.type == "cuda" and n_steps >= MIN_STEPS:
            try:
                try:
                    step.record(tokens_B)
                except torch.OutOfMemoryError:
                    # While a graph is captured, memory that is cached and free, as that of earlier graphs, is not
                    # given back to make room.
                    torch.cuda.empty_cache()
                    step.record(tokens_B)
            except torch.OutOfMemoryError:
                warnings.warn("no memory to capture a decoding step: a batch decodes step by step", stacklevel=2)
            except RuntimeError as error:
                self._refuse(error.__context__ or error)
        return step

    def _difference(self, cache: Any, mask_BC: Tensor, tokens_B: Tensor, n_steps: int) -> str | Exception | None:
        """How a fixed step differs from one as before, if it does; the cache stays as it is."""
        held, mask = list(cache.layers), torch.nn.functional.pad(mask_BC, (0, 1), value=1)
        try:
            ours_BV = FixedStep(self._causal, cache, mask_BC, n_steps).peek(tokens_B)
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
        for layer in held:
            layer.crop(-1)
        tolerance = 1e-3 if theirs_BV.dtype is torch.float32 else 0.1
        gap = (ours_BV.float().log_softmax(-1) - theirs_BV.float().log_softmax(-1)).square().mean().sqrt()
        return None if gap <= tolerance else f"its log-probs differ by {float(gap):.3g} nats"

    def _refuse(self, why: str | BaseException) -> None:
        self.possible = False
        name, said = type(self._causal).__name__, str(why).partition("\n")[0] or type(why).__name__
        warnings.warn(f"{name} decodes step by step: a replayed step would not do ({said})", stacklevel=2)
