"""Who speaks between two attempts: the policy itself, as the verifier or the critic of what it wrote.

``env.between`` names one of :data:`BETWEEN`. After every attempt but the last the policy reads the conversation so far
in another role, says something about the attempt, and is paid for it; what it said is then told to the solver, or ends
the episode. A role has a conversation and a baseline of its own. Another module adds one with
``@BETWEEN.register("mine", role="judge", asks="verify", options=BetweenOptions)``; ``asks`` names the text of
:class:`envs.prompts.Prompts` that the role is asked with.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from envs.prompts import Prompts
from rewards import Score, Verdict
from rewards.lookup import Lookup


class Heard(NamedTuple):
    """What comes of words that were said between two attempts.

    Args:
        reward: What they are worth.
        score: What a verifier says of them, if one does.
        ends: Whether the episode ends here, with the attempt as it is.
    """

    reward: float
    score: Score | None = None
    ends: bool = False


Between = Callable[..., Heard]
"""``(words, score of the attempt, prompts, **options) -> Heard``."""

BETWEEN: Lookup[Between] = Lookup("env.between")
"""``role`` is the role's name, ``asks`` the text that it is asked with; options extend :class:`BetweenOptions`."""


@dataclass(frozen=True)
class BetweenOptions:
    """Options of everyone who speaks between attempts.

    Args:
        max_new_tokens: Token limit of what is said; 0 takes that of a first attempt.
    """

    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_new_tokens < float("inf"):
            raise ValueError(f"env.between_options.max_new_tokens={self.max_new_tokens}: must be at least 0")


@dataclass(frozen=True)
class VerifierOptions(BetweenOptions):
    """Options of ``verify``.

    Args:
        stops: An attempt that the policy finds right is not revised.
    """

    stops: bool = True


@BETWEEN.register("verify", role="verifier", asks="verify", options=VerifierOptions)
def verify(words: str, score: Score, prompts: Prompts, *, stops: bool, max_new_tokens: int) -> Heard:
    """The policy says whether its attempt is right and is paid 1 for being right about it (PAG, S2R); may end there.

    The last of the prompts' words ``says_right`` and ``says_wrong`` decides (arXiv 2506.10406, section 3; 2502.12853,
    section 2.3). Neither of them is no judgement: it is not paid, and the attempt is revised.
    """
    # Whole words only: "right" is not in "bright", nor "wrong" in "wrongly".
    either = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in (prompts.says_right, prompts.says_wrong))
    found = re.findall(either, words, re.IGNORECASE)
    if not found:
        return Heard(0.0, Score(0.0, Verdict.NO_ANSWER))
    says_right = found[-1].lower() == prompts.says_right.lower()
    judged = Score.of(says_right == (score.verdict is Verdict.CORRECT), found[-1])
    return Heard(judged.value, judged, ends=says_right and stops)


@BETWEEN.register("critique", role="critic", asks="critique", options=BetweenOptions)
def critique(words: str, score: Score, prompts: Prompts, *, max_new_tokens: int) -> Heard:
    """The policy criticises its attempt; worth what the next one earns, which ``env.group_reward=critic`` pays.

    With feedback ``none`` the critic alone sees the verifier's observation, as in CTRL (arXiv 2502.03492).
    """
    return Heard(0.0)
