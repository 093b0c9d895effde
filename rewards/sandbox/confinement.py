"""The modes of isolation, and how a process applies the layers of a mode to itself."""

import os
import resource
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeVar

from rewards.sandbox import kernel, landlock, namespaces, seccomp

# Limit of open descriptors: standard streams, channels, the fork server's control socket (number 10), and the files
# that a program opens.
NOFILE = 32
# Programs that call sys.setrecursionlimit(10**6) need a large stack.
_STACK = 64 * 2**20
_MAX_THREADS = 64
_FILE_BYTES = 64 * 2**20
Result = TypeVar("Result")


class Mode(IntEnum):
    """How strongly programs are isolated, from weak to strong."""

    NONE = 0
    """Limits on resources only: a program may do anything that its user may, even kill all processes of that user.
    This mode is used only if the config asks for it.
    """
    STRICT = 1
    """Limits, and a seccomp filter that forbids opening any file, so only preloaded modules can be imported."""
    LANDLOCK = 2
    """Limits, seccomp and Landlock, which a default container allows; there is no scratch folder."""
    NAMESPACES = 3
    """Limits, seccomp, Landlock, and user, mount, PID, network, IPC and UTS namespaces with a private file tree."""


class ConfinementError(OSError):
    """Raised if a layer of the requested mode cannot be applied; the message names the layer."""


def confine(mode: Mode, memory_bytes: int, packages: Sequence[str] = ()) -> list[str]:
    """Applies every layer of a mode to this process and returns the names of the layers.

    Args:
        mode: The mode of isolation.
        memory_bytes: Limit of the address space of a process.
        packages: Files and folders that may be read besides Python's own.

    Raises:
        ConfinementError: If the machine refuses a layer; the message names the layer.
    """
    layers = []
    if mode is Mode.NAMESPACES:
        layer("mount tree", lambda: namespaces.build_root(packages))
        layer("user id", namespaces.become_nobody)
        layers += ["user, mount, pid, net, ipc, uts namespaces", "pivot_root"]
    layer("rlimits", lambda: _limit(memory_bytes, mode))
    layers.append("rlimits")
    if mode >= Mode.STRICT:
        layer("capabilities", namespaces.drop_capabilities)
        layers.append("no capabilities")
        # Without no_new_privs the kernel refuses seccomp filters and Landlock to an unprivileged process, which could
        # otherwise impose them on a setuid program.
        layer("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
        layers.append("no_new_privs")
    # seccomp is applied last, since its allow-list contains neither the calls of Landlock nor those for mounts.
    if mode >= Mode.LANDLOCK:
        abi = layer("landlock", lambda: landlock.restrict(_rules(mode, packages)))
        layers.append(f"landlock ABI {abi}")
    if mode >= Mode.STRICT:
        private = mode is Mode.NAMESPACES
        layer("seccomp", lambda: seccomp.install(seccomp.base_filter(mode is not Mode.STRICT, change_files=private)))
        layers.append("seccomp")
    return layers


def layer(name: str, apply: Callable[[], Result]) -> Result:
    """Applies one layer; raises ``ConfinementError`` with the name of the layer if the kernel refuses."""
    try:
        return apply()
    except OSError as error:
        raise ConfinementError(error.errno, f"{name}: {error.strerror or error}") from error


def _rules(mode: Mode, packages: Sequence[str]) -> list[tuple[str, int]]:
    rules = [(path, landlock.READ) for path in (*namespaces.visible_paths(), *packages)]
    # The import system lists folders. This is granted for whole folders, so without namespaces the names of hidden
    # files can be seen, but not their contents.
    rules += [(path, landlock.LIST) for path in namespaces.readable_paths() if os.path.isdir(path)]
    rules += [("/dev/null", landlock.WRITE), ("/dev/zero", landlock.READ), ("/dev/urandom", landlock.READ)]
    if mode is Mode.NAMESPACES:
        rules.append((namespaces.SCRATCH, landlock.WRITE))
    return rules


def _limit(memory_bytes: int, mode: Mode) -> None:
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: NOFILE,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if mode is Mode.NAMESPACES:  # in other modes the limit would count all processes of the user
        limits[resource.RLIMIT_NPROC] = _MAX_THREADS
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        # A hard limit that is already lower, for example in a container, cannot be raised.
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard), hard))
