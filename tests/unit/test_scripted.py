"""Which reply the scripted model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentflow.errors import ConfigError
from agentflow.runners.scripted import NoReplyError, Script, choose, load_script

SCRIPT = Script.model_validate(
    {
        "replies": [
            {"name": "told", "when": ["task a", "it failed"], "turns": [{"text": "second"}]},
            {
                "name": "first",
                "when": ["task a"],
                "turns": [
                    {"text": "look"},
                    {"one_of": [{"when": ["x = 1"], "text": "one"}, {"when": ["x = 2"], "text": "two"}]},
                ],
            },
            {"name": "needs a report", "when": ["task b", "the report"], "turns": [{"text": "b"}]},
            {"name": "loop", "when": ["task c"], "repeat": True, "turns": [{"text": "again"}]},
        ]
    }
)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def reply(*messages: dict[str, Any]) -> str:
    return choose(SCRIPT, messages)[1].text


def test_the_first_rule_that_fits_answers() -> None:
    assert reply(user("task a")) == "look"
    assert reply(user("task a, it failed")) == "second"


def test_the_turn_is_chosen_by_the_conversation() -> None:
    assert reply(user("task a"), said(), {"role": "tool", "content": "x = 2"}) == "two"


def test_what_the_model_said_itself_does_not_count() -> None:
    with pytest.raises(NoReplyError, match="the report"):
        reply(user("task b"), said("the report"))


def test_parts_are_text_too() -> None:
    assert reply({"role": "user", "content": [{"type": "text", "text": "task a"}]}) == "look"


def test_the_nearest_rule_is_named_with_what_it_misses() -> None:
    with pytest.raises(NoReplyError, match="'needs a report': missing text 'the report'"):
        reply(user("task b"))


def test_a_turn_without_a_fitting_choice_says_so() -> None:
    with pytest.raises(NoReplyError, match="missing text 'x = 1'; or missing text 'x = 2'"):
        reply(user("task a"), said())


def test_a_conversation_that_goes_on_too_long_is_refused_unless_it_repeats() -> None:
    with pytest.raises(NoReplyError, match="has 1 turns"):
        reply(user("task a, it failed"), said())
    assert reply(user("task c"), said(), said(), said()) == "again"


def test_a_wrong_file_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "replies.yaml"
    path.write_text("replies:\n  - name: a\n    when: [x]\n    turns: [{calls: [{}], fault: burn}]\n")
    with pytest.raises(ConfigError) as error:
        load_script(path)
    assert "replies.0.turns.0.calls.0" in error.value.why
    assert "replies.0.turns.0.fault.kind" in error.value.why
