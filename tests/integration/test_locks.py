"""Locks of nodes, on a real server: modes, sharing, order of arrival, asking for more, dynamic edges."""

from __future__ import annotations

import itertools
import json

import pytest
from helpers.ledgers import RUN, open_run, states, validate_fleet, validate_run

from agentflow.spec.artifacts import Lock
from agentflow.states import NodeState, RunState
from agentflow.store import keys, restoring
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.locking import EXTENSIONS_MAX
from agentflow.store.records import INTEGRATE

OK = NodeState.SUCCEEDED
W, R, A = "write", "read", "append"


@pytest.fixture
def ledger(redis_client):
    found = Ledger(redis_client)
    yield found
    for run_id in found.open_runs():
        validate_run(found, run_id)
    validate_fleet(found)


def claim(ledger: Ledger, node: str, run: str = RUN) -> Claim:
    return ledger.claim(run, node, worker="w1", ttl_ms=3000)


def granted(ledger: Ledger, node: str, run: str = RUN) -> int:
    taken = claim(ledger, node, run)
    assert taken.granted, taken.reason
    return taken.fence


def open_with(ledger: Ledger, run_id: str = RUN, **locks: list[Lock]) -> None:
    open_run(ledger, {node: [] for node in locks}, locks=locks, run_id=run_id)


# -- who goes with whom ------------------------------------------------------------------------------

#: Written out: may one node hold the first while another holds the second, at the same path?
TOGETHER = {
    (W, W): False, (W, R): False, (W, A): False,
    (R, W): False, (R, R): True, (R, A): False,
    (A, W): False, (A, R): False, (A, A): True,
}  # fmt: skip
#: Places of two locks: the same, one above the other (by one and by three directories, from the top), apart.
PLACES = {
    ("src/a.py", "src/a.py"): True,
    ("src", "src/a.py"): True,
    ("", "src/x/y/a.py"): True,
    ("src/x/y", "src"): True,
    ("", ""): True,
    ("src/a", "src/ab"): False,
    ("src/a.py", "docs/a.py"): False,
    ("src/[a]*", "src/x"): False,
}


@pytest.mark.parametrize(("first", "second"), list(itertools.product((W, R, A), repeat=2)))
def test_the_matrix_of_modes_at_every_place(ledger, first, second):
    for number, ((one, other), touch) in enumerate(PLACES.items()):
        run = f"run-{number}"
        open_with(ledger, run, a=[Lock(one, first)], b=[Lock(other, second)])
        granted(ledger, "a", run)
        taken = claim(ledger, "b", run)
        assert taken.granted is (not touch or TOGETHER[first, second]), (one, other)
        if not taken.granted:
            assert taken.reason == f"lock: {other or '**'} is held for a"


def test_a_holder_below_is_named_also_where_its_path_looks_like_a_pattern(ledger):
    open_with(ledger, a=[Lock("x/[a]*?/f")], other=[Lock("x/a/f")], b=[Lock("x/[a]*?")])
    granted(ledger, "other")
    granted(ledger, "a")
    assert claim(ledger, "b").reason == "lock: x/[a]*? is held for a"


def test_who_is_named_below_a_path_holds_something_there_also_when_the_last_one_has_left(ledger):
    open_with(ledger, a=[Lock("x/1")], b=[Lock("x/2")], c=[Lock("x/3")], d=[Lock("x")], e=[Lock("x", R)])
    fences = {node: granted(ledger, node) for node in "abc"}
    assert claim(ledger, "d").reason == "lock: x is held for c"
    ledger.settle(RUN, "c", fences["c"], OK)
    assert claim(ledger, "e").reason in ("lock: x is held for a", "lock: x is held for b")
    for node in "ab":
        ledger.settle(RUN, node, fences[node], OK)
    assert states(ledger)["d"] == "ready"


