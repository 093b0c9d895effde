"""``python -m rewards.sandbox.doctor`` tests the layers of isolation on this machine and the mode that they allow.

First, every primitive is tried in a process of its own. Then every promise of the mode is tested: a tiny program tries
to attack decoys, which are a file, a socket and a process made for this purpose. Promises that a mode does not make are
listed as lost. The exit status is 1 if no isolated mode works or a promise is broken. ``--table`` runs all modes and
prints the table of the documentation.
"""

import argparse
import errno
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rewards.sandbox import kernel, landlock, namespaces, seccomp
from rewards.sandbox.confinement import Mode
from rewards.sandbox.jobs import Conversation, Ending, Limits, Outcome, SandboxError
from rewards.sandbox.supervisor import Sandbox

_HINTS = {
    "namespaces": (
        "in a container: --security-opt seccomp=unconfined, or a profile that allows unshare and mount; on Ubuntu from "
        "24.04: an AppArmor profile with 'userns,' or kernel.apparmor_restrict_unprivileged_userns=0; on RHEL: "
        "user.max_user_namespaces > 0"
    ),
    "mount tree": "the container or AppArmor forbids mount inside a user namespace: see namespaces",
    "landlock": "a kernel of 5.13 or later with 'landlock' in its lsm= list (/sys/kernel/security/lsm)",
    "seccomp": "a kernel with CONFIG_SECCOMP_FILTER; some user-space kernels have none",
    "memfd": "a kernel of 3.17 or later",
    "pidfd": "a kernel of 5.3 or later",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """Result of a test whether one primitive works on this machine; ``detail`` may hold the kernel's error."""

    name: str
    works: bool
    detail: str

    @property
    def hint(self) -> str:
        """What an administrator could change to make the primitive work; empty if it works."""
        return "" if self.works else _HINTS.get(self.name, "")


def probe_all() -> list[Probe]:
    """Tries every primitive that the sandbox needs, each in a separate child process."""
    if not kernel.supported():
        return [Probe("system", False, f"{sys.platform} on {kernel.machine()}: Linux on x86_64 or aarch64 is needed")]
    steps: dict[str, Callable[[], str]] = {
        "memfd": lambda: _closed(os.memfd_create("probe")),
        "pidfd": lambda: _closed(os.pidfd_open(os.getpid())),
        "namespaces": _enter,
        "mount tree": _mount_tree,
        "landlock": _landlock,
        "seccomp": _seccomp,
    }
    return [_in_child(name, step) for name, step in steps.items()]


def _closed(descriptor: int) -> str:
    os.close(descriptor)
    return "works"


def _enter() -> str:
    namespaces.enter()
    return "user, mount, pid, network, ipc, uts"


def _mount_tree() -> str:
    namespaces.enter()
    if pid := os.fork():
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise OSError(errno.EPERM, "pivot_root into a private tree failed")
        return "pivot_root into a private tree"
    try:
        namespaces.build_root()
        namespaces.become_nobody()
        namespaces.drop_capabilities()
        os._exit(0 if not os.path.exists("/proc/self") and os.listdir("/tmp") == [] else 1)
    finally:
        os._exit(1)


def _landlock() -> str:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    abi = landlock.restrict([("/dev/null", landlock.WRITE)])
    try:
        os.listdir("/")
    except PermissionError:
        return f"ABI {abi}" + ("" if abi >= 4 else ", without network rules") + ("" if abi >= 6 else ", without scopes")
    # Some user-space kernels accept the calls without any effect.
    raise OSError(errno.EPERM, "a ruleset was accepted and does nothing")


def _seccomp() -> str:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.base_filter())
    try:
        # A socket of AF_INET and SOCK_STREAM, which the allow-list does not contain.
        kernel.call("socket", 2, 1, 0)
    except PermissionError:
        return f"allow-list of {len(seccomp.base_filter()) // 16} calls"
    raise OSError(errno.EPERM, "a filter was accepted and does nothing")


