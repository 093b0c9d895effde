"""Printed numbers are rounded before they get a sign, so that a rounded 0 never has one."""

import pytest

from rl.analysis.printing import fixed, percent


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (-0.0, 1, False, "0.0"),
        (-0.04, 1, False, "0.0"),
        (-1e-17, 1, True, "0.0"),
        (1e-17, 1, True, "0.0"),
        (0.04, 1, True, "0.0"),
        (-0.06, 1, True, "-0.1"),
        (0.06, 1, True, "+0.1"),
        (-0.4, 0, True, "0"),
        (-0.004, 2, False, "0.00"),
        (1234567.8, 0, True, "+1,234,568"),
        (-1234.56, 1, True, "-1,234.6"),
        (float("nan"), 1, True, "-"),
    ],
)
def test_the_sign_belongs_to_what_is_printed(value, digits, signed, text):
    assert fixed(value, digits, signed) == text


def test_shares_are_printed_in_percent():
    assert percent(0.5125) == "51.2"
    assert percent(-1e-9, signed=True) == percent(1e-9, signed=True) == "0.0"
