"""Wording of counts in messages, for all layers."""


def counted(n: int, one: str, several: str = "") -> str:
    """A count with its noun in singular or plural: ``1 row``, ``2 rows``, ``1,024 rows``.

    Args:
        n: The count.
        one: Words that follow if the count is 1; may include a verb, as in ``task has``.
        several: Words that follow any other count; by default, ``one`` with an s.
    """
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"
