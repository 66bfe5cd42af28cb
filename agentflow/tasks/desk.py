"""Where an attempt works: a clone at its base, or nothing at all for a no-op node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentflow import failpoints
from agentflow.canvas.scope import scope_of
from agentflow.environment import Job, Outcome, PlainEnvironment
from agentflow.errors import AcceptanceFailed, AttemptError
from agentflow.runners.registry import make_runner
from agentflow.store.verified import Verified
from agentflow.tasks import bases, prompt, reuse
from agentflow.tasks.borrowing import borrow
from agentflow.tasks.claimed import Attempt
from agentflow.tasks.surroundings import Surroundings, surroundings
from agentflow.transport import Depot, open_depot
from agentflow.workspace import acceptance, clone, commit, ingest, merge, setup
from agentflow.workspace.commands import Terms
from agentflow.workspace.store import node_ref


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came out of an attempt: a commit on `base` ('' for a report or a no-op) and its paths."""

    commit: str = ""
    paths: tuple[str, ...] = ()
    base: str = ""


class Desk(Protocol):
    """The steps of an attempt that touch files."""

    def use_again(self) -> tuple[Outcome, Delivery] | None:
        """Verified work that was made from the same things; None when it is to be done. Comes first."""
        ...

    def prepare(self) -> None:
        """Lay out the workspace at the base and provide its set-up."""
        ...

    def run(self) -> Outcome:
        """Let the runner work."""
        ...

    def deliver(self, outcome: Outcome) -> Delivery:
        """Make one commit of what is there, check it, take it in."""
        ...

    def judge(self, delivery: Delivery) -> None:
        """Run the acceptance in a clean checkout; raises `AcceptanceFailed`."""
        ...

    def share(self, delivery: Delivery) -> None:
        """Let other machines have what was accepted; harmless when it is done again."""
        ...

    def close(self) -> None:
        """Take the workspace away."""
        ...


def open_desk(attempt: Attempt) -> Desk:
    """The desk that the node's runner needs."""
    if attempt.node.runner.get("type") == "noop" and not attempt.run.repo:
        return EmptyDesk(attempt)
    return GitDesk(attempt)


def depot_of(attempt: Attempt) -> Depot:
    """The objects of the attempt's run on this machine."""
    return open_depot(attempt.context.config, attempt.run)


