import os
from pathlib import Path

import pytest

from agentflow.config import Config, ConfigFileError, load_config
from agentflow.errors import Exit


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home/.config/agentflow").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "project/.git").mkdir(parents=True)
    return tmp_path / "project"


def load(project, home, overrides=None, **environ):
    return load_config(project, overrides, {"HOME": str(home), **environ})


def problems(project, home, text, **environ):
    (project / "agentflow.yaml").write_text(text)
    with pytest.raises(ConfigFileError) as caught:
        load(project, home, **environ)
    assert caught.value.exit_code == Exit.SPEC
    return [str(p).removeprefix(f"{project}/") for p in caught.value.problems]


def test_defaults(home):
    config = load(None, home)
    assert config.data_dir == home / ".local/share/agentflow"
    assert config.redis_url is None
    assert config.slots >= 4
    assert (config.lease_ttl_ms, config.renew_ms, config.scan_ms) == (3000, 1000, 500)
    assert config.default_runner in config.runners
    assert set(config.origins.values()) == {"default"}


def test_precedence_and_origins(home, project):
    (home / ".config/agentflow/agentflow.yaml").write_text(
        "slots: 1\nidle_minutes: 1\nredis:\n  url: redis://user\n"
    )
    (project / "agentflow.yaml").write_text("slots: 2\nidle_minutes: 2\n")
    config = load(project, home)
    assert (config.slots, config.idle_minutes, config.redis_url) == (2, 2, "redis://user")
    config = load(project, home, {"redis.url": "redis://flag", "slots": None}, AGENTFLOW_SLOTS="3")
    assert (config.slots, config.idle_minutes, config.redis_url) == (3, 2, "redis://flag")
    assert config.origins["slots"] == "env AGENTFLOW_SLOTS"
    assert config.origins["idle_minutes"] == f"project {project}/agentflow.yaml:2"
    assert config.origins["redis.url"] == "flag --redis-url"
    assert load(project, home).origins["redis.url"] == f"user {home}/.config/agentflow/agentflow.yaml:4"


def test_the_projects_file_is_looked_for_up_to_the_top_of_the_repository(home, project):
    (project / "agentflow.yaml").write_text("slots: 7\n")
    (project / "src/deep").mkdir(parents=True)
    assert load(project / "src/deep", home).slots == 7
    (project / "src/.git").mkdir()
    assert load(project / "src/deep", home).slots != 7


def test_a_data_directory_in_a_file_is_beside_the_file(home, project):
    (project / "agentflow.yaml").write_text("data_dir: .state\n")
    assert load(project / "agentflow.yaml", home).data_dir == project / ".state"
    assert load(project, home, AGENTFLOW_HOME="/srv/af").data_dir == Path("/srv/af")
    assert load(project, home, AGENTFLOW_HOME="af").data_dir == Path.cwd() / "af"


def test_variables_are_replaced_and_keep_their_meaning(home, project):
    text = 'slots: ${N}\nredis: {url: "redis://${H:-localhost}/${D:-0}"}\n'
    text += 'roles: {qa: {instructions: "cost $$5"}}\n'
    (project / "agentflow.yaml").write_text(text)
    config = load(project, home, N="12", D="3")
    assert config.slots == 12
    assert config.redis_url == "redis://localhost/3"
    assert config.roles["tester"].instructions == "cost $5"


def test_a_variable_that_is_not_set_is_named_with_its_place(home, project):
    assert problems(project, home, "slots: 3\nredis:\n  url: ${REDIS}\n")[0].startswith(
        "agentflow.yaml:3:8: AF-CONFIG-015: the environment variable REDIS is not set"
    )


def test_all_problems_of_a_file_at_once_with_places(home, project):
    found = problems(
        project,
        home,
        "sluts: 3\nidle_minutes: long\nredis: {urll: x}\n"
        "runners:\n  a: {type: opnai}\n  b: {command: 'x | y'}\n"
        "roles:\n  mobile: {instruction: x}\n  Bad Name: {}\n",
    )
    assert [line.split(":")[1:4] for line in found] == [
        ["1", "1", " AF-CONFIG-010"],
        ["2", "15", " AF-CONFIG-012"],
        ["3", "9", " AF-CONFIG-010"],
        ["5", "13", " AF-CONFIG-013"],
        ["6", "16", " AF-CONFIG-040"],
        ["8", "12", " AF-CONFIG-010"],
        ["9", "13", " AF-CONFIG-014"],
    ]
    assert "did you mean 'slots'?" in found[0]
    assert "did you mean 'openai'?" in found[3]
    assert "did you mean 'instructions'?" in found[5]


def test_an_empty_file_changes_nothing(home, project):
    (project / "agentflow.yaml").write_text("# nothing yet\n")
    assert load(project, home).as_dict() == load(None, home).as_dict()


