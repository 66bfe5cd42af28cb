"""What is for sale."""

from decimal import Decimal

PRICES = {
    "pen": Decimal("1.15"),
    "notebook": Decimal("4.35"),
    "lamp": Decimal("29.90"),
}


def price(name: str) -> Decimal:
    """The price of one piece, before tax. Raises `KeyError` for what is not for sale."""
    return PRICES[name]
