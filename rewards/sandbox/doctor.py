"""``python -m rewards.sandbox.doctor``: which layers this machine gives, the mode they add up to, whether it holds.

Every primitive is tried for real, in a process that is thrown away; then about ten tiny hostile programs run in the
best mode. Exits with 1 if no isolated mode works or a program gets through.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rewards.sandbox import kernel, landlock, namespaces, seccomp
from rewards.sandbox.confinement import Mode
from rewards.sandbox.supervisor import Conversation, Ending, Limits, Outcome, Sandbox, SandboxError

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
    """Whether one primitive works here, or what the kernel said."""

    name: str
    works: bool
    detail: str

    @property
    def hint(self) -> str:
        """What an administrator could change."""
        return "" if self.works else _HINTS.get(self.name, "")


def probe_all() -> list[Probe]:
    """Tries every primitive that the sandbox builds on, each in a child of its own."""
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
    raise OSError(errno.EPERM, "a ruleset was accepted and does nothing")


def _seccomp() -> str:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.base_filter())
    try:
        kernel.call("socket", 2, 1, 0)
    except PermissionError:
        return f"allow-list of {len(seccomp.base_filter()) // 16} calls"
    raise OSError(errno.EPERM, "a filter was accepted and does nothing")


def _in_child(name: str, step: Callable[[], str]) -> Probe:
    reader, writer = os.pipe()
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


# A program a line: what it tries, and what must come back.
_BLOCKED = "blocked"
SELF_TEST: tuple[tuple[str, str, object], ...] = (
    ("an honest program", "def f():\n    return sum(range(10))", 45),
    ("network", "import socket\ndef f():\n    socket.socket().connect(('127.0.0.1', 9))", _BLOCKED),
    ("read /etc/passwd", "def f():\n    return open('/etc/passwd').read()", _BLOCKED),
    ("write a file outside", "def f():\n    open('/var/tmp/errata-probe', 'w')", _BLOCKED),
    ("fork", "import os\ndef f():\n    return os.fork()", _BLOCKED),
    ("kill", "import os\ndef f():\n    os.kill(-1, 9)", _BLOCKED),
    ("exec", "import os\ndef f():\n    os.execv('/bin/sh', ['sh'])", _BLOCKED),
    ("leave with status 0", "import os\ndef f():\n    os._exit(0)", Ending.DIED),
    ("run for ever", "def f():\n    while True: pass", Ending.TIMEOUT),
    ("take all memory", "def f():\n    return len([0] * 10**10)", _BLOCKED),
)


def self_test(sandbox: Sandbox) -> list[tuple[str, bool]]:
    """Runs the tiny programs; true where the right thing happened.

    Raises:
        ValueError: If the sandbox does not isolate: there, ``kill(-1)`` would end every process of this user.
    """
    if sandbox.mode is Mode.NONE:
        raise ValueError("the self-test runs hostile programs and needs an isolated mode")
    results = []
    for name, source, wanted in SELF_TEST:
        load = {"kind": "load", "source": source, "name": "solution"}
        call = {"kind": "calls", "calls": [{"name": "f", "args": [], "kwargs": {}}], "last": True}
        outcome = sandbox.run(Conversation((load, call), output_after=2), Limits(wall_s=2.0))
        results.append((name, _as_wanted(outcome, wanted)))
    return results


def _as_wanted(outcome: Outcome, wanted: object) -> bool:
    if isinstance(wanted, Ending):
        return outcome.ending is wanted
    if outcome.ending is not Ending.FINISHED:
        return False
    result = outcome.replies[1]["results"][0]
    return "raised" in result if wanted == _BLOCKED else result == {"value": wanted}


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
    args = parser.parse_args()
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
    for name, held in results:
        print(f"self-test   {'ok  ' if held else 'FAIL'} {name}")
    return 0 if all(held for _, held in results) else 1


if __name__ == "__main__":
    sys.exit(main())
