"""Tax rates, from the table that scripts/prepare.py makes."""

import json
from decimal import Decimal
from pathlib import Path

TABLE = Path(__file__).resolve().parent.parent / ".prepared" / "rates.json"


def rate(country: str) -> Decimal:
    """The tax rate of a country (0.19 is 19 %). Raises `KeyError` for one that is not in the table."""
    return Decimal(json.loads(TABLE.read_text(encoding="utf-8"))[country])
