"""`agentflow demo`: seven scripted agents, everything real but the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.cli import Cli, command_line, git

EDGES = {
    "money": {"survey"},
    "discounts": {"survey"},
    "cart": {"money", "discounts"},
    "receipt": {"money", "taxes"},
    "checkout": {"cart", "receipt"},
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One demo, shared: its result and its repository."""
    top = tmp_path_factory.mktemp("demo")
    with command_line(top) as cli:
        shop = top / "shop"
        result = cli.json("demo", "--keep", shop, "--json", timeout=120)
        yield cli, shop, result


def events_of(cli: Cli, result: dict) -> list[dict]:
    import json

    lines = cli.run("events", result["run"]).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_it_lands_one_tested_branch(demo):
    _, shop, result = demo
    assert (result["state"], result["completed"], result["total"]) == ("landed", 7, 7)
    assert git(shop, "rev-parse", result["branch"]).strip() == result["commit"]
    changed = git(shop, "diff", "--name-only", "main", result["branch"]).split()
    assert changed == [
        "shop/__init__.py", "shop/cart.py", "shop/checkout.py", "shop/money.py", "shop/pricing.py",
        "shop/receipt.py",
    ]  # fmt: skip


def test_the_users_checkout_is_untouched(demo):
    _, shop, _ = demo
    assert git(shop, "status", "--porcelain") == ""
    assert git(shop, "rev-parse", "--abbrev-ref", "HEAD").strip() == "main"
    assert git(shop, "branch", "--format=%(refname:short)").split() == ["agentflow/finish-the-shop", "main"]


def test_no_node_started_before_its_parents_settled(demo):
    cli, _, result = demo
    seen: set[str] = set()
    for event in events_of(cli, result):
        if event["kind"] == "node.started" and event["node"] in EDGES:
            assert EDGES[event["node"]] <= seen
        elif event["kind"] == "node.settled":
            seen.add(event["node"])


def test_the_second_attempt_of_money_was_told_why_the_first_failed(demo):
    cli, _, result = demo
    assert result["nodes"]["money"]["attempts"] == 2
    reasons = [
        e["reason"] for e in events_of(cli, result) if e["kind"] == "node.retry" and e["node"] == "money"
    ]
    assert len(reasons) == 1
    assert "1 of 2 tests failed" in reasons[0]


def test_the_second_node_that_locks_a_file_starts_from_the_firsts_commit(demo):
    _, shop, result = demo
    nodes = result["nodes"]
    later = next(n for n in ("discounts", "taxes") if nodes[n]["edges"])
    (earlier,) = nodes[later]["edges"]
    assert {later, earlier} == {"discounts", "taxes"}
    ancestors = git(shop, "rev-list", nodes[later]["commit"]).split()
    assert nodes[earlier]["commit"] in ancestors


def test_of_two_nodes_that_edit_one_line_the_later_settles_on_top_of_the_first(demo):
    _, shop, result = demo
    nodes = result["nodes"]
    later = next(n for n in ("cart", "receipt") if nodes[n]["attempts"] == 2)
    (earlier,) = {"cart", "receipt"} - {later}
    assert nodes[earlier]["attempts"] == 1
    assert nodes[earlier]["commit"] in git(shop, "rev-list", nodes[later]["commit"]).split()
    line = git(shop, "show", f"{result['branch']}:shop/__init__.py")
    assert "cart" in line
    assert "receipt" in line


def test_the_set_up_ran_once_for_all_attempts(demo):
    cli, _, _ = demo
    made = [p for p in (cli.home / "setup").glob("*/*/tree/.prepared") if p.is_dir()]
    assert len(made) == 1
    counter = next(p for p in made[0].iterdir() if p.read_text().strip().isdigit())
    assert counter.read_text().strip() == "1"


def test_a_report_left_no_commit_and_reached_its_dependents(demo):
    cli, _, result = demo
    assert result["nodes"]["survey"]["commit"] == ""
    logs = Path(cli.home) / "runs" / result["run"] / "logs"
    transcript = (logs / "money.1.transcript.jsonl").read_text()
    assert "survey (architect): report" in transcript


def test_model_calls_are_counted_with_failed_attempts(demo):
    _, _, result = demo
    assert result["calls"] >= 9
    assert result["input_tokens"] > 0
