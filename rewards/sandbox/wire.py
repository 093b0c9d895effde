"""Length-prefixed JSON frames over a stream socket."""

import json
import socket
import struct
from typing import Any

from rewards.wording import counted

_LENGTH = struct.Struct("<I")


class BrokenFrameError(OSError):
    """Raised if the peer is gone, sent a frame that is too long, or sent something that is not JSON."""


# The C parts of ``json`` without its Python layers: in a process that was just forked, every function used costs copied
# pages of memory, and these parts alone cost a third of the pages that reading and writing a message takes otherwise.
_decode = json.JSONDecoder().raw_decode
_encode = vars(json.encoder)["c_make_encoder"](
    None, None, json.encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True
)


def packed(message: Any) -> bytes:
    """A message as JSON."""
    return "".join(_encode(message, 0)).encode()


def unpacked(data: bytes) -> Any:
    """The message in a JSON text; raises ``ValueError`` or ``RecursionError`` if the text is not valid JSON."""
    text = data.decode()
    message, end = _decode(text)
    if end != len(text):
        raise ValueError("more than one message")
    return message


def frame(message: Any) -> bytes:
    """One message as a frame: its length, followed by JSON."""
    body = packed(message)
    return _LENGTH.pack(len(body)) + body


def send_frame(channel: socket.socket, message: Any) -> None:
    """Sends one message; raises ``OSError`` if the peer is gone."""
    channel.sendall(frame(message))


class Frames:
    """Reads messages from a socket, and buffers data beyond a message, since small messages arrive together."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._held, self._at = channel, b"", 0

    def receive(self, max_bytes: int) -> Any:
        """Waits for one message, at most as long as the time-out of the socket.

        Raises:
            BrokenFrameError: If the stream ends, the frame is longer than ``max_bytes``, or it is not JSON.
        """
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        # Checked before the body is read, since a program can announce up to 4 GB.
        if length > max_bytes:
            raise BrokenFrameError(f"a frame of {counted(length, 'byte')}, at most {max_bytes} are read")
        try:
            return unpacked(self._take(length))
        except (ValueError, RecursionError) as error:
            raise BrokenFrameError("a frame that is no JSON") from error

    def _take(self, n_bytes: int) -> bytes:
        missing = self._at + n_bytes - len(self._held)
        if missing > 0:
            # At least 64 KiB are read at a time, so that small messages that arrive together need only one call; at
            # most 1 MiB, whatever length is announced.
            chunks = [self._held[self._at :]]
            while missing > 0:
                chunk = self._channel.recv(min(max(missing, 1 << 16), 1 << 20))
                if not chunk:
                    raise BrokenFrameError("the stream ended")
                chunks.append(chunk)
                missing -= len(chunk)
            self._held, self._at = b"".join(chunks), 0
        taken = self._held[self._at : self._at + n_bytes]
        self._at += n_bytes
        return taken
