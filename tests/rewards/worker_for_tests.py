"""A worker of a pool that sleeps, exits, raises or the like, as the request tells it."""

import os
import time


def load():
    pass


def answer(request):
    if "sleep" in request:
        time.sleep(request["sleep"])
    while "spin" in request:
        pass
    if "exit" in request:
        os._exit(request["exit"])
    if "raise" in request:
        raise ValueError(request["raise"])
    if "allocate" in request:
        bytearray(request["allocate"])
    if "connect" in request:
        import socket

        socket.socket()
    if "write" in request:
        with open(request["write"], "w") as file:
            file.write("x")
    return os.getpid() if "pid" in request else request
