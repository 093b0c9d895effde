"""An engine without a model: it answers requests with texts that the test provides."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from rl.types import Completion, Finish, Request


class ScriptedEngine:
    """Answers requests with scripted texts.

    Args:
        script: Texts in order of submission, or a function from a request to a text. A text that exceeds the
            request's token limit is cut off, as a model's would be.
        encode: Function from a text to its token ids.
        end_id: Id of the end-of-turn token, which is appended to a text that fits the request's token limit.
        logprob: Log-probability reported for every token.

    Raises:
        IndexError: If a list script runs out.
    """

    streams = False

    def __init__(
        self,
        script: Sequence[str] | Callable[[Request], str],
        encode: Callable[[str], Sequence[int]],
        end_id: int,
        logprob: float = -1.0,
    ) -> None:
        self._next = script if callable(script) else _in_order(script)
        self._encode, self._end_id, self._logprob = encode, end_id, logprob
        self._pending: deque[Request] = deque()
        self.policy_version = 0
        self.requests: list[Request] = []

    @property
    def pending(self) -> int:
        """Number of requests without an answer."""
        return len(self._pending)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests and keeps them in ``self.requests``, so that a test can inspect them."""
        self._pending.extend(requests)
        self.requests.extend(requests)

    def step(self) -> list[Completion]:
        """Answers the oldest request."""
        if not self._pending:
            return []
        request = self._pending.popleft()
        ids = (*self._encode(self._next(request)), self._end_id)
        finish = Finish.STOP if len(ids) <= request.max_new_tokens else Finish.LENGTH
        ids = ids[: request.max_new_tokens]
        return [Completion(request.id, ids, (self._logprob,) * len(ids), finish, self.policy_version)]

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Records the version of the weights, which are ignored."""
        self.policy_version = version

    def sleep(self) -> None:
        """Does nothing: the engine has no memory to free."""

    def wake(self) -> None:
        """Does nothing: the engine has no memory to restore."""

    def close(self) -> None:
        """Discards the pending requests."""
        self._pending.clear()


def _in_order(texts: Sequence[str]) -> Callable[[Request], str]:
    queue = deque(texts)

    def next_text(request: Request) -> str:
        if not queue:
            raise IndexError(f"the script is over but request {request.id} wants another text")
        return queue.popleft()

    return next_text
