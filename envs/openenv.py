"""Environments of an OpenEnv server: ``env=openenv env.options.url=http://localhost:8000``.

An episode is a session of the server; a seed stands for a task, as for every environment that draws its own tasks. The
policy's text is sent in one field of the action, and the policy reads one field of the observation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from envs.vector import ResponseSpace

SAYS = ("text", "content", "message", "prompt", "question", "output", "feedback", "messages")
"""Fields of an observation that are tried in this order if ``observation`` is ``None``."""


class OpenEnv(gymnasium.Env[str, str]):
    """An environment on an OpenEnv server; :meth:`reset` opens a session and :meth:`close` ends it.

    Args:
        url: Address of the server.
        action: Field of the action that holds the policy's text.
        observation: Field of the observation that the policy reads; ``None`` takes the first field of :data:`SAYS`
            that the observation has.
        with_action: Further fields of every action, with their values.
        reset: Further arguments of every reset.

    Raises:
        ImportError: If openenv is not installed.
        ValueError: If ``url`` is empty.
    """

    observation_space = action_space = ResponseSpace()
    verifies_elsewhere = True
    single_use = True

    def __init__(
        self,
        url: str = "",
        action: str = "message",
        observation: str | None = None,
        with_action: Mapping[str, Any] | None = None,
        reset: Mapping[str, Any] | None = None,
    ) -> None:
        if not url:
            raise ValueError("env.options.url is missing: where the server is, as in http://localhost:8000")
        try:
            from openenv.core import GenericEnvClient  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                f"env=openenv needs the package openenv: pip install 'openenv>=0.10,<0.11' ({error})", name="openenv"
            ) from error
        self._url, self._action, self._observation = url, action, observation
        self._with_action, self._reset = dict(with_action or {}), dict(reset or {})
        self._open: Any = GenericEnvClient
        self._client: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Starts an episode on the server."""
        super().reset(seed=seed)
        given = self._reset | ({} if seed is None else {"seed": seed})
        try:
            if self._client is None:
                self._client = self._open(base_url=self._url).sync()
            result = self._client.reset(**given)
        except OSError as error:
            raise ConnectionError(f"env.options.url={self._url}: the server does not answer: {error}") from error
        return self._read(result.observation), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Sends the policy's text to the server; a step without a reward is masked instead of paid 0."""
        # A server that pays only at the end returns no reward in between. Taken as 0, the missing reward would count
        # against the action.
        result = self._client.step({self._action: action, **self._with_action})
        info = {} if result.reward is not None else {"trained": False}
        return self._read(result.observation), float(result.reward or 0.0), bool(result.done), False, info

    def close(self) -> None:
        """Ends the session, if there is one; the next reset opens a new session."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def _read(self, observation: Mapping[str, Any]) -> str:
        known = [name for name in ([self._observation] if self._observation else SAYS) if name in observation]
        if not known:
            named = f"env.options.observation={self._observation}" if self._observation else "env.options.observation"
            raise KeyError(f"{named}: the observation has {', '.join(observation)}; name the one to read")
        said = observation[known[0]]
        if isinstance(said, Sequence) and not isinstance(said, str):  # of a list of chat messages only the last is new
            said = said[-1]["content"] if said else ""
        return str(said)
