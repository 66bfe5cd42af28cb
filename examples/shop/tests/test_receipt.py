import shop
from shop.receipt import line


def test_line_with_tax():
    assert line("lamp", 2, "DE") == "2 x lamp: 71.16"


def test_feature_is_announced():
    assert "receipt" in shop.FEATURES