def _in_child(name: str, step: Callable[[], str]) -> Probe:
    reader, writer = os.pipe()
    # In a child, since a process can never leave a namespace, a ruleset or a filter.
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, b"+" + step().encode())
        except OSError as error:
            os.write(writer, f"-{error.strerror or error} (errno {error.errno})".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return Probe(name, said.startswith("+"), said[1:] or "the probe died")


_BLOCKED = "blocked"
_N, _L, _S = Mode.NAMESPACES, Mode.LANDLOCK, Mode.STRICT


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that a program tries, and the result that the sandbox promises.

    Args:
        name: The promise in words.
        body: Body of the function that tries it; ``{file}``, ``{folder}``, ``{socket}``, ``{pid}`` are decoys.
        wanted: ``_BLOCKED`` if the attempt must raise; otherwise the value that must be returned, or the ending.
        lost: Modes that do not make this promise.
    """

    name: str
    body: str
    wanted: object = _BLOCKED
    lost: tuple[Mode, ...] = ()


PROMISES = (
    Promise("an honest program runs", "return sum(range(10))", 45),
    Promise("any module of the standard library can be imported", "import xml.dom.minidom\nreturn 1", 1, (_S,)),
    Promise("there is a scratch folder", "with open('/tmp/a', 'w') as f: return f.write('ab')", 2, (_L, _S)),
    Promise("files of the machine cannot be seen", "return os.stat({file!r}).st_size", lost=(_L, _S)),
    Promise("files cannot be read", "return open({file!r}).read()"),
    Promise("files cannot be written to", "open({file!r}, 'a').write('x')"),
    Promise("files cannot be truncated", "os.truncate({file!r}, 0)"),
    Promise("files cannot be removed", "os.unlink({file!r})"),
    Promise("files cannot be renamed", "os.rename({file!r}, {file!r} + '2')"),
    Promise("files cannot be made", "open({folder!r} + '/new', 'w')"),
    Promise("files cannot be linked", "os.symlink({file!r}, {folder!r} + '/link')"),
    Promise("folders cannot be made", "os.mkdir({folder!r} + '/folder')"),
    Promise("modes of files cannot be changed", "os.chmod({file!r}, 0o600)"),
    Promise("times of files cannot be changed", "os.utime({file!r}, (0, 0))"),
    Promise("times of devices cannot be changed", "os.utime('/dev/null')"),
    Promise("installed packages cannot be read", "from sysconfig import get_path\n"
            "return [open(e).read(1) for e in os.scandir(get_path('stdlib') + '/site-packages') if e.is_file()][0]"),
    Promise("no network", "socket.socket().connect(('127.0.0.1', 9))"),
    Promise("no datagram to a socket in the file tree",
            "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', {socket!r})"),
    Promise("no signal to another process", "os.kill({pid}, 15)"),
    Promise("no signal to all processes", "os.kill(-1, 15)"),
    Promise("no signal through the owner of a socket",
            "import fcntl\nfcntl.fcntl(socket.socketpair()[0], fcntl.F_SETOWN, {pid})"),
    Promise("no other process is traced",
            "import ctypes\nif ctypes.CDLL(None).ptrace(16, {pid}, 0, 0): raise OSError"),
    Promise("no process is made", "os.fork()"),
    Promise("no other program is run", "os.execv('/bin/sh', ['sh'])"),
    Promise("limits cannot be raised", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))"),
    Promise("memory is limited", "return len([0] * 10**10)"),
    Promise("time is limited", "while True: pass", Ending.TIMEOUT),
    Promise("leaving with status 0 is no answer", "os._exit(0)", Ending.DIED),
)  # fmt: skip


@contextmanager
def _decoys() -> Iterator[tuple[dict[str, object], Callable[[], object]]]:
    """Decoys that programs try to attack, and a function whose value changes if an attack succeeded."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        os.chmod(folder, 0o755)
        file, address = f"{folder}/file", f"{folder}/socket"
        with open(file, "w") as stream:
            stream.write("decoy")
        listener.bind(address)
        listener.setblocking(False)
        # A process of this user that programs try to signal or trace; it waits for input that never comes.
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)

        def state() -> object:
            stat = os.stat(file) if os.path.exists(file) else None
            try:
                received = listener.recv(9)
            except BlockingIOError:
                received = None
            return stat and (stat.st_mode, stat.st_size, stat.st_mtime), received, process.poll(), os.listdir(folder)

        try:
            yield {"file": file, "folder": folder, "socket": address, "pid": process.pid}, state
        finally:
            process.kill()
            process.communicate()


