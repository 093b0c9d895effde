"""The sandbox itself: how it starts, falls back to weaker isolation, refuses to run, and ends."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from rewards.asserts import Case
from rewards.code import FunctionTests, score_program
from rewards.sandbox import Conversation, Ending, Limits, Mode, Outcome, Sandbox, SandboxError, doctor, kernel, seccomp
from rewards.sandbox.codec import encode
from rewards.sandbox.supervisor import ROOT as PROJECT

# Starting, falling back, refusing.


def emulated(code: str, denied: str) -> subprocess.CompletedProcess:
    """Runs code under a filter that refuses the named system calls, as the filter of a container or cluster would."""
    program = (
        "from rewards.sandbox import kernel, seccomp\n"
        f"steps = seccomp._prologue() + seccomp._refuse({denied!r})\n"
        "table = kernel.numbers()\n"
        "if 'unshare' in " + repr(denied) + ":\n"
        "    steps += [(0x15, 0, 3, table['clone']), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7C020000), seccomp._deny()]\n"
        "kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)\n"
        "seccomp.install(seccomp._assemble([*steps, seccomp._PASS]))\n" + code
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT)


DOCKER = "unshare mount umount2 pivot_root setns"
NO_LANDLOCK = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
REPORT = (
    "from rewards.sandbox import Sandbox\ns = Sandbox(n_workers=1)\nprint(s.mode.name, '|', *s.missing)\ns.close()\n"
)


def test_under_dockers_default_profile_landlock_is_left_and_the_missing_layer_is_named():
    done = emulated(REPORT, DOCKER)
    assert done.returncode == 0, done.stderr
    mode, _, missing = done.stdout.partition("|")
    assert mode.strip() == "LANDLOCK"
    assert "namespaces: " in missing
    assert "unshare" in missing


def test_without_landlock_too_the_strict_mode_is_left():
    done = emulated(REPORT, f"{DOCKER} {NO_LANDLOCK}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("STRICT")
    assert "landlock" in done.stdout


def test_less_than_the_minimum_is_refused():
    code = "from rewards.sandbox import Mode, Sandbox\nSandbox(minimum=Mode.NAMESPACES)\n"
    done = emulated(code, DOCKER)
    assert done.returncode != 0
    assert "SandboxError: no isolation of at least namespaces" in done.stderr
    assert "rewards.sandbox.doctor" in done.stderr


def test_where_nothing_isolates_it_refuses_unless_that_is_asked_for():
    code = (
        "from rewards.sandbox import Mode, Sandbox, SandboxError\n"
        "try:\n    Sandbox()\nexcept SandboxError as error:\n    print('refused', error)\n"
        "s = Sandbox(n_workers=1, minimum=Mode.NONE)\nprint(s.mode.name)\ns.close()\n"
    )
    done = emulated(code, f"{DOCKER} {NO_LANDLOCK} seccomp")
    assert done.returncode == 0, done.stderr
    assert "refused no isolation of at least strict" in done.stdout
    assert done.stdout.strip().endswith("NONE")


def test_the_doctor_says_what_would_help():
    code = "import sys\nsys.argv = ['doctor']\nfrom rewards.sandbox import doctor\nsys.exit(doctor.main())\n"
    done = emulated(code, DOCKER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "namespaces  NO" in done.stdout
    assert "would help: in a container" in done.stdout
    assert "mode        landlock" in done.stdout
    assert done.stdout.count("self-test   ok") == len([p for p in doctor.PROMISES if Mode.LANDLOCK not in p.lost])
    assert "self-test   lost there is a scratch folder" in done.stdout


@pytest.mark.parametrize("mode", ["namespaces", "landlock", "strict"])
def test_an_ordinary_user_gets_the_same(mode, tmp_path):
    """The doctor's self-test gives an unprivileged user the same results as root.

    The user runs a copy of the package that everybody may read, with a Python that everybody may run.
    """
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not os.path.exists(python):
        pytest.skip("needs root, to become somebody else, and a Python outside of the home folder")
    version = subprocess.run([python, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True)
    if version.stdout.strip() != b"True":
        pytest.skip("the system's Python is too old")
    subprocess.run(["cp", "-r", str(PROJECT / "rewards"), str(tmp_path)], check=True)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    done = subprocess.run(
        [python, "-m", "rewards.sandbox.doctor", "--mode", mode],
        capture_output=True, text=True, cwd=tmp_path, user=65534, group=65534, extra_groups=[], env={"HOME": "/"},
        timeout=120,
    )  # fmt: skip
    if "mode        none" in done.stdout:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = [promise for promise in doctor.PROMISES if Mode[mode.upper()] not in promise.lost]
    assert done.stdout.count("self-test   ok") == len(kept), done.stdout


def test_the_probes_and_the_self_test_on_this_machine():
    probes = {probe.name: probe for probe in doctor.probe_all()}
    assert probes["seccomp"].works
    with Sandbox(n_workers=1) as sandbox:
        assert sandbox.mode is (Mode.NAMESPACES if probes["namespaces"].works else Mode.LANDLOCK)


@pytest.mark.parametrize("mode", [Mode.NAMESPACES, Mode.LANDLOCK, Mode.STRICT])
def test_every_mode_keeps_what_is_said_of_it_and_loses_the_rest(mode):
    with Sandbox(n_workers=1, mode=mode) as sandbox:
        for promise, kept in doctor.self_test(sandbox):
            assert kept == (mode not in promise.lost), promise.name


def test_the_table_of_the_page_is_the_doctors():
    page = (PROJECT / "docs" / "verification.md").read_text()
    for promise in doctor.PROMISES:
        cells = ("no" if mode in promise.lost else "yes" for mode in (Mode.NAMESPACES, Mode.LANDLOCK, Mode.STRICT))
        assert f"| {promise.name} | {' | '.join(cells)} |" in page


def test_the_self_test_can_fail():
    class Open:
        """A sandbox that isolates nothing, so that every attempt succeeds."""

        mode = Mode.STRICT

        def run(self, job, limits):
            return Outcome(Ending.FINISHED, ({"loaded": True}, {"value": 45}))

    results = doctor.self_test(Open())
    assert [promise.name for promise, kept in results if kept] == ["an honest program runs"]


def test_the_self_test_never_runs_where_nothing_isolates():
    class Nothing:
        mode = Mode.NONE

    with pytest.raises(ValueError, match="isolated mode"):
        doctor.self_test(Nothing())


# Ending.


def run(sandbox, source, *args):
    """The reply to ``f(*args)``, or the ending of a process that did not finish."""
    load = {"kind": "load", "source": source}
    call = {"kind": "calls", "calls": [{"name": "f", "args": [encode(arg) for arg in args], "kwargs": {}}]}
    outcome = sandbox.run(Conversation((load, call), output_after=2), Limits(cpu_s=10.0))
    return outcome.replies[1] if outcome.ending is Ending.FINISHED else outcome.ending


def pid_one(server):
    """Process id of pid 1 in the fork server's own namespace, or of the server itself if it has no namespace."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return int(children[0]) if children else server.pid


