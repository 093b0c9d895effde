"""Isolated, killable execution of untrusted Python, judged from outside the program's process; for Linux only.

:class:`Sandbox` is a pool of warm fork servers, each of which confines itself once; each program runs in a forked
child. Most callers should use :mod:`rewards.code` instead. ``python -m rewards.sandbox.doctor`` prints the layers of
isolation that this machine provides.

The sandbox defends against a policy that games its reward. Programs share the kernel of the host, which may have
vulnerabilities: to run code from deliberate attackers, put the workers into a virtual machine.
"""

from rewards.sandbox.confinement import Mode
from rewards.sandbox.jobs import (
    Conversation,
    Ending,
    Job,
    Judgement,
    Limits,
    Outcome,
    Runner,
    SandboxError,
    Script,
)  # fmt: skip
from rewards.sandbox.supervisor import Sandbox

__all__ = [
    "Conversation", "Ending", "Job", "Judgement", "Limits", "Mode", "Outcome", "Runner", "Sandbox", "SandboxError",
    "Script",
]  # fmt: skip
