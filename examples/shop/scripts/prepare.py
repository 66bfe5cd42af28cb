"""Turn data/rates.csv into .prepared/rates.json, and count how often that was done."""

import csv
import json
from pathlib import Path

root = Path(__file__).resolve().parent.parent
prepared = root / ".prepared"
prepared.mkdir(exist_ok=True)

with (root / "data" / "rates.csv").open(encoding="utf-8", newline="") as file:
    rates = {row["country"]: row["rate"] for row in csv.DictReader(file)}
(prepared / "rates.json").write_text(json.dumps(rates), encoding="utf-8")

counter = prepared / "count"
times = int(counter.read_text(encoding="utf-8")) if counter.exists() else 0
counter.write_text(str(times + 1), encoding="utf-8")