class EmptyDesk:
    """No workspace: the runner alone."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def use_again(self) -> None:
        """There is no work to use again."""

    def prepare(self) -> None:
        """Nothing to lay out."""

    def run(self) -> Outcome:
        """Run the runner without files."""
        job = _job(self._attempt, Path(), "")
        return make_runner(self._attempt.node.runner).run(job, PlainEnvironment(Path()))

    def deliver(self, outcome: Outcome) -> Delivery:
        """A no-op delivers nothing."""
        del outcome
        return Delivery()

    def judge(self, delivery: Delivery) -> None:
        """Nothing to judge."""

    def share(self, delivery: Delivery) -> None:
        """Nothing to share."""

    def close(self) -> None:
        """Nothing to take away."""


class GitDesk:
    """A shared clone at exactly the verified work that the node depends on."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        context = attempt.context
        self._run_dir = context.run_dir(attempt.run.id)
        self._name = attempt.name
        self._place = self._run_dir / "work" / self._name
        self._root = self._place / "tree"
        self._depot = depot_of(attempt)
        self._store = self._depot.store
        self._log = self._run_dir / "logs" / f"{self._name}.log"
        self._base = ""
        self._needs: tuple[str, ...] = ()
        self._pack: Path | None = None
        self._prompt = ""
        self._workspace: clone.Workspace | None = None
        self._own: Surroundings | None = None

    @property
    def _deadline(self) -> float:
        return self._attempt.held.deadline

    def use_again(self) -> tuple[Outcome, Delivery] | None:
        """Merge the parents' commits, build the prompt, and look for what was made of just that before."""
        self._find_base()
        failpoints.at("attempt.based", self._attempt.node.id)
        self._prompt, asked = self._build_prompt()
        attempt = self._attempt
        if not reuse.applies(attempt.node):
            return None
        digest = reuse.digest_of(attempt.plan, attempt.node, self._base, asked)
        attempt.origin["digest"] = digest
        found = reuse.find(attempt, digest, self._base)
        if found is None or not self._can_read(found):
            return None
        delivery = Delivery(found.commit, self._keep(found.commit), self._base)
        if not reuse.is_locked(attempt.node, delivery.paths):
            return None
        if reuse.is_ours(attempt.context.config.data_dir, digest, found):
            attempt.tests.update(found.tests)
        elif not self._passes(delivery):
            return None
        attempt.origin["reused"] = f"{found.run}/{found.node}"
        return Outcome(summary=found.summary, handoff=found.handoff), delivery

    def _can_read(self, found: Verified) -> bool:
        """Whether its commit is here, or can be brought from the run that made it; and is what it is said to
        be.
        """
        if not borrow(self._attempt.context.config, self._attempt.run, self._depot, found.commit, found.run):
            return False
        return self._store.commit(found.commit).parents == (self._base,)

    def _keep(self, commit: str) -> tuple[str, ...]:
        """Name the commit as this attempt's; returns the paths that it changes."""
        attempt = self._attempt
        self._store.keep(node_ref(attempt.run.id, attempt.node.id, attempt.claim.attempt), commit)
        return tuple(ingest.changed_paths(self._store.git, self._base, commit))

    def _passes(self, delivery: Delivery) -> bool:
        """Whether work that somebody else has judged is accepted here too."""
        self._lay_out()
        try:
            self.judge(delivery)
        except AcceptanceFailed:
            self._attempt.tests.clear()
            return False
        return True

    def _find_base(self) -> None:
        attempt = self._attempt
        sources = (*attempt.plan.parents[attempt.node.id], *attempt.claim.edges)
        found = bases.commits(attempt.ledger, attempt.run.id, sources)
        self._needs = tuple(found) or (attempt.run.base,)
        self._depot.bring((attempt.run.base, *found))
        self._base = merge.merge_all(self._store, found, attempt.run.base, attempt.appends)

    def prepare(self) -> None:
        """Check the base out and provide the set-up."""
        self._lay_out()
        self._workspace = clone.prepare(self._store, self._base, self._root)
        self._provide_setup()

    def _lay_out(self) -> None:
        """Begin with an empty place, once."""
        if self._own is None:
            clone.remove_tree(self._place)
            self._place.mkdir(parents=True)
            own_home = self._attempt.context.config.worker.own_home
            self._own = Surroundings(self._place, own_home=own_home)

    def run(self) -> Outcome:
        """Let the runner work in the clone, until its deadline or a stop."""
        job = _job(self._attempt, self._root, self._prompt, place=self._place, log=self._log, env=self._env())
        return make_runner(self._attempt.node.runner).run(
            job, PlainEnvironment(self._root, self._attempt.meter)
        )

    def deliver(self, outcome: Outcome) -> Delivery:
        """One commit by agentflow, checked and ingested; a report leaves nothing in the repository."""
        node, run = self._attempt.node, self._attempt.run
        if node.output == "report":
            return Delivery(base=self._base)
        if self._workspace is None:
            raise RuntimeError("deliver before prepare")
        keep = self._attempt.plan.setup.keep if self._attempt.plan.setup else ()
        recorded = commit.record(
            self._store,
            self._workspace,
            message=_message(self._attempt, outcome),
            exclude=keep,
        )
        if not recorded.commit:
            raise AttemptError(
                "the agent changed nothing",
                why="a change node ends in one commit; ignored files do not count",
                fix="`output: report` is for nodes that only look",
                code="AF-ATTEMPT-002",
                feedback="You finished without changing any file that git tracks or would track.",
            )
        ref = node_ref(run.id, node.id, self._attempt.claim.attempt)
        scope = scope_of(node, self._attempt.artifacts.extension)
        paths = ingest.ingest(
            self._store, recorded, ref, allowed=scope.writes, appends=scope.appends, kept=scope.kept
        )
        # What it holds beyond its base is what it holds beyond its needs, unless those were merged first.
        self._pack = recorded.pack if self._base in self._needs else None
        return Delivery(commit=recorded.commit, paths=paths, base=self._base)

    def judge(self, delivery: Delivery) -> None:
        """The node's acceptance on a clean checkout of its commit."""
        node = self._attempt.node
        if not delivery.commit or node.expect == "none" or not node.acceptance:
            return
        verdict = acceptance.judge(
            self._store,
            commit=delivery.commit,
            base=self._base,
            commands=node.acceptance,
            expect=node.expect,
            setup=self._attempt.plan.setup,
            env=self._env(),
            data_dir=self._attempt.context.config.data_dir,
            scratch=self._place / "acceptance",
            deadline=self._deadline,
            stop=self._attempt.held.stop,
            log=self._run_dir / "logs" / f"{self._name}.acceptance.log",
            cache=self._run_dir / "verdicts" / str(self._attempt.claim.generation),
        )
        if not verdict.ok:
            raise AcceptanceFailed(
                verdict.reason,
                fix=f"`agentflow logs {self._attempt.run.id} {node.id}` shows what the command said",
                code="AF-ACCEPTANCE-001",
                feedback=verdict.output,
            )
        self._attempt.tests.update(verdict.tests)

    def share(self, delivery: Delivery) -> None:
        """Green work travels; red work stays on this machine."""
        if delivery.commit:
            self._depot.share(delivery.commit, self._needs, pack=self._pack)

    def close(self) -> None:
        """Remove the workspace; commits, logs and transcripts are kept elsewhere."""
        if self._own:
            self._own.close()
        clone.remove_tree(self._place)

    def _env(self) -> dict[str, str]:
        """The environment of every command of this attempt."""
        if self._own is None:
            raise RuntimeError("no surroundings before prepare")
        attempt = self._attempt
        return self._own.env(attempt.run.id, attempt.node.id, attempt.claim.attempt, attempt.node.env)

    def _provide_setup(self) -> None:
        terms = Terms(
            self._env(), self._deadline, self._attempt.held.stop, self._run_dir / "logs" / "setup.log"
        )
        setup.provide(
            self._store,
            self._attempt.plan.setup,
            self._base,
            self._root,
            data_dir=self._attempt.context.config.data_dir,
            terms=terms,
        )

    def _build_prompt(self) -> tuple[str, str]:
        """What the agent is told, and the same without what earlier attempts came to."""
        attempt = self._attempt
        node, run_id = attempt.node, attempt.run.id
        texts = attempt.ledger.texts(run_id) if node.inputs else {}
        records = attempt.ledger.some_nodes(run_id, list(node.inputs))
        verdicts = {r.id: r.verdict for r in records.values()}
        inputs = prompt.inputs_of(node, attempt.plan, texts, verdicts)
        feedback, conflict = attempt.record.feedback, attempt.record.conflict
        told = prompt.build(attempt.plan, node, inputs, feedback=feedback, conflict=conflict)
        return told, prompt.build(attempt.plan, node, inputs, feedback="", conflict="")