def test_a_bad_value_of_the_environment_is_named(home):
    with pytest.raises(ConfigFileError) as caught:
        load(None, home, {"redis.url": "localhost"}, AGENTFLOW_SLOTS="many")
    assert [str(p).split("\n")[0] for p in caught.value.problems] == [
        "env AGENTFLOW_SLOTS: AF-CONFIG-012: expected a whole number (got 'many')",
        "flag --redis-url: AF-CONFIG-013: the address has no redis:// before it (got 'localhost')",
    ]


def test_a_password_is_used_but_not_shown(home):
    config = load(None, home, AGENTFLOW_REDIS_URL="rediss://me:hunter2@host:6380/0")
    assert config.client_url() == "rediss://me:hunter2@host:6380/0"
    assert config.shown_url() == "rediss://me:***@host:6380/0"
    assert config.as_dict()["redis_url"] == "rediss://me:***@host:6380/0"


def test_an_unknown_runner_is_refused_with_a_guess(home):
    with pytest.raises(ConfigFileError) as caught:
        load(None, home, AGENTFLOW_RUNNER="opena1")
    [problem] = caught.value.problems
    assert "'opena1'" in problem.reason
    assert (problem.file, problem.fix) == ("env AGENTFLOW_RUNNER", "did you mean 'openai'?")


@pytest.mark.parametrize(
    ("word", "role"),
    [
        ("backend", "backend"),
        ("Backend Engineer", "backend"),
        ("qa", "tester"),
        ("qa_engineer", "tester"),
        ("quality", "tester"),
        ("test", "tester"),
        ("software-architect", "architect"),
        ("architecture", "architect"),
        ("deployment", "devops"),
        ("writer", "docs"),
        ("frontend-developer", "frontend"),
        ("wizard", None),
        ("", None),
    ],
)
def test_roles_have_aliases(word, role):
    assert Config().role_name(word) == role


def test_the_roles_of_the_product_are_there():
    assert set(Config().roles) == {
        "architect", "product", "backend", "frontend", "api", "database", "data", "ux", "implementer",
        "tester", "security", "devops", "docs", "reviewer", "planner",
    }  # fmt: skip
    assert all(role.instructions for role in Config().roles.values())


def test_a_role_by_configuration_alone_and_one_changed(home, project):
    (project / "agentflow.yaml").write_text(
        "roles:\n  mobile: {aliases: [ios], instructions: Build apps., model: big, max_concurrent: 2}\n"
        "  qa: {model: cheap, aliases: [checker]}\n"
    )
    config = load(project, home)
    assert config.role_name("ios-engineer") == "mobile"
    assert config.roles["mobile"].max_concurrent == 2
    tester = config.roles["tester"]
    assert (tester.model, config.role_name("checker"), config.role_name("qa")) == (
        "cheap",
        "tester",
        "tester",
    )
    assert tester.instructions == Config().roles["tester"].instructions
    assert config.origins["roles.tester.model"].endswith("agentflow.yaml:3")


def test_one_word_for_two_roles_is_refused(home, project):
    (problem,) = problems(project, home, "roles:\n  mobile: {aliases: [backend]}\n")
    assert problem == (
        "agentflow.yaml:2:21: AF-CONFIG-020: the alias 'backend' of the role mobile already stands for "
        "backend\n    fix: choose another word"
    )


def test_a_runner_of_a_file(home, project):
    (project / "agentflow.yaml").write_text(
        "default_runner: mine\nrunners:\n  mine: {command: [agent, --file, '{prompt_file}'], timeout: 10m}\n"
    )
    runner = load(project, home).runners["mine"]
    assert runner.model_dump(exclude_defaults=True) == {
        "command": ("agent", "--file", "{prompt_file}"),
        "timeout": 600,
    }


def test_the_socket_is_short_and_of_this_data_directory(tmp_path):
    here = Config(data_dir=tmp_path / "a", runtime_dir=tmp_path / "run")
    there = Config(data_dir=tmp_path / "b", runtime_dir=tmp_path / "run")
    assert here.socket_path() != there.socket_path()
    assert here.socket_path().parent == tmp_path / "run"
    assert here.broker_url() == f"redis+socket://{here.socket_path()}?virtual_host=0"
    assert here.client_url() == f"unix://{here.socket_path()}?db=0"
    deep = Config(data_dir=tmp_path, runtime_dir=tmp_path / ("x" * 120))
    assert len(os.fsencode(deep.socket_path())) <= 107


def test_a_socket_of_ones_own_is_spelled_for_each_client():
    for url in ("unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2"):
        config = Config(redis_url=url)
        assert config.client_url() == "unix:///run/r.sock?db=2"
        assert config.broker_url() == "redis+socket:///run/r.sock?virtual_host=2"


def test_as_dict_is_plain(home):
    import json

    assert json.loads(json.dumps(load(None, home).as_dict()))["runners"]["noop"] == {
        "type": "noop",
        "seconds": 0.0,
        "calls": 1,
        "usd": 0.0,
        "tokens": 0,
    }
