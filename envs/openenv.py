"""Environments of OpenEnv behind their server: ``env=openenv env.options.url=http://localhost:8000``.

An episode is a session of the server; a seed stands for a task, as for every environment that draws its own. What the
policy writes is put into one field of the action, and one field of the observation is what it reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from envs.vector import ResponseSpace

SAYS = ("text", "content", "message", "prompt", "question", "output", "feedback", "messages")
"""Fields of an observation that are looked for, in this order, where none is named."""


class OpenEnv(gymnasium.Env[str, str]):
    """A session of a server, one for each environment.

    Args:
        url: Of the server.
        action: The field of the action that holds what the policy writes.
        observation: The field of the observation that the policy reads; ``None`` looks for :data:`SAYS`.
        with_action: Further fields of every action.
        reset: Further arguments of every reset.

    Raises:
        ImportError: If openenv is not installed.
        ValueError: If no url is given.
    """

    observation_space = action_space = ResponseSpace()
    verifies_elsewhere = True

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
        self._client = GenericEnvClient(base_url=url).sync()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Starts an episode on the server."""
        super().reset(seed=seed)
        given = self._reset | ({} if seed is None else {"seed": seed})
        try:
            result = self._client.reset(**given)
        except OSError as error:
            raise ConnectionError(f"env.options.url={self._url}: the server does not answer: {error}") from error
        return self._read(result.observation), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Sends what the policy wrote; a step without a reward is masked, not paid 0."""
        # A server that pays at the end only says nothing in between; that is not a reward of 0 for what was done.
        result = self._client.step({self._action: action, **self._with_action})
        info = {} if result.reward is not None else {"trained": False}
        return self._read(result.observation), float(result.reward or 0.0), bool(result.done), False, info

    def close(self) -> None:
        """Ends the session."""
        self._client.close()

    def _read(self, observation: Mapping[str, Any]) -> str:
        known = [name for name in ([self._observation] if self._observation else SAYS) if name in observation]
        if not known:
            named = f"env.options.observation={self._observation}" if self._observation else "env.options.observation"
            raise KeyError(f"{named}: the observation has {', '.join(observation)}; say which of them is read")
        said = observation[known[0]]
        if isinstance(said, Sequence) and not isinstance(said, str):  # messages of a chat: what is new is the last one
            said = said[-1]["content"] if said else ""
        return str(said)
