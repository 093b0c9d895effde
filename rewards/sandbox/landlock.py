"""Landlock: this process and its descendants may open only the files of the given folders, and reach nobody.

Rights and ABI numbers are those of the kernel's ``linux/landlock.h``; rights that the running kernel does not know are
left out, so the same code serves ABI 1 and later.
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
"""All file rights that an ABI knows; an ABI that is not listed has those of the one below it."""
_NET_RIGHTS = 0b11
_SCOPES = 0b11
"""From ABI 6: signals and abstract sockets stay within the domain."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


# The kernel declares this one packed: 12 bytes, no padding behind the descriptor.
class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("access", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def abi() -> int:
    """The kernel's Landlock ABI; raises ``OSError`` where there is none."""
    return kernel.call("landlock_create_ruleset", None, 0, 1)


def restrict(rules: Iterable[tuple[str, int]]) -> int:
    """Confines this process for good. Needs ``no_new_privs``. Paths that do not exist are skipped.

    Args:
        rules: Paths, and what may be done at and below them.

    Returns:
        The ABI that was used.

    Raises:
        OSError: If the kernel has no Landlock or refuses.
    """
    version = abi()
    known = _FILE_RIGHTS[max(level for level in _FILE_RIGHTS if level <= version)]
    # What a ruleset handles is forbidden unless a rule allows it, so all rights that the kernel knows are handled and
    # no rule is made for the network.
    attributes = _Ruleset(known, _NET_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    # The length of the structure is part of the interface: as much of it as this ABI has.
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
        # The kernel refuses rights of folders in a rule for a file.
        allowed = access if os.path.isdir(path) else access & _ONLY_FOR_FILES
        kernel.call("landlock_add_rule", ruleset, 1, _PathRule(allowed, descriptor), 0)
    finally:
        os.close(descriptor)
