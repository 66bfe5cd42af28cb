import shop
from shop.checkout import checkout
from shop.pricing import STEPS


def test_whole_receipt():
    assert checkout({"pen": 2, "notebook": 1}, "DE").splitlines() == [
        "2 x pen: 2.74",
        "1 x notebook: 5.18",
        "before tax: 6.65",
    ]


def test_everything_came_together():
    assert set(STEPS) == {"discount", "tax"}
    assert set(shop.FEATURES) == {"catalogue", "cart", "receipt"}
