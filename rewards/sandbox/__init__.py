"""Isolated, killable execution of untrusted Python, judged from outside the program's process. Linux only.

:class:`Sandbox` is a pool of warm fork servers, each confined once; a program is one forked child. ``rewards.code`` is
what most callers want. ``python -m rewards.sandbox.doctor`` prints which layers this machine gives.

It defends against a policy that games its reward. The kernel is a surface that both share: for code from people who
attack on purpose, run the workers in a virtual machine.
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
