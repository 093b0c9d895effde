"""How numbers are printed everywhere: in the terminal, in tables, captions and sentences."""


def fixed(value: float, digits: int = 1, signed: bool = False) -> str:
    """A number with fixed digits; it is rounded before its sign is chosen, and ``-`` stands for ``nan``.

    A difference that is zero up to rounding has a sign that depends on the processor; it prints as ``0.0``.

    Args:
        value: What to print.
        digits: Behind the point.
        signed: Whether positive numbers get a plus.
    """
    if value != value:
        return "-"
    text = f"{value:z,.{digits}f}"
    return f"+{text}" if signed and float(text.replace(",", "")) > 0 else text


def percent(share: float, digits: int = 1, signed: bool = False) -> str:
    """A share in percent, without the sign of percent."""
    return fixed(100 * share, digits, signed)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{fixed(seconds, 0)} s"
    return f"{fixed(seconds / 60, 0)} min" if seconds < 5400 else f"{fixed(seconds / 3600)} h"
