"""Which part of a response is the program?

Rule, in this order. Text before ``</think>`` is a draft; without that tag, an open ``<think>`` makes all behind it one.
A block is fenced by three or more backticks or tildes, the closing fence at least as long as the opening one. Blocks
tagged as Python are preferred to untagged ones, others are none. If names are asked for: the last block that defines
one, not counting stubs (nothing but ``pass``, ``...`` or a docstring), quoted mistakes or blocks that are no Python;
earlier blocks are put in front as far as they define a name that it reads and lacks. Without names: the last block that
is a program: no output, no example of use. Without a closed block there is no program: it may have been cut off.
"""

from rewards.answers import code_blocks, program_in

__all__ = ["code_blocks", "program_in"]
