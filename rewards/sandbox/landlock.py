"""Landlock: limits this process and its descendants to given files and, if the kernel can, forbids TCP and signals.

Rights and ABI numbers are those of the kernel's ``linux/landlock.h``. Rights that the running kernel does not know are
left out, so that the same code works with ABI 1 and later.
"""

import ctypes
import os
from collections.abc import Iterable

from rewards.sandbox import kernel

_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM, _TRUNCATE = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12, 1 << 14
LIST = _READ_DIR
READ = _READ_FILE | LIST
WRITE = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _TRUNCATE
_ONLY_FOR_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All file rights that an ABI knows; an ABI that is not listed has the rights of the next lower ABI."""
_NET_RIGHTS = 0b11
_SCOPES = 0b11
"""From ABI 6: signals and connections to abstract sockets cannot leave the confined processes."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


# The kernel declares this structure packed: 12 bytes, without padding after the descriptor.
class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("access", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def abi() -> int:
    """The Landlock ABI of the kernel; raises ``OSError`` if the kernel has no Landlock."""
    return kernel.call("landlock_create_ruleset", None, 0, 1)


def restrict(rules: Iterable[tuple[str, int]]) -> int:
    """Confines this process irrevocably; needs ``no_new_privs``.

    Args:
        rules: Pairs of a path and the rights at and below it; paths that do not exist are skipped.

    Returns:
        The ABI of the kernel.

    Raises:
        OSError: If the kernel has no Landlock or refuses.
    """
    version = abi()
    known = _FILE_RIGHTS[max(level for level in _FILE_RIGHTS if level <= version)]
    # Rights that a ruleset handles are forbidden unless a rule allows them. So all rights that the kernel knows are
    # handled, and no rule is made for the network.
    attributes = _Ruleset(known, _NET_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    # The kernel requires the length of the structure that belongs to its ABI.
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = kernel.call("landlock_create_ruleset", attributes, size, 0)
    try:
        for path, access in rules:
            if os.path.exists(path):
                _add(ruleset, path, access & known)
        kernel.call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _add(ruleset: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        # The kernel refuses a rule for a file if it contains rights that only folders have.
        allowed = access if os.path.isdir(path) else access & _ONLY_FOR_FILES
        kernel.call("landlock_add_rule", ruleset, 1, _PathRule(allowed, descriptor), 0)
    finally:
        os.close(descriptor)