def test_who_reads_a_tree_and_writes_below_it_lets_others_read_below_only_elsewhere(ledger):
    """S + IX = SIX: of what others may do, only reading beside what is written is left."""
    open_with(
        ledger,
        both=[Lock("src", R), Lock("src/a.py")],
        reads_tree=[Lock("src", R)],
        reads_written=[Lock("src/a.py", R)],
        reads_beside=[Lock("src/b.py", R)],
        writes_beside=[Lock("src/c.py")],
    )
    granted(ledger, "both")
    assert claim(ledger, "reads_tree").reason == "lock: src is held for both"
    assert not claim(ledger, "reads_written").granted
    granted(ledger, "reads_beside")
    assert claim(ledger, "writes_beside").reason == "lock: src/c.py is held for both"


def test_readers_share_and_wake_together_when_the_writer_ends(ledger):
    readers = [f"r{i}" for i in range(5)]
    open_with(ledger, w=[Lock("src")], **{r: [Lock("src", R)] for r in readers})
    fence = granted(ledger, "w")
    assert not any(claim(ledger, r).granted for r in readers)
    assert ledger.settle(RUN, "w", fence, OK, commit="c").woken == tuple(readers)
    for reader in readers:
        taken = claim(ledger, reader)
        assert taken.granted
        assert taken.edges == ("w",)


def test_a_stream_of_readers_does_not_starve_a_writer(ledger):
    nodes = {f"r{i}": [Lock("src", R)] for i in range(6)}
    open_with(ledger, **nodes, w=[Lock("src/a.py")], other=[Lock("docs", R)])
    first, second = granted(ledger, "r0"), granted(ledger, "r1")
    assert claim(ledger, "w").reason == "lock: src/a.py is held for r0"
    for late in ("r2", "r3"):
        assert claim(ledger, late).reason == "lock: src is held for w", "it would pass one that waits"
    granted(ledger, "other")
    ledger.settle(RUN, "r0", first, OK)
    assert not claim(ledger, "r4").granted
    assert ledger.settle(RUN, "r1", second, OK).woken == ("w",)
    assert not claim(ledger, "r5").granted, "the place of a woken node is its own"
    fence = granted(ledger, "w")
    assert set(ledger.settle(RUN, "w", fence, OK).woken) == {"r2", "r3", "r4", "r5"}


@pytest.mark.parametrize(("holds", "waits"), [(R, W), (A, W), (R, A), (A, R)])
def test_who_could_share_with_the_holder_does_not_pass_who_waits_for_it(ledger, holds, waits):
    open_with(
        ledger, a=[Lock("x", holds)], b=[Lock("x", waits)], late=[Lock("x", holds)], c=[Lock("x", waits)]
    )
    fence = granted(ledger, "a")
    assert claim(ledger, "b").reason == "lock: x is held for a"
    assert claim(ledger, "late").reason == "lock: x is held for b"
    assert not claim(ledger, "c").granted
    # Those that wait go in the order of arrival, each with those beside it that share.
    assert ledger.settle(RUN, "a", fence, OK).woken == ("b",)
    assert ledger.settle(RUN, "b", granted(ledger, "b"), OK).woken == ("late",)
    assert ledger.settle(RUN, "late", granted(ledger, "late"), OK).woken == ("c",)


def test_a_waiting_reader_is_not_passed_by_a_writer_and_they_take_turns(ledger):
    open_with(ledger, a=[Lock("x")], r=[Lock("x", R)], b=[Lock("x")], s=[Lock("x", R)])
    fence = granted(ledger, "a")
    for node in ("r", "b", "s"):
        assert not claim(ledger, node).granted
    order = []
    holder = "a"
    while True:
        woken = ledger.settle(RUN, holder, fence, OK).woken
        if not woken:
            break
        order.append(woken)
        holder = woken[0]
        fence = granted(ledger, holder)
    assert order == [("r",), ("b",), ("s",)]


