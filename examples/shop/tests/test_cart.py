from decimal import Decimal

import shop
from shop.cart import total


def test_total_of_two_things():
    assert total({"pen": 2, "notebook": 1}) == Decimal("6.65")


def test_discount_is_rounded_once():
    assert total({"pen": 11}) == Decimal("11.39")


def test_feature_is_announced():
    assert "cart" in shop.FEATURES
