"""Roles that speak between two attempts: the policy itself, as the verifier or the critic of its own attempt.

``env.between`` is a name in :data:`BETWEEN`. After every attempt but the last the policy reads the conversation so far
in another role, comments on the attempt, and is paid for the comment; the comment is then shown to the solver, or ends
the episode. Each role has its own conversation and its own baseline. Another module adds a role with
``@BETWEEN.register("mine", role="judge", asks="verify", options=BetweenOptions)``; ``asks`` names the field of
:class:`envs.prompts.Prompts` whose text asks the role to speak.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from envs.prompts import Prompts
from rewards import Score, Verdict
from rewards.lookup import Lookup


class Heard(NamedTuple):
    """The consequences of what a role said between two attempts.

    Args:
        reward: Reward for the role's turn.
        score: Score of the role's turn; ``None`` if the turn is not verified.
        ends: Whether the episode ends here, without a further attempt.
    """

    reward: float
    score: Score | None = None
    ends: bool = False


Between = Callable[..., Heard]
"""``(words, score of the attempt, prompts, **options) -> Heard``."""

BETWEEN: Lookup[Between] = Lookup("env.between")
"""``role`` names the role, ``asks`` the field of ``Prompts`` that asks it; options extend :class:`BetweenOptions`."""


@dataclass(frozen=True)
class BetweenOptions:
    """Options of every role that speaks between attempts.

    Args:
        max_new_tokens: Token limit of the role's turn; 0 takes the limit of a first attempt.
    """

    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_new_tokens < float("inf"):
            raise ValueError(f"env.between_options.max_new_tokens={self.max_new_tokens}: must be at least 0")


@dataclass(frozen=True)
class VerifierOptions(BetweenOptions):
    """Options of ``verify``.

    Args:
        stops: Whether the episode ends when the policy judges its attempt to be right.
    """

    stops: bool = True


@BETWEEN.register("verify", role="verifier", asks="verify", options=VerifierOptions)
def verify(words: str, score: Score, prompts: Prompts, *, stops: bool, max_new_tokens: int) -> Heard:
    """The policy judges its attempt and earns 1 if the judgement is true; "right" may end the episode (PAG, S2R).

    The last occurrence of one of the prompts' words ``says_right`` and ``says_wrong`` decides (arXiv 2506.10406,
    section 3; 2502.12853, section 2.3). A text with neither word is no judgement: it earns 0, and the attempt is
    revised.
    """
    # Whole words only: "right" must not be found in "bright", nor "wrong" in "wrongly".
    either = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in (prompts.says_right, prompts.says_wrong))
    found = re.findall(either, words, re.IGNORECASE)
    if not found:
        return Heard(0.0, Score(0.0, Verdict.NO_ANSWER))
    says_right = found[-1].lower() == prompts.says_right.lower()
    judged = Score.of(says_right == (score.verdict is Verdict.CORRECT), found[-1])
    return Heard(judged.value, judged, ends=says_right and stops)


@BETWEEN.register("critique", role="critic", asks="critique", options=BetweenOptions)
def critique(words: str, score: Score, prompts: Prompts, *, max_new_tokens: int) -> Heard:
    """The policy criticises its attempt; ``env.group_reward=critic`` pays the critique what the next attempt earns.

    With feedback ``none`` only the critic sees the verifier's observation, as in CTRL (arXiv 2502.03492).
    """
    return Heard(0.0)