def test_two_appenders_share_and_nobody_else(ledger):
    log = Lock("CHANGELOG.md", A)
    open_with(ledger, a=[log], b=[log], w=[Lock("CHANGELOG.md")], r=[Lock("", R)])
    one, two = granted(ledger, "a"), granted(ledger, "b")
    assert not claim(ledger, "w").granted
    assert not claim(ledger, "r").granted
    assert ledger.settle(RUN, "a", one, OK, commit="c1").woken == ()
    assert ledger.settle(RUN, "b", two, OK, commit="c2").woken == ("w",)
    taken = claim(ledger, "w")
    assert sorted(taken.edges) == ["a", "b"], "it starts from what both appended"
    # It holds their work: who comes next needs the newest only.
    ledger.settle(RUN, "w", taken.fence, OK, commit="c3")
    assert claim(ledger, "r").edges == ("w",)


def test_a_reader_leaves_no_edge_and_what_it_writes_does(ledger):
    open_with(ledger, r=[Lock("src", R), Lock("docs/r.md")], w=[Lock("src")], d=[Lock("docs", R)])
    ledger.settle(RUN, "r", granted(ledger, "r"), OK, commit="c1", paths=["docs/r.md"])
    assert claim(ledger, "w").edges == ()
    assert claim(ledger, "d").edges == ("r",)


def test_work_that_declared_nothing_keeps_the_writers_that_it_does_not_hold(ledger):
    """Both wrote x and merge; neither holds the other's work, so who locks x next starts from both."""
    open_with(ledger, a=[], b=[], c=[Lock("x")])
    one, two = granted(ledger, "a"), granted(ledger, "b")
    ledger.settle(RUN, "a", one, OK, commit="c1", paths=["x"], seq="0")
    ledger.settle(RUN, "b", two, OK, commit="c2", paths=["x"], seq="1")
    assert sorted(claim(ledger, "c").edges) == ["a", "b"]


def test_undeclared_work_waits_for_readers_too(ledger):
    open_with(ledger, r=[Lock("src", R)], free=[])
    reader, free = granted(ledger, "r"), granted(ledger, "free")
    answer = ledger.settle(RUN, "free", free, OK, commit="c", paths=["src/a.py"], seq="0")
    assert answer.head == ("locked", "lock: src/a.py is held for r")
    ledger.requeue(RUN, "free", free, reason=answer.head[1], park=True, locks=[Lock("src/a.py")])
    assert ledger.settle(RUN, "r", reader, OK).woken == ("free",)


def test_a_node_that_is_held_back_lets_others_pass_in_the_line(ledger):
    """A paused role keeps its nodes still for as long as its operator likes; the locks are not its."""
    locks = {"a": [Lock("x")], "b": [Lock("x")], "c": [Lock("x")]}
    open_run(ledger, {n: [] for n in locks}, locks=locks, roles={"b": "tester"})
    fence = granted(ledger, "a")
    assert not claim(ledger, "b").granted
    assert not claim(ledger, "c").granted
    ledger.pause("role:tester", "coffee")
    assert ledger.settle(RUN, "a", fence, OK).woken == ("c",)
    fence = granted(ledger, "c")
    ledger.unpause("role:tester")
    assert states(ledger)["b"] == "parked"
    assert ledger.settle(RUN, "c", fence, OK).woken == ("b",)


def test_a_thousand_readers_of_one_path_wake_in_one_pass(ledger, redis_client):
    """Counted in what the server does for it: nobody looks through all others for each of them."""
    nodes = [f"n{i}" for i in range(1000)]
    open_run(
        ledger,
        {n: [] for n in ["w", *nodes]},
        locks={"w": [Lock("src")]} | {n: [Lock("src", R)] for n in nodes},
    )
    fence = granted(ledger, "w")
    for node in nodes:
        claim(ledger, node)
    redis_client.config_resetstat()
    assert len(ledger.settle(RUN, "w", fence, OK).woken) == len(nodes)
    calls = sum(stat["calls"] for stat in redis_client.info("commandstats").values())
    assert calls < 60 * len(nodes)


# -- asking for more -----------------------------------------------------------------------------------


