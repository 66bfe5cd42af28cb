from decimal import Decimal

import pytest

from shop.catalogue import price


def test_price_of_a_pen():
    assert price("pen") == Decimal("1.15")


def test_what_is_not_for_sale():
    with pytest.raises(KeyError):
        price("elephant")
