"""A small shop: what things cost, what a customer pays, and what the receipt says."""

FEATURES = ("catalogue",)
