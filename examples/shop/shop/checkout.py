"""Paying."""


def checkout(items: dict[str, int], country: str) -> str:
    """The whole receipt of a cart."""
    raise NotImplementedError("checkout")
