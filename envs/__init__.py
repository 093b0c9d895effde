"""Environments: chat messages in, text out, a verified reward per attempt. This layer never sees token ids."""

from envs import tasks as _builtin  # registers the built-in environments
from envs.base import Message, Split, StopReason, Task, TaskSet, TextEnv, messages_of
from envs.between import BETWEEN
from envs.checker import check_env
from envs.prompts import PROMPTS, Prompts
from envs.registry import (
    ENVIRONMENTS,
    make,
    make_taskset,
    make_text_env,
    refuse_unknown_options,
    register,
    settings,
    specs,
)
from envs.self_correct import FEEDBACK, STOP_RULES, SelfCorrectEnv

__all__ = [
    "BETWEEN",
    "ENVIRONMENTS",
    "FEEDBACK",
    "PROMPTS",
    "STOP_RULES",
    "Message",
    "Prompts",
    "SelfCorrectEnv",
    "Split",
    "StopReason",
    "Task",
    "TaskSet",
    "TextEnv",
    "check_env",
    "make",
    "make_taskset",
    "make_text_env",
    "messages_of",
    "refuse_unknown_options",
    "register",
    "settings",
    "specs",
]

del _builtin
