"""The modes of isolation, and how a process puts each layer on, from the outside in."""

import os
import resource
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeVar

from rewards.sandbox import kernel, landlock, namespaces, seccomp

# Standard streams, the channel, what a program opens; the fork server's control socket is number 10.
NOFILE = 32
# Room for the recursion that programs raise Python's limit for (sys.setrecursionlimit(10**6)).
_STACK = 64 * 2**20
_MAX_THREADS = 64
_FILE_BYTES = 64 * 2**20
Result = TypeVar("Result")


class Mode(IntEnum):
    """How well programs are isolated; a higher mode has every layer of the lower ones."""

    NONE = 0
    """Limits on resources alone: a program may do whatever its user may, end all of that user's processes included.
    Never chosen unless the config asks for it.
    """
    STRICT = 1
    """seccomp that opens no file, and limits: imports that were not preloaded fail."""
    LANDLOCK = 2
    """Landlock, seccomp and limits: what a default container allows. No scratch folder."""
    NAMESPACES = 3
    """User, mount, PID, network, IPC and UTS namespaces with a file tree of their own, and all of the above."""


class ConfinementError(OSError):
    """A layer of the asked mode is not to be had; the message names it."""


def confine(mode: Mode, memory_bytes: int, packages: Sequence[str] = ()) -> list[str]:
    """Applies every layer of a mode to this process, from the outside in. Returns the names of the layers.

    Args:
        mode: Which layers.
        memory_bytes: Address space of a process.
        packages: Files and folders that may be read besides Python's own.

    Raises:
        ConfinementError: Naming the layer that the machine refuses.
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
        # Without it the kernel takes no filter and no Landlock from a process without rights: a setuid program could
        # evade them.
        layer("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
        layers.append("no_new_privs")
    # seccomp last, since its list has neither Landlock's calls nor those for mounts.
    if mode >= Mode.LANDLOCK:
        abi = layer("landlock", lambda: landlock.restrict(_rules(mode, packages)))
        layers.append(f"landlock ABI {abi}")
    if mode >= Mode.STRICT:
        private = mode is Mode.NAMESPACES
        layer("seccomp", lambda: seccomp.install(seccomp.base_filter(mode is not Mode.STRICT, change_files=private)))
        layers.append("seccomp")
    return layers


def layer(name: str, apply: Callable[[], Result]) -> Result:
    """Applies one layer; a refusal of the kernel is raised with the layer's name."""
    try:
        return apply()
    except OSError as error:
        raise ConfinementError(error.errno, f"{name}: {error.strerror or error}") from error


def _rules(mode: Mode, packages: Sequence[str]) -> list[tuple[str, int]]:
    rules = [(path, landlock.READ) for path in (*namespaces.visible_paths(), *packages)]
    # Listing, for the import system: of whole folders, so the names of hidden files show where no namespace hides them.
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
    if mode is Mode.NAMESPACES:  # elsewhere the limit would count every process of the user
        limits[resource.RLIMIT_NPROC] = _MAX_THREADS
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        # A hard limit that is lower already (a container's) cannot be raised.
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard), hard))