def _message(attempt: Attempt, outcome: Outcome) -> str:
    """The commit message: what was done, then where it comes from."""
    first = (outcome.summary.strip().splitlines() or [attempt.node.id])[0]
    title = "".join(c for c in first if c.isprintable())[:72] or attempt.node.id
    trailer = f"Agentflow-Run: {attempt.run.id}\nAgentflow-Node: {attempt.node.id}"
    return f"{attempt.node.id}: {title}\n\n{trailer}\n"


def _job(
    attempt: Attempt,
    root: Path,
    text: str,
    *,
    place: Path | None = None,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Job:
    node = attempt.node
    scope = scope_of(node, attempt.artifacts.extension)
    place = place or Path()
    return Job(
        run=attempt.run.id,
        node=node.id,
        role=node.role,
        attempt=attempt.claim.attempt,
        prompt=text,
        instructions=node.instructions,
        workspace=root,
        output=node.output,
        artifacts=(*(scope.writes or ()), *scope.appends) if scope.writes is not None else (),
        appends=scope.appends,
        request=attempt.artifacts.ask,
        runner=node.runner,
        env=env or surroundings(attempt.run.id, node.id, attempt.claim.attempt, node.env),
        deadline=attempt.held.deadline,
        log=log or place / "log",
        transcript=log.with_suffix(".transcript.jsonl") if log else place / "transcript",
        prompt_file=place / "prompt.md",
        stop=attempt.held.stop,
        meter=attempt.meter,
        gate=attempt.gate,
    )