def test_an_attempt_is_given_what_is_free_and_gives_it_back(ledger):
    open_with(ledger, a=[Lock("src/a.py")], b=[Lock("docs")])
    fence = granted(ledger, "a")
    assert ledger.extend(RUN, "a", fence, ["docs/x.md"]).granted
    assert claim(ledger, "b").reason == "lock: docs is held for a"
    assert ledger.settle(RUN, "a", fence, OK, commit="c", paths=["docs/x.md"]).woken == ("b",)
    assert claim(ledger, "b").edges == ("a",), "what it was given counts as what it wrote"


def test_asking_twice_is_asking_once(ledger):
    open_with(ledger, a=[Lock("src")])
    fence = granted(ledger, "a")
    for _ in range(2):
        assert ledger.extend(RUN, "a", fence, ["docs/x.md", "docs/**"], R).granted
        assert ledger.extend(RUN, "a", fence, ["src/deep/file.py"]).granted, "it has that already"
    assert ledger.node(RUN, "a").extension == (Lock("docs/x.md", R), Lock("docs", R))
    assert ledger.client.hget(keys.part(RUN, "locks"), "r:docs") == "a"


def test_who_holds_it_is_told_and_nothing_is_taken(ledger):
    open_with(ledger, a=[Lock("src")], b=[Lock("docs/x.md")])
    fence = granted(ledger, "a")
    granted(ledger, "b")
    answer = ledger.extend(RUN, "a", fence, ["free.txt", "docs/**"])
    assert (answer.verdict, answer.path, answer.holder, answer.by) == ("queued", "docs", "b", "node")
    assert ledger.node(RUN, "a").locks == (Lock("src"),), "all or nothing"


def test_an_attempt_never_waits_so_two_that_want_each_others_files_do_not_deadlock(ledger):
    open_with(ledger, a=[Lock("x")], b=[Lock("y")])
    one, two = granted(ledger, "a"), granted(ledger, "b")
    assert ledger.extend(RUN, "a", one, ["y"]).holder == "b"
    assert ledger.extend(RUN, "b", two, ["x"]).holder == "a"
    # Both end and stand in line for both files: one after the other has them.
    ledger.requeue(RUN, "a", one, reason="behind b", park=True, locks=[Lock("y")], given=True)
    assert states(ledger)["a"] == "parked"
    again = ledger.requeue(RUN, "b", two, reason="behind a", park=True, locks=[Lock("x")], given=True)
    assert again.woken == ("a",)
    fence = granted(ledger, "a")
    assert ledger.node(RUN, "a").extension == (Lock("y"),)
    assert not claim(ledger, "b").granted
    assert ledger.settle(RUN, "a", fence, OK, commit="c").woken == ("b",)
    assert claim(ledger, "b").edges == ("a",)


def test_nobody_who_waits_is_passed_but_those_who_wait_for_the_asker(ledger):
    open_with(
        ledger, a=[Lock("x")], b=[Lock("y")], waits_for_b=[Lock("y"), Lock("z")], mine=[Lock("x"), Lock("v")]
    )
    fence = granted(ledger, "a")
    granted(ledger, "b")
    assert not claim(ledger, "waits_for_b").granted
    assert not claim(ledger, "mine").granted
    answer = ledger.extend(RUN, "a", fence, ["z"])
    assert (answer.verdict, answer.holder) == ("queued", "waits_for_b")
    assert ledger.extend(RUN, "a", fence, ["v"]).granted, "`mine` cannot begin before `a` ends anyway"


def test_a_reader_becomes_a_writer_when_it_is_the_only_one(ledger):
    open_with(ledger, a=[Lock("src", R)], b=[Lock("src", R)])
    one, two = granted(ledger, "a"), granted(ledger, "b")
    answer = ledger.extend(RUN, "a", one, ["src/a.py"])
    assert (answer.verdict, answer.holder) == ("queued", "b")
    ledger.settle(RUN, "b", two, OK)
    assert ledger.extend(RUN, "a", one, ["src/a.py"]).granted
    assert ledger.extend(RUN, "a", one, ["src/**"]).granted, "its own reading is not in its way"