def test_a_fork_server_that_dies_idle_is_replaced():
    with Sandbox(n_workers=1) as sandbox:
        (server,) = sandbox._servers
        os.kill(server.pid, signal.SIGKILL)
        # Pid 1 of the server's namespace dies a moment after the server; until then it would still run programs.
        gone = select.poll()
        gone.register(server._control, 0)
        assert gone.poll(60_000)
        assert run(sandbox, "def f(): return 1") == {"value": 1}
        assert sandbox.counts[Ending.BROKEN] == 0


@pytest.mark.parametrize("deaths", [1, 9])
def test_what_happens_to_a_fork_server_while_a_program_runs_is_the_programs_doing(deaths, monkeypatch):
    """A program whose fork server dies runs once more on a fresh server; a second death is the program's failure.

    If the outcome were an error of the sandbox, a policy could learn to cause such errors.
    """
    from rewards.sandbox import supervisor

    left = [deaths]
    report = supervisor._Server._report

    def dies(self, wait):
        if left[0]:
            left[0] -= 1
            os.kill(pid_one(self), signal.SIGKILL)
            self._process.wait()
        return report(self, wait)

    monkeypatch.setattr(supervisor._Server, "_report", dies)
    with Sandbox(n_workers=1) as sandbox:
        assert run(sandbox, "def f(): return 1") == ({"value": 1} if deaths == 1 else Ending.DIED)


def test_a_server_that_cannot_be_started_is_our_failure(monkeypatch):
    with Sandbox(n_workers=1) as sandbox:
        sandbox._packages = ["/nothing/there"]
        (server,) = sandbox._servers
        monkeypatch.setattr("rewards.sandbox.supervisor.subprocess.Popen", lambda *a, **k: 1 / 0)
        server.spent = True
        server.kill()
        assert run(sandbox, "def f(): return 1") is Ending.BROKEN


