"""The built-in task sets, one file each. Importing this package registers them."""

import gymnasium

from envs.registry import register
from envs.tasks.addition import Addition
from envs.tasks.countdown import Countdown
from envs.tasks.gsm8k import GSM8K
from envs.tasks.humaneval import HumanEval
from envs.tasks.math import Math
from envs.tasks.mbpp import MBPP
from envs.tasks.mend import Mend
from envs.tasks.modchain import ModChain
from envs.tasks.reasoning_gym import ReasoningGym
from envs.tasks.repair import Repair
from envs.tasks.rows import Rows
from envs.tasks.stdin_code import StdinCode
from envs.tasks.sums import Sums
from envs.tasks.tinycode import TinyCode
from envs.tasks.verifiers_package import VerifiersTasks

register("errata/modchain-v1", ModChain, prompts="toy-v1")
register("errata/repair-v1", Repair, prompts="toy-run-v1", feedback="execution")
register("errata/sums-v1", Sums, prompts="sum-run-v1", feedback="execution")
register("errata/mend-v1", Mend, prompts="toy-run-v1", feedback="execution")
register("errata/addition-v1", Addition, prompts="restate-v1")
register("errata/countdown-v1", Countdown, prompts="math-v1")
register("errata/tinycode-v1", TinyCode, prompts="code-v1", feedback="execution")
register("errata/humaneval-v1", HumanEval, prompts="code-v1", feedback="execution", split="test")
register("errata/mbpp-v1", MBPP, prompts="code-v1", feedback="execution")
register("errata/stdin_code-v1", StdinCode, prompts="code-v1")
register("errata/gsm8k-v1", GSM8K, prompts="math-v1")
register("errata/math-v1", Math, prompts="math-v1")
register("errata/reasoning_gym-v1", ReasoningGym, prompts="short-v1")
register("errata/rows-v1", Rows)
register("errata/verifiers-v1", VerifiersTasks, prompts="plain-v1")
gymnasium.register("errata/openenv-v1", entry_point="envs.openenv:OpenEnv", disable_env_checker=True)
