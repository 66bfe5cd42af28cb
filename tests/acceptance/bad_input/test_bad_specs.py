"""Every bad spec ends in a message with a place, exit code 3, and nothing on stdout or on the disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentflow.cli.main import app
from agentflow.errors import Exit

TASKS = "feature: f\ntasks:\n"
OK = "- {id: a, role: backend, prompt: x}\n"


def with_line(line):
    return f"{TASKS}{OK}- id: b\n  role: docs\n  prompt: x\n  {line}\n"


def artifact(text):
    escaped = text.encode("unicode_escape").decode().replace('"', '\\"')
    return with_line(f'artifacts: ["{escaped}"]')


def bomb():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return "\n".join([*levels, TASKS.strip(), OK])


CYCLE = "".join(f"- {{id: {n}, role: docs, prompt: x, needs: [{m}]}}\n" for n, m in ["ac", "ba", "cb"])
BAD = {
    "cycle": (TASKS + CYCLE, "3:42: AF-SPEC-022: cycle: a -> c -> b -> a"),
    "unknown need": (with_line("needs: [aa]"), "7:11: AF-SPEC-021: there is no such task (got 'aa')"),
    "unknown role": (f"{TASKS}- {{id: a, role: bakend, prompt: x}}", "fix: did you mean 'backend'?"),
    "unknown key": (
        with_line("neds: [a]"),
        "7:3: AF-SPEC-010: unknown key 'neds'\n    fix: did you mean 'needs'?",
    ),
    "duplicate id": (TASKS + OK + OK, "4:8: AF-SPEC-023: the id is that of task 1 too (got 'a')"),
    "duplicate key": (with_line("prompt: y"), "7:3: AF-SPEC-007: the key 'prompt' stands here twice"),
    "not built yet": (with_line("output: effect"), "7:11: AF-SPEC-090: 'effect' is not built yet"),
    "need against the stages": (
        TASKS + OK + "- {id: t, role: qa, prompt: x}\n- {id: c, role: api, prompt: x, needs: [a, t]}\n"
        "stages: [{stage: make, agents: [backend, api]}, {stage: try, agents: [qa]}]\n",
        "5:44: AF-SPEC-062: 'c' is of the stage make, and 't' of the later stage try (got 't')",
    ),
    "need against the stages, through a task of none": (
        TASKS + "- {id: t, role: qa, prompt: x}\n- {id: d, role: docs, prompt: x, needs: [t]}\n"
        "- {id: c, role: api, prompt: x, needs: [d]}\nstrategy: pipeline\n",
        "5:41: AF-SPEC-062: 'c' is of the stage implement, and 't' of the later stage test (got 'd')",
    ),
    "role of two stages": (
        TASKS + OK + "stages:\n- {stage: make, agents: [backend]}\n- {stage: try, agents: [qa, server]}\n",
        "6:29: AF-SPEC-063: the role backend stands in the stage make already (got 'server')",
    ),
    "two stages of one name": (
        TASKS + OK + "stages:\n- {stage: make, agents: [qa]}\n- {stage: make, agents: [api]}\n",
        "6:11: AF-SPEC-063: two stages have this name (got 'make')",
    ),
    "unknown role of a stage": (
        TASKS + OK + "stages: [{stage: make, agents: [bakend]}]\n",
        "4:33: AF-SPEC-020: there is no such role (got 'bakend')\n    fix: did you mean 'backend'?",
    ),
    "stages of no pipeline": (
        TASKS + OK + "strategy: concurrent\nstages: [{stage: make, agents: [backend]}]\n",
        "5:9: AF-SPEC-063: stages have no effect when the strategy is concurrent",
    ),
    "bad condition": (
        TASKS + OK + "rules:\n- {strategy: pipeline, condition: tasks > lots}\n",
        "5:35: AF-SPEC-064: the condition cannot be read at its character 9: 'tasks' is compared with",
    ),
    "condition that is code": (
        TASKS + OK + "rules: [{strategy: pipeline, condition: \"__import__('os').getcwd() == 'x'\"}]\n",
        "4:41: AF-SPEC-064: the condition cannot be read at its character 1: '__import__' is nothing",
    ),
    "too many shards": (
        TASKS
        + OK
        + "- {id: b, role: docs, prompt: x, shards: 9999}\n- {id: c, role: docs, prompt: x, shards: 9}\n",
        "4:34: AF-SPEC-061: the feature would have 10,009 tasks, and at most 10,000 are run",
    ),
    "for_each within a chain": (
        "feature: f\nfor_each: [x]\nchain:\n- {id: a, role: docs, prompt: x, for_each: [y]}\n",
        "4:34: AF-SPEC-060: a task of a chain has no for_each of its own",
    ),
    "unknown need of a repeated task": (
        with_line("needs: [aa]\n  for_each: [x, y]"),
        "7:11: AF-SPEC-021: there is no such task (got 'aa')",
    ),
    "bad path made of an item": (
        with_line('for_each: [ok, ../x]\n  artifacts: ["src/{item}.py"]'),
        "8:15: AF-SPEC-030: the path leaves the repository",
    ),
    "text that grows": (
        with_line(f"for_each: [{', '.join(f'x{n}' for n in range(5000))}]\n  title: '{'{item}' * 5000}'"),
        "AF-SPEC-061: the feature would have more than 33,554,432 characters",
    ),
    "artifact ../x": (artifact("../x"), "7:15: AF-SPEC-030: the path leaves the repository (got '../x')"),
    "artifact a/../../x": (artifact("a/../../x"), "AF-SPEC-030: the path leaves the repository"),
    "artifact /etc/x": (artifact("/etc/x"), "AF-SPEC-030: the path is absolute (got '/etc/x')"),
    "artifact .git/hooks/x": (artifact(".git/hooks/x"), "AF-SPEC-030: '.git' belongs to git"),
    "artifact .GIT/x": (artifact(".GIT/x"), "AF-SPEC-030: '.GIT' belongs to git"),
    "bad pattern": (artifact("src/[a-z].py"), "AF-SPEC-030: only * and ** are known in patterns"),
    "star in the middle": (artifact("src/*/x.py"), "fix: src/**"),
    "windows path": (artifact("C:\\x"), "AF-SPEC-030: the path is written as on Windows"),
    "NUL in an artifact": (artifact("a\0b"), "AF-SPEC-030: the path holds a control or invisible character"),
    "raw NUL": (TASKS + OK + "\0", "4:1: AF-SPEC-003: a control character (got '\\x00')"),
    "artifact of 5,000 characters": (
        artifact("x" * 5000),
        "AF-SPEC-030: the path is longer than 1024 characters",
    ),
    "trailing dot": (artifact("src/x."), "AF-SPEC-030: 'x.' ends in a dot or a space"),
    "trailing space": (artifact("src/x "), "AF-SPEC-030: 'x ' ends in a dot or a space"),
    "NFC and NFD twins": (
        with_line('artifacts: ["caf\\u00e9.py", "cafe\\u0301.py"]'),
        "AF-SPEC-030: the path is not in Unicode form NFC; its twin",
    ),
    "twins by case": (with_line("artifacts: [README, readme]"), "AF-SPEC-032: where case does not count"),
    "shell metacharacter": (
        with_line("acceptance: ['pytest | tee log']"),
        "(got 'pytest | tee log')\n    fix: quote it if it is meant literally, or write [sh, -c, ",
    ),
    "command substitution": (
        with_line("acceptance: ['echo $(id)']"),
        "7:16: AF-SPEC-040: '$' means something",
    ),
    "open quote": (with_line('acceptance: ["echo \'x"]'), "7:16: AF-SPEC-041: the command cannot be split"),
    "empty file": ("", "1:1: AF-SPEC-006: the file is empty"),
    "comments only": ("# later\n", "1:1: AF-SPEC-006: the file is empty"),
    "10 MB file": (
        f"{TASKS}{OK}" + "# x\n" * 2_500_000,
        "1:1: AF-SPEC-002: the file is larger than 1024 KiB",
    ),
    "YAML bomb": (bomb(), "AF-SPEC-008: more than 100000 values"),
    "an alias that holds itself": ("feature: &a [*a]\n", "1:14: AF-SPEC-008: the alias *a holds itself"),
    "200,000 brackets": ("[" * 200_000, "1:42: AF-SPEC-008: nested more than 40 deep"),
    "python object": ("feature: !!python/object/apply:os.getcwd []\n", "1:10: AF-SPEC-004: tags such as"),
    "tabs": (
        "feature: f\ntasks:\n\t- id: a\n",
        "3:1: AF-SPEC-005: a tab indents this line, and YAML allows only",
    ),
    "broken YAML": ("feature: f\ntasks: [\n", "AF-SPEC-004: not YAML"),
    "two documents": (f"{TASKS}{OK}---\n{TASKS}", "4:1: AF-SPEC-004: the file holds a second document"),
    "a word": ("hello", "1:1: AF-SPEC-009: a spec is a mapping with feature: and tasks:"),
    "tasks as a mapping": ("feature: f\ntasks: {a: {}}\n", "2:8: AF-SPEC-012: expected a list"),
    "a task as a word": (f"{TASKS}- a\n", "3:3: AF-SPEC-012: expected a mapping (got 'a')"),
    "a number as an id": (f"{TASKS}- {{id: 1, role: docs, prompt: x}}", "3:8: AF-SPEC-012: expected a name"),
    "a text as a count": (
        with_line("retries: many"),
        "7:12: AF-SPEC-012: expected a whole number (got 'many')",
    ),
    "a word as a time": (with_line("timeout: soon"), "7:12: AF-SPEC-012: expected a time (got 'soon')"),
    "needs as a word": (with_line("needs: a"), "7:10: AF-SPEC-012: expected a list (got 'a')"),
    "an option as the base": (
        f"base: --upload-pack=x\n{TASKS}{OK}",
        "1:7: AF-SPEC-014: this cannot be the name",
    ),
    "escape sequences": (
        with_line('needs: ["\\e[2J"]'),
        "AF-SPEC-021: there is no such task (got '\\x1b[2J')",
    ),
}


def plan(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    before = sorted(path.parent.iterdir())
    result = CliRunner().invoke(app, ["plan", path.name])
    assert sorted(path.parent.iterdir()) == before
    return result


@pytest.mark.parametrize("name", BAD)
def test_a_bad_spec_is_refused_with_its_place(name, tmp_path, monkeypatch):
    text, said = BAD[name]
    path = tmp_path / "feature.yaml"
    path.write_bytes(text.encode())
    result = plan(path, monkeypatch)
    assert result.exit_code == Exit.SPEC, result.output
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.splitlines()[0].startswith("feature.yaml:")
    assert "error[AF-SPEC]: " in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert all(char.isprintable() or char == "\n" for char in result.stderr)


def test_a_file_that_is_not_utf_8(tmp_path, monkeypatch):
    path = tmp_path / "feature.yaml"
    path.write_bytes(b"feature: caf\xe9\n")
    result = plan(path, monkeypatch)
    assert result.exit_code == Exit.SPEC
    assert "feature.yaml:1:13: AF-SPEC-003: the file is not UTF-8" in result.stderr


def test_bad_json(tmp_path, monkeypatch):
    path = tmp_path / "feature.json"
    path.write_text(
        '{"feature": "f",\n "tasks": [{"id": "a", "role": "docs", "prompt": "x", "needs": ["b"]}]}'
    )
    result = plan(path, monkeypatch)
    assert result.exit_code == Exit.SPEC
    assert "feature.json:2:65: AF-SPEC-021" in result.stderr


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "feature.yaml"
    path.write_text("featur: f\ntasks:\n- {id: A, role: docs}\n- {id: b, role: x-y, needs: [c]}\n")
    lines = plan(path, monkeypatch).stderr.splitlines()
    places = [line.split(" ")[0] for line in lines if line.startswith("feature.yaml:")]
    assert places == [
        "feature.yaml:1:1:",
        "feature.yaml:1:1:",
        "feature.yaml:3:3:",
        "feature.yaml:3:8:",
        "feature.yaml:4:3:",
        "feature.yaml:4:17:",
        "feature.yaml:4:30:",
    ]
    assert lines[-1] == "error[AF-SPEC]: 7 problems in the spec"


def test_the_command_itself_leaves_with_3(tmp_path):
    (tmp_path / "feature.yaml").write_text(BAD["cycle"][0])
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-m", "agentflow.cli.main", "plan", "feature.yaml"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert "cycle: a -> c -> b -> a" in done.stderr