def test_a_pause_of_the_trainer_stops_no_program(monkeypatch):
    """A program that is killed as idle because the trainer paused is run again, not counted as too slow.

    While it waits for its next request, the program looks as if it slept.
    """
    from rewards.sandbox import supervisor

    real, pauses = supervisor.Frames.receive, [1.5]

    def paused(self, max_bytes):
        reply = real(self, max_bytes)
        time.sleep(pauses.pop() if pauses else 0)
        return reply

    monkeypatch.setattr(supervisor.Frames, "receive", paused)
    load = {"kind": "load", "source": "def f(): return 1"}
    call = {"kind": "calls", "calls": [{"name": "f", "args": [], "kwargs": {}}]}
    with Sandbox(n_workers=1) as sandbox:
        outcome = sandbox.run(Conversation((load, call)), Limits(cpu_s=0.1))
    assert outcome.ending is Ending.FINISHED
    assert not pauses


# What one program could leave for the next.

TRACES = {
    "threads use up process numbers": "import threading\ndef f():\n    for _ in range(9):\n"
    "        t = threading.Thread(target=int)\n        t.start()\n        t.join()\n",
    "inode numbers of files": "def f():\n    for i in range(9): open(f'/tmp/{i}', 'w').close()\n",
    "a file removed again": "import os\ndef f():\n    open('/tmp/a', 'w').close()\n    os.unlink('/tmp/a')\n",
    "times of the folder": "import os\ndef f():\n    os.utime('/tmp', (5, 5))\n",
    "mode of the folder": "import os\ndef f():\n    os.chmod('/tmp', 0)\n",
    "names too long to be removed": "import os\ndef f():\n    for _ in range(200):\n        os.mkdir('d' * 250)\n"
    "        os.chdir('d' * 250)\n    open('x', 'w').close()\n    os.chmod('.', 0)\n",
    "access time of the folder": "import os\ndef f():\n    os.listdir('/tmp')\n",
    "times of a device": "import os\ndef f():\n    os.utime('/dev/null')\n",
}
LOOK = (
    "import os\ndef f():\n    s = os.stat('/tmp')\n    n = os.stat('/dev/null')\n    before = os.listdir('/tmp')\n"
    "    open('/tmp/probe', 'w').close()\n    i = os.stat('/tmp/probe').st_ino\n"
    "    return [os.getpid(), s.st_mode, s.st_atime_ns - s.st_ctime_ns, s.st_mtime_ns - s.st_ctime_ns, before, i, n.st_mtime]\n"
)


@pytest.mark.parametrize("name", TRACES)
def test_nothing_is_left_for_the_next_program(name):
    with Sandbox(n_workers=1) as sandbox:
        if sandbox.mode is not Mode.NAMESPACES:
            pytest.skip("this mode has neither a scratch folder nor process numbers of its own")
        run(sandbox, "def f(): pass")
        untouched = run(sandbox, LOOK)
        run(sandbox, "def f(): pass")
        run(sandbox, TRACES[name])
        seen = run(sandbox, LOOK)
        assert untouched["value"][1:] == seen["value"][1:]
        assert seen["value"][0] <= 4  # the process number may count earlier programs, but not the threads they started
        assert sandbox.counts[Ending.BROKEN] == 0


def test_closing_ends_everything_at_once_and_twice_is_no_error():
    sandbox = Sandbox(n_workers=2)
    future = sandbox.submit(Conversation(({"kind": "load", "source": "while True: pass"},)), Limits(cpu_s=10**4))
    while not future.running():
        time.sleep(0.01)
    pids = [server.pid for server in sandbox._servers]
    sandbox.close()
    sandbox.close()
    assert future.result(timeout=60).ending is Ending.BROKEN
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    with pytest.raises(SandboxError, match="closed"):
        run(sandbox, "")


def test_a_program_that_nobody_waits_for_does_not_keep_a_sandbox_from_closing():
    endless = Conversation(({"kind": "load", "source": "while True: pass"},))
    sandbox = Sandbox(n_workers=1)
    running = sandbox.submit(endless, Limits(cpu_s=10**4))
    while not running.running():
        time.sleep(0.01)
    given_up, waiting = (sandbox.submit(endless, Limits(cpu_s=10**4)) for _ in range(2))
    assert given_up.cancel()
    sandbox.close()
    assert [future.result(timeout=60).ending for future in (running, waiting)] == [Ending.BROKEN] * 2


