"""Length-prefixed JSON frames over a stream socket."""

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("<I")


class BrokenFrameError(OSError):
    """The peer went away, sent more than it may, or sent no JSON."""


def frame(message: Any) -> bytes:
    """One message as it is sent."""
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


def send_frame(channel: socket.socket, message: Any) -> None:
    """Sends one message; raises ``OSError`` if the peer is gone."""
    channel.sendall(frame(message))


def receive_frame(channel: socket.socket, max_bytes: int) -> Any:
    """Waits for one message, for as long as the socket's time-out says.

    Raises:
        BrokenFrameError: If the stream ends, the frame is longer than ``max_bytes``, or it is no JSON.
    """
    (length,) = _LENGTH.unpack(_receive(channel, _LENGTH.size))
    if length > max_bytes:
        raise BrokenFrameError(f"a frame of {length} bytes, at most {max_bytes} are read")
    try:
        return json.loads(_receive(channel, length))
    except (ValueError, RecursionError) as error:
        raise BrokenFrameError("a frame that is no JSON") from error


def _receive(channel: socket.socket, n_bytes: int) -> bytes:
    chunks, missing = [], n_bytes
    while missing:
        chunk = channel.recv(min(missing, 1 << 20))
        if not chunk:
            raise BrokenFrameError("the stream ended")
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)
