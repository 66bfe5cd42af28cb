"""Modes of artifacts from the file to the plan, the prompt and what may be changed; the commits that are
merged.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.canvas.opening import exclusive_locks
from agentflow.canvas.plan import Plan, PlanNode, make_plan
from agentflow.canvas.scope import Appends, Scope, appends_in, scope_of
from agentflow.cli import planning, render_plan
from agentflow.config import Config
from agentflow.environment import Request
from agentflow.spec.artifacts import MODES, Lock, needed_locks
from agentflow.spec.checks import check_spec
from agentflow.spec.models import Spec
from agentflow.states import NodeState
from agentflow.store.records import NodeRecord
from agentflow.tasks import integrate, prompt

PATHS = ["", "src", "src/a", "src/a/x.py", "docs"]
LOCKS = st.builds(Lock, st.sampled_from(PATHS), st.sampled_from(MODES))


def spec(*tasks: dict[str, object]) -> Spec:
    whole = [{"id": f"t{i}", "role": "backend", "prompt": "p", **task} for i, task in enumerate(tasks)]
    return Spec.model_validate({"feature": "f", "tasks": whole})


def planned(*tasks: dict[str, object]) -> Plan:
    return make_plan(spec(*tasks), Config())


APPENDS = {"path": "log.md", "mode": "append"}
READS = {"path": "src/**", "mode": "read"}


def test_modes_reach_the_plan_as_locks_and_scope():
    node = planned({"artifacts": [READS, "src/a.py", APPENDS]}).nodes[0]
    assert node.locks == (Lock("log.md", "append"), Lock("src", "read"), Lock("src/a.py"))
    assert (node.artifacts, node.appends, node.kept) == (("src/a.py", "log.md"), ("log.md",), ("src/**",))
    assert node.declared
    assert scope_of(node, ()) == Scope(("src/a.py",), ("log.md",), ())


def test_a_plan_is_the_same_after_its_journey():
    plan = planned({"artifacts": [READS, "src/a.py", APPENDS]})
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_who_only_reads_writes_as_if_it_declared_nothing_but_not_what_it_reads():
    node = planned({"artifacts": [READS]}).nodes[0]
    assert (node.artifacts, node.declared) == ((), False)
    assert scope_of(node, ()) == Scope(None, (), ("src/**",))
    assert scope_of(node, [Lock("src", "write")]).kept == (), "it was given what it read"


def test_a_report_may_keep_files_and_nothing_else():
    node = planned({"output": "report", "artifacts": [READS]}).nodes[0]
    assert node.locks == (Lock("src", "read"),)
    for artifact in ("src/a.py", APPENDS):
        problems = check_spec(spec({"output": "report", "artifacts": [artifact]}), Config())
        assert [problem.code for problem in problems] == ["AF-SPEC-050"]


def test_reading_is_no_artifact_of_a_strict_feature():
    task = {"id": "a", "role": "backend", "prompt": "p", "artifacts": [READS]}
    strict = {"feature": "f", "tasks": [task], "policy": {"strict_artifacts": True}}
    problems = check_spec(Spec.model_validate(strict), Config())
    assert [problem.code for problem in problems] == ["AF-SPEC-052"]


def test_what_was_given_widens_the_scope():
    node = planned({"artifacts": ["src/a.py"]}).nodes[0]
    scope = scope_of(node, [Lock("docs", "write"), Lock("log.md", "append"), Lock("lib", "read")])
    assert scope == Scope(("src/a.py", "docs", "docs/**"), ("log.md", "log.md/**"), ())


@given(st.lists(LOCKS, max_size=6))
def test_needed_locks_stand_for_all(locks):
    kept = needed_locks(locks)
    assert all(any(one.suffices_for(lock) for one in kept) for lock in locks)
    assert not any(one != other and one.suffices_for(other) for one in kept for other in kept)
    assert needed_locks(kept) == kept


@given(LOCKS, LOCKS)
def test_clashing_goes_both_ways_and_texts_are_read_again(one, other):
    assert one.clashes_with(other) == other.clashes_with(one)
    assert Lock.of(one.text) == one


def test_an_exclusive_run_takes_each_path_in_its_mode():
    plan = planned({"artifacts": ["src/a.py", APPENDS]}, {"output": "report", "artifacts": [READS]})
    assert exclusive_locks(plan) == (Lock("log.md", "append"), Lock("src", "read"), Lock("src/a.py"))
    assert exclusive_locks(planned({})) == (Lock(""),)


def test_additions_are_merged_where_the_plan_or_a_grant_says_so():
    plan = planned({"artifacts": [APPENDS, "a.py"]})
    asked: list[int] = []

    def given() -> list[str]:
        asked.append(1)
        return ["notes"]

    appends = Appends(plan, given)
    assert appends("log.md")
    assert not asked, "the ledger is asked only for what the plan does not know"
    assert appends("notes/x.md")
    assert not appends("a.py")
    assert len(asked) == 1
    record = NodeRecord("t0", "r", NodeState.SUCCEEDED, extension=(Lock("x", "append"), Lock("y")))
    assert [appends_in(plan, {"t0": record})(path) for path in ("x", "y")] == [True, False]


def test_the_prompt_says_what_may_be_done_with_each():
    node = planned({"artifacts": [READS, "src/a.py", APPENDS]}).nodes[0]
    told = prompt.build(Plan(feature="f", nodes=(node,)), node, [], feedback="", conflict="")
    assert "- src/a.py\n- log.md: only add at its end, others add there too\n- src/**: read only;" in told
    free = planned({"artifacts": [READS]}).nodes[0]
    assert "Any file that the task needs. Not:\n- src/**" in prompt.build(
        Plan(feature="f", nodes=(free,)), free, [], feedback="", conflict=""
    )


# -- the plan predicts -----------------------------------------------------------------------------------


def test_conflicts_are_predicted_by_mode():
    made = planned(
        {"id": "reads", "artifacts": [READS]},
        {"id": "writes", "artifacts": ["src/a.py"]},
        {"id": "also-reads", "artifacts": [{"path": "src/a.py", "mode": "read"}]},
        {"id": "logs", "artifacts": [APPENDS]},
        {"id": "also-logs", "artifacts": [APPENDS]},
        {"id": "later", "artifacts": [READS], "needs": ["writes"]},
    )
    # Those that only read keep nobody else from reading; what else they write is not declared.
    assert [o for o in planning.overlaps(made) if o.waits] == [
        render_plan.Overlap("reads", "writes", "src/a.py", ("read", "write")),
        render_plan.Overlap("writes", "also-reads", "src/a.py", ("write", "read")),
    ]


def test_what_declares_nothing_may_collide():
    config = Config()
    roles = {**config.roles, "docs": config.roles["docs"].model_copy(update={"artifacts": ("docs/**",)})}
    config = config.model_copy(update={"roles": roles})
    made = make_plan(
        spec(
            {"id": "one", "role": "docs"}, {"id": "two", "artifacts": ["docs/x.md"]}, {"id": "a"}, {"id": "b"}
        ),
        config,
    )
    assert planning.overlaps(made) == [render_plan.Overlap("one", "two", "docs/x.md", waits=False)]
    shown = "\n".join(render_plan.text(planning.view_of(spec({"id": "a"}, {"id": "b"}), config)))
    assert "declare nothing and may collide with each other\n  a, b" in shown


# -- the integration ---------------------------------------------------------------------------------------


def record(name: str, **facts: object) -> NodeRecord:
    whole = {"fence": 2, "settled_fence": 2, "commit": f"c-{name}", "state": NodeState.SUCCEEDED, **facts}
    return NodeRecord(name, "r", **whole)  # type: ignore[arg-type]  # facts of a test


def test_only_work_that_was_settled_under_the_newest_token_is_merged():
    plan = Plan(feature="f", nodes=tuple(PlanNode(id=name, role="r") for name in "abc"))
    nodes = {"a": record("a"), "b": record("b", state=NodeState.FAILED), "c": record("c", commit="")}
    assert integrate._settled_work(plan, nodes) == ["c-a"]
    with pytest.raises(integrate.StaleWorkError, match="the work of a"):
        integrate._settled_work(plan, {**nodes, "a": record("a", fence=3)})


def test_a_request_is_refused_unless_it_says_otherwise():
    assert not Request("no").granted
