"""docs/configuration.md has a row for every key, with what the models say of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentflow.config import load_config
from agentflow.config.foreign.kinds import KINDS
from agentflow.config.keys import (
    Key,
    file_keys,
    keys_of_role,
    keys_of_runner,
    not_built,
    runner_types,
    timing_keys,
)
from agentflow.config.sections import Settings, default_slots

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text("utf-8")


def rows(key: Key) -> str:
    """The row of a key in the tables of the document."""
    what = (key.field.description or "").replace("|", "\\|")
    if key.path[0] in {"roles", "runners"}:
        return f"| `{key.path[2]}` | {what} |" if len(key.path) == 3 else f"| `{'.'.join(key.path[2:])}` |"
    return f"| `{key.name}` | `{key.variable}` | {default(key)} | {what} |"


def default(key: Key) -> str:
    """The default as the document writes it."""
    value: Any = key.default()
    if key.name == "slots":
        assert value == default_slots()
        return "twice the processors, at least 4"
    if value is None or value in ((), {}):
        return ""
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


@pytest.mark.parametrize("key", [*file_keys()], ids=lambda key: key.name)
def test_every_key_of_the_file_has_its_row(key: Key) -> None:
    assert rows(key) in TEXT


@pytest.mark.parametrize("key", [*keys_of_role("x")], ids=lambda key: key.path[2])
def test_every_key_of_a_role_has_its_row(key: Key) -> None:
    assert rows(key) in TEXT


@pytest.mark.parametrize("kind", runner_types())
def test_every_key_of_a_runner_is_named(kind: str) -> None:
    section = TEXT.split("### Runners", 1)[1].split("\n### ", 1)[0]
    for key in keys_of_runner("x", kind):
        assert f"`{'.'.join(key.path[2:])}`" in section, key.name


def test_every_section_of_later_versions_is_named() -> None:
    section = TEXT.split("## Not built yet", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(not_built())


def test_every_variable_for_tests_is_named() -> None:
    for key in timing_keys():
        assert f"`{key.variable}`" in TEXT


def test_no_key_is_named_that_is_not_there() -> None:
    named = set(re.findall(r"^\| `([a-z_.]+)` \| `AGENTFLOW_", TEXT, re.MULTILINE))
    assert named == {key.name for key in file_keys()}


def test_the_example_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert set(yaml.safe_load(example)) <= set(Settings.model_fields)
    (tmp_path / "agentflow.yaml").write_text(example)
    load_config(tmp_path, environ={"HOME": str(tmp_path)})


def test_every_file_of_an_older_system_is_named() -> None:
    for kind in KINDS:
        assert kind.file in TEXT
