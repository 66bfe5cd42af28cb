from decimal import Decimal

from shop.pricing import STEPS, discount


def test_ten_pieces_are_cheaper():
    assert discount(Decimal(100), 10) == Decimal(90)


def test_nine_pieces_are_not():
    assert discount(Decimal(100), 9) == Decimal(100)


def test_discount_is_a_step():
    assert "discount" in STEPS
