"""What the documents say of the code is there: functions, states, events, exit codes, settings, files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from agentflow.app import settings
from agentflow.errors import Exit
from agentflow.states import NodeState, RunState

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agentflow"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
MODULE = re.compile(r"`((?:agentflow/)?[a-z_]+(?:/[a-z_]+)*\.(?:py|lua))(?::([A-Za-z_.]+))?`")
JOURNEY = (ROOT / "docs" / "journey.md").read_text("utf-8")


def names_in(module: Path) -> set[str]:
    """Functions, classes and constants of a module; methods as `Class.method`."""
    found: set[str] = set()

    def look(body: list[ast.stmt], prefix: str) -> None:
        for item in body:
            if isinstance(item, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + item.name)
                if isinstance(item, ast.ClassDef):
                    look(item.body, f"{item.name}.")
            elif isinstance(item, ast.Assign | ast.AnnAssign):
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                found.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

    look(ast.parse(module.read_text("utf-8")).body, "")
    return found


def first_column(heading: str) -> list[str]:
    """The backticked words in the first column of the table below a heading of the journey."""
    section = JOURNEY.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_that_a_document_names_exist(document: Path) -> None:
    missing = []
    for path, name in MODULE.findall(document.read_text("utf-8")):
        module = next((m for m in (PACKAGE / path, ROOT / path) if m.is_file()), None)
        if module is None and path.split("/")[0] in ROOMS:
            missing.append(path)
        elif name and module is not None and name not in names_in(module):
            missing.append(f"{path}:{name}")
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text("utf-8"))
    assert not [to for to in links if "://" not in to and not (document.parent / to).exists()]


def test_the_journey_knows_every_state() -> None:
    assert set(first_column("Node states")) == {state.value for state in NodeState}
    assert set(first_column("Run states")) == {state.value for state in RunState}


def test_the_journey_knows_every_event_that_is_written() -> None:
    written = {f"run.{state}" for state in ("open", "draining", "cancelling")}
    for source in [*PACKAGE.rglob("*.lua"), *PACKAGE.rglob("*.py")]:
        kinds = r"['\"]((?:run|node)\.[a-z]+|breaker\.(?:opened|trial|closed))['\"]"
        written |= set(re.findall(kinds, source.read_text("utf-8")))
    assert set(first_column("Events")) == written


def test_the_journey_knows_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", JOURNEY, re.MULTILINE)
    assert {(int(code), name) for code, name in rows} == {(code.value, code.name) for code in Exit}


def test_each_line_of_celeryconfig_has_its_reason() -> None:
    text = (ROOT / "docs" / "redis.md").read_text("utf-8")
    given = {name: value for name, value in vars(settings()).items() if not name.startswith("_")}
    named = [*given.pop("broker_transport_options"), *given]
    assert not [name for name in named if f"`{name}`" not in text and f".{name}`" not in text]
