"""Objects between machines that have Redis alone in common: bases, work, caps, and what gets lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import redis
from helpers.repos import commit_all, git, make_repo
from helpers.stores import Bench, write
from helpers.travel import Submitter, checked_out, machine, work

from agentflow import transport
from agentflow.errors import InfraError, PolicyViolation, RepositoryError
from agentflow.store.packs import check_room
from agentflow.workspace import clone, merge
from agentflow.workspace.gitcmd import Git

FILES = {
    f"src/m{n}.py": "".join(f"v{k} = {(n * 7919 + k) * 2654435761 % 2**53}\n" for k in range(60))
    for n in range(40)
}


@pytest.fixture
def submitter(tmp_path: Path, redis_url: str) -> Submitter:
    found = Submitter(make_repo(tmp_path / "repo", {"a.txt": "a\n"}), machine(tmp_path, "ann", redis_url))
    found.change(FILES)
    return found


def test_a_base_comes_without_its_history(submitter: Submitter, tmp_path: Path, redis_url: str) -> None:
    first = git(submitter.repo, "rev-parse", "HEAD~1")
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    root = checked_out(depot, run.base, tmp_path / "tree")
    assert {p.relative_to(root).as_posix() for p in root.glob("src/*")} == set(FILES)
    assert not depot.store.has(first)
    # What the agent sees there is a repository in order, with one commit.
    assert git(root, "log", "--format=%H").split() == [run.base]
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "fsck") == ""


def test_a_second_base_is_the_difference_to_the_first(submitter: Submitter, redis_url: str) -> None:
    one = submitter.run()
    submitter.change({"src/m1.py": "changed = True\n"})
    two = submitter.run(run_id="run-2")
    packs = transport.base_packs(submitter.config, one.project)
    whole, difference = packs.find(one.base), packs.find(two.base)
    assert whole
    assert difference
    assert difference.needs == (one.base,)
    assert difference.size < whole.size / 3
    # A cold machine takes both, a warm one the second alone; both can work on it.
    home = submitter.repo.parent
    cold = transport.open_depot(machine(home, "cold", redis_url), two)
    assert (checked_out(cold, two.base, home / "t2") / "src/m1.py").read_text() == "changed = True\n"


def test_bases_in_line_are_few(submitter: Submitter) -> None:
    for number in range(transport.BASES_IN_LINE + 2):
        submitter.change({"counter": str(number)})
        run = submitter.run()
    packs = transport.base_packs(submitter.config, run.project)
    lines = [packs.find(c) for c in packs.commits()]
    assert sum(1 for record in lines if record and not record.needs) == 2


def test_work_of_one_machine_is_merged_on_another(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    """A node is built on the merge of two others; its pack carries that merge too."""
    run = submitter.run()
    one, two, three = (
        transport.open_depot(machine(tmp_path, name, redis_url), run) for name in ("one", "two", "three")
    )
    a = work(one, run.base, {"a.txt": "A\n"}, tmp_path / "wa")
    b = work(two, run.base, {"src/m2.py": "B\n"}, tmp_path / "wb")
    one.bring([a, b])
    both = merge.merge_all(one.store, [a, b], run.base)
    bench = Bench(tmp_path / "wc", tmp_path, one.store, both)
    c = bench.commit({"c.txt": "C\n"}, base=both)
    one.share(c, [a, b])
    three.bring([c])
    assert three.store.has(both)
    assert merge.merge_all(three.store, [b, a], run.base) == both
    root = clone.prepare(three.store, c, tmp_path / "tree").root
    assert [(root / f).read_text() for f in ("a.txt", "src/m2.py", "c.txt")] == ["A\n", "B\n", "C\n"]


def test_nothing_is_left_without_a_ttl(
    submitter: Submitter, tmp_path: Path, redis_client: redis.Redis, redis_url: str
) -> None:
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    work(depot, run.base, {"a.txt": "A\n"}, tmp_path / "wa")
    (tmp_path / "n.1.log").write_text("said\n")
    transport.send_logs(submitter.config, run, tmp_path, "n.")
    keys = redis_client.keys("af:*")
    assert len(keys) >= 7
    assert [k for k in keys if redis_client.ttl(k) < 0] == []
    transport.forget_run(submitter.config, run.id)
    assert redis_client.keys(f"af:*{run.id}*") == []


def test_the_first_of_two_writers_stays(
    submitter: Submitter, tmp_path: Path, redis_client: redis.Redis
) -> None:
    packs = transport.run_packs(submitter.config, "run-9")
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 500_000)
    record = packs.put("c" * 40, tmp_path / "one")
    # A zombie that had looked before the first one was named.
    late = dataclasses.replace(record, writer="late", sha256="0" * 64, size=1)
    redis_client.set(packs._chunk("c" * 40, "late", 1), "x", ex=100)
    assert packs._name(late).writer == record.writer
    packs.get(packs.find("c" * 40) or record, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (tmp_path / "one").read_bytes()
    assert not redis_client.keys("*late*")


def test_a_lost_chunk_is_told_and_the_base_sent_again(
    submitter: Submitter, tmp_path: Path, redis_client: redis.Redis, redis_url: str
) -> None:
    run = submitter.run()
    for key in redis_client.keys("af:pack:*:1"):
        redis_client.delete(key)
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    with pytest.raises(InfraError, match="cannot be had from Redis") as told:
        depot.bring([run.base])
    assert "resume" in told.value.fix
    redis_client.flushall()
    with pytest.raises(InfraError) as told:
        depot.bring([run.base])
    assert told.value.code == "AF-INFRA-044"
    transport.publish_base(submitter.config, run.project, run.base, submitter.git_dir)
    depot.bring([run.base])
    assert depot.store.has(run.base)


def test_above_the_cap_a_git_remote_is_named_and_used(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    (submitter.repo / "large").write_bytes(b"".join(bytes([n % 251, n % 241]) for n in range(900_000)))
    write(submitter.repo, {"noise": "".join(f"{n * n * 2654435761 % 2**61:x}" for n in range(200_000))})
    base = commit_all(submitter.repo)
    tight = dataclasses.replace(
        submitter, config=machine(tmp_path, "ann", redis_url, **{"distributed.max_pack_mb": 1})
    )
    with pytest.raises(RepositoryError, match="at most 1 are carried") as told:
        tight.run()
    assert "distributed.remote" in told.value.fix
    remote = tmp_path / "remote.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(submitter.repo), str(remote))
    by_remote = {"distributed.max_pack_mb": 1, "distributed.remote": f"file://{remote}"}
    run = dataclasses.replace(submitter, config=machine(tmp_path, "ann", redis_url, **by_remote)).run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    root = checked_out(depot, base, tmp_path / "tree")
    assert (root / "large").stat().st_size == 1_800_000
    assert work(depot, base, {"a.txt": "A\n"}, tmp_path / "wa")


def test_work_above_the_cap_is_refused(submitter: Submitter, tmp_path: Path, redis_url: str) -> None:
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url, **{"distributed.max_pack_mb": 1}), run)
    noise = "".join(f"{n * n * 2654435761 % 2**61:x}" for n in range(200_000))
    with pytest.raises(PolicyViolation, match="at most 1 are carried"):
        work(depot, run.base, {"noise": noise}, tmp_path / "wa")


def test_a_redis_that_is_nearly_full_takes_no_pack(submitter: Submitter, redis_client: redis.Redis) -> None:
    used = int(redis_client.info("memory")["used_memory"])
    redis_client.config_set("maxmemory", used + used // 10)
    try:
        with pytest.raises(InfraError, match="too full") as told:
            submitter.run()
        assert told.value.code == "AF-INFRA-041"
    finally:
        redis_client.config_set("maxmemory", 0)
    check_room(redis_client)


def test_a_moved_target_with_merges_of_old_branches(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    """What the target holds by now may reach commits from before the base; history ends there."""
    git(submitter.repo, "branch", "old", "HEAD~1")
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    mine = work(depot, run.base, {"mine.txt": "mine\n"}, tmp_path / "wa")
    git(submitter.repo, "checkout", "--quiet", "old")
    submitter.change({"old.txt": "old\n"}, "on the old branch")
    git(submitter.repo, "checkout", "--quiet", "main")
    submitter.change({"new.txt": "new\n"}, "on main")
    git(submitter.repo, "merge", "--quiet", "--no-edit", "old")
    tip = submitter.head()
    transport.publish_history(submitter.config, run, submitter.git_dir, tip)
    depot.bring([mine, tip])
    merged = merge.merge_all(depot.store, [mine, tip], run.base)
    root = clone.prepare(depot.store, merged, tmp_path / "tree").root
    assert {p.name for p in root.glob("*.txt")} == {"a.txt", "mine.txt", "old.txt", "new.txt"}
    parents = Git(depot.store.git_dir).out("cat-file", "commit", merged)
    assert f"parent {tip}" in parents


def test_stores_of_closed_runs_are_removed_and_come_again(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    run = submitter.run()
    config = machine(tmp_path, "one", redis_url)
    depot = transport.open_depot(config, run)
    made = work(depot, run.base, {"a.txt": "A\n"}, tmp_path / "wa")
    assert transport.tidy(config, [run.id], older_than_s=0) == []
    assert transport.tidy(config, []) == []
    assert transport.tidy(config, [], older_than_s=0) == [run.id]
    again = transport.open_depot(config, run)
    again.bring([made])
    assert again.store.has(made)


def test_logs_can_be_read_elsewhere(submitter: Submitter, tmp_path: Path) -> None:
    run = submitter.run()
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    (there / "n.1.log").write_text("first\n" + "x" * 100_000 + "\nlast\n")
    (there / "n.1.acceptance.log").write_text("red\n")
    (there / "nn.1.log").write_text("another node\n")
    transport.send_logs(submitter.config, run, there, "n.1.")
    transport.bring_logs(submitter.config, run, here)
    assert {p.name for p in here.iterdir()} == {"n.1.log", "n.1.acceptance.log"}
    text = (here / "n.1.log").read_text()
    assert text.endswith("\nlast\n")
    assert len(text) == 64 * 1024
