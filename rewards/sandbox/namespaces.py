"""User, mount, PID, network, IPC and UTS namespaces, and a private file tree that contains only Python."""

import os
import sys
import sysconfig
from collections.abc import Sequence

from rewards.sandbox import kernel

SCRATCH = "/tmp"
"""The only writable folder of the sandbox, a separate tmpfs."""
_SCRATCH_OPTIONS = "size=8m,nr_inodes=256,mode=1777"
_FLAGS = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
)  # fmt: skip
_NOBODY = 65534
_MOUNT_POINT = "/proc"
"""Folder at which the new root is built, on a tmpfs; it exists on every machine and contains no part of Python."""


def readable_paths() -> list[str]:
    """Folders and files that a program may read (standard and shared libraries), with symbolic links resolved."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or "none"
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.join(sys.base_prefix, "lib")}
    if sys.base_prefix == "/usr":
        paths.discard("/usr/lib")  # the lib folder of a distribution contains far more than Python
    paths |= {"/lib64", "/usr/lib64", f"/lib/{multiarch}", f"/usr/lib/{multiarch}", "/etc/ld.so.cache"}
    real = sorted({os.path.realpath(path) for path in paths if os.path.exists(path)})
    # Paths below another path of the list are already covered by it.
    return [path for path in real if not any(path.startswith(other + "/") for other in real)]


def hidden_paths() -> list[str]:
    """Folders of installed packages, which are hidden because they may contain data sets with solutions of tasks."""
    stdlib = os.path.realpath(sysconfig.get_path("stdlib"))
    paths = [f"{stdlib}/site-packages", f"{stdlib}/dist-packages", os.path.join(sys.base_prefix, "lib/site-packages")]
    return [path for path in paths if os.path.isdir(path)]


def visible_paths() -> list[str]:
    """Readable paths, split so that none contains a hidden path, since Landlock cannot exclude a part of a folder."""
    hidden = hidden_paths()

    def pieces(path: str) -> list[str]:
        if path in hidden:
            return []
        if not any(other.startswith(path + "/") for other in hidden):
            return [path]
        return [piece for name in sorted(os.listdir(path)) for piece in pieces(f"{path}/{name}")]

    return [piece for path in readable_paths() for piece in pieces(path)]


def enter() -> None:
    """Enters new namespaces and writes their id maps; the next child that the caller forks is pid 1.

    Raises:
        OSError: If the machine does not allow a step; the message names the step.
    """
    if os.geteuid() == 0:
        _enter_as_root()
        return
    uid, gid = os.geteuid(), os.getegid()
    kernel.call("unshare", _FLAGS)
    # Without root, the kernel accepts only a map of the process's own id, and a map of groups only after setgroups is
    # denied.
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{_NOBODY} {uid} 1")
    _write("/proc/self/gid_map", f"{_NOBODY} {gid} 1")


def _enter_as_root() -> None:
    """Enters new namespaces as root; a helper process outside writes the id maps, since only it may map a second id."""
    ready_r, ready_w = os.pipe()
    mapped_r, mapped_w = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(ready_w)
        _map_from_outside(os.getppid(), ready_r, mapped_w)
    os.close(mapped_w)
    try:
        kernel.call("unshare", _FLAGS)
        os.write(ready_w, b"1")
        # Until the maps are written, this process has no id in its namespace and no right to mount.
        if os.read(mapped_r, 1) != b"1":
            raise OSError("the id map of the user namespace was refused")
    finally:
        for descriptor in (ready_r, ready_w, mapped_r):
            os.close(descriptor)
        os.waitpid(helper, 0)


def _map_from_outside(pid: int, ready: int, mapped: int) -> None:
    """Maps two ids: 0, to read the host's files while the file tree is built, and nobody, to run programs."""
    status = 1
    try:
        if os.read(ready, 1) == b"1":
            _write(f"/proc/{pid}/uid_map", f"0 0 1\n{_NOBODY} {_NOBODY} 1")
            _write(f"/proc/{pid}/gid_map", f"0 0 1\n{_NOBODY} {_NOBODY} 1")
            os.write(mapped, b"1")
            status = 0
    finally:
        os._exit(status)


def build_root(packages: Sequence[str] = ()) -> None:
    """Replaces the file tree by read-only mounts of Python's own files and one small scratch folder.

    Args:
        packages: Files and folders of installed packages that programs may use.

    Raises:
        OSError: If a mount or another step fails; for a mount, the message names the target.
    """
    # From here on, mounts of this process do not propagate to the host, nor mounts of the host to this process.
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", _MOUNT_POINT, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in readable_paths():
        _bind(path)
    # Every binary contains the path of the loader, which may lead through a link such as /lib64 to /usr/lib64.
    for name in ("lib", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{_MOUNT_POINT}/{name}")
    # Empty folders are mounted over installed packages and allowed packages into these folders; only then are the
    # folders made read-only.
    for path in hidden_paths():
        kernel.mount("tmpfs", _MOUNT_POINT + path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=64k,mode=755")
    for path in packages:
        _bind(path)
    for path in hidden_paths():
        flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount(None, _MOUNT_POINT + path, None, flags)
    for name in ("null", "zero", "urandom"):  # devices on a read-only mount accept data, but their times cannot change
        _bind(f"/dev/{name}", device=True)
    # The only writable folder: small, with few files, and without the right to execute files in it.
    scratch = _MOUNT_POINT + SCRATCH
    os.makedirs(scratch, exist_ok=True)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_NOATIME
    kernel.mount("tmpfs", scratch, "tmpfs", flags, _SCRATCH_OPTIONS)
    # The new tree becomes the root, and the old one is detached, so that no path leads back to it.
    os.makedirs(f"{_MOUNT_POINT}/old")
    kernel.call("pivot_root", _MOUNT_POINT.encode(), f"{_MOUNT_POINT}/old".encode())
    os.chdir("/")
    kernel.call("umount2", b"/old", kernel.MNT_DETACH)
    os.rmdir("/old")
    kernel.mount(None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID)
    os.chdir(SCRATCH)


def become_nobody() -> None:
    """Changes from root to the user and group nobody; Python's files stay readable because they are world-readable."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def drop_capabilities() -> None:
    """Gives up every capability irrevocably; root in a container then keeps only access to its own files."""
    # The bounding set comes first, since a later execve can give back only capabilities in it. The first number that
    # the kernel does not know ends the loop.
    for capability in range(64):
        try:
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
        except OSError:
            break
    kernel.drop_capabilities()


def _bind(path: str, device: bool = False) -> None:
    target = _MOUNT_POINT + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _write(target, "", os.O_CREAT)
    # The flags of a bind mount can be set only by a second call.
    kernel.mount(path, target, None, kernel.MS_BIND | kernel.MS_REC)
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
    kernel.mount(None, target, None, flags | (0 if device else kernel.MS_NODEV) | _locked_flags(target))


def _locked_flags(path: str) -> int:
    """Flags of the original mount that a user namespace may not clear: noexec and those for access times."""
    present = os.statvfs(path).f_flag
    pairs = ((8, kernel.MS_NOEXEC), (1024, kernel.MS_NOATIME), (2048, kernel.MS_NODIRATIME), (4096, kernel.MS_RELATIME))
    return sum(flag for bit, flag in pairs if present & bit)


def _write(path: str, text: str, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
