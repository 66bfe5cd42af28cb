"""What happens to a price before it is paid."""

from decimal import Decimal

#: What a price goes through.
STEPS: tuple[str, ...] = ()


def discount(amount: Decimal, quantity: int) -> Decimal:
    """What is left of an amount for that many pieces."""
    raise NotImplementedError("discount")


def tax(amount: Decimal, country: str) -> Decimal:
    """The tax on an amount, not rounded."""
    raise NotImplementedError("tax")