def test_an_old_token_is_given_nothing(ledger):
    open_with(ledger, a=[Lock("x")])
    fence = granted(ledger, "a")
    ledger.expire(RUN, "a", fence)
    assert ledger.extend(RUN, "a", fence, ["y"]).verdict == "superseded"
    new = granted(ledger, "a")
    assert ledger.extend(RUN, "a", fence, ["y"]).verdict == "superseded"
    assert ledger.extend(RUN, "a", new, ["y"]).granted


def test_what_was_given_is_asked_for_from_the_start_in_the_next_attempt(ledger):
    open_with(ledger, a=[Lock("x")], b=[Lock("y")])
    fence = granted(ledger, "a")
    assert ledger.extend(RUN, "a", fence, ["y"]).granted
    ledger.expire(RUN, "a", fence)
    granted(ledger, "b")
    assert claim(ledger, "a").reason == "lock: y is held for b"


def test_a_node_is_not_given_files_without_end(ledger):
    open_with(ledger, a=[])
    fence = granted(ledger, "a")
    for number in range(EXTENSIONS_MAX):
        assert ledger.extend(RUN, "a", fence, [f"f{number}"]).granted
    refused = ledger.extend(RUN, "a", fence, ["one-more"])
    assert (refused.verdict, refused.granted) == ("refused", False)
    assert str(EXTENSIONS_MAX) in refused.reason


def test_what_may_be_appended_to_is_known_to_all_who_merge(ledger):
    open_with(ledger, a=[], b=[])
    one, two = granted(ledger, "a"), granted(ledger, "b")
    assert ledger.appends(RUN) == ()
    assert ledger.extend(RUN, "a", one, ["log.txt"], A).granted
    assert ledger.extend(RUN, "b", two, ["log.txt"], A).granted
    assert set(ledger.appends(RUN)) == {"log.txt"}


def test_a_ledger_that_was_restored_knows_what_may_be_appended_to(ledger):
    """The node's journal says what it was given; whoever merges asks the run."""
    open_with(ledger, a=[])
    facts = {"commit": "c", "attempt": "1", "locks": '["a:log.txt"]', "extension": '["a:log.txt"]'}
    lost = {"a": {"fields": {**facts, "state": "succeeded", "fence": "1"}, "text": "", "place": 1}}
    count, _ = restoring.adopt(ledger, RUN, lost, {"a": ["log.txt"]}, generation=1)
    assert (count, ledger.appends(RUN)) == (1, ("log.txt",))
    node = ledger.node(RUN, "a")
    assert node.settled_fence == node.fence, "its commit may be merged"


def test_it_is_an_event(ledger, redis_client):
    open_with(ledger, a=[])
    fence = granted(ledger, "a")
    ledger.extend(RUN, "a", fence, ["y"], R)
    _, fields = redis_client.xrevrange(keys.part(RUN, "events"), count=1)[0]
    assert (fields["kind"], fields["state"], fields["reason"]) == ("node.extended", "", "r:y")


# -- exclusive runs ------------------------------------------------------------------------------------


def exclusive(ledger: Ledger, run: str, *locks: Lock, **nodes: list[Lock]) -> None:
    open_run(ledger, {n: [] for n in nodes}, locks=nodes, run_id=run, exclusive=locks)


def test_exclusive_runs_share_what_both_only_read(ledger):
    for run in ("one", "two", "three"):
        exclusive(ledger, run, Lock("src", R if run != "three" else W), a=[])
    granted(ledger, "a", "one")
    granted(ledger, "a", "two")
    assert claim(ledger, "a", "three").reason in (
        "exclusive: src is held by run one", "exclusive: src is held by run two",
    )  # fmt: skip


