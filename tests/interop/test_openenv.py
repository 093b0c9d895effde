"""An environment on a real OpenEnv server can be played through ``errata/openenv-v1``, with the server's rewards."""

import contextlib
import socket
import threading
import time

import gymnasium
import pytest

import envs  # noqa: F401  registers the environments

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("openenv")
    import uvicorn
    from openenv.core.env_server.http_server import create_fastapi_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation, State

    class Guess(Action):
        message: str

    class Told(Observation):
        text: str = ""

    class Game(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self):
            super().__init__()
            self._state, self.secret = State(), 0

        def reset(self, seed=None, episode_id=None, **_):
            self.secret, self._state = (seed or 0) % 10, State(step_count=0)
            return Told(text="Which digit?", done=False, reward=None)

        def step(self, action, timeout_s=None, **_):
            self._state.step_count += 1
            near = 1 - abs(int(action.message) - self.secret) / 10
            return Told(text=f"near: {near}", reward=near, done=near == 1 or self._state.step_count == 3)

        @property
        def state(self):
            return self._state

    app = create_fastapi_app(Game, Guess, Told, max_concurrent_envs=4)
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join()


def test_an_episode_is_played_and_paid_by_the_server(server):
    env = gymnasium.make("errata/openenv-v1", url=server)
    other = gymnasium.make("errata/openenv-v1", url=server)
    assert env.reset(seed=7) == ("Which digit?", {})
    assert other.reset(seed=3)[0] == "Which digit?"
    told, reward, terminated, truncated, info = env.step("5")
    assert (told, reward, terminated, truncated, info) == ("near: 0.8", 0.8, False, False, {})
    assert env.step("7")[1:3] == (1.0, True)
    assert other.step("3")[1:3] == (1.0, True), "sessions do not share a secret"
    env.close()
    other.close()


def test_a_field_that_is_not_there_and_a_server_that_is_not_there_are_named(server):
    env = gymnasium.make("errata/openenv-v1", url=server, observation="board")
    with pytest.raises(KeyError, match="the observation has"):
        env.reset(seed=1)
    env.close()
    with pytest.raises(ConnectionError, match="does not answer"):
        gymnasium.make("errata/openenv-v1", url="http://127.0.0.1:9").reset(seed=1)