def test_nothing_outlives_a_killed_supervisor():
    code = (
        "import os, time\nfrom rewards.sandbox import Conversation, Limits, Sandbox\n"
        "s = Sandbox(n_workers=2)\nprint(*[server.pid for server in s._servers], flush=True)\n"
        "s.submit(Conversation(({'kind': 'load', 'source': 'while True: pass'},)), Limits(cpu_s=10000))\n"
        "time.sleep(0.5)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_nothing_of_the_trainer_is_in_a_programs_process(monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    with Sandbox(n_workers=1) as sandbox:
        reply = run(sandbox, "import os, sys\ndef f():\n    return [dict(os.environ), sys.argv, sys.path, os.getcwd()]")
    said = json.dumps(reply)
    assert "hunter2" not in said
    assert str(PROJECT) not in said


@pytest.mark.parametrize("mode", [Mode.NAMESPACES, Mode.LANDLOCK, Mode.STRICT])
def test_a_program_has_no_capability_whoever_started_it(mode):
    source = (
        "import ctypes\n\nclass Header(ctypes.Structure):\n"
        "    _fields_ = (('version', ctypes.c_uint32), ('pid', ctypes.c_int))\n"
        "def f():\n    sets = (ctypes.c_uint32 * 6)(*[7] * 6)\n"
        "    refused = ctypes.CDLL(None).capget(ctypes.byref(Header(0x20080522, 0)), sets)\n"
        "    return refused, list(sets)\n"
    )
    with Sandbox(n_workers=1, mode=mode) as sandbox:
        assert "no capabilities" in sandbox.layers
        (server,) = sandbox._servers
        pids = [server.pid, *map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split())]
        status = Path(f"/proc/{pids[-1]}/status").read_text()
        reply = run(sandbox, source)
    assert "CapEff:\t0000000000000000" in status
    assert "CapPrm:\t0000000000000000" in status
    assert reply["value"]["tuple"][0] == -1  # even asking for the capabilities is refused


def test_programs_start_from_the_same_random_state():
    source = "import random\ndef f(): return [random.random(), hash('x')]"
    with Sandbox(n_workers=2) as sandbox:
        results = {json.dumps(run(sandbox, source)) for _ in range(6)}
    assert len(results) == 1


def test_limits_refuse_nonsense():
    with pytest.raises(ValueError, match="must be positive"):
        Limits(cpu_s=0)


def test_every_listed_call_has_a_number_on_both_architectures(monkeypatch):
    """Every system call that the filters name is known; a mistyped name would silently be left out of the filter."""
    known = {entry.split(":")[0] for entry in kernel._TABLE.split()}
    for names in (seccomp._BASE, seccomp._NOT_FOR_CHILDREN, seccomp._OPENS_FILES, seccomp._CHANGES_FILES):
        assert not set(names.split()) - known
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(kernel, "machine", lambda machine=machine: machine)
        kernel.numbers.cache_clear()
        assert len(seccomp.base_filter()) % 8 == 0
    kernel.numbers.cache_clear()


def test_another_system_is_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    kernel.numbers.cache_clear()
    with pytest.raises(OSError, match="darwin"):
        kernel.numbers()
    kernel.numbers.cache_clear()


def test_the_strict_mode_has_the_parts_of_a_package_that_are_imported_late():
    """Parts of a package that are usually imported late are loaded in advance, as strict mode later opens no file.

    Importing any other package raises an ImportError that states the reason.
    """
    uses = (
        "np.unique([4])[0]", "np.random.default_rng(0).integers(4, 5)", "int(np.fft.fft([4])[0].real)", "np.ma.array([4])[0]",
        "np.polynomial.polynomial.polyval(2, [0, 2])", "np.testing.assert_allclose(1, 1) or 4", "np.char.add('a', 'b') and 4",
        "__import__('numpy.lib.recfunctions') and 4", "np.strings.upper('a') and 4", "np.ctypeslib.as_array and 4",
    )  # fmt: skip
    tests = FunctionTests(hidden=tuple(Case(f"f{i}", (), 4) for i in range(len(uses))))
    program = "import numpy as np\n" + "".join(f"def f{i}():\n    return {use}\n" for i, use in enumerate(uses))
    refused = "def g():\n    try:\n        import scipy\n    except ImportError as error:\n        return str(error)\n"
    with Sandbox(n_workers=1, mode=Mode.STRICT, modules=("numpy",)) as sandbox:
        # Part of the key of a cached verdict.
        assert sandbox.settings == ("STRICT", 2**30, (("numpy", (version("numpy"),)),))
        assert score_program(program, tests, Limits(cpu_s=5.0), sandbox=sandbox).verdict == "correct"
        shown = FunctionTests(public=(Case("g", (), ""),))
        assert "isolation strict opens no file" in score_program(refused, shown, sandbox=sandbox).observation
