"""The result that a verifier returns for one response."""

from dataclasses import dataclass
from enum import StrEnum

from rewards.lookup import nearest


class Verdict(StrEnum):
    """How a verification ended; "wrong" and "could not be decided" are separate, so that no plot mixes them."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """The response contains no answer in the form that the task asks for."""
    AMBIGUOUS = "ambiguous"
    """The response gives several different final answers. It scores 0 and is trained on, so that hedging never pays."""
    TIMEOUT = "timeout"
    """The response made the verifier exceed its deadline. It scores 0 and is trained on."""
    ERROR = "error"
    """The verifier failed for a reason that the response did not cause. It is masked out of training and counted."""

    @classmethod
    def _missing_(cls, value: object) -> "Verdict":
        raise ValueError(f"verdict={value}: unknown{nearest(str(value), list(cls))} Known: {', '.join(cls)}")


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one attempt: a value in [0, 1] and the verdict behind it.

    Args:
        value: Reward of the attempt; 0 unless the verdict is ``correct`` (code tasks may give partial credit).
        verdict: How the verification ended; the name of a :class:`Verdict` is accepted too.
        answer: The extracted final answer, in readable notation; ``None`` if there was none.
        reason: Rule that decided the verdict (``exact``, ``rational``, ``math_verify``, ...), for the log's histogram.
        observation: Text about the attempt that the policy may see (feedback mode ``execution``). It describes
            *public* tests only and is already cleaned for a chat.
        key: Two attempts count as "the same answer" if their keys are equal; ``None`` uses ``answer`` as the key.
        public: Whether all *public* tests passed; ``None`` if there are none.
        error: Kind of error that a response which is not correct makes, such as ``slot a``, for figure F14; an empty
            text is replaced by the verdict and the reason.

    Raises:
        ValueError: If ``value`` is outside [0, 1], the verdict ``error`` has a value other than 0, or the verdict is
            unknown.
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
        if type(self.verdict) is not Verdict:  # a verdict's name is accepted too
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
        """All-or-nothing score: value 1 and ``correct``, or value 0 and ``wrong``."""
        return cls(float(correct), Verdict.CORRECT if correct else Verdict.WRONG, answer, reason)
