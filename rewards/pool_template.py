"""The template process of a :class:`~rewards.pool.WorkerPool`: it loads what workers need, and workers are its forks.

It runs as ``python -m rewards.pool_template MODULE MEMORY_BYTES`` with a control socket as descriptor 0. Forking
replaces a killed worker in milliseconds, whereas a fresh interpreter would spend most of a second on imports. The
template has one thread and never reads a request. When the template ends, its workers are killed.
"""

import array
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from rewards.sandbox import kernel, seccomp
from rewards.sandbox.wire import Frames, send_frame

MAX_REQUEST_BYTES = 16 * 2**20


def main() -> None:
    """Loads the module, then forks one worker for every channel that the pool sends, until the pool closes."""
    module, memory_bytes = importlib.import_module(sys.argv[1]), int(sys.argv[2])
    control = socket.socket(fileno=os.dup(0), family=socket.AF_UNIX, type=socket.SOCK_SEQPACKET)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps dead workers
    module.load()
    # The garbage collector writes to every object it visits, which would copy every shared page of sympy in every
    # worker. It does not visit frozen objects.
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        data, ancillary, _, _ = control.recvmsg(64, socket.CMSG_SPACE(4))
        if not data:
            return
        descriptors = array.array("i", b"".join(body for _, _, body in ancillary))
        pid = os.fork()
        if pid == 0:
            control.close()
            _work(module, socket.socket(fileno=descriptors[0]), memory_bytes)
        os.close(descriptors[0])
        handle = os.pidfd_open(pid)
        socket.send_fds(control, [str(pid).encode()], [handle])
        os.close(handle)


def _work(module, channel: socket.socket, memory_bytes: int) -> NoReturn:
    try:
        _confine(memory_bytes)
        frames = Frames(channel)
        while True:
            send_frame(channel, module.answer(frames.receive(MAX_REQUEST_BYTES)))
    finally:
        os._exit(0)


def _confine(memory_bytes: int) -> None:
    """Limits memory, forbids writing files and, if seccomp is available, forbids network and new processes.

    Unlike the sandbox, these workers run trusted code on untrusted text, so they also run without seccomp.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with suppress(OSError):
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(seccomp.worker_filter())


if __name__ == "__main__":
    try:
        main()
    except (OSError, json.JSONDecodeError, KeyboardInterrupt):
        sys.exit(1)
