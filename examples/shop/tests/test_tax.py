from decimal import Decimal

from shop.pricing import STEPS, tax


def test_tax_of_a_country():
    assert tax(Decimal(100), "DE") == Decimal(19)
    assert tax(Decimal(10), "CH") == Decimal("0.81")


def test_tax_is_a_step():
    assert "tax" in STEPS
