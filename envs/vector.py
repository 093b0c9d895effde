"""Support for ``gymnasium.make_vec`` with environments of text: spaces of text, their batches and their shared memory.

gymnasium itself can only put arrays into the memory that the processes of an asynchronous vector share; this module
registers functions that do the same for texts.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium
from gymnasium.spaces import Tuple
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import (
    batch_differing_spaces,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

from envs.base import Message
from rewards.wording import counted

BYTES = 2**18
"""Bytes of shared memory for one observation of one environment."""


class TextSpace(gymnasium.Space[Any]):
    """A space of texts; two spaces of the same class are equal, because ``gymnasium.make_vec`` compares spaces."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    __hash__ = None  # type: ignore[assignment]  # as gymnasium's own spaces

    def _digits(self) -> str:
        return " ".join(map(str, self.np_random.integers(0, 10, 4)))


class MessagesSpace(TextSpace):
    """The space of tuples of chat messages."""

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[Message, ...]:
        """A single user message of random digits."""
        return (Message("user", self._digits()),)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a tuple of messages of text."""
        return isinstance(x, tuple) and all(isinstance(one, Message) and isinstance(one.content, str) for one in x)


class ResponseSpace(TextSpace):
    """The space of all strings: a policy may write anything."""

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A few random digits."""
        return self._digits()

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string."""
        return isinstance(x, str)


class _Shared(Sequence[Any]):
    """The last observations of a vector's environments, decoded on access; a copy of this sequence is a plain tuple."""

    def __init__(self, memory: Any, n: int) -> None:
        self._memory, self._n = memory, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        start = range(self._n)[index] * BYTES
        data = bytes(self._memory[start : start + BYTES]).rstrip(b"\0")  # _write pads with zeros
        said = json.loads(data) if data else []
        return said if isinstance(said, str) else tuple(Message(role, content) for role, content in said)

    # gymnasium deep-copies the observations that it returns. The copy must hold the texts themselves; otherwise it
    # would change when the next step writes to the shared memory.
    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[Any, ...]:
        return tuple(self)


@create_shared_memory.register(TextSpace)
def _create(space: TextSpace, n: int = 1, ctx: Any = None) -> Any:
    return ctx.Array("B", n * BYTES)


@read_from_shared_memory.register(TextSpace)
def _read(space: TextSpace, shared_memory: Any, n: int = 1) -> Any:
    return _Shared(shared_memory, n)


@write_to_shared_memory.register(TextSpace)
def _write(space: TextSpace, index: int, value: Any, shared_memory: Any) -> None:
    plain = value if isinstance(value, str) else [(message.role, message.content) for message in value]
    data = json.dumps(plain).encode()  # JSON in ASCII has no zero bytes, which are used as padding
    if len(data) > BYTES:
        raise ValueError(
            f"an observation of {counted(len(data), 'byte')} does not fit the shared memory of {BYTES}: "
            "make the vector with vector_kwargs={'shared_memory': False}"
        )
    shared_memory[index * BYTES : (index + 1) * BYTES] = data.ljust(BYTES, b"\0")


@is_space_dtype_shape_equiv.register(TextSpace)
def _alike(space_1: TextSpace, space_2: Any) -> bool:
    return space_1 == space_2


@batch_differing_spaces.register(MessagesSpace)  # gymnasium looks up the exact class, not a base class
@batch_differing_spaces.register(ResponseSpace)
def _batch(spaces: Sequence[TextSpace]) -> Tuple:
    return Tuple([deepcopy(space) for space in spaces], seed=deepcopy(spaces[0].np_random))
