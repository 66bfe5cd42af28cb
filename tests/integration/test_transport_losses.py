"""What can go wrong while objects travel: cut connections, lost parts, stores that vanish, full servers."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import pytest
import redis
from helpers.repos import git, make_repo
from helpers.travel import Submitter, checked_out, machine, work

from agentflow import transport
from agentflow.environment import Stop
from agentflow.errors import ConflictError, InfraError, PolicyViolation
from agentflow.store.logs import Logs
from agentflow.store.packs import FULL_SHARE, Packs
from agentflow.workspace import clone, ingest, land, merge, setup
from agentflow.workspace import store as stores
from agentflow.workspace.commands import Terms
from agentflow.workspace.store import Store

FILES = {f"src/m{n}.py": f"value = {n}\n" for n in range(5)}
COMMIT = "c" * 40


@pytest.fixture
def submitter(tmp_path: Path, redis_url: str) -> Submitter:
    found = Submitter(make_repo(tmp_path / "repo", {"a.txt": "a\n"}), machine(tmp_path, "ann", redis_url))
    found.change(FILES)
    return found


@pytest.fixture
def packs(submitter: Submitter) -> Packs:
    return transport.run_packs(submitter.config, "run-9")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A pack of three chunks."""
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 10_000)
    return path


def test_a_pack_survives_that_the_answer_to_its_naming_is_lost(
    packs: Packs, large: Path, tmp_path: Path
) -> None:
    """redis-py sends the transaction again when the connection breaks before the answer has come."""
    record = packs.put(COMMIT, large)
    assert packs._name(record) == record
    packs.get(record, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == large.read_bytes()


def test_a_writer_that_dies_in_the_middle_leaves_nothing_for_long(
    packs: Packs, large: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_record: object) -> None:
        raise redis.ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(packs, "_name", die)
        with pytest.raises(redis.ConnectionError):
            packs.put(COMMIT, large)
    chunks = redis_client.keys("af:pack:*:3")
    assert chunks
    assert all(0 < redis_client.ttl(key) <= 6 * 3600 for key in chunks)
    packs.put(COMMIT, large)
    record = packs.find(COMMIT)
    assert record
    named = redis_client.keys(f"af:pack:*:{record.writer}:*")
    assert all(redis_client.ttl(key) > 24 * 3600 for key in named)


def test_a_base_of_which_a_part_is_gone_is_sent_again(
    submitter: Submitter, tmp_path: Path, redis_client: redis.Redis, redis_url: str
) -> None:
    run = submitter.run()
    for key in redis_client.keys("af:pack:*:1"):
        redis_client.delete(key)
    submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    assert checked_out(depot, run.base, tmp_path / "tree")


def test_a_base_whose_older_base_is_gone_is_sent_again(
    submitter: Submitter, tmp_path: Path, redis_client: redis.Redis, redis_url: str
) -> None:
    older = submitter.run()
    submitter.change({"src/m1.py": "changed = True\n"})
    run = submitter.run()
    for key in redis_client.keys(f"af:pack:*{older.base}*"):
        redis_client.delete(key)
    submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    assert checked_out(depot, run.base, tmp_path / "tree")


def test_a_store_that_another_process_removed_is_filled_again(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    """What this process remembers of a store is of no use for the next one at the same place."""
    run = submitter.run()
    config = machine(tmp_path, "one", redis_url)
    depot = transport.open_depot(config, run)
    a = work(depot, run.base, {"a.txt": "A\n"}, tmp_path / "wa")
    b = work(depot, run.base, {"b.txt": "B\n"}, tmp_path / "wb")
    both = merge.merge_all(depot.store, [a, b], run.base)
    shutil.rmtree(depot.store.git_dir)
    again = transport.open_depot(config, run)
    again.bring([run.base, a, b])
    assert merge.merge_all(again.store, [a, b], run.base) == both
    root = clone.prepare(again.store, both, tmp_path / "tree").root
    assert (root / "b.txt").read_text() == "B\n"


@pytest.mark.timeout(40)
def test_a_store_that_was_half_removed_is_made_whole(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    run = submitter.run()
    config = machine(tmp_path, "one", redis_url)
    store = transport.open_depot(config, run).store
    (store.objects / "info" / "alternates").unlink()
    assert checked_out(transport.open_depot(config, run), run.base, tmp_path / "tree")


@pytest.mark.timeout(40)
def test_needs_that_go_round_in_a_circle_are_refused(
    submitter: Submitter, tmp_path: Path, large: Path, redis_url: str
) -> None:
    run = submitter.run()
    one, other = "1" * 40, "2" * 40
    packs = transport.run_packs(submitter.config, run.id)
    packs.put(one, large, [other])
    packs.put(other, large, [one])
    with pytest.raises(InfraError):
        transport.open_depot(machine(tmp_path, "one", redis_url), run).bring([one])
    bases = transport.base_packs(submitter.config, run.project)
    bases.put(one, large, [other])
    bases.put(other, large, [one])
    with pytest.raises(InfraError):
        transport.bring_base(bases, Store(tmp_path / "ann" / "pools" / f"{run.project[:12]}.git"), one)
    submitter.change({"src/m1.py": "changed = True\n"})
    assert submitter.run()


def test_work_that_is_too_large_is_the_attempts_fault(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    """Ten lost workers would be counted for it, and ten agents paid."""
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url, **{"distributed.max_pack_mb": 1}), run)
    noise = "".join(f"{n * n * 2654435761 % 2**61:x}" for n in range(200_000))
    with pytest.raises(PolicyViolation, match="at most 1 are carried") as told:
        work(depot, run.base, {"noise": noise}, tmp_path / "wa")
    assert told.value.feedback


def test_a_full_server_takes_the_work_of_runs_that_it_has(
    submitter: Submitter, tmp_path: Path, redis_client: redis.Redis, redis_url: str
) -> None:
    """Above 80 % nothing new begins, and what has begun can end."""
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    used = int(redis_client.info("memory")["used_memory"])
    redis_client.config_set("maxmemory", int(used / (FULL_SHARE + 0.08)))
    try:
        made = work(depot, run.base, {"a.txt": "A\n"}, tmp_path / "wa")
        assert transport.run_packs(submitter.config, run.id).find(made)
    finally:
        redis_client.config_set("maxmemory", 0)


def test_logs_are_not_worth_an_attempt(
    submitter: Submitter, tmp_path: Path, redis_client: redis.Redis
) -> None:
    run = submitter.run()
    (tmp_path / "n.1.log").write_text("said\n")
    redis_client.config_set("maxmemory", 1)
    try:
        transport.send_logs(submitter.config, run, tmp_path, "n.1.")
    finally:
        redis_client.config_set("maxmemory", 0)


def test_logs_have_plain_names(submitter: Submitter, tmp_path: Path) -> None:
    run = submitter.run()
    folder = tmp_path / "a" / "b"
    for name in ("..", "", "../up.log", "fine.log"):
        Logs(submitter.config.client_url(), run.id).put(name, b"x" * 50_000)
    transport.bring_logs(submitter.config, run, folder)
    assert [p.name for p in folder.iterdir()] == ["fine.log"]
    assert not list(folder.parent.glob("*.log"))


def test_two_projects_do_not_share_what_their_setups_made(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    other = Submitter(make_repo(tmp_path / "repo2", {"a.txt": "another project\n"}), submitter.config)
    config = machine(tmp_path, "one", redis_url)

    @dataclasses.dataclass
    class Spec:
        commands = (("sh", "-c", "mkdir made; cp a.txt made/of"),)
        key = ()
        keep = ("made",)

    made = []
    for number, whose in enumerate((submitter, other)):
        run = whose.run(run_id=f"run-{number}")
        depot = transport.open_depot(config, run)
        root = checked_out(depot, run.base, tmp_path / f"tree{number}")
        terms = Terms({"PATH": "/usr/bin:/bin"}, time.monotonic() + 60, Stop(), tmp_path / "setup.log")
        setup.provide(depot.store, Spec(), run.base, root, data_dir=config.data_dir, terms=terms)
        made.append((root / "made" / "of").read_text())
    assert made == ["a\n", "another project\n"]


def diverged(submitter: Submitter) -> str:
    """A target that holds what the base does not; returns its commit."""
    git(submitter.repo, "branch", "release", "HEAD~1")
    git(submitter.repo, "checkout", "--quiet", "release")
    tip = submitter.change({"released.txt": "yes\n"}, "on release")
    git(submitter.repo, "checkout", "--quiet", "main")
    return tip


def test_a_target_that_never_was_part_of_the_base(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    tip = diverged(submitter)
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    mine = work(depot, run.base, {"mine.txt": "mine\n"}, tmp_path / "wa")
    transport.publish_history(submitter.config, run, submitter.git_dir, tip)
    depot.bring([mine, tip])
    merged = merge.merge_all(depot.store, [mine, tip], run.base)
    root = clone.prepare(depot.store, merged, tmp_path / "tree").root
    names = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and ".git" not in p.parts}
    assert names == {*FILES, "a.txt", "mine.txt", "released.txt"}


def test_a_target_with_nothing_in_common_is_refused(submitter: Submitter) -> None:
    run = submitter.run()
    git(submitter.repo, "checkout", "--quiet", "--orphan", "alone")
    tip = submitter.change({"alone.txt": "yes\n"})
    with pytest.raises(ConflictError):
        transport.publish_history(submitter.config, run, submitter.git_dir, tip)


def test_a_remote_that_was_corrected_is_used(submitter: Submitter, tmp_path: Path, redis_url: str) -> None:
    noise = "".join(f"{n * n * 2654435761 % 2**61:x}" for n in range(200_000))
    base = submitter.change({"noise": noise})
    remote = tmp_path / "remote.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(submitter.repo), str(remote))
    for name in (f"file://{tmp_path}/wrong.git", f"file://{remote}"):
        more = {"distributed.max_pack_mb": 1, "distributed.remote": name}
        run = dataclasses.replace(submitter, config=machine(tmp_path, "ann", redis_url, **more)).run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    assert checked_out(depot, base, tmp_path / "tree")


@pytest.mark.parametrize(
    "remote", ["ext::sh -c 'touch HURT'", "--upload-pack=touch HURT", "http://127.0.0.1:9/x"]
)
def test_no_remote_runs_a_command(
    submitter: Submitter, tmp_path: Path, redis_url: str, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = submitter.run()
    bases = transport.base_packs(submitter.config, run.project)
    bases.forget()
    bases.refer(run.base, remote)
    with pytest.raises(InfraError):
        transport.open_depot(machine(tmp_path, "one", redis_url), run).bring([run.base])
    assert not list(tmp_path.rglob("HURT"))


def test_a_password_in_a_remote_is_not_told(submitter: Submitter, tmp_path: Path, redis_url: str) -> None:
    run = submitter.run()
    bases = transport.base_packs(submitter.config, run.project)
    bases.forget()
    bases.refer(run.base, "https://user:s3cret@127.0.0.1:9/x.git")
    with pytest.raises(InfraError) as told:
        transport.open_depot(machine(tmp_path, "one", redis_url), run).bring([run.base])
    assert "s3cret" not in told.value.explain()


def test_work_that_redis_lost_comes_again_from_a_clone_that_has_it(
    submitter: Submitter, tmp_path: Path, redis_client: redis.Redis, redis_url: str
) -> None:
    run = submitter.run()
    one = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    made = work(one, run.base, {"a.txt": "A\n"}, tmp_path / "wa")
    lost = work(one, run.base, {"b.txt": "B\n"}, tmp_path / "wb")
    land.publish(one.store, submitter.git_dir, run.id, {"nodes/a": made}, base=run.base)
    for key in redis_client.keys(f"af:pack:{run.id}:*"):
        redis_client.delete(key)
    transport.keep_work(submitter.config, run, [made, lost], submitter.git_dir)
    two = transport.open_depot(machine(tmp_path, "two", redis_url), run)
    assert (checked_out(two, made, tmp_path / "tree") / "a.txt").read_text() == "A\n"


def test_what_killed_workers_left_is_removed(submitter: Submitter, tmp_path: Path, redis_url: str) -> None:
    run = submitter.run()
    config = machine(tmp_path, "one", redis_url)
    depot = transport.open_depot(config, run)
    depot.bring([run.base])
    (pool,) = (config.data_dir / "pools").glob("*.git")
    place = config.data_dir / "runs" / run.id / "work" / "n.1"
    left = [pool / "parcel-dead", pool / "quarantine" / "dead", place]
    for folder in left:
        folder.mkdir(parents=True, exist_ok=True)
    transport.tidy(config, [run.id], older_than_s=0)
    assert [p for p in left if p.exists()] == [place]
    transport.tidy(config, [], older_than_s=0)
    assert not place.exists()
    assert not list((config.data_dir / "runs" / run.id).glob("store*.git*"))


def test_the_stores_of_another_ledger_are_let_alone(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    """One data directory may serve the team's Redis and a private one."""
    run = submitter.run()
    one = machine(tmp_path, "one", redis_url)
    transport.open_depot(one, run).bring([run.base])
    other = machine(tmp_path, "one", "redis://elsewhere:6379/0")
    assert transport.tidy(other, [], older_than_s=0) == []
    assert transport.tidy(one, [], older_than_s=0) == [run.id]


def test_a_pool_does_not_fill_up_with_small_packs(
    submitter: Submitter, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PACKS_MAX", 4)
    config = machine(tmp_path, "one", redis_url)
    for number in range(8):
        submitter.change({"counter": str(number)})
        run = submitter.run(run_id=f"run-{number}")
        depot = transport.open_depot(config, run)
        depot.bring([run.base])
    (pool,) = (config.data_dir / "pools").glob("*.git")
    assert len(list((pool / "objects" / "pack").glob("*.idx"))) <= 4
    root = checked_out(depot, run.base, tmp_path / "tree")
    assert (root / "counter").read_text() == "7"


@pytest.mark.parametrize(
    ("files", "named", "code"),
    [
        ({"new.txt": "n"}, (), ""),
        ({".github/workflows/x.yml": "on: push"}, (), "AF-POLICY-012"),
        ({".github/workflows/x.yml": "on: push"}, (".github/**",), ""),
        ({".gitattributes": "* filter=x"}, ("**",), "AF-POLICY-009"),
    ],
)
def test_what_others_packed_is_judged_before_it_lands(
    submitter: Submitter,
    tmp_path: Path,
    redis_url: str,
    files: dict[str, str],
    named: tuple[str, ...],
    code: str,
) -> None:
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    made = work(depot, run.base, files, tmp_path / "w")
    if not code:
        ingest.check_result(depot.store, run.base, made, named)
        return
    with pytest.raises(PolicyViolation) as told:
        ingest.check_result(depot.store, run.base, made, named)
    assert told.value.code == code


def test_a_result_that_is_not_built_on_the_base_does_not_land(
    submitter: Submitter, tmp_path: Path, redis_url: str
) -> None:
    run = submitter.run()
    depot = transport.open_depot(machine(tmp_path, "one", redis_url), run)
    one = work(depot, run.base, {"a.txt": "A"}, tmp_path / "w1")
    other = work(depot, run.base, {"b.txt": "B"}, tmp_path / "w2")
    with pytest.raises(PolicyViolation, match="not built on"):
        ingest.check_result(depot.store, one, other, ())
