from dataclasses import dataclass

import pytest

from rewards import Lookup, UnknownNameError


@dataclass
class ClipOptions:
    low: float = 0.2


def lookup():
    found = Lookup("algorithm.loss")

    @found.register("ppo", options=ClipOptions)
    def ppo():
        """The clipped surrogate."""

    @found.register("reinforce")
    def reinforce():
        """The plain policy gradient.

        More words.
        """

    return found


def test_names_lead_to_functions_in_order_of_registration():
    assert list(lookup()) == ["ppo", "reinforce"]
    assert lookup().summaries() == {"ppo": "The clipped surrogate.", "reinforce": "The plain policy gradient."}


@pytest.mark.parametrize("kind", [KeyError, ValueError, UnknownNameError])
def test_an_unknown_name_raises_with_the_nearest_known_one(kind):
    with pytest.raises(kind, match=r"algorithm.loss=pp0: unknown; did you mean 'ppo'\? Known: ppo, reinforce"):
        lookup()["pp0"]
    with pytest.raises(kind, match=r"algorithm.loss=zzz: unknown\. Known: ppo"):
        lookup()["zzz"]


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match=r"algorithm\.loss=ppo is registered already"):
        lookup().register("ppo")(lambda: None)


def test_options_are_checked_by_their_dataclass():
    assert lookup().options("ppo", {}) == ClipOptions(0.2)
    assert lookup().options("ppo", {"low": 0.1}) == ClipOptions(0.1)
    assert lookup().options("reinforce", {}) is None
    with pytest.raises(ValueError, match=r"algorithm.loss_options.lo: ppo has no such option; did you mean 'low'\?"):
        lookup().options("ppo", {"lo": 0.1})
    with pytest.raises(ValueError, match="reinforce has no such option"):
        lookup().options("reinforce", {"low": 0.1})


def test_options_must_be_a_dataclass():
    with pytest.raises(TypeError, match="must be a dataclass"):
        lookup().register("x", options=int)
