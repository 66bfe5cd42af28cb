"""docs/reliability.md: the lines of scripts that it quotes stand there, the commands that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.late_promises import PROMISES

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text("utf-8")
LUA = ROOT / "agentflow" / "store" / "lua"
QUOTES = re.findall(r"^- `([a-z_]+\.lua)`: `(.+)`$", TEXT, re.MULTILINE)
COMMANDS = sorted(set(re.findall(r"pytest (tests/\S+\.py)(?: -k (\w+))?", TEXT)))


def test_every_invariant_has_its_promise_and_its_command() -> None:
    sections = re.split(r"^### ", TEXT.split("\n## How long", 1)[0], flags=re.MULTILINE)[1:]
    assert [section.split(".", 1)[0] for section in sections] == [f"I{number}" for number in range(1, 13)]
    assert [section.split("\n", 1)[0] for section in sections if "\nBreak it: " not in section] == []


@pytest.mark.parametrize(("script", "line"), QUOTES, ids=[f"{script} {line[:40]}" for script, line in QUOTES])
def test_a_quoted_line_stands_in_its_script(script: str, line: str) -> None:
    assert line in (LUA / script).read_text("utf-8")


@pytest.mark.parametrize(("path", "word"), COMMANDS, ids=[" ".join(command) for command in COMMANDS])
def test_a_named_test_exists(path: str, word: str) -> None:
    text = (ROOT / path).read_text("utf-8")
    # The stories of promises are parameters of one test.
    names = [*re.findall(r"def (test_\w+)", text), *(PROMISES if "PROMISES" in text else ())]
    assert names
    assert any(word in name for name in names)


def test_named_scripts_exist() -> None:
    named = set(re.findall(r"`([a-z_]+\.lua)`", TEXT))
    assert sorted(name for name in named if not (LUA / name).is_file()) == []
