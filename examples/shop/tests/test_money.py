from decimal import Decimal

from shop.money import round_money


def test_half_a_cent_goes_up():
    assert round_money(Decimal("2.345")) == Decimal("2.35")


def test_whole_cents_stay():
    assert round_money(Decimal("2.3")) == Decimal("2.30")
