"""How a count is said, in every layer."""


def counted(n: int, one: str, several: str = "") -> str:
    """``1 row``, ``2 rows``, ``1,024 rows``: a count with its noun, and with the verb that follows where it is given.

    Args:
        n: How many.
        one: What stands behind a 1, as in ``task has``.
        several: What stands behind any other number; without it ``one`` with an s.
    """
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"