def self_test(sandbox: Sandbox) -> list[tuple[Promise, bool]]:
    """Tests every promise, and returns each with whether the sandbox kept it.

    Raises:
        ValueError: If the sandbox does not isolate, since ``kill(-1)`` would then end every process of this user.
    """
    if sandbox.mode is Mode.NONE:
        raise ValueError("the self-test runs hostile programs and needs an isolated mode")
    results = []
    with _decoys() as (decoys, state):
        before = state()
        for promise in PROMISES:
            body = "".join(f"    {line}\n" for line in promise.body.format(**decoys).splitlines())
            load = {"kind": "load", "source": f"import os, socket\ndef f():\n{body}"}
            call = {"kind": "calls", "calls": [{"name": "f", "args": [], "kwargs": {}}]}
            outcome = sandbox.run(Conversation((load, call), output_after=2), Limits(cpu_s=1.0))
            # The attempt must have ended as promised, and no decoy must have changed.
            results.append((promise, _as_wanted(outcome, promise.wanted) and state() == before))
    return results


def _as_wanted(outcome: Outcome, wanted: object) -> bool:
    if isinstance(wanted, Ending):
        return outcome.ending is wanted
    if outcome.ending is not Ending.FINISHED or outcome.replies[0] != {"loaded": True}:
        return False
    return "raised" in outcome.replies[1] if wanted == _BLOCKED else outcome.replies[1] == {"value": wanted}


def table() -> str:
    """A Markdown table that shows which isolated mode keeps which promise on this machine."""
    lines, kept = [], {}
    for mode in (_N, _L, _S):
        with Sandbox(n_workers=1, mode=mode) as sandbox:
            kept[mode] = dict(self_test(sandbox))
    lines = [
        "| promise | " + " | ".join(f"`{mode.name.lower()}`" for mode in kept) + " |",
        "|---|" + "---|" * len(kept),
    ]
    for promise in PROMISES:
        cells = ("yes" if kept[mode][promise] else "no" for mode in kept)
        lines.append(f"| {promise.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Prints the report; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rewards.sandbox.doctor", description="Which layers of isolation this machine gives."
    )
    parser.add_argument(
        "--mode",
        choices=[mode.name.lower() for mode in Mode if mode is not Mode.NONE],
        help="test this mode, not the best one",
    )
    parser.add_argument("--table", action="store_true", help="print what each mode keeps, as Markdown")
    args = parser.parse_args()
    if args.table:
        print(table())
        return 0
    print(f"system      {sys.platform} {os.uname().release} {kernel.machine()}, uid {os.geteuid()}")
    probes = probe_all()
    for probe in probes:
        print(f"{probe.name:<12}{'yes' if probe.works else 'NO ':<4} {probe.detail}")
        if probe.hint:
            print(f"{'':<16} would help: {probe.hint}")
    try:
        sandbox = Sandbox(n_workers=1, mode=Mode[args.mode.upper()] if args.mode else None)
    except SandboxError as error:
        print(f"mode        none: {error}")
        return 1
    with sandbox:
        print(f"mode        {sandbox.mode.name.lower()}: {', '.join(sandbox.layers)}")
        for reason in sandbox.missing:
            print(f"{'':<12}not {reason}")
        results = self_test(sandbox)
    for promise, kept in results:
        lost = sandbox.mode in promise.lost
        print(f"self-test   {'ok  ' if kept else 'lost' if lost else 'FAIL'} {promise.name}")
    return 0 if all(kept or sandbox.mode in promise.lost for promise, kept in results) else 1


if __name__ == "__main__":
    sys.exit(main())