def test_a_node_of_an_exclusive_run_is_given_nothing_that_another_run_holds(ledger):
    exclusive(ledger, "one", Lock("src"), a=[Lock("src")])
    exclusive(ledger, "two", Lock("docs"), a=[Lock("docs")])
    one, two = granted(ledger, "a", "one"), granted(ledger, "a", "two")
    answer = ledger.extend("one", "a", one, ["docs/x"])
    assert (answer.verdict, answer.holder, answer.by) == ("queued", "two", "run")
    assert ledger.extend("one", "a", one, ["lib"]).granted
    assert ledger.extend("two", "a", two, ["lib/x"]).holder == "one", "the run holds what its node was given"


def test_an_exclusive_run_gives_all_of_it_back(ledger):
    exclusive(ledger, "one", Lock("src"), a=[Lock("src")])
    exclusive(ledger, "two", Lock("lib"), a=[])
    fence = granted(ledger, "a", "one")
    assert ledger.extend("one", "a", fence, ["lib/x"]).verdict == "queued", "`two` is next for it"
    assert ledger.extend("one", "a", fence, ["doc"]).granted
    ledger.settle("one", "a", fence, OK)
    ledger.settle("one", INTEGRATE, granted(ledger, INTEGRATE, "one"), OK)
    ledger.close("one", RunState.READY_TO_LAND)
    ledger.close("one", RunState.LANDED)
    assert ledger.client.hgetall(keys.project_locks("p")) == {}
    granted(ledger, "a", "two")


# -- the fence -----------------------------------------------------------------------------------------


def test_the_fence_of_a_settlement_is_kept_with_the_commit(ledger):
    open_with(ledger, a=[])
    ledger.expire(RUN, "a", granted(ledger, "a"))
    fence = granted(ledger, "a")
    ledger.settle(RUN, "a", fence, OK, commit="c")
    node = ledger.node(RUN, "a")
    assert node.settled_fence == node.fence == fence > 1


def test_only_the_integration_that_settled_closes_its_run(ledger):
    open_with(ledger, a=[])
    assert ledger.close(RUN, RunState.FAILED) is None, "nothing has been integrated"
    ledger.settle(RUN, "a", granted(ledger, "a"), OK)
    old = granted(ledger, INTEGRATE)
    assert ledger.close(RUN, RunState.READY_TO_LAND, fence=old) is None, "it has not settled"
    ledger.expire(RUN, INTEGRATE, old)
    new = granted(ledger, INTEGRATE)
    ledger.settle(RUN, INTEGRATE, new, OK)
    assert ledger.close(RUN, RunState.FAILED, fence=old) is None, "another one did"
    assert ledger.close(RUN, RunState.READY_TO_LAND, fence=new)
    assert ledger.run(RUN).state is RunState.READY_TO_LAND


def test_a_late_integration_does_not_close_a_run_that_was_opened_again(ledger):
    open_with(ledger, a=[])
    ledger.settle(RUN, "a", granted(ledger, "a"), NodeState.FAILED)
    fence = granted(ledger, INTEGRATE)
    ledger.settle(RUN, INTEGRATE, fence, NodeState.FAILED)
    assert ledger.close(RUN, RunState.FAILED, fence=fence)
    assert ledger.reopen(RUN)
    assert ledger.close(RUN, RunState.FAILED, fence=fence) is None
    assert ledger.run(RUN).state is RunState.OPEN


def test_the_tables_are_empty_when_nobody_holds_or_waits(ledger):
    open_with(ledger, a=[Lock("a/b/c", R), Lock("d", A)], b=[Lock("")], c=[Lock("a", A)])
    fence = granted(ledger, "a")
    claim(ledger, "b")
    claim(ledger, "c")
    wanted = ledger.client.hgetall(keys.part(RUN, "wanted"))
    assert wanted == {"w:": "b", "a:a": "c", "ia:": "1", "na:": "c|a"}
    assert json.loads(ledger.client.hget(keys.node(RUN, "a"), "locks")) == ["r:a/b/c", "a:d"]
    for node in ("a", "b", "c"):
        ledger.settle(RUN, node, fence if node == "a" else granted(ledger, node), OK)
    assert not ledger.client.exists(
        keys.part(RUN, "locks"), keys.part(RUN, "wanted"), keys.part(RUN, "lockwait")
    )
