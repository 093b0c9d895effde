"""Environments: chat messages in, text out, a verified reward per attempt. This layer never sees token ids."""

from envs import tasks as _builtin  # registers the built-in environments
from envs.base import Feedback, Message, Split, StopReason, Task, TaskSet
from envs.checker import check_env
from envs.registry import make, register, specs
from envs.self_correct import SelfCorrectEnv

__all__ = [
    "Feedback",
    "Message",
    "SelfCorrectEnv",
    "Split",
    "StopReason",
    "Task",
    "TaskSet",
    "check_env",
    "make",
    "register",
    "specs",
]

del _builtin
