"""A proposal as Markdown. What agents and repositories say stands in it as data: nothing of it is markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agentflow.cleaning import markdown_block, markdown_line
from agentflow.proposal.values import Judgement, Patch, Proof, Proposal, Report
from agentflow.results import Cost

#: Findings of one report that are spelled out.
FINDINGS_SHOWN = 50
#: Rows of the tables of waits and of cost per node.
ROWS_SHOWN = 30
#: Bytes of a step summary: GitHub takes 1 MiB of one step.
SUMMARY_CAP = 900_000


def render(proposal: Proposal) -> str:
    """The whole proposal, patch included."""
    return _join([*_short(proposal), *_patch(proposal.patch)])


def summary(proposal: Proposal) -> str:
    """The proposal without its patch, as a CI's step summary shows it."""
    return _join(_short(proposal)).encode()[:SUMMARY_CAP].decode(errors="ignore")


def _join(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _short(proposal: Proposal) -> Iterator[str]:
    yield f"# {markdown_line(proposal.feature)}"
    yield ""
    yield from _head(proposal)
    yield from _failures(proposal)
    for report in proposal.reports:
        yield from _report(report)
    yield from _proofs(proposal)
    yield from _conflicts(proposal)
    yield from _waits(proposal)
    yield from _costs(proposal)


def _head(proposal: Proposal) -> Iterator[str]:
    totals = proposal.totals
    state = proposal.state.replace("_", " ")
    where = proposal.branch or proposal.target
    reason = f": {markdown_line(proposal.reason)}" if proposal.reason else ""
    yield f"**{state}**{reason}"
    yield ""
    yield f"- run: {_code(proposal.run)}"
    if proposal.commit:
        yield f"- branch: {_code(where)} at {_code(proposal.commit)}, from {_code(proposal.base)}"
    elif proposal.merged_ref:
        yield f"- merged tree, not validated: {_code(proposal.merged_ref)}"
    yield f"- validation: {_judged(proposal.validation)}"
    yield (
        f"- nodes: {totals['completed']} of {totals['total']} succeeded, {totals['failed']} failed, "
        f"{totals['skipped']} skipped, {totals['cancelled']} cancelled"
    )
    yield (
        f"- time: {totals['duration_s']:.1f} s for {totals['node_seconds']:.1f} s of work; "
        f"{totals['cpu_s']:.1f} s of CPU, {totals['peak_memory_mb']:.0f} MB at most"
    )
    guess = " (partly estimated)" if totals["estimated"] else ""
    tokens = totals["input_tokens"] + totals["output_tokens"]
    yield f"- cost: ${totals['cost_usd']:.4f}, {totals['calls']} calls, {tokens:,} tokens{guess}"
    if proposal.patch.stat:
        yield from ("", *markdown_block(proposal.patch.stat))
    yield ""


def _failures(proposal: Proposal) -> Iterator[str]:
    failed = [proof for proof in proposal.nodes if proof.node in proposal.failed_nodes]
    if not failed:
        return
    yield from ("## Failed", "")
    for proof in failed:
        who = f"**{markdown_line(proof.node)}** ({markdown_line(proof.role)})"
        yield f"- {who}: {markdown_line(proof.reason)}"
        if proof.fix:
            yield f"  fix: {markdown_line(proof.fix)}"
    yield ""


def _report(report: Report) -> Iterator[str]:
    verdict = f": {markdown_line(report.verdict)}" if report.verdict else ""
    yield from (f"## {markdown_line(report.node)} ({markdown_line(report.role)}){verdict}", "")
    if report.findings:
        rows = [
            (
                str(f.get("severity", "")),
                _place(str(f.get("file", "")), f.get("line")),
                str(f.get("message", "")),
            )
            for f in report.findings[:FINDINGS_SHOWN]
        ]
        yield from _table(("severity", "where", "what"), rows)
        if len(report.findings) > FINDINGS_SHOWN:
            yield f"… and {len(report.findings) - FINDINGS_SHOWN} more"
    elif report.text or report.summary:
        yield from markdown_block(report.text or report.summary)
    yield ""


def _place(file: str, line: object) -> str:
    return f"{file}:{line}" if file and line else file


def _proofs(proposal: Proposal) -> Iterator[str]:
    yield from ("## Proof", "")
    rows = [
        (
            proof.node,
            proof.role,
            proof.state,
            str(proof.attempts),
            _judged(proof.judgement, marked=False),
            proof.commit[:12],
            proof.checkpoint,
        )
        for proof in proposal.nodes
    ]
    yield from _table(("node", "role", "state", "attempts", "acceptance", "commit", "checkpoint"), rows)
    judged = [proof for proof in proposal.nodes if proof.judgement.commands]
    if judged:
        yield from ("<details><summary>Acceptance commands</summary>", "")
        yield from markdown_block("\n".join(line for proof in judged for line in _commands(proof)))
        yield from ("</details>", "")


def _commands(proof: Proof) -> list[str]:
    return [f"{proof.node} ({proof.judgement.expect}): {command}" for command in proof.judgement.commands]


def _judged(judgement: Judgement, *, marked: bool = True) -> str:
    """Verdict, expectation and counts; commands too where there is room for them."""
    told = judgement.verdict
    if judgement.verdict in ("passed", "failed") and judgement.expect not in ("", "green"):
        told += f", {judgement.expect}"
    if judgement.tests:
        told += ": " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(judgement.tests.items()))
    if marked and judgement.commands:
        told += " by " + ", ".join(_code(command) for command in judgement.commands)
    return told


