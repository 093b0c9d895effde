"""What a verifier says about one response."""

from dataclasses import dataclass
from enum import StrEnum

from rewards.lookup import nearest


class Verdict(StrEnum):
    """Six endings of a verification, so that "wrong" and "we could not tell" are never one curve."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """The response offers nothing in the form that the task asks for."""
    AMBIGUOUS = "ambiguous"
    """Several different values are offered as final. Worth 0 and trained on: hedging must not pay."""
    TIMEOUT = "timeout"
    """The response made the verifier pass its deadline. Worth 0 and trained on: the response caused it."""
    ERROR = "error"
    """The verifier failed for a reason that the response did not cause. Masked out of training and counted."""

    @classmethod
    def _missing_(cls, value: object) -> "Verdict":
        raise ValueError(f"verdict={value}: unknown{nearest(str(value), list(cls))} Known: {', '.join(cls)}")


@dataclass(frozen=True, slots=True)
class Score:
    """A value in [0, 1] and the verdict behind it.

    Args:
        value: What the attempt is worth; 0 unless the verdict is ``correct`` (code tasks may give partial credit).
        verdict: How the verification ended; its name as text is taken too.
        answer: The final answer as extracted, in a notation that people read; ``None`` if there was none.
        reason: Which rule decided (``exact``, ``rational``, ``math_verify``, ...), for the log's histogram.
        observation: What the policy may be told about the attempt (feedback mode ``execution``): of *public* tests
            only, and already cleaned for a chat.
        key: Two attempts gave "the same answer" when these are equal; a verifier that knows no better leaves it to
            ``answer``.
        public: Whether all *public* tests passed; ``None`` where there are none.
        error: Which kind of error a response makes that is not right, for figure F14, such as ``slot a``; a verifier
            that knows no better leaves it to verdict and reason.

    Raises:
        ValueError: If ``value`` is outside [0, 1], an ``error`` carries a value, or there is no such verdict.
    """

    value: float
    verdict: Verdict
    answer: str | None = None
    reason: str = ""
    observation: str = ""
    key: str | None = None
    public: bool | None = None
    error: str = ""

    def __post_init__(self) -> None:
        if type(self.verdict) is not Verdict:  # its name will do
            object.__setattr__(self, "verdict", Verdict(self.verdict))
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a score's value must lie in [0, 1], got {self.value}")
        if self.verdict is Verdict.ERROR and self.value != 0.0:
            raise ValueError("a failed verification has no value: pass 0.0 with Verdict.ERROR")
        if self.key is None:
            object.__setattr__(self, "key", self.answer)
        if not self.error and self.verdict != Verdict.CORRECT:
            object.__setattr__(self, "error", f"{self.verdict}: {self.reason}" if self.reason else str(self.verdict))

    @classmethod
    def of(cls, correct: bool, answer: str | None = None, reason: str = "") -> "Score":
        """All-or-nothing score: 1 and ``correct``, or 0 and ``wrong``."""
        return cls(float(correct), Verdict.CORRECT if correct else Verdict.WRONG, answer, reason)
