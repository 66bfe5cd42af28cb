"""Two machines of a team, each killed -9 at seeded moments; the tree that lands is always the same.

The seed is printed (and is the test's id): it chooses the points at which workers die and the progress at
which they are killed from outside; the exact interleaving does not come back.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from helpers.repos import git, make_repo
from helpers.wait import wait_until
from helpers.workers import Stage, Worker, stage

from agentflow import runs
from agentflow.config import Config
from agentflow.spec.models import Spec
from agentflow.spec.reader import parse_spec
from agentflow.states import RunState
from agentflow.store import keys

CRASHING = Path(__file__).parents[1] / "helpers" / "crashing_worker.py"
POINTS = ("claimed", "accepted", "shared", "before-settle", "settled", "continued")
PARTS = 7
#: Two of the nodes have undeclared paths, so that they settle optimistically.
UNDECLARED = (3, 6)
#: The seed whose workers have one data directory.
SHARED = 2


def spec(config: Config) -> Spec:
    """Parts that are built on one another; each appends to what is there, so that a lost one would show."""
    lines = [
        "feature: Parts of a whole",
        "target: whole",
        'runner: {command: ["sh", "-c", "sleep 0.5; cat p*.txt > $1.txt; echo $1 >> $1.txt", sh, "{task}"]}',
        "validate: [\"sh -c 'test $(ls p*.txt | wc -l) = 7'\"]",
        "tasks:",
    ]
    for number in range(PARTS):
        needs = [f"p{n}" for n in range(number) if (number * 5 + n * 3) % 4 == 0]
        artifacts = "" if number in UNDECLARED else f"artifacts: [p{number}.txt], "
        lines.append(
            f"  - {{id: p{number}, role: backend, {artifacts}needs: [{', '.join(needs)}], retries: 3,"
            f' acceptance: ["test -s p{number}.txt"]}}'
        )
    return parse_spec("\n".join(lines), name="feature.yaml", config=config)


def expected() -> dict[str, str]:
    """What the files hold when every node saw exactly what it needs."""
    needs = {n: [m for m in range(n) if (n * 5 + m * 3) % 4 == 0] for n in range(PARTS)}
    above: dict[int, set[int]] = {}
    texts: dict[int, str] = {}
    for n in range(PARTS):
        above[n] = {*needs[n], *(a for m in needs[n] for a in above[m])}
        texts[n] = "".join(texts[m] for m in sorted(above[n])) + f"p{n}\n"
    return {f"p{n}.txt": text for n, text in texts.items()}


class Machine:
    """A worker that comes back after each death, with the data directory that it had."""

    def __init__(self, found: Stage, number: int, point: str, place: Path, rng: random.Random) -> None:
        self._found = found
        self._rng = rng
        self._home = place
        self._home.mkdir(exist_ok=True)
        self._name = f"m{number}"
        self.deaths = -1
        self.worker: Worker | None = None
        self.begin(point)

    def begin(self, point: str = "") -> None:
        """Start the worker; with a point it kills itself there, at one node of the seed's choice."""
        self.deaths += 1
        env = {"AGENTFLOW_HOME": str(self._home)}
        program: tuple[str, ...] = ("-m", "celery", "-A", "agentflow")
        if point:
            node = f"p{self._rng.randrange(PARTS)}"
            mark = self._home / f"{self._name}-dead-{self.deaths}"
            env |= {"CRASH_AT": point, "CRASH_NODE": node, "CRASH_MARK": str(mark)}
            program = (str(CRASHING),)
            sys.stdout.write(f"{self._name} dies when {node} is {point}\n")
        name = f"{self._name}-{self.deaths}"
        self.worker = self._found.start(name, slots=3, env=env, program=program, wait=False)

    def revive(self) -> None:
        """Start it again when it has died."""
        if self.worker and self.worker.process.poll() is not None:
            self.begin()

    def is_working(self, found: Stage) -> bool:
        """Whether an attempt runs here."""
        name = self.worker.name if self.worker else ""
        return any(
            found.ledger.client.hget(keys.node(run, node), "worker") == name
            for run, node, _ in found.ledger.leases()
        )

    def kill(self) -> None:
        """From outside."""
        if self.worker:
            self.worker.kill()
        self.begin()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_tree_lands_whoever_dies(seed: int, redis_url: str, tmp_path: Path) -> None:
    rng = random.Random(seed)
    repo = make_repo(tmp_path / "repo", {"readme.md": "r\n"})
    (tmp_path / "ann").mkdir()
    with stage(redis_url, tmp_path / "ann") as found:
        # Two workers of one machine have one data directory.
        homes = [tmp_path / ("both" if seed == SHARED else f"machine{n}") for n in (0, 1)]
        machines = [Machine(found, n, POINTS[2 * seed + n], homes[n], rng) for n in (0, 1)]
        run_id = runs.submit(spec(found.config), config=found.config, repo=repo)
        doomed = {machine: rng.randrange(PARTS - 1) for machine in machines}

        def closed() -> bool:
            done = sum(n.state == "succeeded" for n in found.ledger.nodes(run_id).values())
            for machine in [m for m, moment in doomed.items() if done >= moment and m.is_working(found)]:
                del doomed[machine]
                machine.kill()
            for machine in machines:
                machine.revive()
            return found.ledger.is_closed(run_id)

        wait_until(closed, timeout=150, what="the run has closed")
        result = runs.finish(run_id, config=found.config, repo=repo)
        nodes = found.ledger.nodes(run_id)
    assert result.state == RunState.LANDED, result
    assert all(machine.deaths for machine in machines)
    assert {n.state for n in nodes.values()} == {"succeeded"}
    landed = {
        name: git(repo, "show", f"whole:{name}") + "\n"
        for name in git(repo, "ls-tree", "--name-only", "whole").split()
    }
    assert landed == {"readme.md": "r\n", **expected()}
    assert git(repo, "fsck", "--no-dangling") == ""