def _conflicts(proposal: Proposal) -> Iterator[str]:
    if not proposal.conflicts:
        return
    yield from ("## Conflicts met", "")
    for conflict in proposal.conflicts:
        node, what = markdown_line(conflict.node), markdown_line(conflict.what)
        if conflict.kind == "edge":
            yield f"- {node} started on top of {', '.join(map(markdown_line, conflict.others))}: {what}"
        elif conflict.kind == "rerun":
            yield f"- {node} was done again {conflict.times} times: {what}"
        else:
            yield f"- {node}: {what}"
    yield ""


def _waits(proposal: Proposal) -> Iterator[str]:
    if not proposal.waits:
        return
    yield from ("## Waits", "")
    rows = [(wait.node, f"{wait.seconds:.1f}", wait.reason) for wait in proposal.waits[:ROWS_SHOWN]]
    yield from _table(("node", "seconds", "for"), rows)


def _costs(proposal: Proposal) -> Iterator[str]:
    costs = proposal.costs
    yield from ("## Cost", "")
    for title, parts in (("model", costs.models), ("role", costs.roles), ("node", costs.nodes)):
        yield from _table((title, "calls", "in", "out", "USD"), [_cost(part) for part in parts[:ROWS_SHOWN]])
        if len(parts) > ROWS_SHOWN:
            yield from (f"… and {len(parts) - ROWS_SHOWN} more", "")


def _cost(part: Cost) -> tuple[str, ...]:
    return (
        part.name,
        str(part.calls),
        f"{part.input_tokens:,}",
        f"{part.output_tokens:,}",
        f"{part.cost_usd:.4f}",
    )


def _patch(patch: Patch) -> Iterator[str]:
    yield from ("## Patch", "")
    if patch.text:
        yield from ("<details><summary>The whole patch</summary>", "")
        yield from (*markdown_block(patch.text, "diff"), "", "</details>")
    if patch.cut:
        yield f"{patch.cut:,} characters are left out; the branch has them."
    if not patch.text:
        yield markdown_line(patch.why or "nothing changed")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(markdown_line(cell) for cell in row) + " |"
    yield ""


def _code(text: str) -> str:
    """Text as code in a line: a word of ours, or a command of the spec."""
    return f"<code>{markdown_line(text)}</code>"
