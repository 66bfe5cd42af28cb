"""What decides how many workers there are, what they serve and what they take; no process, no Redis."""

from __future__ import annotations

import pytest

from agentflow import host
from agentflow.config import Config, load_config
from agentflow.errors import UsageError
from agentflow.local import launching
from agentflow.local.need import Scaling, Settings
from agentflow.tasks.admission import Admission

FOUR = Settings(autoscale=True, min_workers=1, max_workers=4, slots_per_worker=2)


def config(**env: str) -> Config:
    return load_config(None, environ={f"AGENTFLOW_{name}": value for name, value in env.items()})


class Load:
    """A queue over time, and the number of workers that follows it."""

    def __init__(self) -> None:
        self.scaling = Scaling(up_s=1.0, down_s=10.0)
        self.live = 1
        self.now = 100.0

    def after(self, seconds: float, *, busy: int, waiting: int, limit: int = 0) -> int:
        self.now += seconds
        self.live = self.scaling.desired(FOUR, self.live, busy, waiting, limit, self.now)
        return self.live


def test_workers_come_when_work_has_waited_for_a_moment():
    load = Load()
    assert load.after(0, busy=2, waiting=4) == 1
    assert load.after(0.5, busy=2, waiting=4) == 1
    assert load.after(0.6, busy=2, waiting=4) == 3


def test_a_moment_without_waiting_starts_the_count_again():
    load = Load()
    load.after(0, busy=2, waiting=4)
    load.after(0.9, busy=2, waiting=0)
    assert load.after(0.2, busy=2, waiting=4) == 1


def test_never_more_than_allowed_nor_for_work_that_a_limit_holds_back():
    load = Load()
    load.after(0, busy=2, waiting=500)
    assert load.after(2, busy=2, waiting=500) == 4
    load = Load()
    load.after(0, busy=2, waiting=500, limit=3)
    assert load.after(2, busy=2, waiting=500, limit=3) == 2


def test_workers_go_one_by_one_and_late():
    load = Load()
    load.live = 4
    load.after(0, busy=0, waiting=0)
    assert load.after(9, busy=0, waiting=0) == 4
    assert load.after(1, busy=0, waiting=0) == 3
    assert load.after(9, busy=0, waiting=0) == 3
    assert load.after(1, busy=0, waiting=0) == 2
    assert load.after(30, busy=0, waiting=0) == 1
    assert load.after(30, busy=0, waiting=0) == 1, "the least number stays"


def test_the_least_number_is_there_at_once():
    load = Load()
    load.live = 0
    assert load.after(0, busy=0, waiting=0) == 1


def test_queues_of_roles_aliases_and_routing():
    plain = config()
    assert launching.queues_for(plain, roles=["developer", "tester"]) == ("implementer", "tester")
    assert launching.queues_for(plain, queues=["backend-engineer", "gpu"]) == ("backend", "gpu")
    assert launching.queues_for(plain) == ()
    routed = config(ROUTING_ROLES="backend=services", WORKER_QUEUES="docs")
    assert launching.queues_for(routed, roles=["backend"]) == ("services",)
    assert launching.queues_for(routed, queues=["services"]) == ("services",)
    assert launching.queues_for(routed) == ("docs",)


def test_a_feature_has_a_queue_only_where_routing_goes_by_feature():
    assert launching.queues_for(config(), feature="User Login") == ()
    assert launching.queues_for(config(ROUTING_BY="feature"), feature="User Login") == ("feature.user-login",)


def test_an_unknown_role_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="no role 'testr'") as caught:
        launching.queues_for(config(), roles=["testr"])
    assert "tester" in caught.value.fix


def test_slots():
    assert launching.slots_of("7", config()) == 7
    assert launching.slots_of(None, config(WORKER_SLOTS="5")) == 5
    assert 1 <= launching.slots_of("auto", config()) <= launching.AUTO_SLOTS_MAX
    for wrong in ("0", "501", "many", "-1"):
        with pytest.raises(UsageError, match="slots make no sense"):
            launching.slots_of(wrong, config())


def test_names():
    assert launching.full_name("w1").startswith("w1@")
    assert launching.full_name("w1@rack3") == "w1@rack3"
    assert launching.new_name("User Login!").startswith("user-login-")
    for wrong in ("a b", "a@b@c", "", "../x"):
        with pytest.raises(UsageError, match="no name"):
            launching.full_name(wrong)


def test_the_address_goes_by_the_environment_and_no_other_way():
    url = "redis://:secret@host:6379/0"
    found = launching.environment_for(
        config(REDIS_URL=url), {"AGENTFLOW_REDIS_URL": "redis://other/0", "A": "b"}
    )
    assert (found["AGENTFLOW_REDIS_URL"], found["A"]) == (url, "b")
    assert "AGENTFLOW_REDIS_URL" not in launching.environment_for(config(), {"AGENTFLOW_REDIS_URL": url})
    assert "secret" not in " ".join(launching.WorkerSpec("w@h", 4, ("docs",)).argv())


@pytest.mark.parametrize(
    ("percents", "held"), [([89, 89], [0, 0]), ([91, 86, 84], [1, 1, 0]), ([90, 85], [1, 1])]
)
def test_a_worker_holds_back_until_the_machine_is_well_below_the_limit(monkeypatch, percents, held):
    admission = Admission(config(WORKER_HOST_MEMORY_PERCENT="90"))
    seen = []
    for percent in percents:
        monkeypatch.setattr(host, "memory_percent", lambda percent=percent: float(percent))
        admission.look()
        seen.append(int(bool(admission.reason)))
    assert seen == held
    assert admission.room(8) == (1 if held[-1] else 8)
