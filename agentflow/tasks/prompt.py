"""The prompt of an attempt: the task, what it may write, what came before, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.environment import Finding, Outcome


@dataclass(frozen=True, slots=True)
class Input:
    """What a node that this one depends on hands over."""

    node: str
    role: str
    output: str
    text: str
    verdict: str = ""


def build(plan: Plan, node: PlanNode, inputs: Sequence[Input], *, feedback: str, conflict: str) -> str:
    """All sections in a fixed order; a section without content is left out."""
    return (
        "\n\n".join(
            f"# {title}\n\n{body.strip()}"
            for title, body in _sections(plan, node, inputs, feedback, conflict)
            if body.strip()
        )
        + "\n"
    )


def _sections(
    plan: Plan, node: PlanNode, inputs: Sequence[Input], feedback: str, conflict: str
) -> list[tuple[str, str]]:
    return [
        ("Feature", plan.feature),
        ("Goal", plan.goal),
        (f"Your task ({node.id}, role {node.role})", node.prompt),
        ("What you deliver", _deliver(node)),
        ("Files you may write", _scope(node)),
        ("Files to read first", "\n".join(f"- {path}" for path in node.reads)),
        ("How your work is checked", _checks(node)),
        ("From the nodes you depend on", "\n\n".join(map(_handed_over, inputs))),
        ("Your previous attempt failed", feedback),
        ("Another node changed the same lines", conflict),
    ]


def _deliver(node: PlanNode) -> str:
    if node.output == "report":
        return "A report with findings and a verdict (approve or block). Change no file."
    return "Changed files in this directory. agentflow makes the commit; do not commit yourself."


def _scope(node: PlanNode) -> str:
    if node.output == "report":
        return ""
    kept = "".join(f"\n- {pattern}: read only; nobody changes it while you work" for pattern in node.kept)
    if node.artifacts:
        lines = (f"- {pattern}{_only_end(node, pattern)}" for pattern in node.artifacts)
        return "\n".join(lines) + kept + "\nAnything else is refused."
    return "Any file that the task needs." + (f" Not:{kept}" if kept else "")


def _only_end(node: PlanNode, pattern: str) -> str:
    return ": only add at its end, others add there too" if pattern in node.appends else ""


def _checks(node: PlanNode) -> str:
    if node.expect == "none":
        return ""
    return "\n".join("- " + " ".join(command) for command in node.acceptance)


def _handed_over(item: Input) -> str:
    kind = "report" if item.output == "report" else "hand-off"
    verdict = f"verdict: {item.verdict}\n" if item.verdict else ""
    return f"## {item.node} ({item.role}): {kind}\n\n{verdict}{item.text.strip()}"


def text_of(outcome: Outcome, output: str) -> str:
    """What an attempt hands to its dependents: its hand-off; of a report also every finding."""
    text = outcome.handoff or (outcome.summary if output == "report" else "")
    findings = "\n".join(_finding(f) for f in outcome.findings)
    return f"{text}\n\nFindings:\n{findings}" if findings else text


def _finding(finding: Finding) -> str:
    place = f"{finding.file}:{finding.line}: " if finding.file else ""
    return f"- {finding.severity}: {place}{finding.message}"


def inputs_of(
    node: PlanNode, plan: Plan, texts: Mapping[str, str], verdicts: Mapping[str, str]
) -> list[Input]:
    """Hand-offs and reports that exist, in the order of the spec."""
    found = []
    for other in node.inputs:
        text = texts.get(other, "")
        if text and other in plan.by_id:
            planned = plan.by_id[other]
            found.append(Input(other, planned.role, planned.output, text, verdicts.get(other, "")))
    return found
