"""The environment of an attempt's commands."""

from __future__ import annotations

import re
import stat
from contextlib import closing
from pathlib import Path

import pytest

from agentflow.tasks.surroundings import ALLOWED, Surroundings, namespace
from agentflow.workspace.trials import TrialCache

WORKER = {
    "PATH": "/bin", "LANG": "C.UTF-8", "USER": "ann", "OPENAI_API_KEY": "sk-1", "TMPDIR": "/var/own",
    "AGENTFLOW_REDIS_URL": "redis://:word@host/0", "FLOWER_BASIC_AUTH": "a:b",
}  # fmt: skip


@pytest.fixture
def worker(tmp_path):
    """The worker's own environment, with a HOME of some use."""
    for path in (".cargo", ".ssh", ".local"):
        (tmp_path / "ann" / path).mkdir(parents=True)
    return {**WORKER, "HOME": str(tmp_path / "ann")}


def env_of(tmp_path, worker, *, node="n", own=None, **options):
    with closing(Surroundings(tmp_path / node, **options)) as found:
        return found.env("run-1", node, 1, own or {}, worker)


def test_an_attempt_has_a_home_and_a_temporary_directory_of_its_own(tmp_path, worker):
    one, two = (env_of(tmp_path, worker, node=node) for node in ("n1", "n2"))
    for name in ("HOME", "TMPDIR"):
        assert len({one[name], two[name], worker[name]}) == 3
        assert list(Path(one[name]).iterdir()) == []
        assert stat.S_IMODE(Path(one[name]).stat().st_mode) == 0o700
        assert one[name].startswith(str(tmp_path / "n1"))


def test_nothing_else_of_the_worker_comes_through(tmp_path, worker):
    found = env_of(tmp_path, worker)
    assert not {"OPENAI_API_KEY", "AGENTFLOW_REDIS_URL", "FLOWER_BASIC_AUTH"} & set(found)
    ours = {name for name in found if name.startswith("AGENTFLOW_")}
    assert ours == {
        "AGENTFLOW_RUN", "AGENTFLOW_NODE", "AGENTFLOW_ATTEMPT", "AGENTFLOW_PORT", "AGENTFLOW_PORTS",
        "AGENTFLOW_NAMESPACE", "AGENTFLOW_WORKER_HOME",
    }  # fmt: skip
    tools = {"XDG_CACHE_HOME", "npm_config_cache", "CARGO_HOME", "PYTHONUSERBASE"}
    assert set(found) - ours <= set(ALLOWED) | tools


def test_tools_find_their_caches_and_what_is_installed(tmp_path, worker):
    found = env_of(tmp_path, worker)
    home = worker["HOME"]
    assert found["npm_config_cache"] == f"{home}/.npm"
    assert found["XDG_CACHE_HOME"] == f"{home}/.cache"
    assert found["CARGO_HOME"] == f"{home}/.cargo"
    assert "RUSTUP_HOME" not in found, "there is none"
    assert env_of(tmp_path, {**worker, "CARGO_HOME": "/opt/cargo"})["CARGO_HOME"] == "/opt/cargo"
    assert "XDG_CACHE_HOME" not in env_of(tmp_path, {**worker, "HOME": "/nonexistent"})


def test_who_wants_another_home_says_so(tmp_path, worker):
    assert env_of(tmp_path, worker, own_home=False)["HOME"] == worker["HOME"]
    spec = env_of(tmp_path, worker, own={"HOME": "/srv/home", "TMPDIR": "/srv/tmp", "npm_config_cache": "/c"})
    assert (spec["HOME"], spec["TMPDIR"], spec["npm_config_cache"]) == ("/srv/home", "/srv/tmp", "/c")
    assert "AGENTFLOW_WORKER_HOME" not in spec


def test_the_spec_cannot_give_an_attempt_anothers_ports_or_name(tmp_path, worker):
    found = env_of(tmp_path, worker, own={"AGENTFLOW_PORT": "80", "AGENTFLOW_NAMESPACE": "public"})
    first, last = map(int, found["AGENTFLOW_PORTS"].split("-"))
    assert found["AGENTFLOW_PORT"] == str(first) != "80"
    assert last - first == 9
    assert found["AGENTFLOW_NAMESPACE"] == namespace("run-1", "n", 1)


def test_names_for_databases_are_taken_by_every_server_and_by_one_attempt():
    asked = [
        ("run-1", "user-ui", 1),
        ("run-1", "user-ui", 2),
        ("run-2", "user-ui", 1),
        ("run-1", "user.ui", 1),
    ]
    asked += [("r", "x" * 64, 1), ("r", "x" * 63 + "y", 1), ("r", "@integrate", 1)]
    names = [namespace(*one) for one in asked]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) for name in names), names
    assert names[0].startswith("af_user_ui_1_")


def test_what_an_attempt_has_to_itself_decides_no_verdict(tmp_path, worker):
    """Else the trial on the base would be made again for each attempt."""
    cache = TrialCache(tmp_path)
    one, two = (env_of(tmp_path, worker, node=node) for node in ("n1", "n2"))
    assert cache.path("tree", ["pytest"], "setup", one) == cache.path("tree", ["pytest"], "setup", two)
    assert cache.path("tree", ["pytest"], "setup", one) != cache.path(
        "tree", ["pytest"], "setup", one | {"X": "1"}
    )
